//! The port through which anybody gets an SVID: `sds` and the enrolment door call it, `ca` answers.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use async_trait::async_trait;
use certs::{Chain, Profile, PublicKey, SecretKey, Serial, SpkiHash, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{IssuerName, NodeId, RequestId, SpiffeId, Tenant};

/// Names an authority: the first 8 octets of the SHA-256 of its public key, as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AuthorityId([u8; 8]);

impl AuthorityId {
    /// Of the authority that holds this key.
    #[must_use]
    pub fn of(spki: SpkiHash) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&spki.0[..8]);
        Self(id)
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no id of an authority.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("an authority's id has 16 hexadecimal digits, as credence ca show lists it; {0:?} has not")]
pub struct AuthorityIdError(String);

impl FromStr for AuthorityId {
    type Err = AuthorityIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 8];
        match hex::decode_to_slice(text, &mut id) {
            Ok(()) => Ok(Self(id)),
            Err(_) => Err(AuthorityIdError(text.chars().take(64).collect())),
        }
    }
}

impl From<AuthorityId> for String {
    fn from(id: AuthorityId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for AuthorityId {
    type Error = AuthorityIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The authority that signs leaves now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveAuthority {
    /// Which.
    pub id: AuthorityId,
    /// Whether what others signed is replaced at once, and not spread over time.
    pub is_urgent: bool,
}

/// Why somebody asks for a certificate; stands in the journal and the audit row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A node's first certificate.
    Enrolment,
    /// A node's next certificate, over mTLS.
    NodeRenewal,
    /// A node's next certificate after its last one has ended, by proof of the old key while operators allow it.
    Recovery,
    /// A workload's certificate for a proxy that asked for the first time (or after a restart).
    Delivery,
    /// A workload's next certificate, due by its schedule.
    Renewal,
    /// A workload's next certificate, before its time: its authority is being replaced or an operator asked.
    ForcedRenewal,
    /// Our own server certificate.
    Server,
    /// An operator's certificate.
    Operator,
}

/// The one use of a join token, spent in the transaction that records the issuance intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSpend {
    /// The public id of the token.
    pub token_id: String,
    /// The key it is spent for. The same token with the same key gets the same certificate again.
    pub spki: SpkiHash,
}

/// The one coming back of a node in a recovery window, spent in the transaction that records the issuance intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverySpend {
    /// Which window.
    pub window: u64,
    /// Which node.
    pub node: NodeId,
    /// The certificate that has ended: the newest that was issued to the node.
    pub replaces: Serial,
    /// The new key. The same node with the same key gets the same certificate again.
    pub spki: SpkiHash,
    /// The address that it came from, for the audit row.
    pub from: String,
}

/// What may be used once, and is used up by an issuance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spend {
    /// A join token.
    Token(TokenSpend),
    /// A node's coming back.
    Recovery(RecoverySpend),
}

impl Spend {
    /// The key that it is spent for.
    #[must_use]
    pub fn spki(&self) -> SpkiHash {
        match self {
            Self::Token(spend) => spend.spki,
            Self::Recovery(spend) => spend.spki,
        }
    }

    /// Names what is spent: two spends of one name exclude each other.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Token(spend) => spend.token_id.clone(),
            Self::Recovery(spend) => format!("recovery {} of {}", spend.window, spend.node),
        }
    }
}

/// One request for an SVID. Everything in it was decided by us; the applicant brought the public key.
#[derive(Debug, Clone)]
pub struct SvidRequest {
    /// Whose.
    pub id: SpiffeId,
    /// Of which class.
    pub profile: Profile,
    /// The key to certify, possession of which was proven.
    pub public_key: PublicKey,
    /// How long, counted from now.
    pub lifetime: Duration,
    /// DNS names, for our own server only.
    pub dns_names: Vec<String>,
    /// Addresses, for our own server only.
    pub ip_addresses: Vec<IpAddr>,
    /// On whose account.
    pub tenant: Tenant,
    /// For which node, if for one.
    pub node: Option<NodeId>,
    /// The issuer that the node's binding names, if it names one.
    pub issuer: Option<IssuerName>,
    /// Why.
    pub purpose: Purpose,
    /// When the certificate that this one replaces ends: the sooner, the sooner it is signed.
    pub deadline: Option<Timestamp>,
    /// What is used up by it.
    pub spend: Option<Spend>,
    /// Follows the request through logs and audit.
    pub request_id: RequestId,
}

