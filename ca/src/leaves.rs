//! Leaves of workloads, whoever signs them: the shell of [`delegation`](crate::delegation), and the way in for whoever
//! needs one.
//!
//! What is published here is for secrets alone. Doors and nodes go on by what [`Manager`](crate::Manager) publishes:
//! the root of another issuer never opens anything of ours.
//!
//! ```text
//! migrate -> Leaves <-> delegation <- Dependents (what nodes acknowledged)
//!   publishes: trust (own roots and those of issuers), then who is asked, then whose leaves are to be replaced
//! LeafDesk (SvidIssuer) -> built-in queue, or the queue of the issuer that signs
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use audit::{Action as Done, Actor, Event as Row};
use certs::{Clock, Csr, Profile, SecretKey, Timestamp};
use spiffe::{ActiveAuthority, IssueError, IssuedSvid, IssuerName, SvidIssuer, SvidRequest, Trust};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    delegation::{Action, Delegation, Event, Settings},
    dependents::{Dependents, Laggard, behind_activation, behind_lists},
    issuance::word,
    issuer::{Asking, Health, Job, LeafSigner, MAX_WAITING, OutsideIssuer, OutsidePipeline, Outsider},
    keeper::settings,
    manager::{Asked, Deps, Handle, ended, turned_away},
    pause::Pause,
    ports::{AuthorityState, Journal, JournalError, LeafIssuer, LeafStore, Leaves as Count},
};

/// How many operators may ask at once.
const MAX_COMMANDS: usize = 16;
/// How often the gate is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why the leaves of workloads stay whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MigrateError {
    /// There is no such issuer, or it signs no leaves.
    #[error("issuer {0} signs no leaves")]
    NotFound(IssuerName),
    /// Proxies check against lists, and those of another issuer are not ours to give.
    #[error(
        "proxies check against our revocation lists (ca.revocation_lists), and would refuse what another issuer signs: \
         there is no list of it"
    )]
    Lists,
    /// The change was not kept.
    #[error("it was not kept: {0}")]
    Failed(String),
    /// Too many ask, or the process is shutting down.
    #[error("nobody can be asked now")]
    Unavailable,
}

/// One issuer whose root stands in the bundle of workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafIssuerStatus {
    /// Its name.
    pub name: IssuerName,
    /// Where it stands.
    pub state: AuthorityState,
    /// Since when.
    pub since: Timestamp,
    /// Who would refuse its leaves, when that was last looked at.
    pub waits_for: Vec<Laggard>,
    /// What depended on it when that was last counted; retired ones only.
    pub leaves: Option<Count>,
}

/// What the outside may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeavesStatus {
    /// Every issuer whose root stands in the bundle of workloads.
    pub issuers: Vec<LeafIssuerStatus>,
    /// How the one that is asked does.
    pub health: Health,
}

impl LeavesStatus {
    /// How one of them stands.
    #[must_use]
    pub fn of(&self, name: &IssuerName) -> Option<&LeafIssuerStatus> {
        self.issuers.iter().find(|one| one.name == *name)
    }
}

struct Command {
    to: Option<IssuerName>,
    asked: Asked,
    reply: oneshot::Sender<Result<(), MigrateError>>,
}

/// The way to whoever signs the leaves of workloads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LeafDesk {
    builtin: Handle,
    jobs: mpsc::Sender<Job>,
    asking: watch::Receiver<Option<Arc<Asking>>>,
    commands: mpsc::Sender<Command>,
    trust: watch::Receiver<Arc<Trust>>,
    authority: watch::Receiver<Option<ActiveAuthority>>,
    status: watch::Receiver<Arc<LeavesStatus>>,
}

