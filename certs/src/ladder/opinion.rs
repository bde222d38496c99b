//! What Envoy 1.40 and rustls 0.23 say of a certificate that breaks a rule: measured, on TLS 1.3, with the
//! configuration that Credence writes (Envoy's default validator with exact names) and rustls's own client verifier.
//! `tests/suites/tests/ladder.rs` measures each again.

use std::fmt;

use serde::Serialize;

use crate::{Certificate, ExtendedKeyUsage, Fault, Position, anatomy::Anatomy, anatomy::oid};

/// What one of them does about a certificate that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "words", rename_all = "kebab-case")]
pub enum Opinion {
    /// It lets it pass.
    Accepts,
    /// It refuses, with these words in its log or error.
    Refuses(&'static str),
    /// It was not measured.
    Unknown,
}

impl Opinion {
    /// The same of both.
    #[must_use]
    pub const fn both(self) -> (Self, Self) {
        (self, self)
    }

    /// Measured of neither.
    #[must_use]
    pub const fn unknown() -> (Self, Self) {
        Self::Unknown.both()
    }
}

impl fmt::Display for Opinion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepts => f.write_str("would let it pass"),
            Self::Refuses(words) => write!(f, "would say \"{words}\""),
            Self::Unknown => f.write_str("was not measured on this"),
        }
    }
}

use Opinion::{Accepts, Refuses, Unknown};

const PASSES: (Opinion, Opinion) = (Accepts, Accepts);
const UNHANDLED: (Opinion, Opinion) =
    (Refuses("unhandled critical extension"), Refuses("UnsupportedCriticalExtension"));
const PURPOSE: &str = "unsupported certificate purpose";
/// In TLS 1.3 there is no signature for such a key, so a peer that has one sends no certificate.
const CANNOT_SIGN: (Opinion, Opinion) =
    (Refuses("PEER_DID_NOT_RETURN_A_CERTIFICATE"), Refuses("peer sent no certificates"));
/// No issuer among those presented and trusted.
pub(super) const NO_ISSUER: (Opinion, Opinion) =
    (Refuses("unable to get local issuer certificate"), Refuses("UnknownIssuer"));

/// What both say of a certificate at `position` with `fault`, one of `all` that it has.
pub(super) fn on_fault(
    certificate: &Certificate,
    position: Position,
    fault: &Fault,
    all: &[Fault],
) -> (Opinion, Opinion) {
    let is_leaf = position == Position::Leaf;
    match fault {
        Fault::NotYetValid { .. } => {
            (Refuses("certificate is not yet valid"), Refuses("certificate not valid yet"))
        }
        Fault::Expired { .. } if all.contains(&Fault::NegativeValidity) => (Unknown, Unknown),
        Fault::Expired { .. } => (Refuses("certificate has expired"), Refuses("certificate expired")),
        Fault::NegativeValidity => (Unknown, Refuses("Expired")),
        Fault::UncriticalExtension(name) => uncritical(name, is_leaf),
        Fault::MissingExtension("AuthorityKeyIdentifier") if is_leaf => PASSES,
        Fault::MissingExtension("SubjectKeyIdentifier") if !is_leaf => PASSES,
        Fault::NotAuthority if all.contains(&Fault::NoCertSign) => {
            (Refuses("unable to get local issuer certificate"), Refuses("EndEntityUsedAsCa"))
        }
        Fault::NotAuthority => (Refuses("invalid CA certificate"), Refuses("EndEntityUsedAsCa")),
        Fault::NoCertSign => (Refuses("unable to get local issuer certificate"), Accepts),
        Fault::TaintedKey => PASSES,
        other if is_leaf => on_leaf(certificate, other),
        _ => Opinion::unknown(),
    }
}

fn uncritical(name: &str, is_leaf: bool) -> (Opinion, Opinion) {
    match (name, is_leaf) {
        ("SubjectAltName", true) | ("BasicConstraints" | "NameConstraints", false) => PASSES,
        _ => Opinion::unknown(),
    }
}

fn on_leaf(leaf: &Certificate, fault: &Fault) -> (Opinion, Opinion) {
    match fault {
        Fault::Version(_) => (Refuses("DECODE_ERROR"), Refuses("UnsupportedCertVersion")),
        Fault::UniqueId => (Accepts, Refuses("BadEncoding")),
        Fault::AlgorithmMismatch => {
            (Refuses("SIGNATURE_ALGORITHM_MISMATCH"), Refuses("SignatureAlgorithmMismatch"))
        }
        Fault::SignatureAlgorithm(name) if name == "SHA-1 and ECDSA" => {
            (Accepts, Refuses("UnsupportedSignatureAlgorithm"))
        }
        Fault::SerialZero => PASSES,
        Fault::DuplicateExtension(id) if id == "2.5.29.15" => {
            (Refuses("invalid or inconsistent certificate extension"), Refuses("ExtensionValueInvalid"))
        }
        Fault::UnknownCriticalExtension(_) | Fault::CriticalExtension(_) => UNHANDLED,
        Fault::MalformedExtension(name) => malformed(leaf, name),
        Fault::ForbiddenExtension(_) | Fault::Name(_) | Fault::LeafSigns | Fault::AuthorityKey => PASSES,
        Fault::LeafIsAuthority => (Accepts, Refuses("CaUsedAsEndEntity")),
        Fault::AnyUsage => {
            let purposes = leaf.extended_key_usages();
            let named = [ExtendedKeyUsage::ServerAuth, ExtendedKeyUsage::ClientAuth];
            if named.iter().all(|one| purposes.contains(one)) { PASSES } else { Opinion::unknown() }
        }
        Fault::WrongUsage(_) => {
            (Refuses(PURPOSE), Refuses("certificate does not allow extended key usage for"))
        }
        Fault::RsaSize(1024) => (Accepts, Refuses("BadSignature")),
        Fault::RsaExponent if is_exponent_three(leaf) => PASSES,
        Fault::Curve(name) if name == "1.3.132.0.33" => CANNOT_SIGN,
        Fault::Curve(name) if name == "written out" => {
            (Refuses("DECODE_ERROR"), Refuses("UnsupportedSignatureAlgorithm"))
        }
        _ => Opinion::unknown(),
    }
}

/// Only what is empty was measured.
fn malformed(leaf: &Certificate, name: &str) -> (Opinion, Opinion) {
    let value = |id: &[u8]| {
        let parts = Anatomy::of(leaf.der()).ok()?;
        parts.extension(id).map(|extension| extension.value.to_vec())
    };
    match name {
        "KeyUsage" if value(oid::KEY_USAGE).as_deref() == Some(&[3, 1, 0]) => {
            (Refuses("KEY_USAGE_BIT_INCORRECT"), Accepts)
        }
        "ExtendedKeyUsage" if value(oid::EXTENDED_KEY_USAGE).as_deref() == Some(&[0x30, 0]) => {
            (Refuses(PURPOSE), Refuses("EmptyEkuExtension"))
        }
        // Without a name there is none to match.
        "SubjectAltName" if value(oid::SUBJECT_ALT_NAME).as_deref() == Some(&[0x30, 0]) => {
            (Refuses("verify cert failed: SAN matcher"), Accepts)
        }
        _ => Opinion::unknown(),
    }
}

fn is_exponent_three(leaf: &Certificate) -> bool {
    leaf.spki_der().ends_with(&[0x02, 0x01, 0x03])
}

/// What both say of a leaf whose octets do not parse as a certificate, or are followed by others.
pub(super) const UNREADABLE: (Opinion, Opinion) = (Refuses("DECODE_ERROR"), Refuses("BadEncoding"));
