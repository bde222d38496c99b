//! What the keeper does about revoked certificates: keep them, list them, show the lists or none.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use audit::{Action as Done, Actor, Event as Row};
use certs::{CrlTemplate, Profile, Revocation, Serial, SoftwareSigner, Timestamp, Validity, sign_crl};
use spiffe::{AuthorityId, Lists as Shown, NodeId, RevocationLists, ShownList, SpiffeId};

use super::Keeper;
use crate::{
    authority::PrepareError,
    dependents::{Dependent, Laggard, behind_lists},
    lists::{Action, Event, Lists, Made, Settings},
    manager::{Deps, OpenError},
    ports::{
        AuthorityError, AuthorityRecord, AuthorityState, CertificateFilter, CertificateRow, JournalError,
        ListRecord, Place, Revoked,
    },
    revocation::{Revoke, RevokeRefusal, revocable},
    status::{ListStatus, ListsStatus, Withdrawn},
};

/// How long a list waits for the proxy that shows a revoked certificate to acknowledge its next one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// A revoked leaf that a proxy may still show, and that is on no list yet.
#[derive(Debug)]
struct Held {
    authority: AuthorityId,
    serial: Serial,
    id: SpiffeId,
    node: NodeId,
    /// By when it is on a list, whether its owner has another or not.
    by: Timestamp,
}

/// What was revoked, and the lists.
#[derive(Debug)]
pub(crate) struct Listing {
    /// None where nobody asked for lists.
    machine: Option<Lists>,
    /// The newest list of each authority.
    kept: BTreeMap<AuthorityId, ListRecord>,
    revoked: Vec<Revoked>,
    refused: Arc<HashSet<(AuthorityId, Serial)>>,
    held: Vec<Held>,
    look: Timestamp,
    withdrawn: Option<Withdrawn>,
    last_failure: Option<String>,
}

impl Listing {
    /// Everything that the last process left.
    pub(crate) async fn load(deps: &Deps) -> Result<Self, OpenError> {
        let life = deps.policy.list_life();
        let kept = deps.revocations.lists().await?;
        let revoked = deps.revocations.revoked(deps.clock.now() - life.unwrap_or_default()).await?;
        let made = kept.iter().map(|list| (list.authority, made(list)));
        let machine = life.map(|life| Lists::resume(Settings::new(life), made));
        let mut listing = Self {
            machine,
            kept: kept.into_iter().map(|list| (list.authority, list)).collect(),
            revoked,
            refused: Arc::default(),
            held: Vec::new(),
            look: Timestamp::EPOCH,
            withdrawn: None,
            last_failure: None,
        };
        listing.refuse();
        Ok(listing)
    }

    /// By what doors refuse leaves.
    pub(crate) fn refused(&self) -> Arc<HashSet<(AuthorityId, Serial)>> {
        Arc::clone(&self.refused)
    }

    fn refuse(&mut self) {
        let all = self.revoked.iter().map(|one| (one.authority, one.serial.clone()));
        self.refused = Arc::new(all.collect());
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let machine = self.machine.as_ref().and_then(Lists::deadline);
        let look = (!self.held.is_empty()).then_some(self.look);
        machine.into_iter().chain(look).min()
    }

    /// Whether proxies may check against lists that we made, now or before: one that has not ended may be with them.
    fn binds(&self, now: Timestamp) -> bool {
        self.kept.values().any(|list| now <= list.crl.next_update())
    }

    /// What may be shown of `records` now: one fresh list of every authority that signed anything, each by its own
    /// key, or none at all.
    pub(crate) fn shown(&self, records: &[AuthorityRecord], now: Timestamp) -> Shown {
        match &self.machine {
            None => return Shown::Off,
            Some(machine) if !machine.is_shown() => return Shown::Withdrawn,
            Some(_) => {}
        }
        let mut lists = Vec::new();
        for record in issuing(records) {
            let counts =
                |list: &&ListRecord| now < made(list).withdrawn() && list.crl.is_of(&record.certificate);
            match self.kept.get(&record.id).filter(counts) {
                Some(list) => {
                    let (authority, number, crl) = (list.authority, list.number, Arc::clone(&list.crl));
                    lists.push(ShownList { authority, number, crl });
                }
                None if record.state == AuthorityState::Prepared => {}
                None => {
                    tracing::error!(authority_id = %record.id, "revocation list is missing or another's, none is shown");
                    return Shown::Withdrawn;
                }
            }
        }
        Shown::Shown(Arc::new(RevocationLists::new(lists)))
    }

