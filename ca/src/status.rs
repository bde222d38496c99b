//! What the outside may see of the authorities.

use std::collections::BTreeMap;

use certs::{Serial, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::AuthorityId;

use crate::{
    dependents::Laggard,
    ports::{AuthorityRecord, AuthorityRequest, AuthorityState, Leaves, Place},
    rotation::{Barrier, Step},
};

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
    /// Since when it is tainted.
    pub tainted: Option<Timestamp>,
    /// Of a root: since when its key is kept elsewhere.
    pub offline: Option<Timestamp>,
}

/// The active issuing authority of a root whose key is kept elsewhere: nothing replaces it by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByHand {
    /// Which.
    pub authority: AuthorityId,
    /// From when on an operator should see to a successor: half of its life.
    pub due: Timestamp,
    /// Its last second.
    pub ends: Timestamp,
}

/// A request for an issuing authority that was not answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requested {
    /// What the authority will be called.
    pub authority: AuthorityId,
    /// When it was made.
    pub created: Timestamp,
    /// Who asked for it.
    pub by: String,
}

impl From<&AuthorityRequest> for Requested {
    fn from(request: &AuthorityRequest) -> Self {
        Self { authority: request.id, created: request.created, by: request.by.clone() }
    }
}

/// How far those who depend on authorities are with a rotation of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Nodes that are connected, or about to come back.
    pub connected: usize,
    /// Of these, those that are not connected now and are awaited.
    pub awaited: usize,
    /// Of these, those that acknowledged a bundle with the new root, or need none.
    pub bundle: usize,
    /// Nodes and operators who are known to hold something, connected or not.
    pub holders: usize,
    /// Of these, those that hold nothing of the old root any more.
    pub renewed: usize,
    /// Of the connected, those that completed a handshake with our certificate under the new root.
    pub proven: usize,
}

/// The rotation of the root at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStatus {
    /// `steady`, `prepared` or `active`.
    pub phase: String,
    /// Where it stands, in words.
    pub standing: String,
    /// The root that signs.
    pub root: Option<AuthorityId>,
    /// The prepared one, or the one that goes.
    pub other: Option<AuthorityId>,
    /// Whether the steps follow by themselves as their gates open.
    pub is_automatic: bool,
    /// Whether the old root's key is believed to be stolen, and since when.
    pub emergency: Option<Timestamp>,
    /// Whether the root passed three quarters of its life and its replacement is stuck.
    pub is_at_risk: bool,
    /// What may be asked for now.
    pub due: Vec<Step>,
    /// Since when the rotation stands in this phase.
    pub since: Option<Timestamp>,
    /// How far everybody is.
    pub tally: Tally,
    /// Who would break by the next step, now.
    pub laggards: Vec<Laggard>,
    /// The step that waits for them, and since when.
    pub barrier: Option<Barrier>,
    /// When the last connection opened under the old root has ended by its age, those of laggards aside.
    pub settles: Option<Timestamp>,
    /// Of a step that was just asked for: names that were to be left behind, and that it does not wait for.
    pub needless: Vec<String>,
}

/// The newest revocation list of one issuing authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStatus {
    /// Whose.
    pub authority: AuthorityId,
    /// Its number.
    pub number: u64,
    /// When it was made.
    pub made: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
    /// When the next one is made.
    pub due: Option<Timestamp>,
    /// How many certificates are on it.
    pub revoked: usize,
}

/// Since when no list is shown although lists are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// Since when.
    pub since: Timestamp,
    /// Whose list is missing or about to end.
    pub because: AuthorityId,
}

/// The revocation lists at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListsStatus {
    /// The newest of each authority that is not removed.
    pub lists: Vec<ListStatus>,
    /// Whether proxies are shown them.
    pub is_shown: bool,
    /// Since when they are withdrawn, if they were shown before.
    pub withdrawn: Option<Withdrawn>,
    /// Why the last one was not made, until one is.
    pub last_failure: Option<String>,
    /// Revoked certificates that the newest lists do not say.
    pub unlisted: Vec<Serial>,
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
    /// When nothing replaces it by itself: what an operator has to see to.
    pub by_hand: Option<ByHand>,
    /// The request that was not answered yet.
    pub request: Option<Requested>,
    /// Why the last replacement failed, until one succeeds.
    pub last_failure: Option<String>,
    /// Who holds up the next issuing authority, which is prepared.
    pub laggards: Vec<Laggard>,
    /// Whether they have done so for too long.
    pub is_at_risk: bool,
    /// The rotation of the root.
    pub rotation: Option<RotationStatus>,
    /// Revocation lists, where they are wanted.
    pub lists: Option<ListsStatus>,
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
            tainted: record.tainted,
            offline: record.offline,
        })
        .collect();
    all.sort_by_key(|authority| (authority.place, authority.created));
    all
}
