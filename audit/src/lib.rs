//! What happened, by whom, to what: event types that cannot hold secrets, their canonical bytes, and the chain
//! that makes edits visible.
//!
//! This crate stores nothing. A port method that changes state takes an [`Event`]; the store writes it in the
//! transaction of the change itself.

mod event;
mod refusal;

pub use self::event::{Action, Actor, Event, Outcome};
pub use self::refusal::Refusals;