impl LeafDesk {
    /// What workloads believe, as it changes: our roots and those of issuers whose leaves may be in use.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.clone()
    }

    /// Who signs the leaves of workloads. When it changes, leaves of the one before are to be issued again.
    #[must_use]
    pub fn authority(&self) -> watch::Receiver<Option<ActiveAuthority>> {
        self.authority.clone()
    }

    /// How issuers stand, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<LeavesStatus>> {
        self.status.clone()
    }

    /// Has an issuer sign the leaves of workloads as soon as every connected node has acknowledged its root; `None` has
    /// the built-in authorities sign them at once. Answers when that is kept.
    ///
    /// # Errors
    /// See [`MigrateError`]; nothing changed.
    pub async fn migrate(&self, to: Option<IssuerName>, asked: Asked) -> Result<(), MigrateError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { to, asked, reply };
        self.commands.try_send(command).map_err(|_| MigrateError::Unavailable)?;
        answer.await.map_err(|_| MigrateError::Unavailable)?
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Command(to {:?})", self.to)
    }
}

#[async_trait]
impl SvidIssuer for LeafDesk {
    /// Of the built-in issuer: nobody here holds the key.
    async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, IssueError> {
        self.builtin.issue(request).await
    }

    async fn issue_for_key(&self, request: SvidRequest, key: &SecretKey) -> Result<IssuedSvid, IssueError> {
        let is_elsewhere = request.profile == Profile::Workload && self.asking.borrow().is_some();
        if !is_elsewhere {
            return self.builtin.issue(request).await;
        }
        let (reply, answer) = oneshot::channel();
        let job = Job { request, csr: Csr::build(key), reply };
        self.jobs.try_send(job).map_err(|error| turned_away(&error))?;
        answer.await.map_err(|_| ended())?
    }
}

/// What the leaves of workloads need beside the authorities.
pub struct LeavesDeps {
    /// Keeps which issuers sign, and what they were asked for.
    pub store: Arc<dyn LeafStore>,
    /// Asks them.
    pub signer: Arc<dyn LeafSigner>,
    /// Every issuer that could be asked.
    pub outsiders: watch::Receiver<Arc<Vec<Outsider>>>,
    /// Operators' wish that nothing is replaced by itself for a while.
    pub pause: watch::Receiver<Option<Arc<Pause>>>,
}

/// Owns who signs the leaves of workloads. [`Leaves::run`] must be running for anything of another issuer to be issued.
pub struct Leaves {
    keeper: Keeper,
    outside: OutsideIssuer,
    desk: LeafDesk,
}

impl Leaves {
    /// Takes up where the last process ended. What is published stands from here on, before anything runs.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn open(deps: LeavesDeps, of: &Deps, ca: Handle) -> Result<Self, JournalError> {
        let authorities = settings(&of.policy);
        let (grace, retry) = (authorities.grace(), authorities.retry);
        let machine =
            Delegation::resume(Settings { grace, look: LOOK, retry }, deps.store.leaf_issuers().await?);
        let (jobs_in, jobs) = mpsc::channel(MAX_WAITING);
        let (commands_in, commands) = mpsc::channel(MAX_COMMANDS);
        let published = Published {
            trust: watch::Sender::new(Arc::clone(&ca.trust().borrow())),
            asking: watch::Sender::new(None),
            authority: watch::Sender::new(*ca.active().borrow()),
            status: watch::Sender::default(),
        };
        let health = watch::Sender::default();
        let desk = LeafDesk {
            builtin: ca.clone(),
            jobs: jobs_in,
            asking: published.asking.subscribe(),
            commands: commands_in,
            trust: published.trust.subscribe(),
            authority: published.authority.subscribe(),
            status: published.status.subscribe(),
        };
        let pipeline = OutsidePipeline {
            store: Arc::clone(&deps.store),
            signer: Arc::clone(&deps.signer),
            clock: Arc::clone(&of.clock),
            refusals: Arc::clone(&of.refusals),
            policy: of.policy.clone(),
            epoch: of.epoch,
            signing: ca.signing(),
            time: ca.time(),
        };
        let (asked, builtin) = (published.asking.subscribe(), ca.jobs().clone());
        let mut keeper = Keeper {
            journal: Arc::clone(&of.journal),
            clock: Arc::clone(&of.clock),
            trust: ca.trust(),
            active: ca.active(),
            health: health.subscribe(),
            deps,
            ca,
            machine,
            commands,
            begun: None,
            waits_for: Vec::new(),
            counted: BTreeMap::new(),
            known: BTreeMap::new(),
            published,
        };
        keeper.publish();
        keeper.publish_status();
        Ok(Self { keeper, outside: OutsideIssuer { pipeline, jobs, asked, builtin, health }, desk })
    }

    /// The way in, for everybody else.
    #[must_use]
    pub fn desk(&self) -> LeafDesk {
        self.desk.clone()
    }

    /// Which issuers' roots stand in the bundle of workloads.
    #[must_use]
    pub fn members(&self) -> &[LeafIssuer] {
        self.keeper.machine.members()
    }

    /// Asks issuers, and changes who is asked, until `shutdown`. The gate is what `dependents` observes.
    pub async fn run(self, dependents: Arc<dyn Dependents>, shutdown: CancellationToken) {
        let Self { keeper, outside, desk } = self;
        drop(desk);
        tokio::join!(keeper.run(dependents, shutdown.clone()), outside.run(shutdown));
    }
}

