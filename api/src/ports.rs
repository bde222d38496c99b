//! What this crate needs kept. `store` implements these; a change and its audit event share a transaction.

mod acme;
mod edges;
mod issuers;

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use audit::Event;
use certs::{Timestamp, format_duration};
use sds::ImportedSecret;
use serde::{Deserialize, Serialize};
use spiffe::{
    Binding, Block, BlockList, Eviction, IssuerName, Namespace, NodeId, RecoveryRefusal, SecretName,
    SpiffeId, Tenant, TrustDomain,
};
use thiserror::Error;
use uuid::Uuid;

pub use self::acme::{AcmeIssuer, AcmeSettings, AcmeStore, KeptAcme, MAX_CONTACTS};
pub use self::edges::{
    DnsPublisher, Edge, EdgeCertificate, EdgeChallenge, EdgeSettings, EdgeStore, EdgeWork, KeptEdge,
    MAX_EDGE_SECRET, MAX_EDGE_TEXT, MAX_EDGES,
};
pub use self::issuers::{
    Earlier, Issuer, IssuerStore, KeptIssuer, MAX_EARLIER, MAX_ISSUERS, VaultLogin, VaultSettings,
};
pub use spiffe::attestation::StoredToken;

/// Why something was not kept or found.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No such thing.
    #[error("{what} {name} does not exist")]
    NotFound {
        /// Of which sort.
        what: &'static str,
        /// Its name or id.
        name: String,
    },
    /// There is one of that name already.
    #[error("{what} {name} exists already")]
    Exists {
        /// Of which sort.
        what: &'static str,
        /// Its name or id.
        name: String,
    },
    /// Somebody else changed it since it was read.
    #[error("{what} {name} is at revision {actual}, not {expected}")]
    Conflict {
        /// Of which sort.
        what: &'static str,
        /// Its name or id.
        name: String,
        /// What the caller had read.
        expected: u64,
        /// What it is now.
        actual: u64,
    },
    /// Something else depends on it.
    #[error("{what} {name} is in use: {why}")]
    InUse {
        /// Of which sort.
        what: &'static str,
        /// Its name or id.
        name: String,
        /// By what.
        why: String,
    },
    /// A bound is reached.
    #[error("{0}")]
    Full(String),
    /// The disk is full, the file is damaged, the process is shutting down.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
}

/// Where a revision of a document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevisionState {
    /// Stored, not effective.
    Draft,
    /// Effective, or was when it was the newest.
    Applied,
    /// The document ended here.
    Deleted,
}

/// One revision of one document, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDocument {
    /// The document, over all its revisions: a UUIDv7.
    pub id: Uuid,
    /// Whose.
    pub tenant: Tenant,
    /// In which namespace.
    pub namespace: Namespace,
    /// `ProxyConfig`, `Endpoints`.
    pub kind: String,
    /// Its name, unique for kind and namespace.
    pub name: String,
    /// Grows over all documents: one number names one change.
    pub revision: u64,
    /// Where it stands.
    pub state: RevisionState,
    /// The source text, byte for byte.
    pub text: String,
    /// Who wrote it.
    pub author: String,
    /// Why, as the author said; may be empty.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// One step of a commit; all steps of a commit happen, or none.
#[derive(Debug, Clone)]
pub enum DocumentChange {
    /// Stores a revision; creates the document if there is none of this kind, namespace and name. Effective at
    /// once if `apply`, else a draft beside the effective one.
    Put {
        /// Whose.
        tenant: Tenant,
        /// In which namespace.
        namespace: Namespace,
        /// Which kind.
        kind: String,
        /// Its name.
        name: String,
        /// The source text.
        text: String,
        /// The revision that the author had read: `Some(0)` for "must not exist", `None` for "whatever is there".
        expected: Option<u64>,
        /// Whether it becomes effective.
        apply: bool,
    },
    /// Makes the newest draft effective.
    Apply {
        /// Which document.
        id: Uuid,
        /// The revision that the caller had read, if it insists.
        expected: Option<u64>,
    },
    /// Ends the document; its name is free again, its history stays.
    Delete {
        /// Which document.
        id: Uuid,
        /// The revision that the caller had read, if it insists.
        expected: Option<u64>,
    },
}