/// A certificate as it was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedSvid {
    /// Leaf first, root left out.
    pub chain: Chain,
    /// Who signed it.
    pub authority: AuthorityId,
    /// When. Life is counted from here and not from the backdated notBefore.
    pub issued: Timestamp,
}

/// Why a join token is not accepted. The reasons stand in audit; the applicant hears none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum TokenRefusal {
    /// No such token.
    #[error("join token is unknown")]
    Unknown,
    /// Past its end.
    #[error("join token has expired")]
    Expired,
    /// Spent for another key.
    #[error("join token was used already")]
    Spent,
    /// Revoked by an operator, or burned by five wrong secrets.
    #[error("join token was revoked")]
    Revoked,
    /// The secret half is wrong.
    #[error("join token has a wrong secret")]
    WrongSecret,
}

/// Why a node does not come back with its expired certificate. The reasons stand in audit; the node hears none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum RecoveryRefusal {
    /// Operators have opened no window, or it has ended.
    #[error("no recovery window is open")]
    Closed,
    /// The node was removed or disabled, or enrolled anew since.
    #[error("node has no enabled binding from before its certificate")]
    NotBound,
    /// Not the newest certificate of the node.
    #[error("node was given a newer certificate since")]
    Superseded,
    /// An operator revoked the certificate.
    #[error("its certificate is revoked")]
    Revoked,
    /// The key that signed the certificate, or the root above it, is believed to be stolen.
    #[error("its certificate is from an authority whose key is believed to be stolen")]
    Stolen,
    /// It came back in this window already, with another key.
    #[error("node came back in this window already")]
    Spent,
}

/// Why no certificate was issued.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// Policy forbids it; asking again does not help.
    #[error("refused by policy: {0}")]
    Refused(String),
    /// The join token is not accepted.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The node may not come back.
    #[error(transparent)]
    Recovery(#[from] RecoveryRefusal),
    /// The same was spent for the same key before: here is what it got.
    #[error("issued before for the same key")]
    AlreadyIssued(Box<IssuedSvid>),
    /// The issuer cannot sign now (store or backend away, authority near its end); ask again later.
    #[error("issuer is unavailable: {0}")]
    Unavailable(String),
    /// What was signed is not what was asked for, and was thrown away.
    #[error("issued certificate failed its own check: {0}")]
    BadOutput(String),
}

/// Decides, and asks an authority to sign.
#[async_trait]
pub trait SvidIssuer: Send + Sync {
    /// Issues what `request` says, or says why not. Intent and result are journalled before the answer leaves.
    async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, IssueError>;

    /// The same, asked by whoever holds the key of the request: an issuer elsewhere wants to see that it is held.
    async fn issue_for_key(&self, request: SvidRequest, key: &SecretKey) -> Result<IssuedSvid, IssueError> {
        let _ = key;
        self.issue(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_id_of_an_authority_hears_how_long_one_is() {
        assert_eq!("2c26b46b68ffc68f".parse::<AuthorityId>().unwrap().to_string(), "2c26b46b68ffc68f");
        for text in ["", "deadbeef", "2c26b46b68ffc68g", "2c26b46b68ffc68f00"] {
            let error = text.parse::<AuthorityId>().unwrap_err().to_string();
            assert!(error.contains("16 hexadecimal digits") && error.contains(text), "{error}");
        }
    }
}
