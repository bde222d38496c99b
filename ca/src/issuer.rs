//! Backends that turn requests into SVIDs. The built-in one signs with a key in this process; others sign leaves of
//! workloads elsewhere.

mod builtin;
mod circuit;
mod outside;
mod queue;

pub(crate) use self::builtin::{BuiltinIssuer, Pipeline, Signing};
pub(crate) use self::outside::{Asking, OutsideIssuer, OutsidePipeline, Routes};
pub use self::outside::{Health, LeafAsked, LeafSigner, Outsider, SignFailure};
pub(crate) use self::queue::{Job, MAX_WAITING};