/// Which documents to list. Empty fields do not restrict.
#[derive(Debug, Clone, Default)]
pub struct DocumentFilter {
    /// Whose; `None` for all, which only the server itself asks for.
    pub tenant: Option<Tenant>,
    /// In which namespace.
    pub namespace: Option<Namespace>,
    /// Of which kind.
    pub kind: Option<String>,
    /// With which name.
    pub name: Option<String>,
    /// At most this many (0: all), by id, after `after`.
    pub limit: usize,
    /// Continue after this id.
    pub after: Option<Uuid>,
}

/// Keeps documents and every revision of them.
#[async_trait]
pub trait DocumentStore: Send + Sync {
    /// Carries out all of `changes` or none, with `event`, and answers the revisions that they made.
    async fn commit(
        &self,
        changes: Vec<DocumentChange>,
        author: &str,
        reason: &str,
        event: Event,
    ) -> Result<Vec<StoredDocument>, StoreError>;

    /// The newest revision of each live document: a draft if one is newer than what is effective.
    async fn newest(&self, filter: &DocumentFilter) -> Result<Vec<StoredDocument>, StoreError>;

    /// The effective revision of each live document that has one.
    async fn effective(&self, filter: &DocumentFilter) -> Result<Vec<StoredDocument>, StoreError>;

    /// The newest revision of one document, deleted or not.
    async fn get(&self, id: Uuid) -> Result<Option<StoredDocument>, StoreError>;

    /// The revisions of the documents that ever had this name, newest first: those before `before`, if it is given, and at
    /// most `limit`.
    async fn history(
        &self,
        tenant: &Tenant,
        namespace: &Namespace,
        kind: &str,
        name: &str,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDocument>, StoreError>;
}

/// Keeps bindings and the tokens that enrol them.
#[async_trait]
pub trait NodeStore: Send + Sync {
    /// All bindings.
    async fn bindings(&self) -> Result<Vec<Binding>, StoreError>;

    /// Writes a binding and its join token together. With `replace` an existing binding of the same tenant is overwritten
    /// and its older unspent tokens are revoked; any other is refused.
    async fn enroll(
        &self,
        binding: &Binding,
        token: &StoredToken,
        replace: bool,
        event: Event,
    ) -> Result<(), StoreError>;

    /// Has an issuer sign the leaves of a node; `None` for whoever does by default. One that is not kept is refused.
    async fn set_issuer(
        &self,
        node: &NodeId,
        issuer: Option<&IssuerName>,
        event: Event,
    ) -> Result<(), StoreError>;

    /// Removes a binding, and revokes its unspent tokens.
    async fn remove(&self, node: &NodeId, event: Event) -> Result<(), StoreError>;

    /// All tokens that are not older than a day past their end.
    async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError>;

    /// Those that can still be used at `now`: neither spent nor revoked, and not past their end.
    async fn unused_tokens(&self, now: Timestamp) -> Result<Vec<StoredToken>, StoreError>;

    /// One token by its public half.
    async fn token(&self, id: &str) -> Result<Option<StoredToken>, StoreError>;

    /// Revokes a token.
    async fn revoke_token(&self, id: &str, event: Event) -> Result<(), StoreError>;

    /// Counts a wrong secret; the fifth revokes the token (with `burned` as the event). Answers the count.
    async fn token_failure(&self, id: &str, burned: Event) -> Result<u32, StoreError>;

    /// The key under which token secrets are hashed; made with the store, sealed in it.
    async fn token_key(&self) -> Result<[u8; 32], StoreError>;
}

/// Keeps the identities that are blocked.
#[async_trait]
pub trait BlockStore: Send + Sync {
    /// All blocks.
    async fn blocks(&self) -> Result<BlockList, StoreError>;

    /// Blocks an identity, or makes its block one that proxies enforce. Answers the block as it is kept.
    /// [`StoreError::Exists`] when it is blocked so already.
    async fn block(
        &self,
        id: &SpiffeId,
        reason: &str,
        is_enforced: bool,
        event: Event,
    ) -> Result<Block, StoreError>;

    /// Notes that the TCP sessions of an identity whose block is enforced are ended: it gets the next generation, which
    /// is answered. [`StoreError::NotFound`] when there is no such block.
    async fn evict(&self, id: &SpiffeId, event: Event) -> Result<Eviction, StoreError>;

