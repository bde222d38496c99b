//! What this crate needs kept: the journal of issuances, the authorities with their sealed keys, and what was revoked.
//! `store` implements all of it. A change and its audit events share a transaction.

mod leaves;
mod revocations;

use async_trait::async_trait;
use audit::Event;
use certs::{Certificate, Profile, SecretKey, Serial, SerialStart, SpkiHash, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::{
    AuthorityId, IssuerName, NodeId, Purpose, RecoveryRefusal, RequestId, Spend, SpiffeId, Tenant,
    TokenRefusal,
};
use thiserror::Error;

pub use self::leaves::{
    DefaultIssuer, LeafAnswer, LeafIssuer, LeafOutcome, LeafRequest, LeafStore, MAX_UNKNOWN, Migration,
    SignedLeaf, Source,
};
pub use self::revocations::{ListRecord, MAX_REVOKED, Revocations, RevokeError, Revoked};

/// What is about to be signed, written down before it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The reserved number, unique under `authority`.
    pub serial: Serial,
    /// Who will sign.
    pub authority: AuthorityId,
    /// The writer's epoch.
    pub epoch: u64,
    /// SHA-256 over the to-be-signed certificate, byte for byte.
    pub tbs_sha256: [u8; 32],
    /// Whose certificate.
    pub id: SpiffeId,
    /// Of which class.
    pub profile: Profile,
    /// On whose account.
    pub tenant: Tenant,
    /// For which node, if for one.
    pub node: Option<NodeId>,
    /// Why.
    pub purpose: Purpose,
    /// The key that it certifies.
    pub spki: SpkiHash,
    /// Its first valid second.
    pub not_before: Timestamp,
    /// Its last valid second.
    pub not_after: Timestamp,
    /// When it was decided; life is counted from here.
    pub at: Timestamp,
    /// Follows the request through logs and audit.
    pub request_id: RequestId,
}

/// What became of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssueOutcome {
    /// Signed and checked: the chain as DER, leaf first, root left out.
    Issued(Vec<Vec<u8>>),
    /// Not released, for this reason.
    Failed(String),
}

/// The result of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRecord {
    /// Of the certificate with this number
    pub serial: Serial,
    /// under this authority.
    pub authority: AuthorityId,
    /// What became of it.
    pub outcome: IssueOutcome,
    /// When.
    pub at: Timestamp,
}

/// Why an intent or result was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JournalError {
    /// The authority has used this serial number; draw another.
    #[error("serial number {0} is taken")]
    SerialTaken(Serial),
    /// The join token is not accepted.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The node may not come back with its expired certificate.
    #[error(transparent)]
    Recovery(#[from] RecoveryRefusal),
    /// The same was spent for this very key, and this is the certificate that it got.
    #[error("issued before for the same key")]
    AlreadyIssued {
        /// The chain as DER, leaf first.
        chain: Vec<Vec<u8>>,
        /// Who signed it.
        authority: AuthorityId,
        /// When: the `at` of its intent.
        issued: Timestamp,
    },
    /// No open intent with this serial number and authority: never recorded, or it has its result already.
    #[error("no open intent has serial number {0}")]
    NoIntent(Serial),
    /// No open request for a leaf of this key: never recorded, or it has its answer already.
    #[error("no open request for a leaf has key {0}")]
    NoRequest(SpkiHash),
    /// Nobody of that name can be asked for leaves: it was removed meanwhile.
    #[error("issuer {0} does not exist")]
    NoIssuer(IssuerName),
    /// No list of that number was to come: never reserved, or it is kept already.
    #[error("number {number} is not reserved for a revocation list of authority {authority}")]
    NotReserved {
        /// Whose.
        authority: AuthorityId,
        /// Which.
        number: u64,
    },
    /// The store cannot write or read now.
    #[error("journal is unavailable: {0}")]
    Unavailable(String),
}

