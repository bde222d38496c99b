//! credence-kit
