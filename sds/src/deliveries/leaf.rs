//! One leaf in memory: its machine, its encoded forms, and who wants it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use certs::{Serial, Timestamp};
use spiffe::{AuthorityId, Purpose, Signer};
use xds::{Resource, SecretOffer, Version};

use crate::{
    LeafKey,
    rotation::Rotation,
    secret::Material,
    status::{LeafPhase, LeafStatus},
};

/// One leaf, encoded, with whoever wants it.
pub(super) struct LeafState {
    pub(super) rotation: Rotation,
    /// What the machine holds, encoded.
    pub(super) material: Option<Material>,
    /// The same under each name that was asked for.
    pub(super) resources: HashMap<Arc<str>, Arc<Resource>>,
    /// The streams, and their names, that want it.
    pub(super) holders: BTreeSet<(u64, Arc<str>)>,
    /// Why the queued or running request was made.
    pub(super) asked: Option<(Purpose, Option<Timestamp>)>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) last_error: Option<String>,
    pub(super) acknowledged: Option<Serial>,
    /// Who signed that one, and when it ends.
    pub(super) acknowledged_leaf: Option<(AuthorityId, Timestamp)>,
    /// The versions that it had by the names of then.
    pub(super) acknowledged_versions: HashMap<Arc<str>, Version>,
    pub(super) refusal: Option<String>,
    /// Who signs it, as it was last told.
    pub(super) signer: Option<Signer>,
}

impl LeafState {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            rotation: Rotation::new(grace),
            material: None,
            resources: HashMap::new(),
            holders: BTreeSet::new(),
            asked: None,
            deadline: None,
            last_error: None,
            acknowledged: None,
            acknowledged_leaf: None,
            acknowledged_versions: HashMap::new(),
            refusal: None,
            signer: None,
        }
    }

    pub(super) fn offer(&mut self, name: &Arc<str>, version_key: &[u8; 32]) -> SecretOffer {
        let Some(material) = &self.material else { return SecretOffer::Pending };
        let resource =
            self.resources.entry(Arc::clone(name)).or_insert_with(|| material.to_resource(name, version_key));
        SecretOffer::Held(Arc::clone(resource))
    }

    pub(super) fn status(&self, key: &LeafKey) -> LeafStatus {
        let held = self.rotation.held();
        let phase = match (held, self.rotation.requested(), self.rotation.failures()) {
            (None, ..) => LeafPhase::Requested,
            (Some(_), Some(_), _) => LeafPhase::Renewing,
            (Some(_), None, 0) => LeafPhase::Held,
            (Some(_), None, _) => LeafPhase::Retrying,
        };
        LeafStatus {
            node: key.node.clone(),
            identity: key.identity.clone(),
            phase,
            wanted: self.rotation.is_wanted(),
            serial: held.map(|held| held.leaf.serial.clone()),
            authority: held.map(|held| held.leaf.authority),
            issued: held.map(|held| held.leaf.life.issued),
            not_after: held.map(|held| held.leaf.life.expires),
            at_risk: held.is_some_and(|held| held.at_risk),
            next_request: self.rotation.next_request(),
            failures: self.rotation.failures(),
            last_error: self.last_error.clone(),
            acknowledged: self.acknowledged.clone(),
            acknowledged_authority: self.acknowledged_leaf.map(|(authority, _)| authority),
            acknowledged_until: self.acknowledged_leaf.map(|(_, until)| until),
            names: self.holders.iter().map(|(_, name)| (Arc::clone(name), self.version(name))).collect(),
            refusal: self.refusal.clone(),
        }
    }

    /// The versions on offer, which are those of the leaf that is acknowledged now.
    pub(super) fn versions(&self) -> HashMap<Arc<str>, Version> {
        let version =
            |(name, resource): (&Arc<str>, &Arc<Resource>)| (Arc::clone(name), resource.version().clone());
        self.resources.iter().map(version).collect()
    }

    /// The version that the newest acknowledged leaf has by this name.
    fn version(&self, name: &Arc<str>) -> Option<Version> {
        let held = self.rotation.held().map(|held| &held.leaf.serial);
        match self.resources.get(name) {
            // Also by a name that was asked for only afterwards.
            Some(resource) if held == self.acknowledged.as_ref() => Some(resource.version().clone()),
            Some(_) | None => self.acknowledged_versions.get(name).cloned(),
        }
    }
}
