//! Authorities and what they sign: who may have which certificate, the journal of issuances, and the life of
//! the keys that sign.
//!
//! Knows no Envoy, no network and no database: what it needs kept stands in [`ports`], and `store` keeps it.

pub mod lifecycle;
pub mod ports;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
