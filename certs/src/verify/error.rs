//! Why a chain is not believed: one variant for each reason, with the values that an audit needs.

use thiserror::Error;

use super::{Fault, Position};
use crate::{ChainError, Serial};

/// Why a chain is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// Too many or too large certificates.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// One certificate breaks a rule by itself.
    #[error("{position} {fault}")]
    Certificate {
        /// Which one.
        position: Position,
        /// Which rule.
        fault: Fault,
    },
    /// Nobody is trusted.
    #[error("no anchor is trusted")]
    NoAnchor,
    /// No path leads from the leaf to an anchor.
    #[error("no path from a certificate of {issuer:?} to a trusted anchor")]
    UnknownIssuer {
        /// The issuer of the leaf.
        issuer: String,
    },
    /// A signature on every path does not verify.
    #[error("signature in the path does not verify")]
    BadSignature,
    /// The signature's algorithm does not fit the key.
    #[error("signature algorithm does not fit the issuer's key")]
    AlgorithmMismatch,
    /// More signature checks than [`MAX_SIGNATURE_CHECKS`] would be needed.
    #[error("path needs more than {0} signature checks")]
    TooMuchWork(u32),
    /// Deeper than allowed.
    #[error("path has more than {0} intermediates")]
    TooDeep(usize),
    /// An authority has more authorities below it than it may (RFC 5280 4.2.1.9).
    #[error("path is longer than an authority allows")]
    PathLength,
    /// A name lies outside the name constraints of an authority (RFC 5280 4.2.1.10).
    #[error("name is outside the constraints of an authority")]
    NameConstraint,
    /// An intermediate is not for the purpose of the leaf.
    #[error("path is not for this purpose")]
    WrongUsage,
    /// The leaf, or an authority above it, is revoked.
    #[error("certificate {serial} or one of its authorities is revoked")]
    Revoked {
        /// The leaf's serial number.
        serial: Serial,
    },
    /// No list covers a certificate of the path.
    #[error("no revocation list covers the path")]
    RevocationUnknown,
    /// The list that covers it has passed its next update.
    #[error("revocation list is out of date")]
    CrlExpired,
    /// A list that its issuer may not sign, or did not.
    #[error("revocation list is not signed by an authority that may")]
    CrlIssuer,
    /// Refused by the path builder for another reason.
    #[error("path is refused: {0}")]
    Other(String),
}

impl VerifyError {
    /// The stable name of the reason, for audit and metrics.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Chain(_) => "chain-bounds",
            Self::Certificate { fault, .. } => fault.rule(),
            Self::NoAnchor => "no-anchor",
            Self::UnknownIssuer { .. } => "unknown-issuer",
            Self::BadSignature => "bad-signature",
            Self::AlgorithmMismatch => "algorithm-mismatch",
            Self::TooMuchWork(_) => "too-much-work",
            Self::TooDeep(_) => "too-deep",
            Self::PathLength => "path-length",
            Self::NameConstraint => "name-constraint",
            Self::WrongUsage => "wrong-usage",
            Self::Revoked { .. } => "revoked",
            Self::RevocationUnknown => "revocation-unknown",
            Self::CrlExpired => "crl-expired",
            Self::CrlIssuer => "crl-issuer",
            Self::Other(_) => "other",
        }
    }
}
