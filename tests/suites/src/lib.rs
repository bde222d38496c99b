//! credence-suites
