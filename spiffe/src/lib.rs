//! credence-spiffe
