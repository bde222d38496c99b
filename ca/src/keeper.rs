//! The shell of [`lifecycle`](crate::lifecycle), [`rotation`](crate::rotation) and [`lists`](crate::lists): carries out
//! what they say and publishes what it led to.

mod brought;
mod lists;
mod roots;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use audit::{Action as Done, Actor, Event as Row};
use certs::{Certificate, Timestamp};
use spiffe::{ActiveAuthority, AuthorityId, Trust};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::lists::Listing;
use self::roots::with_left_behind;
use crate::{
    authority::{PrepareError, SigningAuthority, cross_sign, event, make_issuing},
    clock::Reading,
    dependents::{Dependents, Laggard, Unobserved},
    drain::Drain,
    issuer::Signing,
    lifecycle::{Action, Event, Lifecycle, Settings},
    manager::{Anchor, Asked, Deps, Revoked, RotateError, Vouched, active_authority, signing},
    pause::Pause,
    policy::Policy,
    ports::{
        AuthorityError, AuthorityRecord, AuthorityRequest, AuthorityState, CertificateRow, Leaves, Place,
        Transition,
    },
    revocation::{Revoke, RevokeRefusal},
    rotation::{self, Refusal, Rotation, Wish},
    status::{ByHand, CaStatus, RotationStatus, authorities},
};

pub use self::brought::{Install, Installed};

/// How long an operator's wish for a new issuing authority waits at the barrier before it is answered. The rotation
/// goes on.
const PATIENCE: Duration = Duration::from_secs(8);
/// How soon records are read again that could not be read after a theft was kept.
const SETTLE_AGAIN: Duration = Duration::from_secs(2);

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, RotateError>>;

/// An operator's wish for a new issuing authority.
#[derive(Debug)]
pub(crate) struct Rotate {
    pub(crate) asked: Asked,
    pub(crate) reply: Reply<AuthorityId>,
}

/// A rotation that an operator began.
#[derive(Debug)]
struct Begun {
    asked: Asked,
    /// Where the answer goes, until it was given.
    reply: Option<Reply<AuthorityId>>,
    /// When it is given whatever has become of the rotation.
    until: Timestamp,
}

/// What operators ask for.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new issuing authority under the same root.
    Issuing(Rotate),
    /// A step of the root's rotation.
    Root {
        wish: Wish,
        asked: Asked,
        reply: Reply<RotationStatus>,
    },
    /// What such a step would lead to.
    Simulate {
        wish: Wish,
        reply: Reply<(RotationStatus, rotation::Action)>,
    },
    /// An authority's key is stolen.
    Emergency {
        authority: AuthorityId,
        asked: Asked,
        reply: Reply<RotationStatus>,
    },
    SimulateEmergency {
        authority: AuthorityId,
        reply: Reply<RotationStatus>,
    },
    /// A request for an issuing authority that somebody else is to sign; `renew` replaces one that is pending.
    Request {
        renew: bool,
        asked: Asked,
        reply: Reply<AuthorityRequest>,
    },
    /// The pending request is not wanted any more.
    DropRequest {
        asked: Asked,
        reply: Reply<AuthorityId>,
    },
    /// What was signed for it.
    Install {
        wanted: Install,
        asked: Asked,
        reply: Reply<Installed>,
    },
    /// A certificate is to count no more.
    Revoke {
        wanted: Revoke,
        event: Row,
        reply: oneshot::Sender<Result<CertificateRow, RevokeRefusal>>,
    },
}

/// Where changes are published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) signing: watch::Sender<Arc<Signing>>,
    pub(crate) trust: watch::Sender<Arc<Trust>>,
    pub(crate) status: watch::Sender<Arc<CaStatus>>,
    pub(crate) active: watch::Sender<Option<ActiveAuthority>>,
    pub(crate) anchor: watch::Sender<Arc<Anchor>>,
    pub(crate) drain: watch::Sender<Drain>,
}