/// Where a certificate stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "reason", rename_all = "kebab-case")]
pub enum CertificateState {
    /// Intended, with no result: being signed at this moment, or the process ended in between. It was not
    /// released.
    Unknown,
    /// Issued.
    Issued,
    /// Not released, for this reason.
    Failed(String),
}

/// One row of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// What was intended.
    pub intent: Intent,
    /// What became of it.
    pub state: CertificateState,
    /// When that was recorded.
    pub finished: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// The chain as DER, leaf first; empty unless issued.
    pub chain: Vec<Vec<u8>>,
}

/// Which rows to list. Absent and empty fields do not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFilter {
    /// With this serial number, under any authority.
    pub serial: Option<Serial>,
    /// With a serial number that begins so.
    pub serial_start: Option<SerialStart>,
    /// Of this identity.
    pub id: Option<SpiffeId>,
    /// For this node.
    pub node: Option<NodeId>,
    /// Of this class.
    pub profile: Option<Profile>,
    /// Signed by one of these authorities.
    pub authorities: Vec<AuthorityId>,
    /// Whose last valid second is not before this time.
    pub valid_at: Option<Timestamp>,
    /// Only those that were revoked.
    pub revoked_only: bool,
    /// Only issued ones, and of those only the newest of each pair of identity and node. Which is the newest is
    /// decided before the other fields restrict.
    pub newest_only: bool,
    /// At most this many; 0 for as many as the journal is willing to answer at once.
    pub limit: usize,
    /// Skips this many rows of the answer, for pages.
    pub offset: usize,
}

/// What still depends on an authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leaves {
    /// How many leaves it signed, or may have signed, that have not expired.
    pub count: u64,
    /// The last second of the one that lives longest.
    pub last: Option<Timestamp>,
}

/// The newest issued leaf of an identity for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remaining {
    /// Whose.
    pub id: SpiffeId,
    /// For which node, if for one.
    pub node: Option<NodeId>,
    /// Of which class.
    pub profile: Profile,
    /// On whose account.
    pub tenant: Tenant,
    /// Its serial number.
    pub serial: Serial,
    /// Who signed it.
    pub authority: AuthorityId,
    /// When it was issued; life is counted from here.
    pub issued: Timestamp,
    /// Its last second.
    pub not_after: Timestamp,
}

/// An unexpired leaf, the one that lives longest of those that one authority signed for an identity and node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexpired {
    /// Whose.
    pub id: SpiffeId,
    /// For which node, if for one.
    pub node: Option<NodeId>,
    /// Of which class.
    pub profile: Profile,
    /// Who signed it.
    pub authority: AuthorityId,
    /// Its last second.
    pub not_after: Timestamp,
}

/// Names one certificate, and tells it from all that a forger can make who has its authority's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Issued {
    /// Its number under its authority.
    pub serial: Serial,
    /// [`Intent::tbs_sha256`].
    pub tbs_sha256: [u8; 32],
}

