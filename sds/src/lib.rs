//! credence-sds
