//! credence-certs
