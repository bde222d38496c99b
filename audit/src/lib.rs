//! credence-audit
