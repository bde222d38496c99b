//! Backends that turn requests into SVIDs. The built-in one signs with a key in this process.

mod builtin;
mod queue;

pub(crate) use self::builtin::{BuiltinIssuer, Pipeline, Signing};
pub(crate) use self::queue::Job;
