//! What is taken of what an ACME server issues (PURE): exactly what was asked for, in order, valid, for a server. Else
//! it is refused by the rule that it breaks.

use std::time::Duration;

use certs::{
    Certificate, Chain, ChainError, ExtendedKeyUsage, PemError, PublicKey, Timestamp, Usage, VerifyError,
    VerifyOptions, certificates_from_pem, is_self_signed, verify_chain,
};
use thiserror::Error;

use crate::{Identifier, Names};

/// How far the server's clock may be ahead of ours.
pub const CLOCKS: Duration = Duration::from_secs(300);

/// Why a certificate is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No PEM with certificates.
    #[error("it is no PEM: {0}")]
    Pem(#[from] PemError),
    /// Too many certificates, or one that does not parse.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It is for another key.
    #[error("it is for another key than the one of the request")]
    Key,
    /// It names others, fewer or more than were asked for.
    #[error("it names {found}, and {asked} was asked for")]
    Names {
        /// What was asked for.
        asked: String,
        /// What stands in it.
        found: String,
    },
    /// It is not valid yet, or not any more.
    #[error("it is valid from {not_before} to {not_after}, and it is {now}")]
    Life {
        /// From.
        not_before: Timestamp,
        /// To.
        not_after: Timestamp,
        /// Now.
        now: Timestamp,
    },
    /// A certificate above it is not valid yet, or not any more.
    #[error(
        "certificate {index} ({subject}) of the chain is valid from {not_before} to {not_after}, and it is {now}"
    )]
    LifeAbove {
        /// Its place, counted from 0, the leaf.
        index: usize,
        /// Its subject.
        subject: String,
        /// From.
        not_before: Timestamp,
        /// To.
        not_after: Timestamp,
        /// Now.
        now: Timestamp,
    },
    /// It is not for TLS servers.
    #[error("it is not for TLS servers (serverAuth)")]
    Purpose,
    /// It is an authority.
    #[error("it is an authority, and no certificate of a server")]
    Authority,
    /// A certificate that did not issue the one before it.
    #[error("certificate {index} ({subject}) of the chain did not issue the one before it")]
    Order {
        /// Its place, counted from 0, the leaf.
        index: usize,
        /// Its subject.
        subject: String,
    },
    /// It leads to none of the anchors that were given.
    #[error("no chain that is offered leads to the given anchors: {0}")]
    Anchor(#[from] VerifyError),
}

impl Refusal {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Anchor(_) => "give the root of the authority's chain as the anchor, or none",
            Self::Life { .. } => "is the clock of this machine right, and that of the authority?",
            Self::Key | Self::Names { .. } | Self::Purpose | Self::Authority => {
                "the authority issues something else than was asked for: is the profile the right one, and does anybody else \
                 order the same names with this account? If neither is the matter, tell who runs the server"
            }
            Self::Pem(_) | Self::Chain(_) | Self::Order { .. } | Self::LifeAbove { .. } => {
                "the server sends a chain that clients would not follow: tell who runs it"
            }
        }
    }

    /// Whether another chain of the same certificate may do.
    pub(crate) fn is_about_chain(&self) -> bool {
        match self {
            Self::Anchor(_) | Self::Order { .. } | Self::LifeAbove { .. } | Self::Chain(_) | Self::Pem(_) => {
                true
            }
            Self::Key | Self::Names { .. } | Self::Life { .. } | Self::Purpose | Self::Authority => false,
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// These names, and no others.
    pub names: &'a Names,
    /// The key of the request.
    pub key: &'a PublicKey,
    /// What the chain must lead to; with none, it is enough that it is in order.
    pub anchors: &'a [Certificate],
}

/// The chain, without its root, if it is what was asked for.
///
/// # Errors
/// See [`Refusal`].
pub fn issued(pem: &[u8], asked: &Asked<'_>, now: Timestamp) -> Result<Chain, Refusal> {
    let mut ders = certificates_from_pem(pem)?;
    // A root that is sent along is of no use to anybody.
    if ders.len() > 1 && ders.last().is_some_and(|last| is_root(last)) {
        ders.pop();
    }
    let chain = Chain::from_ders(ders.iter().map(Vec::as_slice))?;
    leaf(chain.leaf(), asked, now)?;
    let all: Vec<&Certificate> = chain.certificates().collect();
    for (index, pair) in all.windows(2).enumerate() {
        let [below, above] = [pair[0], pair[1]];
        let is_issuer = above.is_ca()
            && above.key_usage().is_none_or(certs::KeyUsage::has_key_cert_sign)
            && below.issuer() == above.subject()
            && below.means_issuer(above)
            && below.is_signed_by(above);
        if !is_issuer {
            return Err(Refusal::Order { index: index + 1, subject: above.subject().to_owned() });
        }
        if !is_alive(above, now) {
            return Err(Refusal::LifeAbove {
                index: index + 1,
                subject: above.subject().to_owned(),
                not_before: above.not_before(),
                not_after: above.not_after(),
                now,
            });
        }
    }
    if !asked.anchors.is_empty() {
        verify_chain(
            &chain,
            asked.anchors,
            &VerifyOptions::new(now.max(chain.leaf().not_before()), Usage::Server),
        )?;
    }
    Ok(chain)
}

fn is_root(der: &[u8]) -> bool {
    Certificate::from_der(der).is_ok_and(|one| is_self_signed(&one))
}

fn leaf(leaf: &Certificate, asked: &Asked<'_>, now: Timestamp) -> Result<(), Refusal> {
    if leaf.spki_der() != asked.key.spki_der() {
        return Err(Refusal::Key);
    }
    let found: Option<Vec<Identifier>> = leaf.subject_alt_names().iter().map(Identifier::of).collect();
    if !found.is_some_and(|found| asked.names.is_exactly(&found)) {
        let text =
            |names: &[Identifier]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let shown: Vec<String> =
            leaf.subject_alt_names().iter().take(8).map(|one| format!("{one:?}")).collect();
        return Err(Refusal::Names { asked: text(asked.names.as_slice()), found: shown.join(", ") });
    }
    if leaf.is_ca() || leaf.key_usage().is_some_and(certs::KeyUsage::has_key_cert_sign) {
        return Err(Refusal::Authority);
    }
    let is_server = leaf.extended_key_usages().contains(&ExtendedKeyUsage::ServerAuth)
        && !leaf.extended_key_usages().contains(&ExtendedKeyUsage::Any)
        && leaf.key_usage().is_none_or(certs::KeyUsage::has_digital_signature);
    if !is_server {
        return Err(Refusal::Purpose);
    }
    if !is_alive(leaf, now) {
        return Err(Refusal::Life { not_before: leaf.not_before(), not_after: leaf.not_after(), now });
    }
    Ok(())
}

fn is_alive(one: &Certificate, now: Timestamp) -> bool {
    one.not_before() <= now + CLOCKS && now < one.not_after()
}

#[cfg(test)]
mod tests;
