//! The shell of [`lifecycle`](crate::lifecycle): carries out its actions and publishes what they led to.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use audit::{Action as Done, Actor, Event as Row};
use certs::Timestamp;
use spiffe::{AuthorityId, Trust};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::{PrepareError, SigningAuthority, event, make_issuing},
    issuer::Signing,
    lifecycle::{Action, Event, Lifecycle, Settings},
    manager::{Deps, RotateError, signing},
    ports::{AuthorityError, AuthorityRecord, AuthorityState, Leaves, Place, Transition},
    status::{CaStatus, authorities},
};

/// An operator's wish for a new issuing authority.
#[derive(Debug)]
pub(crate) struct Rotate {
    pub(crate) actor: Actor,
    pub(crate) reason: String,
    pub(crate) reply: oneshot::Sender<Result<AuthorityId, RotateError>>,
}

/// Where changes are published.
pub(crate) type Published = (
    watch::Sender<Arc<Signing>>,
    watch::Sender<Arc<Trust>>,
    watch::Sender<Arc<CaStatus>>,
    watch::Sender<Option<AuthorityId>>,
);

/// Owner of the authorities' records.
pub(crate) struct Keeper {
    deps: Deps,
    machine: Lifecycle,
    records: Vec<AuthorityRecord>,
    asked: mpsc::Receiver<Rotate>,
    waiting: Option<Rotate>,
    leaves: BTreeMap<AuthorityId, Leaves>,
    last_failure: Option<String>,
    published: Published,
}

impl Keeper {
    pub(crate) fn new(
        deps: Deps,
        machine: Lifecycle,
        records: Vec<AuthorityRecord>,
        asked: mpsc::Receiver<Rotate>,
        published: Published,
    ) -> Self {
        let (waiting, leaves, last_failure) = (None, BTreeMap::new(), None);
        let keeper = Self { deps, machine, records, asked, waiting, leaves, last_failure, published };
        keeper.publish_status();
        keeper
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let clock = Arc::clone(&self.deps.clock);
        self.drive(Event::Tick).await;
        loop {
            let deadline = self.machine.deadline().unwrap_or(Timestamp::MAX);
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(wish) = self.asked.recv() => {
                    self.waiting = Some(wish);
                    Event::RotationRequested
                }
                () = clock.sleep_until(deadline) => Event::Tick,
            };
            self.drive(event).await;
            self.answer(Err(RotateError::Failed("nothing was begun".to_owned())));
        }
    }

    /// Steps the machine, carries out what it says, and feeds it the results, until it is content.
    async fn drive(&mut self, first: Event) {
        let mut events = VecDeque::from([first]);
        while let Some(event) = events.pop_front() {
            for action in self.machine.step(event, self.deps.clock.now()) {
                events.push_back(self.carry_out(action).await);
            }
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
        let now = self.deps.clock.now();
        let root = self
            .records
            .iter()
            .find(|record| record.place == Place::Root && record.state == AuthorityState::Active)
            .ok_or(PrepareError::NoRoot)?;
        let root_key = self.deps.authorities.load_key(root.id).await?;
        let (record, key) = make_issuing(&self.deps.policy, root, &root_key, now)?;
        let row = self.row(Done::AuthorityPrepare, &record, now);
        self.deps.authorities.insert(vec![(record.clone(), key)], vec![row]).await?;
        let event =
            Event::Prepared { id: record.id, created: now, not_after: record.certificate.not_after() };
        self.records.push(record);
        Ok(event)
    }

    async fn activate(&mut self, new: AuthorityId, old: Option<AuthorityId>) -> Result<(), PrepareError> {
        let now = self.deps.clock.now();
        let record = self.record(new)?.clone();
        let key = self.deps.authorities.load_key(new).await?;
        let authority = SigningAuthority::try_new(&record, &key)?;
        let mut transitions = Vec::new();
        let mut rows = vec![self.row(Done::AuthorityActivate, &record, now)];
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
        self.publish_signing(Some(Arc::new(authority)));
        tracing::info!(authority_id = %new, "issuing authority is active");
        self.answer(Ok(new));
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
                    AuthorityState::Active => record.activated = Some(step.at),
                    AuthorityState::Retired => record.retired = Some(step.at),
                    AuthorityState::Removed => record.removed = Some(step.at),
                }
            }
        }
    }

    /// What the store says wins: an answer may be lost although the change was made.
    async fn reload_after(&mut self, error: &PrepareError) {
        let stale =
            matches!(error, PrepareError::Keep(AuthorityError::Conflict(_) | AuthorityError::NotFound(_)));
        if !stale {
            return;
        }
        let Ok(records) = self.deps.authorities.load().await else { return };
        self.records = records;
        self.machine = Lifecycle::resume(Settings::new(self.deps.policy.lifetimes.issuing), &self.records);
        let Some(active) = self.machine.active() else { return };
        let Ok(record) = self.record(active) else { return };
        let Ok(key) = self.deps.authorities.load_key(active).await else { return };
        if let Ok(authority) = SigningAuthority::try_new(record, &key) {
            self.publish_signing(Some(Arc::new(authority)));
        }
    }

    fn row(&self, action: Done, record: &AuthorityRecord, now: Timestamp) -> Row {
        match &self.waiting {
            Some(wish) => event(action, record, now, wish.actor.clone(), &wish.reason),
            None => event(action, record, now, Actor::System, "half of its life has passed"),
        }
    }

    fn failed(&mut self, what: &'static str, error: &PrepareError) {
        tracing::warn!(%error, what, "rotation of the issuing authority failed, the old one signs on");
        self.last_failure = Some(format!("{what}: {error}"));
        self.answer(Err(RotateError::Failed(error.to_string())));
    }

    fn answer(&mut self, answer: Result<AuthorityId, RotateError>) {
        if let Some(wish) = self.waiting.take() {
            // Whoever asked may be gone; the rotation stands.
            let _ = wish.reply.send(answer);
        }
    }

    fn publish_signing(&self, authority: Option<Arc<SigningAuthority>>) {
        let (signing_to, trust_to, _, active_to) = &self.published;
        let id = authority.as_ref().map(|authority| authority.id());
        let next = Arc::new(signing(&self.deps.policy, &self.records, authority));
        let trust = Arc::clone(&next.trust);
        signing_to.send_replace(next);
        trust_to.send_if_modified(|current| {
            let changed = current.own() != trust.own();
            if changed {
                *current = trust;
            }
            changed
        });
        self.publish_status();
        active_to.send_if_modified(|current| std::mem::replace(current, id) != id);
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
            last_failure: self.last_failure.clone(),
        };
        self.published.2.send_if_modified(|current| {
            let changed = **current != status;
            if changed {
                *current = Arc::new(status);
            }
            changed
        });
    }
}
