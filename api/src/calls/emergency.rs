//! The answer to a stolen key: how far it is, what the key signed, and who was left behind. It can be asked for again,
//! also after a crash, by anybody: everything is read from what is on record, but what proxies hold and came with,
//! which is known since this process began. Of a node that has not come since, what was issued counts.

mod behind;
mod stage;

use std::collections::{BTreeSet, HashSet};

use ca::ports::{
    AuthorityRecord, AuthorityState, CertificateFilter, CertificateRow, CertificateState, Issued, Place,
};
use certs::{Serial, Timestamp};
use spiffe::{AuthorityId, AuthorityIdError, IssuerName};
use xds::TypeUrl;

use self::{
    behind::{Known, Newest},
    stage::{Stage, stage},
};
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
        if let Some((_, issuer)) = self.outside(&wanted.authority).await? {
            let name = wanted.authority.clone();
            let why = format!(
                "is of issuer {issuer}, which alone can revoke what it signed: credence issuer migrate --to builtin --now \
                 has every leaf of it replaced at once and its root leave the bundles, and /authorities/{name}/signed lists what we obtained of it"
            );
            return Err(CallError::Conflict { what: "authority", name, why });
        }
        let family = self.family(&wanted.authority).await?;
        let is_over = family.root.state == AuthorityState::Removed && family.root.stolen.is_some();
        if !is_over {
            self.rotation.emergency(caller, family.named, &wanted.reason, wanted.dry_run).await?;
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
        let stage = stage(
            family.root.stolen.is_some(),
            is_removed,
            drained.as_ref().is_some_and(|drained| drained.waiting.is_empty()),
        );
        let ids: Vec<AuthorityId> = family.ids.iter().copied().collect();
        let issued = self.journal.issued(&ids, now).await.map_err(|error| unavailable("journal", &error))?;
        let unexpired = issued.len();
        let left_behind = match stage {
            Stage::None => BTreeSet::new(),
            Stage::Replacing => rotation.laggards.iter().map(|laggard| laggard.name.clone()).collect(),
            Stage::Draining | Stage::Done => self.left_behind(&family, &ids, issued, now).await?,
        };
        Ok(wire::EmergencyStatus {
            authority: family.named.to_string(),
            root: family.root.id.to_string(),
            dry_run: false,
            stage: stage.word().to_owned(),
            since: family.root.stolen.map(|at| at.to_string()),
            rotation,
            drain,
            drained,
            unexpired,
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
        let issuer = self.outside(authority).await?;
        let family = match &issuer {
            Some((id, _)) => BTreeSet::from([*id]),
            None => self.family(authority).await?.ids,
        };
        let filter = CertificateFilter {
            authorities: family.iter().copied().collect(),
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
        let issuer = issuer.map(|(_, name)| name.to_string());
        let items = self.with_known(&family, &HashSet::new(), &newest, |known| {
            let shown = |row| wire::SignedCertificate { issuer: issuer.clone(), ..shown(row, &known, now) };
            signed.map(shown).collect()
        });
        Ok(wire::Page { items, next: more.then(|| (offset + limit).to_string()) })
    }

    /// Whether the authority is one of an issuer beside the built-in one that signs leaves.
    async fn outside(&self, text: &str) -> Result<Option<(AuthorityId, IssuerName)>, CallError> {
        let Ok(id) = text.parse::<AuthorityId>() else { return Ok(None) };
        Ok(self.outside_authorities().await?.remove(&id).map(|issuer| (id, issuer.name)))
    }

    async fn family(&self, text: &str) -> Result<Family, CallError> {
        let bad = |why: String| CallError::Parameter { what: "authority", why };
        let named: AuthorityId = text.parse().map_err(|error: AuthorityIdError| bad(error.to_string()))?;
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
        Ok(remaining.into_iter().map(|leaf| ((leaf.id, leaf.node), leaf.authority)).collect())
    }

    /// Whose certificates were not replaced.
    async fn left_behind(
        &self,
        family: &Family,
        ids: &[AuthorityId],
        issued: Vec<Issued>,
        now: Timestamp,
    ) -> Result<BTreeSet<String>, CallError> {
        let failed = |error: ca::ports::JournalError| unavailable("journal", &error);
        let unexpired = self.journal.unexpired(ids, now).await.map_err(failed)?;
        let serials = issued.into_iter().map(|leaf| leaf.serial).collect();
        let newest = self.newest(now).await?;
        let known = |known: Known<'_>| known.left_behind(&unexpired, &self.leaves.facts());
        Ok(self.with_known(&family.ids, &serials, &newest, known))
    }

    fn with_known<T>(
        &self,
        stolen: &BTreeSet<AuthorityId>,
        serials: &HashSet<Serial>,
        newest: &Newest,
        ask: impl FnOnce(Known<'_>) -> T,
    ) -> T {
        ask(Known {
            stolen,
            serials,
            newest,
            bindings: &self.configs.bindings(),
            blocks: &self.configs.blocks(),
            shown: &|node| self.delivery.shown_authorities(node),
            is_connected: &|node| self.delivery.status(node).connected,
        })
    }
}

fn shown(row: &CertificateRow, known: &Known<'_>, now: Timestamp) -> wire::SignedCertificate {
    let intent = &row.intent;
    wire::SignedCertificate {
        serial: intent.serial.to_string(),
        authority: intent.authority.to_string(),
        issuer: None,
        class: class_word(intent.profile).to_owned(),
        id: intent.id.to_string(),
        node: intent.node.as_ref().map(ToString::to_string),
        issued: intent.at.to_string(),
        not_after: intent.not_after.to_string(),
        expired: intent.not_after < now,
        replaced: known.is_replaced(&intent.id, intent.node.as_ref(), intent.profile),
    }
}
