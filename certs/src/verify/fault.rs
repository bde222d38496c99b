//! Every reason for which the strict layer refuses one certificate.

use std::fmt;

use thiserror::Error;

use crate::Timestamp;

/// Where in a path a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Position {
    /// The end-entity certificate.
    Leaf,
    /// A presented certificate behind the leaf, counted from 1.
    Intermediate(usize),
    /// A trusted certificate, counted from 0 in the list of anchors.
    Anchor(usize),
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf => f.write_str("leaf"),
            Self::Intermediate(index) => write!(f, "intermediate {index}"),
            Self::Anchor(index) => write!(f, "anchor {index}"),
        }
    }
}

/// What is wrong with one certificate, whatever signed it (security reference 5.2).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// Not distinguished encoding somewhere.
    #[error("is not DER")]
    NotDer,
    /// Extensions need version 3 (RFC 5280 4.1.2.1).
    #[error("is version {0}, not 3")]
    Version(u8),
    /// Unique identifiers are forbidden (RFC 5280 4.1.2.8).
    #[error("has a unique identifier")]
    UniqueId,
    /// The signed and the unsigned signature algorithm differ (RFC 5280 4.1.1.2).
    #[error("names two different signature algorithms")]
    AlgorithmMismatch,
    /// SHA-1, MD5 or an algorithm that is not known.
    #[error("is signed with {0}, which is not accepted")]
    SignatureAlgorithm(String),
    /// The serial number is not in its shortest form (X.690 8.3.2).
    #[error("has a serial number that is not in its shortest form")]
    SerialForm,
    /// The serial number is zero (RFC 5280 4.1.2.2); only a self-signed anchor is excused.
    #[error("has the serial number zero")]
    SerialZero,
    /// A date in a form that RFC 5280 4.1.2.5 forbids.
    #[error("has a date in a forbidden form")]
    DateForm,
    /// Ends before it starts.
    #[error("ends before it starts")]
    NegativeValidity,
    /// Starts later.
    #[error("is valid from {not_before} only")]
    NotYetValid {
        /// Its first second.
        not_before: Timestamp,
        /// The time of the check.
        now: Timestamp,
    },
    /// Is over.
    #[error("ended at {not_after}")]
    Expired {
        /// Its last second.
        not_after: Timestamp,
        /// The time of the check.
        now: Timestamp,
    },
    /// No issuer name (RFC 5280 4.1.2.4).
    #[error("has an empty issuer name")]
    EmptyIssuer,
    /// An authority without a name (RFC 5280 4.1.2.6).
    #[error("is an authority with an empty subject")]
    EmptySubject,
    /// The same extension twice (RFC 5280 4.2).
    #[error("has the extension {0} more than once")]
    DuplicateExtension(String),
    /// Critical, and not understood (RFC 5280 4.2).
    #[error("has the critical extension {0}, which is not understood")]
    UnknownCriticalExtension(String),
    /// An extension whose content does not parse.
    #[error("has a malformed {0}")]
    MalformedExtension(&'static str),
    /// An extension that must not be critical is.
    #[error("has a critical {0}")]
    CriticalExtension(&'static str),
    /// An extension that must be critical is not.
    #[error("has a {0} that is not critical")]
    UncriticalExtension(&'static str),
    /// An extension that its place in the path asks for is absent.
    #[error("has no {0}")]
    MissingExtension(&'static str),
    /// An extension that its place in the path forbids.
    #[error("has a {0}, which has no place there")]
    ForbiddenExtension(&'static str),
    /// A name that nobody may have.
    #[error("has the malformed name {0:?}")]
    Name(String),
    /// An authority that may not sign certificates.
    #[error("is no authority")]
    NotAuthority,
    /// An authority's key usage lacks keyCertSign.
    #[error("is an authority whose key usage lacks keyCertSign")]
    NoCertSign,
    /// A leaf that may sign certificates.
    #[error("is an authority in the place of a leaf")]
    LeafIsAuthority,
    /// A leaf whose key usage has keyCertSign or cRLSign.
    #[error("is a leaf whose key usage has keyCertSign or cRLSign")]
    LeafSigns,
    /// A leaf for any purpose.
    #[error("is a leaf for any purpose")]
    AnyUsage,
    /// A leaf that lacks the purpose asked for.
    #[error("is not for {0}")]
    WrongUsage(&'static str),
    /// An RSA modulus outside 2048 to 4096 bits, or not of whole octets.
    #[error("has an RSA key of {0} bits")]
    RsaSize(usize),
    /// An RSA exponent other than 65537.
    #[error("has an RSA key with another exponent than 65537")]
    RsaExponent,
    /// A curve that is not accepted, or one written out.
    #[error("has a key on the curve {0}")]
    Curve(String),
    /// A key that is neither RSA nor on an accepted curve.
    #[error("has a key of the kind {0}")]
    KeyAlgorithm(String),
    /// A key whose encoding is broken.
    #[error("has a malformed key")]
    MalformedKey,
    /// A key that the caller no longer trusts.
    #[error("has a key that is tainted")]
    TaintedKey,
    /// A leaf with the key of an authority of its own path.
    #[error("is a leaf with the key of an authority")]
    AuthorityKey,
}

impl Fault {
    /// The stable name of the rule.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::NotDer => "der",
            Self::Version(_) => "version",
            Self::UniqueId => "unique-id",
            Self::AlgorithmMismatch => "algorithm-mismatch",
            Self::SignatureAlgorithm(_) => "signature-algorithm",
            Self::SerialForm | Self::SerialZero => "serial",
            Self::DateForm => "date-form",
            Self::NegativeValidity => "negative-validity",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Expired { .. } => "expired",
            Self::EmptyIssuer => "empty-issuer",
            Self::EmptySubject => "empty-subject",
            Self::DuplicateExtension(_) => "duplicate-extension",
            Self::UnknownCriticalExtension(_) => "unknown-critical-extension",
            Self::MalformedExtension(_) => "malformed-extension",
            Self::CriticalExtension(_) => "critical-extension",
            Self::UncriticalExtension(_) => "uncritical-extension",
            Self::MissingExtension(_) => "missing-extension",
            Self::ForbiddenExtension(_) => "forbidden-extension",
            Self::Name(_) => "name",
            Self::NotAuthority => "not-authority",
            Self::NoCertSign => "no-cert-sign",
            Self::LeafIsAuthority => "leaf-is-authority",
            Self::LeafSigns => "leaf-signs",
            Self::AnyUsage => "any-usage",
            Self::WrongUsage(_) => "wrong-usage",
            Self::RsaSize(_) => "rsa-size",
            Self::RsaExponent => "rsa-exponent",
            Self::Curve(_) => "curve",
            Self::KeyAlgorithm(_) => "key-algorithm",
            Self::MalformedKey => "malformed-key",
            Self::TaintedKey => "tainted-key",
            Self::AuthorityKey => "authority-key",
        }
    }
}
