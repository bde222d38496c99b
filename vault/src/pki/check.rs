//! Whether what came back is exactly what was asked for (PURE). Vault's role decides what it signs; a role, a policy or
//! a Vault that is not what we think must end here, and not in a proxy.
//!
//! Of a leaf, no signature is checked here, and none of the rules that hold for every leaf: whoever takes it holds it
//! against the root, once.

use std::time::Duration;

use certs::{
    Certificate, Chain, ChainError, PublicKey, SubjectAltName, Timestamp, VerifyError, format_duration,
};
use thiserror::Error;

use super::{Signed, is_root};

/// How far Vault's clock may be ahead of ours.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The one URI.
    pub uri: &'a str,
    /// The key of the request.
    pub key: &'a PublicKey,
    /// When the request was sent.
    pub at: Timestamp,
    /// How long it may live from then.
    pub lifetime: Duration,
}

/// Why what came back is not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It hangs on a lease, and would be revoked with the token.
    #[error("it comes with the lease {lease_id:?}, and would be revoked when the token ends")]
    Leased {
        /// Which lease.
        lease_id: String,
    },
    /// It certifies another key.
    #[error("it certifies another key than that of the request")]
    Key,
    /// Not the one URI that was asked for.
    #[error("it names {got:?} instead of {asked:?}")]
    Uri {
        /// What was asked for.
        asked: String,
        /// What URIs it has.
        got: Vec<String>,
    },
    /// Names beside the URI.
    #[error("it has further names: {got:?}")]
    Names {
        /// Which.
        got: Vec<String>,
    },
    /// A subject where none was asked for, by which others might know it.
    #[error("its subject is {got:?} instead of {asked:?}")]
    Subject {
        /// What was asked for.
        asked: String,
        /// What it is.
        got: String,
    },
    /// It lives longer than was asked for.
    #[error(
        "it lives until {not_after}, {} after it was asked for instead of {}",
        format_duration(*.got),
        format_duration(*.asked)
    )]
    TooLong {
        /// When it ends.
        not_after: Timestamp,
        /// How long that is from the request.
        got: Duration,
        /// What was asked for.
        asked: Duration,
    },
    /// It is an authority, and a leaf was asked for.
    #[error("it may sign certificates")]
    Authority,
    /// It is no authority that may sign leaves and nothing else.
    #[error("it is no authority with path length 0, but {got}")]
    NotAuthority {
        /// What it is.
        got: String,
    },
    /// Another authority signed the leaf than the one that is pinned.
    #[error("it is signed by {by:?}, and not by the pinned {pinned:?}")]
    Signer {
        /// Who did.
        by: String,
        /// Who was to.
        pinned: String,
    },
    /// What Vault gave with it does not lead to the root.
    #[error("what Vault signed leads to {leads:?}, and not to the agreed root {agreed:?}")]
    Path {
        /// Who stands above the last that is known.
        leads: String,
        /// Who was to.
        agreed: String,
    },
    /// Too many or too large certificates.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It does not lead to the trust anchor, or breaks a rule on the way.
    #[error("it does not hold against the trust anchor: {0}")]
    Untrusted(#[from] VerifyError),
}

impl Refusal {
    /// What to change in Vault.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Leased { .. } => "set generate_lease=false and no_store=true on the role",
            Self::Key => {
                "somebody between us and Vault answers, or Vault has a fault: trust nothing that it signs"
            }
            Self::Uri { .. } => {
                "set use_csr_sans=false and allowed_uri_sans=spiffe://TRUST_DOMAIN/* on the role: the names are ours \
                 to say, not those of the request"
            }
            Self::Names { .. } => "set use_csr_sans=false on the role",
            Self::Subject { .. } => {
                "set use_csr_common_name=false and require_cn=false on the role, and no organization, country or the \
                 like"
            }
            Self::TooLong { .. } => {
                "is Vault's clock ahead of this machine's? Else it signed for longer than it was asked to"
            }
            Self::Authority => "sign by the role, never by sign-verbatim or sign-intermediate",
            Self::NotAuthority { .. } => "the issuer must allow an authority of path length 0 below it",
            Self::Signer { .. } => {
                "the role must sign with the pinned issuer: did the issuer's certificate change in Vault?"
            }
            Self::Chain(_) => "give the issuer a shorter chain (manual_chain)",
            Self::Path { .. } | Self::Untrusted(_) => {
                "is the trust anchor the root above the pinned issuer, and does the issuer's chain have all that \
                 stands between (manual_chain)?"
            }
        }
    }
}

/// Takes a leaf that is exactly what was asked for, and by its name below the authority that was pinned, with what
/// leads from there to the root; the root is left out.
///
/// # Errors
/// See [`Refusal`].
pub fn leaf(
    signed: &Signed,
    asked: &Asked<'_>,
    pinned: &Certificate,
    root: &Certificate,
) -> Result<Chain, Refusal> {
    let leaf = &signed.certificate;
    check_common(signed, asked, "")?;
    if leaf.is_ca() || leaf.key_usage().is_some_and(|usage| usage.has_key_cert_sign()) {
        return Err(Refusal::Authority);
    }
    if leaf.issuer() != pinned.subject() {
        let (by, pinned) = (leaf.issuer().to_owned(), pinned.subject().to_owned());
        return Err(Refusal::Signer { by, pinned });
    }
    let mut path = path(pinned, &signed.above, root)?;
    path.pop();
    Ok(Chain::new(leaf.clone(), path))
}

