//! credence-ca
