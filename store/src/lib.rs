//! credence-store
