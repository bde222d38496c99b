//! The answer to a stolen key: how far it is, what the key signed, and who was left behind. All of it is read from what
//! is on record, so that it can be asked for again after a crash, by anybody.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ca::ports::{
    AuthorityRecord, AuthorityState, CertificateFilter, CertificateRow, CertificateState, Place,
};
use certs::{Profile, Serial, Timestamp};
use spiffe::{AuthorityId, BindingState, NodeId, SpiffeId};
use xds::TypeUrl;

use super::{CallError, Caller, Calls, class_word, trust::unavailable};
use crate::wire;

/// The most names that an answer lists.
const MAX_LISTED: usize = 1_000;
/// What ends connections.
const DRAINS: &[TypeUrl] = &[TypeUrl::Cluster, TypeUrl::Extension, TypeUrl::Listener];

/// The authorities of one root.
struct Family {
    named: AuthorityId,
    root: AuthorityRecord,
    ids: BTreeSet<AuthorityId>,
    /// How many roots whose key was stolen have left the bundle.
    gone: u64,
}

impl Calls {
    /// Treats an authority's key as stolen. Asked again, it says how far that is.
    ///
    /// # Errors
    /// When there is no such authority, or the root's key is kept elsewhere.
    pub async fn emergency(
        &self,
        caller: &Caller,
        wanted: &wire::Emergency,
    ) -> Result<wire::EmergencyStatus, CallError> {
        let family = self.family(&wanted.authority).await?;
        let is_over = family.root.state == AuthorityState::Removed && family.root.stolen.is_some();
        if !wanted.dry_run && !is_over {
            self.rotation.emergency(caller, family.named, &wanted.reason).await?;
        }
        let status = self.emergency_status(&wanted.authority).await?;
        Ok(wire::EmergencyStatus { dry_run: wanted.dry_run, ..status })
    }

    /// How far the answer to a stolen key is.
    ///
    /// # Errors
    /// When there is no such authority, or a store cannot read.
    pub async fn emergency_status(&self, authority: &str) -> Result<wire::EmergencyStatus, CallError> {
        let now = self.clock.now();
        let family = self.family(authority).await?;
        let rotation = self.root_rotation().await?;
        let drain = self.drain(&self.configs.plan_drain(None).await?);
        let is_removed = family.root.state == AuthorityState::Removed;
        let is_told = is_removed && self.configs.drained() >= family.gone;
        let drained = is_told.then(|| self.enforcement(DRAINS));
        let stage = match (family.root.stolen.is_some(), is_removed, &drained) {
            (false, ..) => "none",
            (true, false, _) => "replacing",
            (true, true, Some(drained)) if drained.waiting.is_empty() => "done",
            (true, true, _) => "draining",
        };
        let left_behind = match stage {
            "none" => Vec::new(),
            "replacing" => rotation.laggards.iter().map(|laggard| laggard.name.clone()).collect(),
            _ => self.left_behind(&family, now).await?,
        };
        let ids: Vec<AuthorityId> = family.ids.iter().copied().collect();
        let unexpired =
            self.journal.issued(&ids, now).await.map_err(|error| unavailable("journal", &error))?;
        Ok(wire::EmergencyStatus {
            authority: family.named.to_string(),
            root: family.root.id.to_string(),
            dry_run: false,
            stage: stage.to_owned(),
            since: family.root.stolen.map(|at| at.to_string()),
            rotation,
            drain,
            drained,
            unexpired: unexpired.len(),
            left_behind_count: left_behind.len(),
            left_behind: left_behind.into_iter().take(MAX_LISTED).collect(),
        })
    }

    /// Every certificate that the authorities of one root signed, newest first.
    ///
    /// # Errors
    /// As [`Calls::emergency_status`].
    pub async fn list_signed(
        &self,
        caller: &Caller,
        authority: &str,
        limit: usize,
        offset: usize,
    ) -> Result<wire::Page<wire::SignedCertificate>, CallError> {
        let now = self.clock.now();
        let family = self.family(authority).await?;
        let filter = CertificateFilter {
            authorities: family.ids.iter().copied().collect(),
            limit: limit + 1,
            offset,
            ..CertificateFilter::default()
        };
        let rows =
            self.journal.certificates(&filter).await.map_err(|error| unavailable("journal", &error))?;
        let newest = self.newest(now).await?;
        let more = rows.len() > limit;
        let own = rows.iter().take(limit).filter(|row| row.intent.tenant == caller.tenant);
        let signed = own.filter(|row| !matches!(row.state, CertificateState::Failed(_)));
        let items = signed.map(|row| shown(row, &family, &newest, now)).collect();
        Ok(wire::Page { items, next: more.then(|| (offset + limit).to_string()) })
    }