    /// Lifts a block.
    async fn unblock(&self, id: &SpiffeId, event: Event) -> Result<(), StoreError>;
}

/// An imported secret to be written.
#[derive(Debug)]
pub struct NewSecret {
    /// Whose.
    pub tenant: Tenant,
    /// Its name.
    pub name: SecretName,
    /// The identities that may have it.
    pub grants: BTreeSet<SpiffeId>,
    /// When the first value of this name was written.
    pub created: Timestamp,
    /// Its value.
    pub value: certs::Imported,
}

/// Keeps imported secrets, sealed.
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// All of them, opened. One that does not open is left out and logged: the others are served.
    async fn secrets(&self) -> Result<Vec<ImportedSecret>, StoreError>;

    /// Writes one and answers the version of its record. `expected` is the version that the author had seen: 0 for
    /// "must not exist", `None` for "whatever is there".
    async fn put_secret(
        &self,
        secret: NewSecret,
        expected: Option<u64>,
        event: Event,
    ) -> Result<u64, StoreError>;

    /// Removes one; its record is destroyed.
    async fn remove_secret(&self, tenant: &Tenant, name: &SecretName, event: Event)
    -> Result<(), StoreError>;
}

/// Keeps the pause of automatic rotation.
#[async_trait]
pub trait PauseStore: Send + Sync {
    /// The one that was set last and not ended, whether or not its time has come.
    async fn pause(&self) -> Result<Option<ca::Pause>, StoreError>;

    /// Sets it, or ends it.
    async fn set_pause(&self, pause: Option<ca::Pause>, event: Event) -> Result<(), StoreError>;
}

/// That a hook took a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Which hook, by its name.
    pub hook: String,
    /// Which notice.
    pub id: String,
    /// Until when it is remembered.
    pub until: Timestamp,
}

/// Remembers what hooks were told, so that a restart does not tell it again.
#[async_trait]
pub trait HookStore: Send + Sync {
    /// Everything that is remembered.
    async fn told(&self) -> Result<Vec<Told>, StoreError>;

    /// Remembers one more, and forgets what need not be remembered any longer.
    async fn remember_told(&self, told: Told, event: Event) -> Result<(), StoreError>;
}

/// A time in which nodes may come back with certificates that have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryWindow {
    /// Its number; each is another. The store gives it.
    pub id: u64,
    /// Why.
    pub reason: String,
    /// Who wants it.
    pub by: String,
    /// Since when.
    pub opened: Timestamp,
    /// Until when, unless it was closed before.
    pub until: Timestamp,
    /// When it was closed before its time.
    pub closed: Option<Timestamp>,
    /// How long ago a certificate may have ended.
    pub reach: Duration,
}

impl RecoveryWindow {
    /// Whether nodes may come back at `now`.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.closed.is_none() && now < self.until
    }

    /// One line for every screen, while it is open.
    #[must_use]
    pub fn banner(&self, now: Timestamp) -> String {
        let why = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        format!(
            "recovery window is OPEN for {} more, until {}, by {}{why}",
            format_duration(self.until.since(now)),
            self.until,
            self.by
        )
    }
}

/// A node that may connect and whose newest certificate has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// Which.
    pub node: NodeId,
    /// When its certificate ended.
    pub at: Timestamp,
    /// Why this certificate brings nobody back, whatever window is open.
    pub barred: Option<RecoveryRefusal>,
}

/// A node that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which.
    pub node: NodeId,
    /// When.
    pub at: Timestamp,
    /// When the certificate ends that it got.
    pub until: Timestamp,
}

/// Keeps recovery windows. Who came back is written with the issuance (`ca::ports::Journal`).
#[async_trait]
pub trait RecoveryStore: Send + Sync {
    /// The newest window, open or not.
    async fn recovery(&self) -> Result<Option<RecoveryWindow>, StoreError>;

    /// Opens another one, and closes the one that is open.
    async fn open_recovery(&self, window: RecoveryWindow, event: Event)
    -> Result<RecoveryWindow, StoreError>;

    /// Closes the one that is open.
    async fn close_recovery(&self, event: Event) -> Result<(), StoreError>;

    /// The nodes of a trust domain with an enabled binding whose newest certificate under it ended from `since` to
    /// `now`, those first that ended first. Who is blocked is not left out.
    async fn expired(
        &self,
        domain: &TrustDomain,
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Expired>, StoreError>;

    /// Who came back in a window and was issued a certificate.
    async fn recovered(&self, window: u64) -> Result<Vec<Recovered>, StoreError>;
}
