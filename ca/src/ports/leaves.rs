//! Leaves that issuers beside the built-in one sign: which of them may be asked, and what they were asked for.

use std::{collections::BTreeSet, fmt, time::Duration};

use async_trait::async_trait;
use audit::Event;
use certs::{Serial, SpkiHash, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::{AuthorityId, IssuerName, NodeId, Purpose, RequestId, SpiffeId, Tenant};

use super::{AuthorityState, JournalError};

/// One root of an issuer beside the built-in one. An issuer that is changed to another root has a further generation:
/// leaves under the one before are believed until they have ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The issuer.
    pub name: IssuerName,
    /// Which of its roots, counted from 0.
    pub generation: u32,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            0 => write!(f, "{}", self.name),
            generation => write!(f, "{}, root {}", self.name, generation + 1),
        }
    }
}

/// An issuer beside the built-in one, one of whose roots stands in the bundle of workloads.
///
/// [`AuthorityState::Prepared`]: it signs when every connected node has acknowledged that. [`AuthorityState::Active`]:
/// it may sign leaves of workloads. [`AuthorityState::Retired`]: it signs no more, and leaves of it may be in use. One
/// that is removed has no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafIssuer {
    /// Which.
    pub source: Source,
    /// Where it stands.
    pub state: AuthorityState,
    /// Since when.
    pub since: Timestamp,
    /// Retired: nothing is to depend on it any more. Its root leaves as soon as nobody who is connected shows a leaf of
    /// it, whatever has not ended.
    pub is_hurried: bool,
}

/// Who signs the leaves whose bindings name no issuer, and the way to the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefaultIssuer {
    /// Who does.
    pub current: IssuerName,
    /// Where leaves are moved, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// Those that are not to be trusted any more: nobody gets leaves of them, whoever names them, until leaves are moved
    /// to one of them again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left: BTreeSet<IssuerName>,
}

impl Default for DefaultIssuer {
    /// The built-in one.
    fn default() -> Self {
        Self { current: IssuerName::builtin(), migration: None, left: BTreeSet::new() }
    }
}

/// Leaves on their way from one issuer to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// To whom.
    pub to: IssuerName,
    /// How many of a hundred move with each stage, ascending; none for all at once.
    pub stages: Vec<u8>,
    /// The stage that is under way, counted from 0.
    pub stage: usize,
    /// Since when; the first counts from when the issuer may sign.
    pub since: Timestamp,
    /// How long each stage stands, complete and without trouble, before the next.
    pub hold: Duration,
    /// Why it goes no further: then the stage is taken back, and leaves in hand stay until their renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Nothing is to depend on the issuer that is left, at once.
    #[serde(default)]
    pub is_hurried: bool,
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
    /// Who signs the leaves whose bindings name no issuer; the built-in one before anything was set.
    async fn default_issuer(&self) -> Result<DefaultIssuer, JournalError>;

    /// From now on it is this; with `events`, in one transaction.
    async fn set_default_issuer(&self, next: DefaultIssuer, events: Vec<Event>) -> Result<(), JournalError>;

    /// Every issuer a root of which stands in the bundle of workloads, by name and generation.
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
