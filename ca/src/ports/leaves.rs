//! Leaves that issuers beside the built-in one sign: which of them may be asked, and what they were asked for.

use async_trait::async_trait;
use audit::Event;
use certs::{Serial, SpkiHash, Timestamp};
use spiffe::{AuthorityId, IssuerName, NodeId, Purpose, RequestId, SpiffeId, Tenant};

use super::{AuthorityState, JournalError};

/// An issuer beside the built-in one whose root stands in the bundle of workloads.
///
/// [`AuthorityState::Prepared`]: it signs when every connected node has acknowledged that. [`AuthorityState::Active`]:
/// it signs the leaves of workloads. [`AuthorityState::Retired`]: another signs, and leaves of it may be in use. One
/// that is removed has no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafIssuer {
    /// Its name.
    pub name: IssuerName,
    /// Where it stands.
    pub state: AuthorityState,
    /// Since when.
    pub since: Timestamp,
}

/// A leaf of a workload that an issuer is about to be asked for, written down before it is. Its serial number and its
/// dates are the issuer's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRequest {
    /// Who is asked.
    pub issuer: IssuerName,
    /// By which of its roles.
    pub role: String,
    /// The authority of it that is to sign.
    pub authority: AuthorityId,
    /// The writer's epoch.
    pub epoch: u64,
    /// Whose certificate.
    pub id: SpiffeId,
    /// On whose account.
    pub tenant: Tenant,
    /// For which node, if for one.
    pub node: Option<NodeId>,
    /// Why.
    pub purpose: Purpose,
    /// The key, made for this request alone: it names the request.
    pub spki: SpkiHash,
    /// The last second that what is signed may have.
    pub not_after: Timestamp,
    /// When it was decided; life is counted from here.
    pub at: Timestamp,
    /// Follows the request through logs and audit.
    pub request_id: RequestId,
}

/// A leaf that came back, and passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLeaf {
    /// Its number under its authority.
    pub serial: Serial,
    /// SHA-256 over the to-be-signed certificate, byte for byte.
    pub tbs_sha256: [u8; 32],
    /// Its first valid second.
    pub not_before: Timestamp,
    /// Its last valid second.
    pub not_after: Timestamp,
    /// The chain as DER, leaf first, root left out.
    pub chain: Vec<Vec<u8>>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeafOutcome {
    /// It came back and passed: from now on it is a certificate of the journal.
    Issued(SignedLeaf),
    /// There is none, or it was thrown away, for this reason.
    Failed(String),
    /// No answer came, for this reason: it may have been signed. Its key is dropped, so nobody can show it.
    Unknown(String),
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafAnswer {
    /// The key of the request.
    pub spki: SpkiHash,
    /// What became of it.
    pub outcome: LeafOutcome,
    /// When.
    pub at: Timestamp,
}

/// The most requests of unknown outcome that are answered at once.
pub const MAX_UNKNOWN: usize = 100;

/// Keeps which issuers sign leaves, and what they were asked for.
#[async_trait]
pub trait LeafStore: Send + Sync {
    /// Every issuer whose root stands in the bundle of workloads, by name.
    async fn leaf_issuers(&self) -> Result<Vec<LeafIssuer>, JournalError>;

    /// From now on these are all; with `events`, in one transaction.
    async fn set_leaf_issuers(&self, all: Vec<LeafIssuer>, events: Vec<Event>) -> Result<(), JournalError>;

    /// Records `request` and `event` in one transaction; durable before the answer. A key is asked for once:
    /// [`JournalError::Unavailable`] for one that was asked for before.
    async fn record_request(&self, request: LeafRequest, event: Event) -> Result<(), JournalError>;

    /// Records what became of a request, with `event`, in one transaction; a request has one answer, else
    /// [`JournalError::NoRequest`]. What was issued is a certificate of the [`Journal`](super::Journal) from then on; a
    /// number that its authority has given before is refused: [`JournalError::SerialTaken`].
    async fn record_answer(&self, answer: LeafAnswer, event: Event) -> Result<(), JournalError>;

    /// The requests to `issuer` that were made before `before` and of which nobody knows what became, as far as what
    /// was asked for could be valid at `now`; newest first, at most [`MAX_UNKNOWN`].
    async fn unknown_leaves(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<LeafRequest>, JournalError>;
}
