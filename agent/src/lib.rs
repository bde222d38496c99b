//! credence-agent
