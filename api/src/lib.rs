//! credence-api
