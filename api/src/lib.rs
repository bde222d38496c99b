//! The operator's door: REST over the same calls that every other front uses, and the node door beside it
//! (enrolment on 18001, renewal on 18000).
//!
//! Knows no database: what it needs kept stands in [`ports`], and `store` keeps it.

pub mod ports;