/// What the last process left beside the records.
pub(crate) struct Left {
    pub(crate) vouched: Vouched,
    pub(crate) request: Option<AuthorityRequest>,
    pub(crate) listing: Listing,
}

/// Owner of the authorities' records.
pub(crate) struct Keeper {
    deps: Deps,
    machine: Lifecycle,
    roots: Rotation,
    records: Vec<AuthorityRecord>,
    vouched: Vouched,
    listing: Listing,
    dependents: Arc<dyn Dependents>,
    asked: mpsc::Receiver<Command>,
    begun: Option<Begun>,
    laggards: Vec<Laggard>,
    /// On whose account what happens now happens, if not by itself and not by `begun`.
    on_behalf: Option<Asked>,
    request: Option<AuthorityRequest>,
    arriving: Option<certs::Brought>,
    rotation: Option<RotationStatus>,
    /// Whether what the store holds may be newer than `records`: a change was made and not read back.
    is_unsettled: bool,
    /// Whether a theft is kept that was not read since: the machine does not know of it, and waits for nothing. A step
    /// that failed it tries again by itself.
    is_theft_unread: bool,
    leaves: BTreeMap<AuthorityId, Leaves>,
    last_failure: Option<String>,
    published: Published,
    pause: watch::Receiver<Option<Arc<Pause>>>,
    /// Whether the clock can be believed.
    time: watch::Receiver<Reading>,
}

impl Keeper {
    pub(crate) fn new(
        deps: Deps,
        machine: Lifecycle,
        records: Vec<AuthorityRecord>,
        asked: mpsc::Receiver<Command>,
        published: Published,
        left: Left,
    ) -> Self {
        let Left { vouched, request, listing } = left;
        let settings = rotation::Settings {
            max_connection: deps.policy.max_connection,
            retry: settings(&deps.policy).retry,
        };
        let roots = Rotation::resume(settings, rotation::Root::all(&records));
        let keeper = Self {
            deps,
            machine,
            roots,
            records,
            vouched,
            listing,
            dependents: Arc::new(Unobserved),
            asked,
            begun: None,
            laggards: Vec::new(),
            on_behalf: None,
            request,
            arriving: None,
            rotation: None,
            is_unsettled: false,
            is_theft_unread: false,
            leaves: BTreeMap::new(),
            last_failure: None,
            published,
            pause: watch::Sender::new(None).subscribe(),
            time: watch::Sender::default().subscribe(),
        };
        keeper.publish_status();
        keeper
    }

    /// Follows operators' wish that nothing is replaced by itself.
    pub(crate) fn heed(&mut self, pause: watch::Receiver<Option<Arc<Pause>>>) {
        self.pause = pause;
    }

    /// Makes, activates and removes no authority while the clock cannot be believed.
    pub(crate) fn mind(&mut self, time: watch::Receiver<Reading>) {
        self.time = time;
    }

    fn in_time(&self) -> Result<(), PrepareError> {
        let reading = *self.time.borrow();
        if reading.is_stopped() { Err(PrepareError::Clock(reading)) } else { Ok(()) }
    }

    fn paused(&mut self) -> Event {
        Event::Paused(self.pause.borrow_and_update().as_ref().map(|pause| pause.until))
    }