struct Published {
    trust: watch::Sender<Arc<Trust>>,
    asking: watch::Sender<Option<Arc<Asking>>>,
    authority: watch::Sender<Option<ActiveAuthority>>,
    status: watch::Sender<Arc<LeavesStatus>>,
}

/// The shell of the machine.
struct Keeper {
    deps: LeavesDeps,
    ca: Handle,
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    /// What is trusted by our own authorities alone.
    trust: watch::Receiver<Arc<Trust>>,
    active: watch::Receiver<Option<ActiveAuthority>>,
    health: watch::Receiver<Health>,
    machine: Delegation,
    commands: mpsc::Receiver<Command>,
    /// Whose wish is being carried out.
    begun: Option<Command>,
    waits_for: Vec<Laggard>,
    counted: BTreeMap<IssuerName, Count>,
    /// Members as they were when their records last opened: whoever has a leaf of one is believed until that has ended,
    /// whatever becomes of the record.
    known: BTreeMap<IssuerName, Outsider>,
    published: Published,
}

impl Keeper {
    async fn run(mut self, dependents: Arc<dyn Dependents>, shutdown: CancellationToken) {
        let clock = Arc::clone(&self.clock);
        self.drive(Event::Tick, dependents.as_ref()).await;
        let first = self.paused();
        self.drive(first, dependents.as_ref()).await;
        loop {
            let deadline = self.machine.deadline().unwrap_or(Timestamp::MAX);
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(command) = self.commands.recv() => self.command(command, dependents.as_ref()).await,
                Ok(()) = self.trust.changed() => self.publish(),
                Ok(()) = self.active.changed() => self.publish(),
                Ok(()) = self.deps.outsiders.changed() => self.publish(),
                Ok(()) = self.health.changed() => self.publish_status(),
                Ok(()) = self.deps.pause.changed() => {
                    let paused = self.paused();
                    self.drive(paused, dependents.as_ref()).await;
                }
                () = clock.sleep_until(deadline) => self.drive(Event::Tick, dependents.as_ref()).await,
            }
        }
    }

    fn paused(&mut self) -> Event {
        Event::Paused(self.deps.pause.borrow_and_update().as_ref().map(|pause| pause.until))
    }

    async fn command(&mut self, command: Command, dependents: &dyn Dependents) {
        if let Some(name) = &command.to {
            let refusal = if self.outsider(name).is_none() {
                Some(MigrateError::NotFound(name.clone()))
            } else if self.ca.status().borrow().lists.is_some() {
                Some(MigrateError::Lists)
            } else {
                None
            };
            if let Some(refusal) = refusal {
                let _ = command.reply.send(Err(refusal));
                return;
            }
        }
        let wanted = Event::Wanted(command.to.clone());
        self.begun = Some(command);
        self.drive(wanted, dependents).await;
        // Nothing was to be changed.
        self.answer(Ok(()));
    }

    /// Steps the machine, carries out what it says, and feeds it the results, until it is content.
    async fn drive(&mut self, first: Event, dependents: &dyn Dependents) {
        let mut next = Some(first);
        while let Some(event) = next.take() {
            if let Some(action) = self.machine.step(event, self.clock.now()) {
                next = Some(self.carry_out(action, dependents).await);
            }
        }
        self.publish_status();
    }

    async fn carry_out(&mut self, action: Action, dependents: &dyn Dependents) -> Event {
        let now = self.clock.now();
        match action {
            Action::Keep(next) => match self.keep(&next, now).await {
                Ok(()) => Event::Kept(next),
                Err(error) => {
                    tracing::warn!(%error, "who signs the leaves of workloads was not changed, it is tried again");
                    self.answer(Err(MigrateError::Failed(error.to_string())));
                    Event::KeepFailed
                }
            },
            Action::Look(name) => {
                // What was kept a moment ago is published before anybody is asked whether it has arrived.
                self.publish();
                match self.behind(&name, dependents, now).await {
                    Ok(laggards) => self.waits_for = laggards,
                    Err(error) => {
                        tracing::warn!(%error, "who would refuse the leaves of an issuer is not known now");
                        return Event::Behind(name);
                    }
                }
                if self.waits_for.is_empty() { Event::Clear(name) } else { Event::Behind(name) }
            }
            // Whether the last leaf has ended, only a clock can tell that is believed.
            Action::Count { name, .. } if self.ca.time().borrow().is_stopped() => Event::CountFailed(name),
            Action::Count { name, at } => match self.count(&name, at).await {
                Ok(leaves) => {
                    self.counted.insert(name.clone(), leaves);
                    Event::Counted(name, leaves)
                }
                Err(error) => {
                    tracing::warn!(%error, issuer = %name, "leaves of an issuer were not counted");
                    Event::CountFailed(name)
                }
            },
        }
    }

    /// Who is connected and would refuse what the issuer signs.
    async fn behind(
        &self,
        name: &IssuerName,
        dependents: &dyn Dependents,
        now: Timestamp,
    ) -> Result<Vec<Laggard>, JournalError> {
        let gone = || JournalError::Unavailable(format!("issuer {name} does not open"));
        let outsider = self.outsider(name).ok_or_else(gone)?;
        let seen = dependents.observe(&[], now).await?;
        // Our own certificate and those of nodes stay of our own authorities: there is always a way back to us.
        let mut laggards = behind_activation(&seen, outsider.root(), true, now);
        laggards.extend(behind_lists(&seen, outsider.authority()));
        Ok(laggards)
    }

    async fn count(&self, name: &IssuerName, at: Timestamp) -> Result<Count, JournalError> {
        let mut all = Count::default();
        // One that has not opened since the start has nobody to ask about, and nothing of it is in a bundle.
        for authority in self.known.get(name).into_iter().flat_map(Outsider::authorities) {
            let leaves = self.journal.unexpired_leaves(authority, at).await?;
            all.count += leaves.count;
            all.last = all.last.max(leaves.last);
        }
        Ok(all)
    }

    async fn keep(&mut self, next: &[LeafIssuer], now: Timestamp) -> Result<(), JournalError> {
        let before = self.machine.members();
        let state = |all: &[LeafIssuer], name: &IssuerName| {
            all.iter().find(|one| one.name == *name).map(|one| one.state)
        };
        let names: BTreeSet<&IssuerName> = before.iter().chain(next).map(|one| &one.name).collect();
        let changed = names.into_iter().filter(|name| state(before, name) != state(next, name));
        let rows = changed.map(|name| self.row(name, state(next, name), now)).collect();
        self.deps.store.set_leaf_issuers(next.to_vec(), rows).await?;
        for one in next {
            tracing::info!(issuer = %one.name, state = ?one.state, "issuer of leaves of workloads");
        }
        self.counted.retain(|name, _| next.iter().any(|one| one.name == *name));
        self.waits_for.clear();
        self.publish_as(next);
        self.answer(Ok(()));
        Ok(())
    }

    fn row(&self, name: &IssuerName, state: Option<AuthorityState>, now: Timestamp) -> Row {
        let (actor, reason) = match &self.begun {
            Some(Command { asked, .. }) => (asked.actor.clone(), asked.reason.clone()),
            None => (Actor::System, why(state).to_owned()),
        };
        let mut row = Row::done(now, actor, Done::IssuerSet, name.as_str());
        row.reason = reason;
        let root = self.outsider(name).map(|outsider| outsider.root());
        let row = row.with("leaves", state.map_or_else(|| "removed".to_owned(), |state| word(&state)));
        root.iter().fold(row, |row, root| row.with("root", root))
    }

    fn answer(&mut self, answer: Result<(), MigrateError>) {
        if let Some(command) = self.begun.take() {
            // Whoever asked may be gone; what is kept stands.
            let _ = command.reply.send(answer);
        }
    }

    fn outsider(&self, name: &IssuerName) -> Option<Outsider> {
        self.deps.outsiders.borrow().iter().find(|one| one.name == *name).cloned()
    }

    /// Shows everybody what stands.
    fn publish(&mut self) {
        let members = self.machine.members().to_vec();
        self.publish_as(&members);
    }

    /// Trust first, then who is asked, then whose leaves are to be replaced.
    fn publish_as(&mut self, members: &[LeafIssuer]) {
        let base = Arc::clone(&self.trust.borrow_and_update());
        let active = *self.active.borrow_and_update();
        let outsiders = Arc::clone(&self.deps.outsiders.borrow_and_update());
        self.known.retain(|name, _| members.iter().any(|one| one.name == *name));
        for one in members {
            match (outsiders.iter().find(|outsider| outsider.name == one.name), self.known.get(&one.name)) {
                (Some(outsider), _) => drop(self.known.insert(one.name.clone(), outsider.clone())),
                (None, Some(_)) => {
                    tracing::error!(issuer = %one.name, "issuer of leaves does not open any more, it is not asked");
                }
                (None, None) => {
                    tracing::error!(issuer = %one.name, "issuer of leaves does not open, its root is in no bundle");
                }
            }
        }
        let known = &self.known;
        let of = |one: &LeafIssuer| known.get(&one.name);
        let anchors: Vec<_> = members.iter().filter_map(of).map(|one| one.anchor.clone()).collect();
        let trust =
            if anchors.is_empty() { base } else { Arc::new(Trust::clone(&base).with_anchors(anchors)) };
        self.published.trust.send_if_modified(|current| {
            let is_changed = **current != *trust;
            if is_changed {
                *current = trust;
            }
            is_changed
        });
        let signs = members.iter().find(|one| one.state == AuthorityState::Active);
        let signs = signs.and_then(of);
        let domain = self.published.trust.borrow().own().trust_domain().clone();
        self.published.asking.send_if_modified(|current| {
            let is_changed = current.as_ref().map(|asking| asking.outsider()) != signs;
            if is_changed {
                *current = signs.map(|outsider| Arc::new(Asking::new(outsider.clone(), &domain)));
            }
            is_changed
        });
        let authority = match signs {
            Some(outsider) => {
                let is_urgent = active.is_some_and(|active| active.is_urgent);
                Some(ActiveAuthority { id: outsider.authority(), is_urgent })
            }
            None => active,
        };
        self.published
            .authority
            .send_if_modified(|current| std::mem::replace(current, authority) != authority);
    }

    fn publish_status(&mut self) {
        let health = self.health.borrow_and_update().clone();
        let shown = |one: &LeafIssuer| LeafIssuerStatus {
            name: one.name.clone(),
            state: one.state,
            since: one.since,
            waits_for: match one.state {
                AuthorityState::Prepared => self.waits_for.clone(),
                AuthorityState::Active | AuthorityState::Retired | AuthorityState::Removed => Vec::new(),
            },
            leaves: self.counted.get(&one.name).copied(),
        };
        let status = LeavesStatus { issuers: self.machine.members().iter().map(shown).collect(), health };
        self.published.status.send_if_modified(|current| {
            let is_changed = **current != status;
            if is_changed {
                *current = Arc::new(status);
            }
            is_changed
        });
    }
}

/// Why something happens that nobody asked for at that moment.
fn why(state: Option<AuthorityState>) -> &'static str {
    match state {
        Some(AuthorityState::Active) => "every connected node has acknowledged its root",
        Some(AuthorityState::Retired) => "another issuer signs",
        Some(AuthorityState::Prepared | AuthorityState::Removed) => "",
        None => "no unexpired leaf depends on it",
    }
}

#[cfg(test)]
mod tests;