    async fn family(&self, text: &str) -> Result<Family, CallError> {
        let bad = |why: String| CallError::Parameter { what: "authority", why };
        let named: AuthorityId = text.parse().map_err(|error: hex::FromHexError| bad(error.to_string()))?;
        let records = self.authorities.load().await.map_err(|error| unavailable("authorities", &error))?;
        let missing = || CallError::NotFound { what: "authority", name: text.to_owned() };
        let of = |id| records.iter().find(|record| record.id == id).cloned().ok_or_else(missing);
        let record = of(named)?;
        let root = record.parent.map_or(Ok(record), of)?;
        let below = records.iter().filter(|one| one.id == root.id || one.parent == Some(root.id));
        let gone = records.iter().filter(|one| {
            one.place == Place::Root && one.state == AuthorityState::Removed && one.stolen.is_some()
        });
        let gone = u64::try_from(gone.count()).unwrap_or(u64::MAX);
        Ok(Family { named, ids: below.map(|one| one.id).collect(), root, gone })
    }

    /// Who signed the newest certificate of each identity and node, as far as it has not expired.
    async fn newest(&self, now: Timestamp) -> Result<Newest, CallError> {
        let remaining = self.journal.remaining(now).await.map_err(|error| unavailable("journal", &error))?;
        Ok(remaining.into_iter().map(|leaf| ((leaf.id, leaf.node), (leaf.authority, leaf.serial))).collect())
    }

    /// Whose certificates were not replaced: nodes that are away, connected ones that still show one, and operators.
    async fn left_behind(&self, family: &Family, now: Timestamp) -> Result<Vec<String>, CallError> {
        let ids: Vec<AuthorityId> = family.ids.iter().copied().collect();
        let failed = |error: ca::ports::JournalError| unavailable("journal", &error);
        let unexpired = self.journal.unexpired(&ids, now).await.map_err(failed)?;
        let newest = self.newest(now).await?;
        let (bindings, blocks) = (self.configs.bindings(), self.configs.blocks());
        let stolen: HashSet<Serial> = self
            .journal
            .issued(&ids, now)
            .await
            .map_err(failed)?
            .into_iter()
            .map(|leaf| leaf.serial)
            .collect();
        let mut names: BTreeSet<String> = BTreeSet::new();
        for leaf in unexpired {
            let key = (leaf.id.clone(), leaf.node.clone());
            let is_replaced = newest.get(&key).is_some_and(|(by, _)| !family.ids.contains(by));
            if is_replaced || blocks.contains(&leaf.id) {
                continue;
            }
            match (&leaf.profile, &leaf.node) {
                (Profile::Operator, _) => {
                    names.insert(leaf.id.path().trim_start_matches("/credence/").to_owned());
                }
                (Profile::Node | Profile::Workload, Some(node)) => {
                    let binding = bindings.get(node).filter(|binding| binding.state == BindingState::Enabled);
                    let is_bound = binding.is_some_and(|binding| {
                        leaf.profile == Profile::Node || binding.identities.contains(&leaf.id)
                    });
                    // One that is connected came in by a new certificate; what it makes of its leaves follows below.
                    if is_bound && !self.delivery.status(node).connected {
                        names.insert(node.to_string());
                    }
                }
                _ => {}
            }
        }
        let shows = |serial: &Serial| stolen.contains(serial);
        for fact in self.leaves.facts().into_iter().filter(|fact| fact.is_wanted) {
            if fact.acknowledged.as_ref().is_some_and(shows) && self.delivery.status(&fact.node).connected {
                names.insert(fact.node.to_string());
            }
        }
        Ok(names.into_iter().collect())
    }
}

type Newest = BTreeMap<(SpiffeId, Option<NodeId>), (AuthorityId, Serial)>;

fn shown(row: &CertificateRow, family: &Family, newest: &Newest, now: Timestamp) -> wire::SignedCertificate {
    let intent = &row.intent;
    let key = (intent.id.clone(), intent.node.clone());
    wire::SignedCertificate {
        serial: intent.serial.to_string(),
        authority: intent.authority.to_string(),
        class: class_word(intent.profile).to_owned(),
        id: intent.id.to_string(),
        node: intent.node.as_ref().map(ToString::to_string),
        issued: intent.at.to_string(),
        not_after: intent.not_after.to_string(),
        expired: intent.not_after < now,
        replaced: newest.get(&key).is_some_and(|(by, _)| !family.ids.contains(by)),
    }
}