    fn is_listed(&self, revoked: &Revoked) -> bool {
        self.kept.get(&revoked.authority).is_some_and(|list| list.crl.revokes(&revoked.serial))
    }

    /// Revocations that the newest list of a living authority does not say.
    fn unlisted<'a>(
        &'a self,
        records: &'a [AuthorityRecord],
        now: Timestamp,
    ) -> impl Iterator<Item = &'a Revoked> {
        let lives = |revoked: &&Revoked| issuing(records).any(|record| record.id == revoked.authority);
        let is_late = move |revoked: &&Revoked| revoked.not_after >= now && !self.is_listed(revoked);
        self.revoked.iter().filter(lives).filter(is_late)
    }

    pub(super) fn status(&self, records: &[AuthorityRecord], now: Timestamp) -> Option<ListsStatus> {
        let machine = self.machine.as_ref()?;
        let known = issuing(records).filter_map(|record| self.kept.get(&record.id));
        let lists = known.map(|list| ListStatus {
            authority: list.authority,
            number: list.number,
            made: list.at,
            ends: list.crl.next_update(),
            due: machine.due(list.authority),
            revoked: self.revoked.iter().filter(|one| list.crl.revokes(&one.serial)).count(),
        });
        Some(ListsStatus {
            lists: lists.collect(),
            is_shown: machine.is_shown(),
            withdrawn: self.withdrawn.clone(),
            last_failure: self.last_failure.clone(),
            unlisted: self.unlisted(records, now).map(|one| one.serial.clone()).collect(),
        })
    }
}

/// The issuing authorities whose leaves may be shown to somebody.
fn issuing(records: &[AuthorityRecord]) -> impl Iterator<Item = &AuthorityRecord> {
    records.iter().filter(|record| record.place == Place::Issuing && record.state != AuthorityState::Removed)
}

fn made(list: &ListRecord) -> Made {
    Made { at: list.at, ends: list.crl.next_update() }
}

impl Keeper {
    /// What was revoked and not listed before the last process ended is listed now.
    pub(crate) async fn open_lists(&mut self) {
        let now = self.deps.clock.now();
        let late: BTreeSet<AuthorityId> =
            self.listing.unlisted(&self.records, now).map(|revoked| revoked.authority).collect();
        if let Some(machine) = &mut self.listing.machine {
            machine.open(&late, now);
        }
        self.settle_lists().await;
        self.publish_again();
    }

    /// Brings the lists in step with the authorities. Whoever changed authorities publishes afterwards.
    pub(super) async fn settle_lists(&mut self) {
        let all = issuing(&self.records);
        let issuers = all.map(|record| (record.id, record.state != AuthorityState::Prepared)).collect();
        self.drive_lists(Event::Issuers(issuers)).await;
    }

    /// Steps the machine, carries out what it says, and feeds it the results. Answers whether something else is to be
    /// shown.
    async fn drive_lists(&mut self, first: Event) -> bool {
        let mut events = vec![first];
        let mut is_changed = false;
        while let Some(event) = events.pop() {
            let now = self.deps.clock.now();
            let Some(machine) = &mut self.listing.machine else { return false };
            for action in machine.step(event, now) {
                match action {
                    Action::Make(id) => {
                        // What is spared wants another list in its own time.
                        let spared = self.spared(id).into_values().min();
                        events.extend(spared.map(|by| Event::Revoked(id, by)));
                        events.push(self.make(id).await);
                    }
                    Action::Show => {
                        self.listing.withdrawn = None;
                        is_changed = true;
                    }
                    Action::Withdraw(because) => {
                        tracing::error!(
                            authority_id = %because,
                            "revocation lists are WITHDRAWN: one cannot be renewed and is about to end; \
                             proxies accept revoked certificates until it can"
                        );
                        self.listing.withdrawn = Some(Withdrawn { since: now, because });
                        is_changed = true;
                    }
                }
            }
        }
        is_changed
    }