/// Append-only record of intents and results.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Records `intent` and `event`, and spends `spend`, in one transaction; it is durable before the answer.
    ///
    /// A token is judged at `intent.at`, in this order: unknown, revoked, expired, spent for another key. A
    /// token spent for `spend.spki` whose certificate was issued answers [`JournalError::AlreadyIssued`], and
    /// nothing is written; one whose certificate failed or never got a result may be spent for that key again.
    ///
    /// So is a recovery: the window must be open at `intent.at`, the node's binding enabled and older than the
    /// certificate that is replaced; the node may not have come back in this window for another key; and the
    /// replaced certificate must be the newest that was issued to the node, not revoked, and of an authority that is
    /// not marked as stolen, nor its root.
    async fn record_intent(
        &self,
        intent: Intent,
        spend: Option<Spend>,
        event: Event,
    ) -> Result<(), JournalError>;

    /// Records what became of an intent, with `event`, in one transaction. An intent has one result.
    ///
    /// Neither an intent nor that something was issued is recorded for an authority that is kept beside the journal
    /// and marked as stolen: [`JournalError::Unavailable`].
    async fn record_result(&self, result: ResultRecord, event: Event) -> Result<(), JournalError>;

    /// What depends on `authority` at `now`: issued and unknown rows with `not_after >= now`, and requests for leaves
    /// of it whose outcome is not known.
    async fn unexpired_leaves(&self, authority: AuthorityId, now: Timestamp) -> Result<Leaves, JournalError>;

    /// What was issued by any of `authorities`, or may have been, and has not expired at `now`; one row for each
    /// identity, node and authority.
    async fn unexpired(
        &self,
        authorities: &[AuthorityId],
        now: Timestamp,
    ) -> Result<Vec<Unexpired>, JournalError>;

    /// Every certificate that `authorities` issued and that has not expired at `now`.
    async fn issued(&self, authorities: &[AuthorityId], now: Timestamp) -> Result<Vec<Issued>, JournalError>;

    /// The rows that `filter` asks for, newest intent first.
    async fn certificates(&self, filter: &CertificateFilter) -> Result<Vec<CertificateRow>, JournalError>;

    /// The newest issued leaf of each pair of identity and node, as far as it has not expired at `now` and was not
    /// revoked. Of an operator whose newest was revoked it is the newest that was not: a thief renews too, and what is
    /// revoked then is his, while its owner goes on by the one before.
    async fn remaining(&self, now: Timestamp) -> Result<Vec<Remaining>, JournalError>;
}

/// The place of an authority in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Self-signed; stands in the bundle; signs issuing authorities.
    Root,
    /// Signed by a root; signs leaves.
    Issuing,
}

/// Where an authority stands in its life. It goes forward only, but for one step: a rotation that is rolled back
/// lets a retired authority sign again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityState {
    /// It exists and has signed nothing.
    Prepared,
    /// It signs. One of each place does.
    Active,
    /// It signs no more; what it signed verifies.
    Retired,
    /// Nothing depends on it, and its key is destroyed.
    Removed,
}

impl AuthorityState {
    /// Whether one step may lead from here to `to`.
    #[must_use]
    pub fn may_become(self, to: Self) -> bool {
        match (self, to) {
            (_, Self::Prepared) => false,
            (Self::Retired, Self::Active) => true,
            (from, to) => from < to,
        }
    }
}

/// An authority as it is kept, its key apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityRecord {
    /// Named after its public key.
    pub id: AuthorityId,
    /// Its place in the chain.
    pub place: Place,
    /// Where it stands.
    pub state: AuthorityState,
    /// Its certificate.
    pub certificate: Certificate,
    /// Who signed it; none for a root.
    pub parent: Option<AuthorityId>,
    /// When it was made.
    pub created: Timestamp,
    /// When it became active.
    pub activated: Option<Timestamp>,
    /// When it retired.
    pub retired: Option<Timestamp>,
    /// When it was removed.
    pub removed: Option<Timestamp>,
    /// Of a root: whether its rotation goes on by itself, or step by step as an operator says.
    pub automatic: bool,
    /// Since when nothing is to depend on it any more: what it signed is replaced at once.
    pub tainted: Option<Timestamp>,
    /// Since when its key is believed to be stolen; it is tainted then, too.
    pub stolen: Option<Timestamp>,
    /// Of an issuing authority: a certificate for the same name and key, signed by the root before its own. For
    /// verifiers that do not trust the new root yet.
    pub cross: Option<Certificate>,
    /// Of a root: since when its key is kept elsewhere. It can sign nothing here then.
    pub offline: Option<Timestamp>,
    /// Of an issuing authority: the authorities between it and its root, the one that signed it first.
    pub between: Vec<Certificate>,
    /// How often it entered the bundle, 1 for all but a root that was brought again after it was removed.
    pub arrivals: u32,
}

