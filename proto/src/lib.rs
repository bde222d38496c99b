//! credence-proto
