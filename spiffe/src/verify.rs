//! Whether a chain is an X.509 SVID, and whose (X509-SVID 5, security reference 5.2).
//!
//! The trust domain of the leaf decides which bundle may vouch for it; bundles are never pooled.

use certs::{
    Certificate, Chain, ExtendedKeyUsage, SubjectAltName, Timestamp, Usage, VerifiedChain, VerifyError,
    VerifyOptions,
};
use thiserror::Error;

use crate::{AuthorityId, Class, IdError, SpiffeId, Trust, TrustDomain, VerifiedSvid};

/// Why a chain is no SVID that is believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SvidError {
    /// The chain itself does not hold.
    #[error(transparent)]
    Chain(#[from] VerifyError),
    /// Not exactly one URI name (X509-SVID 2).
    #[error("leaf has {0} URI names, exactly one is required")]
    UriNames(usize),
    /// The URI name is no SPIFFE ID with a path.
    #[error("leaf names {name:?}, which {reason}")]
    Id {
        /// What stands there; octets outside ASCII are shown as replacements.
        name: String,
        /// What is wrong with it.
        reason: IdError,
    },
    /// Nobody is trusted to vouch for this domain.
    #[error("trust domain {0} is not trusted")]
    TrustDomain(TrustDomain),
    /// An authority of the path names another trust domain than the leaf's.
    #[error("leaf of {leaf} is signed by an authority of {authority:?}")]
    ForeignAuthority {
        /// The leaf's trust domain.
        leaf: TrustDomain,
        /// The URI name of the authority.
        authority: String,
    },
    /// It leads to our root, and none of our issuing authorities signed it.
    #[error("{authority:?} is no issuing authority of ours, whatever root it leads to")]
    StrangeIssuer {
        /// The subject of the authority.
        authority: String,
    },
    /// KeyUsage is absent or not critical (X509-SVID 4.3).
    #[error("leaf has no critical KeyUsage")]
    KeyUsage,
    /// KeyUsage lacks digitalSignature (X509-SVID 4.3).
    #[error("key usage of the leaf lacks digitalSignature")]
    NoDigitalSignature,
    /// ExtendedKeyUsage is absent, or lacks the purpose.
    #[error("leaf is not for {0}")]
    Purpose(&'static str),
}

impl SvidError {
    /// The stable name of the reason, for audit and metrics.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Chain(error) => error.rule(),
            Self::UriNames(_) => "uri-names",
            Self::Id { .. } => "spiffe-id",
            Self::TrustDomain(_) => "trust-domain",
            Self::ForeignAuthority { .. } => "foreign-authority",
            Self::StrangeIssuer { .. } => "strange-issuer",
            Self::KeyUsage => "key-usage",
            Self::NoDigitalSignature => "no-digital-signature",
            Self::Purpose(_) => "purpose",
        }
    }
}

/// Holds `chain` against the bundle of its leaf's own trust domain, and against what only an SVID must satisfy.
///
/// An identity of a federated domain is always a workload here: what `/credence/` means elsewhere opens nothing
/// of ours.
///
/// # Errors
/// See [`SvidError`].
pub fn verify_svid(
    chain: &Chain,
    trust: &Trust,
    now: Timestamp,
    usage: Usage,
) -> Result<VerifiedSvid, SvidError> {
    let leaf = chain.leaf();
    let (id, verified) = verify_path(chain, trust, now, usage)?;
    Ok(VerifiedSvid {
        class: class(&id, trust)?,
        serial: leaf.serial().clone(),
        spki: leaf.spki_hash(),
        authority: verified.authority().spki_hash(),
        root: verified.anchor().spki_hash(),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
        signed_sha256: leaf.signed_sha256(),
        id,
    })
}

/// Whose `chain` is, and the path by which that is believed.
pub(crate) fn verify_path(
    chain: &Chain,
    trust: &Trust,
    now: Timestamp,
    usage: Usage,
) -> Result<(SpiffeId, VerifiedChain), SvidError> {
    let leaf = chain.leaf();
    let id = identity(leaf)?;
    let bundle =
        trust.of(id.trust_domain()).ok_or_else(|| SvidError::TrustDomain(id.trust_domain().clone()))?;
    let tainted = if trust.vouches_for(leaf) { &[] } else { trust.tainted() };
    let options = VerifyOptions { tainted, ..VerifyOptions::new(now, usage) };
    let verified = certs::verify_chain(chain, bundle.authorities(), &options)?;
    check_usages(leaf, usage)?;
    for authority in &verified.path()[1..] {
        check_authority(authority, id.trust_domain())?;
    }
    if trust.own().trust_domain() == id.trust_domain() {
        if !trust.may_issue(verified.authority().spki_hash()) {
            let authority = verified.authority().subject().to_owned();
            return Err(SvidError::StrangeIssuer { authority });
        }
        check_revoked(trust, verified.authority(), leaf)?;
    }
    Ok((id, verified))
}

/// Whether a leaf of our own trust domain was revoked.
pub(crate) fn check_revoked(
    trust: &Trust,
    authority: &Certificate,
    leaf: &Certificate,
) -> Result<(), SvidError> {
    if trust.is_revoked(AuthorityId::of(authority.spki_hash()), leaf.serial()) {
        return Err(VerifyError::Revoked { serial: leaf.serial().clone() }.into());
    }
    Ok(())
}

/// What `id` opens here.
pub(crate) fn class(id: &SpiffeId, trust: &Trust) -> Result<Class, SvidError> {
    if trust.own().trust_domain() == id.trust_domain() {
        id.class().map_err(|reason| SvidError::Id { name: id.to_string(), reason })
    } else {
        Ok(Class::Workload)
    }
}

/// The one SPIFFE ID of a leaf, read from the octets that were signed.
pub(crate) fn identity(leaf: &Certificate) -> Result<SpiffeId, SvidError> {
    let names = leaf.uri_names();
    let [name] = names else { return Err(SvidError::UriNames(names.len())) };
    // An IA5String is ASCII; anything else becomes a replacement character, which no SPIFFE ID may have.
    let text = String::from_utf8_lossy(name);
    SpiffeId::parse(&text).map_err(|reason| SvidError::Id { name: text.chars().take(256).collect(), reason })
}

pub(crate) fn check_usages(leaf: &Certificate, usage: Usage) -> Result<(), SvidError> {
    let key_usage = leaf.key_usage().filter(|usage| usage.is_critical()).ok_or(SvidError::KeyUsage)?;
    if !key_usage.has_digital_signature() {
        return Err(SvidError::NoDigitalSignature);
    }
    let purposes = leaf.extended_key_usages();
    let needed = [
        (Usage::Server, ExtendedKeyUsage::ServerAuth, "server authentication"),
        (Usage::Client, ExtendedKeyUsage::ClientAuth, "client authentication"),
    ];
    for (of, purpose, text) in needed {
        if (usage == of || usage == Usage::Any) && !purposes.contains(&purpose) {
            return Err(SvidError::Purpose(text));
        }
    }
    Ok(())
}

/// An authority may name a trust domain; if it does, it is the leaf's, without a path (X509-SVID 3.2).
pub(crate) fn check_authority(authority: &Certificate, domain: &TrustDomain) -> Result<(), SvidError> {
    for name in authority.subject_alt_names() {
        if let SubjectAltName::Uri(uri) = name
            && uri.starts_with("spiffe:")
            && *uri != domain.to_uri()
        {
            return Err(SvidError::ForeignAuthority { leaf: domain.clone(), authority: uri.clone() });
        }
    }
    Ok(())
}