/// What leads from `first` to `root`, both included, and nothing else of what Vault gave.
///
/// # Errors
/// When it leads elsewhere.
pub fn path(
    first: &Certificate,
    above: &[Certificate],
    root: &Certificate,
) -> Result<Vec<Certificate>, Refusal> {
    let mut path = vec![first.clone()];
    loop {
        let last = path.last().expect("it begins with one");
        if last == root {
            return Ok(path);
        }
        let is_next = |one: &&Certificate| one.subject() == last.issuer() && !path.contains(one);
        let named: Vec<_> = std::iter::once(root).chain(above).filter(is_next).collect();
        // A signature is asked about only where the name leaves it open: one that names itself may be a root.
        let names_itself = last.subject() == last.issuer();
        let next = match &named[..] {
            [one, others @ ..] if !names_itself && others.iter().all(|other| other == one) => Some(*one),
            several => several.iter().find(|one| last.is_signed_by(one)).copied(),
        };
        let Some(next) = next.cloned() else {
            let (leads, agreed) = (last.issuer().to_owned(), root.subject().to_owned());
            return Err(Refusal::Path { leads, agreed });
        };
        path.push(next);
    }
}

/// Takes an authority that is exactly what was asked for, with what stands between it and the anchor.
///
/// # Errors
/// See [`Refusal`].
pub fn authority(
    signed: &Signed,
    asked: &Asked<'_>,
    common_name: &str,
    anchors: &[Certificate],
    now: Timestamp,
) -> Result<Chain, Refusal> {
    let authority = &signed.certificate;
    check_common(signed, asked, &format!("CN={common_name}"))?;
    let may_sign = authority.key_usage().is_some_and(|usage| usage.has_key_cert_sign());
    if !authority.is_ca() || authority.path_length() != Some(0) || !may_sign {
        let got = match (authority.is_ca(), authority.path_length(), may_sign) {
            (false, ..) => "a leaf".to_owned(),
            (true, _, false) => "one that may not sign certificates".to_owned(),
            (true, Some(length), true) => format!("one with path length {length}"),
            (true, None, true) => "one with any path length".to_owned(),
        };
        return Err(Refusal::NotAuthority { got });
    }
    let above = below_root(signed);
    climb(authority, &above, anchors, now)?;
    Ok(Chain::new(authority.clone(), above))
}

/// Each was signed by the next, the last by an anchor, and all are authorities that are valid now. What the new
/// authority signs is held against the anchor by all rules, with it in between.
fn climb(
    authority: &Certificate,
    above: &[Certificate],
    anchors: &[Certificate],
    now: Timestamp,
) -> Result<(), Refusal> {
    let is_above = |one: &Certificate, next: &Certificate| {
        let is_valid = next.not_before() <= now && now <= next.not_after();
        next.is_ca() && is_valid && one.issuer() == next.subject() && one.is_signed_by(next)
    };
    let mut top = authority;
    for next in above {
        if !is_above(top, next) {
            break;
        }
        top = next;
    }
    if anchors.iter().any(|anchor| is_above(top, anchor)) {
        return Ok(());
    }
    Err(Refusal::Untrusted(VerifyError::UnknownIssuer { issuer: top.issuer().to_owned() }))
}

/// What holds for both: the key, the one URI, nothing else that names it, and its life.
fn check_common(signed: &Signed, asked: &Asked<'_>, subject: &str) -> Result<(), Refusal> {
    let got = &signed.certificate;
    if !signed.lease_id.is_empty() {
        return Err(Refusal::Leased { lease_id: signed.lease_id.clone() });
    }
    if got.spki_der() != asked.key.spki_der() {
        return Err(Refusal::Key);
    }
    // By octets as they were signed: a lenient reading must not make two names one.
    if got.uri_names() != [asked.uri.as_bytes()] {
        let lossy = |uri: &Vec<u8>| String::from_utf8_lossy(uri).into_owned();
        let got = got.uri_names().iter().map(lossy).collect();
        return Err(Refusal::Uri { asked: asked.uri.to_owned(), got });
    }
    let others: Vec<String> = got
        .subject_alt_names()
        .iter()
        .filter(|name| !matches!(name, SubjectAltName::Uri(_)))
        .map(|name| format!("{name:?}"))
        .collect();
    if !others.is_empty() {
        return Err(Refusal::Names { got: others });
    }
    if got.subject() != subject {
        return Err(Refusal::Subject { asked: subject.to_owned(), got: got.subject().to_owned() });
    }
    let life = got.not_after().since(asked.at);
    if life > asked.lifetime + CLOCK_TOLERANCE {
        return Err(Refusal::TooLong { not_after: got.not_after(), got: life, asked: asked.lifetime });
    }
    Ok(())
}

/// What stands above, without a root, which peers have or do not believe.
fn below_root(signed: &Signed) -> Vec<Certificate> {
    signed.above.iter().filter(|one| **one != signed.certificate && !is_root(one)).cloned().collect()
}

#[cfg(test)]
mod tests;
