//! The operator's door: REST over the same calls that every other front uses, and the node door beside it
//! (enrolment on 18001, renewal on 18000).
//!
//! Knows no database: what it needs kept stands in [`ports`], and `store` keeps it. Knows no socket: `server`
//! accepts connections and puts the verified peer into each request. Start reading at [`calls::Calls`], which
//! holds one function per operation; [`rest`] only turns HTTP into calls and back.
//!
//! ```text
//! request --rest--> access --> calls --> configs::Manager --> store, xds::catalog --> Views
//!    ^-- problem <--'            '-----> ports (nodes, blocks, audit, authorities, delivery)
//! ```

pub mod access;
pub mod calls;
pub mod expiry;
pub mod limit;
pub mod node;
pub mod openapi;
pub mod ports;
pub mod problem;
mod redact;
pub mod rest;
pub mod sealing;
pub mod sources;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;
pub mod wire;
