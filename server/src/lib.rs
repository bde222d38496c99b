//! credence-server