    pub(crate) async fn run(mut self, dependents: Arc<dyn Dependents>, shutdown: CancellationToken) {
        self.dependents = Arc::clone(&dependents);
        let clock = Arc::clone(&self.deps.clock);
        let first = self.paused();
        self.drive(first).await;
        self.look_after_roots(dependents.as_ref()).await;
        let mut settling = None;
        loop {
            settling = self.is_theft_unread.then(|| settling.unwrap_or_else(|| clock.now() + SETTLE_AGAIN));
            let answer = self.begun.as_ref().filter(|begun| begun.reply.is_some()).map(|begun| begun.until);
            let machines = [self.machine.deadline(), self.roots.deadline(), self.listing.deadline()];
            let deadline =
                machines.into_iter().chain([answer, settling]).flatten().min().unwrap_or(Timestamp::MAX);
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(command) = self.asked.recv() => self.command(command, dependents.as_ref()).await,
                Ok(()) = self.pause.changed() => {
                    let paused = self.paused();
                    self.drive(paused).await;
                }
                () = clock.sleep_until(deadline) => {}
            }
            let now = clock.now();
            if self.machine.deadline().is_some_and(|at| at <= now) {
                self.drive(Event::Tick).await;
            }
            let is_settling = settling.take_if(|at| *at <= now).is_some();
            if is_settling || self.roots.deadline().is_some_and(|at| at <= now) {
                self.look_after_roots(dependents.as_ref()).await;
            }
            if self.listing.deadline().is_some_and(|at| at <= now) {
                self.look_after_lists().await;
            }
            if answer.is_some_and(|at| at <= now) {
                self.answer(Err(self.is_behind()));
            }
        }
    }

    async fn command(&mut self, command: Command, dependents: &dyn Dependents) {
        match command {
            Command::Issuing(Rotate { reply, .. }) if self.is_root_offline() => {
                let _ = reply.send(Err(Refusal::NoRootKey.into()));
            }
            Command::Issuing(Rotate { reply, .. }) if self.machine.is_barred() && self.begun.is_some() => {
                let _ = reply.send(Err(self.is_behind()));
            }
            Command::Issuing(Rotate { asked, reply }) => {
                let until = self.deps.clock.now() + PATIENCE;
                self.begun = Some(Begun { asked, reply: Some(reply), until });
                self.drive(Event::RotationRequested).await;
                if !self.machine.is_barred() {
                    self.answer(Err(RotateError::Failed("nothing was begun".to_owned())));
                    self.begun = None;
                }
            }
            // Whoever asked may be gone; what was done stands.
            Command::Root { wish, asked, reply } => {
                let _ = reply.send(self.rotate_root(wish, asked, dependents).await);
            }
            Command::Simulate { wish, reply } => {
                let _ = reply.send(self.simulate_root(&wish, dependents).await);
            }
            Command::Emergency { authority, asked, reply } => {
                let _ = reply.send(self.emergency(authority, asked, dependents).await);
            }
            Command::SimulateEmergency { authority, reply } => {
                let _ = reply.send(self.simulate_emergency(authority, dependents).await);
            }
            Command::Request { renew, asked, reply } => {
                let _ = reply.send(Box::pin(self.request_authority(renew, asked)).await);
            }
            Command::DropRequest { asked, reply } => {
                let _ = reply.send(self.drop_request(asked).await);
            }
            Command::Install { wanted, asked, reply } => {
                let _ = reply.send(Box::pin(self.install(wanted, asked, dependents)).await);
            }
            Command::Revoke { wanted, event, reply } => {
                let _ = reply.send(self.revoke(wanted, event).await);
            }
        }
    }

    /// Whether the key of the root that signs is kept elsewhere.
    fn is_root_offline(&self) -> bool {
        let signs =
            |record: &&AuthorityRecord| record.place == Place::Root && record.state == AuthorityState::Active;
        self.records.iter().find(signs).is_some_and(|root| root.offline.is_some())
    }

    /// Steps the machine, carries out what it says, and feeds it the results, until it is content.
    async fn drive(&mut self, first: Event) {
        let mut events = VecDeque::from([first]);
        let was_at_risk = self.machine.is_at_risk(self.deps.clock.now());
        while let Some(event) = events.pop_front() {
            for action in self.machine.step(event, self.deps.clock.now()) {
                events.push_back(self.carry_out(action).await);
            }
        }
        if !was_at_risk && self.machine.is_at_risk(self.deps.clock.now()) {
            let laggards = self.laggards.len();
            tracing::error!(
                laggards,
                "next issuing authority waits for laggards, the one that signs is getting old"
            );
        }
        self.publish_status();
    }

    async fn carry_out(&mut self, action: Action) -> Event {
        match action {
            Action::Prepare => match self.prepare().await {
                Ok(event) => event,
                Err(error) => {
                    self.failed("next issuing authority was not prepared", &error);
                    Event::PrepareFailed
                }
            },
            Action::Look(id) => {
                let behind = self.behind(id).await;
                if let Err(error) = &behind {
                    tracing::warn!(%error, "who would refuse the next issuing authority is not known now");
                }
                let is_clear = behind.as_ref().is_ok_and(Vec::is_empty);
                self.laggards = behind.unwrap_or_default();
                if is_clear { Event::Clear(id) } else { Event::Behind(id) }
            }
            Action::Activate { new, old } => match self.activate(new, old).await {
                Ok(()) => Event::Activated(new),
                Err(error) => {
                    self.failed("next issuing authority was not activated", &error);
                    self.reload_after(&error).await;
                    Event::ActivateFailed
                }
            },
            Action::CountLeaves { id, at } => match self.deps.journal.unexpired_leaves(id, at).await {
                Ok(leaves) => {
                    self.leaves.insert(id, leaves);
                    Event::Counted(id, leaves)
                }
                Err(error) => {
                    tracing::warn!(%error, authority_id = %id, "leaves of a retired authority were not counted");
                    Event::CountFailed(id)
                }
            },
            // Whether the last leaf has ended, only a clock can tell that is believed.
            Action::Remove { id, .. } if self.in_time().is_err() => Event::RemoveFailed(id),
            Action::Remove { id, from } => match self.remove(id, from).await {
                Ok(()) => Event::Removed(id),
                Err(error) => {
                    tracing::warn!(%error, authority_id = %id, "retired authority was not removed");
                    self.reload_after(&PrepareError::Keep(error)).await;
                    Event::RemoveFailed(id)
                }
            },
        }
    }

    async fn prepare(&mut self) -> Result<Event, PrepareError> {
        self.in_time()?;
        let now = self.deps.clock.now();
        let root = self
            .records
            .iter()
            .find(|record| record.place == Place::Root && record.state == AuthorityState::Active)
            .ok_or(PrepareError::NoRoot)?;
        let root_key = self.deps.authorities.load_key(root.id).await?;
        let (record, key) = make_issuing(&self.deps.policy, root, &root_key, now)?;
        let cross = self.cross_by_the_root_before(&record, now).await?;
        let record = AuthorityRecord { cross, ..record };
        let row = self.row(Done::AuthorityPrepare, &record, now);
        self.deps.authorities.insert(vec![(record.clone(), key)], vec![row]).await?;
        let event =
            Event::Prepared { id: record.id, created: now, not_after: record.certificate.not_after() };
        self.records.push(record);
        self.settle_lists().await;
        self.publish_again();
        Ok(event)
    }

    /// The issuing authority of `record` vouched for by the root before, as long as that stands in the bundle: there
    /// may be verifiers that have not heard of the new one.
    async fn cross_by_the_root_before(
        &self,
        record: &AuthorityRecord,
        now: Timestamp,
    ) -> Result<Option<Certificate>, PrepareError> {
        let before = self.records.iter().find(|root| {
            root.place == Place::Root && root.state == AuthorityState::Retired && root.stolen.is_none()
        });
        let Some(before) = before else { return Ok(None) };
        match self.deps.authorities.load_key(before.id).await {
            Ok(key) => cross_sign(&self.deps.policy, record, before, &key, now).map(Some),
            Err(AuthorityError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn activate(&mut self, new: AuthorityId, old: Option<AuthorityId>) -> Result<(), PrepareError> {
        // Without any that signs, our own certificate would end too.
        if old.is_some() {
            self.in_time()?;
        }
        let now = self.deps.clock.now();
        let record = self.record(new)?.clone();
        let mut transitions = Vec::new();
        let authority = self.signing_authority(&record).await?;
        let row = self.row(Done::AuthorityActivate, &record, now);
        let mut rows = vec![with_left_behind(row, &self.laggards)];
        if let Some(old) = old {
            let (from, to) = (AuthorityState::Active, AuthorityState::Retired);
            transitions.push(Transition { id: old, from, to, at: now });
            rows.push(self.row(Done::AuthorityRetire, self.record(old)?, now));
        }
        let (from, to) = (AuthorityState::Prepared, AuthorityState::Active);
        transitions.push(Transition { id: new, from, to, at: now });
        self.deps.authorities.transition(transitions.clone(), rows).await?;

        self.apply(&transitions);
        self.last_failure = None;
        self.laggards.clear();
        self.settle_lists().await;
        self.publish(Some(authority));
        tracing::info!(authority_id = %new, "issuing authority is active");
        self.answer(Ok(new));
        self.begun = None;
        Ok(())
    }

    async fn remove(&mut self, id: AuthorityId, from: AuthorityState) -> Result<(), AuthorityError> {
        let now = self.deps.clock.now();
        let row = event(
            Done::AuthorityRemove,
            self.record(id)?,
            now,
            Actor::System,
            "no unexpired leaf depends on it",
        );
        let step = [Transition { id, from, to: AuthorityState::Removed, at: now }];
        self.deps.authorities.transition(step.to_vec(), vec![row]).await?;
        self.apply(&step);
        self.leaves.remove(&id);
        self.settle_lists().await;
        self.publish_again();
        tracing::info!(authority_id = %id, "issuing authority is removed, its key destroyed");
        Ok(())
    }

    fn record(&self, id: AuthorityId) -> Result<&AuthorityRecord, AuthorityError> {
        self.records.iter().find(|record| record.id == id).ok_or(AuthorityError::NotFound(id))
    }

    /// The same change in memory that the store has just made.
    fn apply(&mut self, transitions: &[Transition]) {
        for step in transitions {
            for record in self.records.iter_mut().filter(|record| record.id == step.id) {
                record.state = step.to;
                match step.to {
                    AuthorityState::Prepared => {}
                    AuthorityState::Active => (record.activated, record.retired) = (Some(step.at), None),
                    AuthorityState::Retired => record.retired = Some(step.at),
                    AuthorityState::Removed => record.removed = Some(step.at),
                }
            }
        }
    }

    /// What the store says wins: an answer may be lost although the change was made.
    async fn reload_after(&mut self, error: &PrepareError) {
        if matches!(error, PrepareError::Keep(AuthorityError::Conflict(_) | AuthorityError::NotFound(_))) {
            self.reload().await;
        }
    }

    async fn reload(&mut self) {
        let Ok(records) = self.deps.authorities.load().await else { return };
        self.records = records;
        self.machine = self.issuing_machine();
        let Some(record) = self.machine.active().and_then(|active| self.record(active).ok()).cloned() else {
            return;
        };
        if let Ok(authority) = self.signing_authority(&record).await {
            self.publish(Some(authority));
        }
    }

    fn issuing_machine(&self) -> Lifecycle {
        let paused_until = self.pause.borrow().as_ref().map(|pause| pause.until);
        Lifecycle::resume(settings(&self.deps.policy), &self.records).pausing(paused_until)
    }

    async fn signing_authority(
        &self,
        record: &AuthorityRecord,
    ) -> Result<Arc<SigningAuthority>, PrepareError> {
        let key = self.deps.authorities.load_key(record.id).await?;
        Ok(Arc::new(SigningAuthority::try_new(record, &key)?))
    }

    fn row(&self, action: Done, record: &AuthorityRecord, now: Timestamp) -> Row {
        match self.begun.as_ref().map(|begun| &begun.asked).or(self.on_behalf.as_ref()) {
            Some(asked) => event(action, record, now, asked.actor.clone(), &asked.reason),
            None => event(action, record, now, Actor::System, "half of its life has passed"),
        }
    }

    fn failed(&mut self, what: &'static str, error: &PrepareError) {
        tracing::warn!(%error, what, "rotation of the issuing authority failed, the old one signs on");
        self.last_failure = Some(format!("{what}: {error}"));
        self.answer(Err(RotateError::Failed(error.to_string())));
        self.begun = None;
    }

    /// Whom the next issuing authority waits for.
    pub(super) fn is_behind(&self) -> RotateError {
        let root = self.roots.active().map(|root| root.id);
        let next = self.records.iter().filter(|one| {
            one.place == Place::Issuing && one.state == AuthorityState::Prepared && one.parent == root
        });
        match next.max_by_key(|record| record.created) {
            Some(next) => {
                RotateError::Behind { next: next.id, since: next.created, laggards: self.laggards.clone() }
            }
            None => Refusal::Busy.into(),
        }
    }

    fn answer(&mut self, answer: Result<AuthorityId, RotateError>) {
        if let Some(reply) = self.begun.as_mut().and_then(|begun| begun.reply.take()) {
            // Whoever asked may be gone; the rotation stands.
            let _ = reply.send(answer);
        }
    }

    /// Shows everybody what changed, and the same authority signs.
    fn publish_again(&self) {
        let authority = self.published.signing.borrow().authority.clone();
        self.publish(authority);
    }

    /// Shows everybody the authorities as they are now; `authority` signs.
    fn publish(&self, authority: Option<Arc<SigningAuthority>>) {
        let lists = self.listing.shown(&self.records, self.deps.clock.now());
        let revoked = Revoked { leaves: self.listing.refused(), lists };
        let next = signing(&self.deps.policy, &self.records, authority, Arc::clone(&self.vouched), revoked);
        let trust = Arc::clone(&next.trust);
        let trust_sequence = trust.own().sequence();
        let active = active_authority(&self.records);
        // Whoever hears that a key is tainted must know by then that nobody signs, or it asks for nothing.
        if active.is_none() {
            self.publish_active(active);
        }
        self.published.signing.send_replace(Arc::new(next));
        self.published.trust.send_if_modified(|current| {
            let changed = **current != *trust;
            if changed {
                *current = trust;
            }
            changed
        });
        let drain = Drain::of(&self.records, trust_sequence);
        self.published.drain.send_if_modified(|current| std::mem::replace(current, drain) != drain);
        let anchor = Anchor::of(&self.records);
        self.published.anchor.send_if_modified(|current| {
            let changed = **current != anchor;
            if changed {
                *current = Arc::new(anchor);
            }
            changed
        });
        self.publish_status();
        self.publish_active(active);
    }

    fn publish_active(&self, active: Option<ActiveAuthority>) {
        self.published.active.send_if_modified(|current| std::mem::replace(current, active) != active);
    }

    fn publish_status(&self) {
        let status = CaStatus {
            trust_domain: self.deps.policy.trust_domain.to_string(),
            authorities: authorities(&self.records, &self.leaves),
            active: self
                .records
                .iter()
                .find(|record| record.place == Place::Issuing && record.state == AuthorityState::Active)
                .map(|record| record.id),
            next_rotation: self.machine.next_rotation(),
            by_hand: self.machine.due_by_hand().and_then(|due| {
                let record = self.record(self.machine.active()?).ok()?;
                Some(ByHand { authority: record.id, due, ends: record.certificate.not_after() })
            }),
            request: self.request.as_ref().map(|request| request.into()),
            last_failure: self.last_failure.clone(),
            laggards: self.laggards.clone(),
            is_at_risk: self.machine.is_at_risk(self.deps.clock.now()),
            rotation: self.rotation.clone(),
            lists: self.listing.status(&self.records, self.deps.clock.now()),
        };
        self.published.status.send_if_modified(|current| {
            let changed = **current != status;
            if changed {
                *current = Arc::new(status);
            }
            changed
        });
    }
}

/// What issuing authorities go by.
pub(crate) fn settings(policy: &Policy) -> Settings {
    Settings::new(policy.lifetimes.issuing, policy.least_remaining())
}
