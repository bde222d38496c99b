//! What was revoked, and the lists that say so.

use std::sync::Arc;

use async_trait::async_trait;
use audit::Event;
use certs::{Crl, RevocationReason, Serial, Timestamp};
use spiffe::AuthorityId;
use thiserror::Error;

use super::JournalError;

/// The most revoked certificates that are on lists at a time: a list of them stays far below what a discovery
/// response may carry.
pub const MAX_REVOKED: usize = 10_000;

/// A certificate that was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Who signed it.
    pub authority: AuthorityId,
    /// Its number under that authority.
    pub serial: Serial,
    /// When it was revoked.
    pub at: Timestamp,
    /// Why, in the word that lists carry.
    pub reason: RevocationReason,
    /// Its last valid second.
    pub not_after: Timestamp,
}

/// A list, signed and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRecord {
    /// Whose.
    pub authority: AuthorityId,
    /// Its number: grows with every list of the authority, and none is used twice.
    pub number: u64,
    /// When it was made; its life is counted from here, and not from its backdated thisUpdate.
    pub at: Timestamp,
    /// The list.
    pub crl: Arc<Crl>,
}

/// Why nothing was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RevokeError {
    /// It was revoked before, at this time.
    #[error("it was revoked at {0}")]
    Already(Timestamp),
    /// [`MAX_REVOKED`] certificates are on lists.
    #[error("{MAX_REVOKED} revoked certificates have not expired, which is as many as lists carry")]
    Full,
    /// The store cannot write or read now.
    #[error("revocations are unavailable: {0}")]
    Unavailable(String),
}

/// Keeps what was revoked, and every list.
#[async_trait]
pub trait Revocations: Send + Sync {
    /// Keeps a revocation with `event`, in one transaction. Those whose certificates ended before `since` do not
    /// count for [`MAX_REVOKED`].
    async fn revoke(&self, revoked: Revoked, since: Timestamp, event: Event) -> Result<(), RevokeError>;

    /// Every revocation whose certificate has its last valid second at `since` or later, oldest first.
    async fn revoked(&self, since: Timestamp) -> Result<Vec<Revoked>, JournalError>;

    /// Takes the next number for a list of `authority`, for good: whatever becomes of the list, nothing else gets it.
    async fn reserve_list(&self, authority: AuthorityId, at: Timestamp) -> Result<u64, JournalError>;

    /// Keeps a list under the number that was reserved for it, with `event`, in one transaction. A number that is not
    /// above those of all lists that were kept is not reserved any more.
    async fn keep_list(&self, list: ListRecord, event: Event) -> Result<(), JournalError>;

    /// The newest list that was kept of each authority.
    async fn lists(&self) -> Result<Vec<ListRecord>, JournalError>;
}