    async fn make(&mut self, id: AuthorityId) -> Event {
        let spared = self.spared(id);
        match self.make_list(id, &spared).await {
            Ok(made) => {
                self.listing.held.retain(|held| held.authority != id || spared.contains_key(&held.serial));
                self.listing.last_failure = None;
                Event::Made(id, made)
            }
            Err(error) => {
                tracing::warn!(%error, authority_id = %id, "revocation list was not made, the one before is shown on");
                self.listing.last_failure = Some(format!("list of {id}: {error}"));
                Event::Failed(id)
            }
        }
    }

    /// What was revoked and is still shown by its owner, who is given a moment for another: it is on the next list, not
    /// on this one, whatever else this one is made for. By when it must be.
    fn spared(&self, id: AuthorityId) -> BTreeMap<Serial, Timestamp> {
        let now = self.deps.clock.now();
        let held = self.listing.held.iter().filter(|held| held.authority == id);
        held.filter(|held| now < held.by).map(|held| (held.serial.clone(), held.by)).collect()
    }

    async fn make_list(
        &mut self,
        id: AuthorityId,
        spared: &BTreeMap<Serial, Timestamp>,
    ) -> Result<Made, PrepareError> {
        let now = self.deps.clock.now();
        let life = self.deps.policy.list_life().unwrap_or_default();
        let record = self.record(id)?;
        let unavailable = |error: JournalError| AuthorityError::Unavailable(error.to_string());
        let number = self.deps.revocations.reserve_list(id, now).await.map_err(unavailable)?;
        let key = self.deps.authorities.load_key(id).await?;
        // One that has expired is listed for another life of a list, so that one at least says so after its end
        // (RFC 5280 3.3).
        let counts = |one: &&Revoked| {
            one.authority == id && one.not_after + life >= now && !spared.contains_key(&one.serial)
        };
        let listed: Vec<Revocation> = self
            .listing
            .revoked
            .iter()
            .filter(counts)
            .map(|one| Revocation { serial: one.serial.clone(), at: one.at, reason: one.reason })
            .collect();
        let template = CrlTemplate {
            number,
            this_update: (now - Validity::BACKDATE).floor_secs().max(record.certificate.not_before()),
            next_update: (now + life).floor_secs(),
            revoked: listed,
        };
        let crl = sign_crl(&template, &record.certificate, &SoftwareSigner::try_new(&key)?)?;
        let row = Row::done(now, Actor::System, Done::RevocationListSign, id.to_string())
            .with("number", number)
            .with("revoked", template.revoked.len())
            .with("next_update", template.next_update);
        let list = ListRecord { authority: id, number, at: now, crl: Arc::new(crl) };
        self.deps.revocations.keep_list(list.clone(), row).await.map_err(unavailable)?;
        tracing::info!(authority_id = %id, number, revoked = template.revoked.len(), "revocation list is made");
        let made = made(&list);
        self.listing.kept.insert(id, list);
        self.listing.revoked.retain(|one| one.not_after + life >= now);
        Ok(made)
    }

    /// As time passes.
    pub(super) async fn look_after_lists(&mut self) {
        let now = self.deps.clock.now();
        let mut is_changed = false;
        if !self.listing.held.is_empty() && self.listing.look <= now {
            self.listing.look = now + LOOK;
            for authority in self.replaced(now).await {
                self.listing.held.retain(|held| held.authority != authority);
                is_changed |= self.drive_lists(Event::Replaced(authority)).await;
            }
        }
        is_changed |= self.drive_lists(Event::Tick).await;
        if is_changed {
            self.publish_again();
        } else {
            self.publish_status();
        }
    }

