//! What anybody must hold against a chain: webpki builds the path, and a strict layer refuses what webpki lets by.
//!
//! It knows no identity scheme: what a SPIFFE ID is, and which anchors may vouch for it, stands in `spiffe`.

pub(crate) mod constraints;
mod error;
mod fault;
mod issuer;
mod keys;
mod names;
mod path;
pub(crate) mod rules;
pub(crate) mod work;

pub use self::error::VerifyError;
pub use self::fault::{Fault, Position};
pub use self::issuer::VerifiedIssuer;
pub use self::work::MAX_SIGNATURE_CHECKS;
use self::{path::Verifier, work::Work};
use crate::{Certificate, Chain, Crl, SpkiHash, Timestamp};

/// The most intermediates between leaf and anchor; self-issued ones are not counted (RFC 5280 6.1.4 l).
pub const MAX_DEPTH: usize = 4;

/// What the leaf is about to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    /// To authenticate a TLS server.
    Server,
    /// To authenticate a TLS client.
    Client,
    /// Not known yet: its purposes are not looked at, except that "any purpose" is refused.
    Any,
}

/// What a chain is held against, beside the anchors.
#[derive(Debug, Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// The time for which it must be valid.
    pub now: Timestamp,
    /// What the leaf is used for.
    pub usage: Usage,
    /// Revocation lists. With none, revocation is not asked about; with any, every certificate of the path but
    /// the anchor needs a fresh one.
    pub crls: &'a [Crl],
    /// The most intermediates, see [`MAX_DEPTH`].
    pub max_depth: usize,
    /// Keys that no certificate of the path may carry any more.
    pub tainted: &'a [SpkiHash],
}

impl VerifyOptions<'_> {
    /// Without revocation lists and tainted keys, and [`MAX_DEPTH`] deep.
    #[must_use]
    pub fn new(now: Timestamp, usage: Usage) -> Self {
        Self { now, usage, crls: &[], max_depth: MAX_DEPTH, tainted: &[] }
    }
}

/// A path that holds: every certificate from the leaf to the anchor. It cannot be made by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    path: Vec<Certificate>,
}

impl VerifiedChain {
    /// Leaf first, anchor last.
    #[must_use]
    pub fn path(&self) -> &[Certificate] {
        &self.path
    }

    /// The end-entity certificate.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        &self.path[0]
    }

    /// The certificate whose key signed the leaf.
    #[must_use]
    pub fn authority(&self) -> &Certificate {
        &self.path[1]
    }

    /// What stands above the leaf, to hold more leaves of the same authority against.
    #[must_use]
    pub fn issuer(&self) -> VerifiedIssuer {
        VerifiedIssuer::of(self)
    }

    /// The trusted certificate at the end.
    #[must_use]
    pub fn anchor(&self) -> &Certificate {
        &self.path[self.path.len() - 1]
    }
}

/// Holds `chain` against `anchors`.
///
/// # Errors
/// See [`VerifyError`]; the first reason found is the answer.
pub fn verify_chain(
    chain: &Chain,
    anchors: &[Certificate],
    options: &VerifyOptions<'_>,
) -> Result<VerifiedChain, VerifyError> {
    verify_chain_counting(chain, anchors, options).0
}

/// As [`verify_chain`], and says how many signatures were checked on the way: at most [`MAX_SIGNATURE_CHECKS`].
pub fn verify_chain_counting(
    chain: &Chain,
    anchors: &[Certificate],
    options: &VerifyOptions<'_>,
) -> (Result<VerifiedChain, VerifyError>, u32) {
    let work = Work::default();
    let result = Verifier { chain, options, work: &work }.verify(anchors);
    (result, work.checks())
}
