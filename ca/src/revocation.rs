//! Which certificates can be revoked.

use certs::{RevocationReason, Serial, Timestamp};
use spiffe::AuthorityId;
use thiserror::Error;

use crate::ports::{CertificateRow, CertificateState, JournalError, RevokeError};

/// What somebody wants revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoke {
    /// Who signed it.
    pub authority: AuthorityId,
    /// Its number under that authority.
    pub serial: Serial,
    /// Why, in the word that lists carry.
    pub reason: RevocationReason,
}

/// Why nothing was revoked. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RevokeRefusal {
    /// The journal does not know it.
    #[error("no certificate has this serial number")]
    NotFound,
    /// It was intended, and never released.
    #[error("it was never issued: {0}")]
    NeverIssued(String),
    /// Nothing accepts it any more.
    #[error("it expired at {0}, nothing accepts it")]
    Expired(Timestamp),
    /// The store refused it, or is away.
    #[error(transparent)]
    Store(#[from] RevokeError),
    /// The journal cannot read now.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Too many ask, or the process is shutting down.
    #[error("nothing can be revoked now")]
    Unavailable,
}

/// Whether the certificate of `row` can be revoked at `now`. One without a result can: it may have been signed.
///
/// # Errors
/// See [`RevokeRefusal`].
pub fn revocable(row: &CertificateRow, now: Timestamp) -> Result<(), RevokeRefusal> {
    if let CertificateState::Failed(reason) = &row.state {
        return Err(RevokeRefusal::NeverIssued(reason.clone()));
    }
    if row.intent.not_after < now {
        return Err(RevokeRefusal::Expired(row.intent.not_after));
    }
    match row.revoked {
        Some(at) => Err(RevokeError::Already(at).into()),
        None => Ok(()),
    }
}