/// A request for an issuing authority that somebody else is to sign. Its key is kept, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityRequest {
    /// What the authority will be called: after its public key.
    pub id: AuthorityId,
    /// The PKCS#10 request, DER.
    pub csr: Vec<u8>,
    /// When it was made.
    pub created: Timestamp,
    /// Who asked for it.
    pub by: String,
}

/// Why nothing is to depend on an authority any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taint {
    /// Its planned replacement is hurried.
    Planned,
    /// Its key is believed to be stolen.
    Stolen,
}

/// A step of one authority's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Which authority.
    pub id: AuthorityId,
    /// Where it must stand now.
    pub from: AuthorityState,
    /// Where it goes.
    pub to: AuthorityState,
    /// When: becomes `activated`, `retired` or `removed`.
    pub at: Timestamp,
}

/// Why authorities were neither kept nor changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthorityError {
    /// There is no such authority, or its key is destroyed.
    #[error("authority {0} or its key does not exist")]
    NotFound(AuthorityId),
    /// One with this key exists.
    #[error("authority {0} exists already")]
    Exists(AuthorityId),
    /// It is not in the state that the step starts from, or two of one place would be active.
    #[error("authority {0} is in another state")]
    Conflict(AuthorityId),
    /// There is no such request for an authority.
    #[error("no request for an authority is pending")]
    NoRequest,
    /// The store cannot write or read now, or a key does not unseal.
    #[error("authorities are unavailable: {0}")]
    Unavailable(String),
}

/// Keeps authorities, their keys sealed.
#[async_trait]
pub trait Authorities: Send + Sync {
    /// Every authority, removed ones included, oldest first.
    async fn load(&self) -> Result<Vec<AuthorityRecord>, AuthorityError>;

    /// Keeps all of `authorities` with their keys, and `events`, in one transaction.
    async fn insert(
        &self,
        authorities: Vec<(AuthorityRecord, SecretKey)>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError>;

    /// Carries out all of `transitions` or none, with `events`, in one transaction; a transition to
    /// [`AuthorityState::Removed`] destroys the key in it. Of each place at most one authority is active after
    /// it, else [`AuthorityError::Conflict`].
    async fn transition(
        &self,
        transitions: Vec<Transition>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError>;

    /// Marks authorities as tainted from `at` on, and as stolen if `why` says so, with `events`, in one transaction.
    /// One that is marked already keeps its time.
    async fn taint(
        &self,
        authorities: Vec<AuthorityId>,
        why: Taint,
        at: Timestamp,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError>;

    /// Unseals the key of `id`.
    async fn load_key(&self, id: AuthorityId) -> Result<SecretKey, AuthorityError>;

    /// The request for an authority that was not answered yet.
    async fn request(&self) -> Result<Option<AuthorityRequest>, AuthorityError>;

    /// Keeps `request` with its key, and `events`, in one transaction; one that was there before goes, its key
    /// destroyed.
    async fn put_request(
        &self,
        request: AuthorityRequest,
        key: SecretKey,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError>;

    /// Drops the request for `id` and destroys its key, with `events`, in one transaction;
    /// [`AuthorityError::NoRequest`] when another one or none is there.
    async fn drop_request(&self, id: AuthorityId, events: Vec<Event>) -> Result<(), AuthorityError>;

    /// Destroys the key of the root `id`, which is kept elsewhere from `at` on, with `events`, in one transaction;
    /// [`AuthorityError::NotFound`] when it is no root or has no key here.
    async fn give_up_key(
        &self,
        id: AuthorityId,
        at: Timestamp,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError>;

    /// Keeps `issuing`, whose key is that of the pending request, and ends the request; with it `root`, whose key is
    /// elsewhere; and `events`, all in one transaction. A root that was removed may come back under its old name, with
    /// one arrival more, unless it was tainted: else [`AuthorityError::Exists`].
    async fn install(
        &self,
        issuing: AuthorityRecord,
        root: Option<AuthorityRecord>,
        events: Vec<Event>,
    ) -> Result<(), AuthorityError>;
}
