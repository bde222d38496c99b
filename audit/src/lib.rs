//! What happened, by whom, to what: event types that cannot hold secrets, their canonical bytes, and the chain
//! that makes edits visible.
//!
//! This crate stores nothing. A port method that changes state takes an [`Event`]; the store writes it in the
//! transaction of the change itself. Refusals change nothing: they go through [`Refusals`] to [`AuditLog`].

mod chain;
mod counter;
mod event;
mod log;
mod refusal;

pub use self::chain::{Broken, Head, chain_hash, verify_chain};
pub use self::counter::{CounterEvent, MAX_KEYS, REASON_REFILL, REASONS_AT_ONCE, RefusalCounter, WINDOW};
pub use self::event::{Action, Actor, Event, MAX_REASON, Outcome};
pub use self::log::{AuditError, AuditFilter, AuditLog, AuditRow};
pub use self::refusal::Refusals;