    /// The authorities of whose revoked leaves none is shown by a connected proxy any more, as far as it is known.
    async fn replaced(&self, now: Timestamp) -> BTreeSet<AuthorityId> {
        let all: BTreeSet<AuthorityId> = self.listing.held.iter().map(|held| held.authority).collect();
        let ids: Vec<AuthorityId> = all.iter().copied().collect();
        let Ok(unexpired) = self.deps.journal.unexpired(&ids, now).await else { return BTreeSet::new() };
        let Ok(seen) = self.dependents.observe(&unexpired, now).await else { return BTreeSet::new() };
        let shown = self.listing.held.iter().filter(|held| is_shown(held, &seen)).map(|held| held.authority);
        let shown: BTreeSet<AuthorityId> = shown.collect();
        all.difference(&shown).copied().collect()
    }

    /// Whether proxies may check what we sign against lists now.
    pub(super) fn is_checked(&self) -> bool {
        self.listing.binds(self.deps.clock.now())
    }

    /// Who is in the way of a prepared issuing authority.
    pub(super) async fn behind(&self, id: AuthorityId) -> Result<Vec<Laggard>, JournalError> {
        if !self.is_checked() {
            return Ok(Vec::new());
        }
        let now = self.deps.clock.now();
        Ok(behind_lists(&self.dependents.observe(&[], now).await?, id))
    }

    /// What nodes hold, with a root only where they hold the lists of what it signed: without them, they would refuse
    /// that.
    pub(super) fn with_lists(&self, mut seen: Vec<Dependent>) -> Vec<Dependent> {
        for connected in seen.iter_mut().filter_map(|dependent| dependent.known.as_mut()) {
            let (Some(roots), Some(lists)) = (&mut connected.roots, &connected.lists) else { continue };
            let missing = issuing(&self.records).filter(|record| !lists.contains_key(&record.id));
            let without: BTreeSet<AuthorityId> = missing.filter_map(|record| record.parent).collect();
            roots.retain(|root| !without.contains(root));
        }
        seen
    }

    pub(super) async fn revoke(
        &mut self,
        wanted: Revoke,
        event: Row,
    ) -> Result<CertificateRow, RevokeRefusal> {
        let now = self.deps.clock.now();
        let Revoke { authority, serial, reason } = wanted;
        let filter = CertificateFilter {
            serial: Some(serial.clone()),
            authorities: vec![authority],
            limit: 1,
            ..CertificateFilter::default()
        };
        let row = self.deps.journal.certificates(&filter).await?.pop().ok_or(RevokeRefusal::NotFound)?;
        revocable(&row, now)?;
        let not_after = row.intent.not_after;
        let revoked = Revoked { authority, serial: serial.clone(), at: now, reason, not_after };
        let life = self.deps.policy.list_life().unwrap_or_default();
        self.deps.revocations.revoke(revoked.clone(), now - life, event).await?;
        tracing::info!(%serial, authority_id = %authority, spiffe_id = %row.intent.id, "certificate is revoked");
        self.listing.revoked.push(revoked);
        self.listing.refuse();
        let mut by = now;
        if let (Some(node), Profile::Workload) = (&row.intent.node, row.intent.profile) {
            by = now + PATIENCE;
            let (id, node) = (row.intent.id.clone(), node.clone());
            self.listing.held.push(Held { authority, serial, id, node, by });
            self.listing.look = now;
        }
        // Doors refuse it, and its successor is asked for, before any list says so.
        self.publish_again();
        if self.drive_lists(Event::Revoked(authority, by)).await {
            self.publish_again();
        }
        if self.listing.machine.is_none() {
            self.listing.held.clear();
        }
        Ok(CertificateRow { revoked: Some(now), ..row })
    }
}

/// Whether a proxy that is served shows the certificate, or may.
fn is_shown(held: &Held, seen: &[Dependent]) -> bool {
    let served = seen.iter().filter(|one| one.is_served() && one.name == held.node.as_str());
    served.flat_map(|one| &one.holds).any(|holding| match &holding.serial {
        Some(serial) => *serial == held.serial,
        None => holding.id == held.id && holding.authority == held.authority,
    })
}
