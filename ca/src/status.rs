//! What the outside may see of the authorities.

use std::collections::BTreeMap;

use certs::Timestamp;
use serde::{Deserialize, Serialize};
use spiffe::AuthorityId;

use crate::ports::{AuthorityRecord, AuthorityState, Leaves, Place};

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityStatus {
    /// Its name.
    pub id: AuthorityId,
    /// Its place in the chain.
    pub place: Place,
    /// Where it stands.
    pub state: AuthorityState,
    /// Who signed it.
    pub parent: Option<AuthorityId>,
    /// Its certificate's serial number.
    pub serial: String,
    /// SHA-256 over its certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// Its first valid second.
    pub not_before: Timestamp,
    /// Its last valid second.
    pub not_after: Timestamp,
    /// When it was made.
    pub created: Timestamp,
    /// When it began to sign.
    pub activated: Option<Timestamp>,
    /// When it stopped signing.
    pub retired: Option<Timestamp>,
    /// What depended on it when that was last looked at; retired authorities only.
    pub leaves: Option<Leaves>,
}

/// All authorities at one moment. Published as `watch<Arc<CaStatus>>`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CaStatus {
    /// The trust domain.
    pub trust_domain: String,
    /// Those that are not removed, roots first, then by age.
    pub authorities: Vec<AuthorityStatus>,
    /// The issuing authority that signs.
    pub active: Option<AuthorityId>,
    /// When it is replaced by itself.
    pub next_rotation: Option<Timestamp>,
    /// Why the last replacement failed, until one succeeds.
    pub last_failure: Option<String>,
}

/// The statuses of `records`.
pub(crate) fn authorities(
    records: &[AuthorityRecord],
    leaves: &BTreeMap<AuthorityId, Leaves>,
) -> Vec<AuthorityStatus> {
    let mut all: Vec<_> = records
        .iter()
        .filter(|record| record.state != AuthorityState::Removed)
        .map(|record| AuthorityStatus {
            id: record.id,
            place: record.place,
            state: record.state,
            parent: record.parent,
            serial: record.certificate.serial().to_string(),
            fingerprint: hex::encode(record.certificate.fingerprint()),
            not_before: record.certificate.not_before(),
            not_after: record.certificate.not_after(),
            created: record.created,
            activated: record.activated,
            retired: record.retired,
            leaves: leaves.get(&record.id).copied(),
        })
        .collect();
    all.sort_by_key(|authority| (authority.place, authority.created));
    all
}
