//! The one task that says who signs: steps both machines, carries out what they say, and shows everybody what stands.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use audit::{Action as Done, Actor, Event as Row};
use certs::{Clock, Profile, Timestamp};
use spiffe::{ActiveAuthority, AuthorityId, IssuerName, OutsideSigner, Signers, Trust};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{Command, Following, LeafIssuerStatus, LeavesDeps, LeavesStatus, MigrateError};
use crate::{
    delegation::{self, Delegation, Wanted},
    dependents::{Dependents, Laggard, Reason, behind_activation, behind_lists, showing},
    issuance::word,
    issuer::{Asking, Health, Job, MAX_WAITING, OutsideIssuer, OutsidePipeline, Outsider, Routes},
    manager::{Asked, Deps, Handle},
    migration::{self, Followers, MigrationWish, Migrations},
    ports::{
        AuthorityState, DefaultIssuer, Journal, JournalError, LeafIssuer, Leaves as Count, Migration, Source,
    },
};

/// How soon what could not be put on record is tried again.
const RECORD_AGAIN: Duration = Duration::from_secs(2);

pub(super) struct Published {
    pub(super) trust: watch::Sender<Arc<Trust>>,
    pub(super) routes: watch::Sender<Arc<Routes>>,
    pub(super) signers: watch::Sender<Arc<Signers>>,
    pub(super) status: watch::Sender<Arc<LeavesStatus>>,
}

/// The way to one issuer at work.
struct Way {
    jobs: mpsc::Sender<Job>,
    /// Closed when it is asked no more.
    asked: watch::Sender<Arc<Asking>>,
}

/// Begins to ask an issuer.
struct Beginning {
    begin: mpsc::UnboundedSender<OutsideIssuer>,
    pipeline: Arc<OutsidePipeline>,
}

/// A wish that is being carried out.
struct Begun {
    asked: Asked,
    /// Gone once it was answered.
    reply: Option<oneshot::Sender<Result<(), MigrateError>>>,
    /// Whether it is kept: what follows from it may fail, and is tried again.
    is_kept: bool,
}

/// What happened to either machine.
enum Event {
    Delegation(delegation::Event),
    Migration(migration::Event),
}

/// The shell of both machines.
pub(super) struct Keeper {
    deps: LeavesDeps,
    ca: Handle,
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    /// What is trusted by our own authorities alone.
    trust: watch::Receiver<Arc<Trust>>,
    active: watch::Receiver<Option<ActiveAuthority>>,
    health: watch::Sender<BTreeMap<IssuerName, Health>>,
    delegation: Delegation,
    migrations: Migrations,
    commands: mpsc::Receiver<Command>,
    /// Whose wish is being carried out.
    begun: Option<Begun>,
    waits_for: BTreeMap<Source, Vec<Laggard>>,
    followers: Option<Followers>,
    counted: BTreeMap<Source, Count>,
    /// Members as they were when their records last opened: whoever has a leaf of one is believed until that has ended,
    /// whatever becomes of the record.
    known: BTreeMap<Source, Outsider>,
    ways: BTreeMap<IssuerName, Way>,
    beginning: Option<Beginning>,
    /// Members whose records do not open, as far as that was said.
    unopened: BTreeSet<Source>,
    /// Who signs in the place of whom, as far as it is on record.
    standing_in: BTreeMap<IssuerName, IssuerName>,
    /// When that is recorded again, after it failed.
    record_again: Option<Timestamp>,
    published: Published,
}

impl Keeper {
    pub(super) fn new(
        deps: LeavesDeps,
        of: &Deps,
        ca: Handle,
        (delegation, migrations): (Delegation, Migrations),
        commands: mpsc::Receiver<Command>,
        published: Published,
    ) -> Self {
        Self {
            deps,
            journal: Arc::clone(&of.journal),
            clock: Arc::clone(&of.clock),
            trust: ca.trust(),
            active: ca.active(),
            health: watch::Sender::default(),
            ca,
            delegation,
            migrations,
            commands,
            begun: None,
            waits_for: BTreeMap::new(),
            followers: None,
            counted: BTreeMap::new(),
            known: BTreeMap::new(),
            ways: BTreeMap::new(),
            beginning: None,
            unopened: BTreeSet::new(),
            standing_in: BTreeMap::new(),
            record_again: None,
            published,
        }
    }

    /// Publishes what stands, and begins to ask whoever signs.
    pub(super) fn begin_with(
        &mut self,
        begin: mpsc::UnboundedSender<OutsideIssuer>,
        pipeline: OutsidePipeline,
    ) {
        self.beginning = Some(Beginning { begin, pipeline: Arc::new(pipeline) });
        self.publish();
        self.publish_status();
    }

    pub(super) fn members(&self) -> &[LeafIssuer] {
        self.delegation.members()
    }

    pub(super) async fn run(
        mut self,
        dependents: Arc<dyn Dependents>,
        following: Arc<dyn Following>,
        shutdown: CancellationToken,
    ) {
        let clock = Arc::clone(&self.clock);
        let (dependents, following) = (dependents.as_ref(), following.as_ref());
        let mut health = self.health.subscribe();
        let first = self.paused().into_iter().chain(self.facts());
        let first = first.chain([Event::Delegation(delegation::Event::Tick)]).collect();
        self.drive(first, dependents, following).await;
        loop {
            let deadlines = [self.delegation.deadline(), self.migrations.deadline()];
            let deadline = deadlines.into_iter().flatten().min().unwrap_or(Timestamp::MAX);
            let next = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(command) = self.commands.recv() => {
                    self.command(command, dependents, following).await;
                    continue;
                }
                Ok(()) = self.trust.changed() => {
                    self.publish();
                    continue;
                }
                Ok(()) = self.active.changed() => {
                    self.publish();
                    continue;
                }
                () = clock.sleep_until(self.record_again.unwrap_or(Timestamp::MAX)) => {
                    let all = health.borrow().clone();
                    self.record_stand_ins(&all).await;
                    continue;
                }
                Ok(()) = health.changed() => {
                    let all = health.borrow_and_update().clone();
                    self.record_stand_ins(&all).await;
                    self.publish_status();
                    continue;
                }
                Ok(()) = self.deps.outsiders.changed() => {
                    self.publish();
                    self.facts()
                }
                Ok(()) = self.deps.named.changed() => self.facts(),
                Ok(()) = self.deps.pause.changed() => self.paused(),
                () = clock.sleep_until(deadline) => {
                    vec![Event::Delegation(delegation::Event::Tick), Event::Migration(migration::Event::Tick)]
                }
            };
            self.drive(next.into(), dependents, following).await;
        }
    }

    fn paused(&mut self) -> Vec<Event> {
        let until = self.deps.pause.borrow_and_update().as_ref().map(|pause| pause.until);
        vec![
            Event::Delegation(delegation::Event::Paused(until)),
            Event::Migration(migration::Event::Paused(until)),
        ]
    }

    /// Who may sign, and who is to, as it is known now.
    fn facts(&mut self) -> Vec<Event> {
        self.publish();
        let members = self.delegation.members();
        let active = members.iter().filter(|one| one.state == AuthorityState::Active);
        // What cannot be asked signs nothing.
        let active = active.filter(|one| self.known.contains_key(&one.source));
        let may_sign = active.map(|one| one.source.name.clone()).collect();
        vec![
            Event::Migration(migration::Event::MaySign(may_sign)),
            Event::Delegation(delegation::Event::Wanted(self.wanted())),
        ]
    }

    /// Everybody of whom somebody is to have a leaf, and whoever may have to sign in their place.
    fn wanted(&mut self) -> Wanted {
        let outsiders = Arc::clone(&self.deps.outsiders.borrow_and_update());
        let state = self.migrations.state();
        let mut names: BTreeSet<IssuerName> = self.deps.named.borrow_and_update().as_ref().clone();
        names.insert(state.current.clone());
        names.extend(state.migration.iter().map(|migration| migration.to.clone()));
        // Whoever names one that is not to be trusted has leaves of the default.
        names.retain(|name| !state.left.contains(name));
        let named = names.iter().flat_map(|name| roots_of(&outsiders, name));
        let fallbacks = named.filter_map(|one| one.fallback.clone());
        names.extend(fallbacks.collect::<Vec<_>>());
        names.retain(|name| !name.is_builtin() && !state.left.contains(name));
        let mut sources = BTreeSet::new();
        for name in &names {
            // The root of now comes first, whether it is a new one or one of before.
            match roots_of(&outsiders, name).next() {
                Some(one) => drop(sources.insert(one.source.clone())),
                // One whose record does not open stays as it is.
                None => sources.extend(self.delegation.active(name).cloned()),
            }
        }
        let is_hurried = state.migration.as_ref().is_some_and(|migration| migration.is_hurried);
        Wanted { sources, left: state.left.clone(), is_hurried }
    }

    async fn command(&mut self, command: Command, dependents: &dyn Dependents, following: &dyn Following) {
        let now = self.clock.now();
        let next = self
            .refusal(&command.wish)
            .map_or_else(|| self.migrations.judge(&command.wish, now).map_err(MigrateError::from), Err);
        match next {
            Err(refusal) => drop(command.reply.send(Err(refusal))),
            Ok(next) => {
                let Command { asked, reply, .. } = command;
                self.begun = Some(Begun { asked, reply: Some(reply), is_kept: false });
                let wanted = Event::Migration(migration::Event::Wanted(next));
                self.drive([wanted].into(), dependents, following).await;
                self.answer(Ok(()));
                self.begun = None;
            }
        }
    }

    fn refusal(&self, wish: &MigrationWish) -> Option<MigrateError> {
        let MigrationWish::Begin(begin) = wish else { return None };
        if begin.to.is_builtin() {
            None
        } else if self.outsider(&begin.to).is_none() {
            Some(MigrateError::NotFound(begin.to.clone()))
        } else if self.ca.status().borrow().lists.is_some() {
            Some(MigrateError::Lists)
        } else {
            None
        }
    }

    /// Steps the machines, carries out what they say, and feeds them the results, until both are content.
    async fn drive(
        &mut self,
        mut events: VecDeque<Event>,
        dependents: &dyn Dependents,
        following: &dyn Following,
    ) {
        while let Some(event) = events.pop_front() {
            let now = self.clock.now();
            match event {
                Event::Delegation(event) => {
                    let is_kept = matches!(event, delegation::Event::Kept(_));
                    if let Some(action) = self.delegation.step(event, now) {
                        events.push_back(Event::Delegation(self.delegate(action, dependents).await));
                    }
                    if is_kept {
                        events.extend(self.facts());
                    }
                }
                Event::Migration(event) => {
                    let is_kept = matches!(event, migration::Event::Kept(_));
                    if let Some(action) = self.migrations.step(event, now) {
                        events.push_back(Event::Migration(self.migrate(action, following).await));
                    }
                    if is_kept {
                        events.extend(self.facts());
                    }
                }
            }
            // Who may sign says who does.
            self.publish();
        }
        self.publish_status();
    }

    async fn migrate(&mut self, action: migration::Action, following: &dyn Following) -> migration::Event {
        match action {
            migration::Action::Look(name) => {
                // What is looked at is what was published.
                self.publish();
                let followers = following.followers(&name);
                self.followers = Some(followers.clone());
                migration::Event::Seen(followers)
            }
            migration::Action::Keep(next) => {
                let row = self.default_row(&next, self.clock.now());
                match self.deps.store.set_default_issuer(next.clone(), vec![row]).await {
                    Ok(()) => {
                        tracing::info!(
                            issuer = %next.current,
                            to = next.migration.as_ref().map(|migration| migration.to.to_string()),
                            "default issuer of leaves of workloads"
                        );
                        self.followers = None;
                        if let Some(begun) = &mut self.begun {
                            begun.is_kept = true;
                        }
                        migration::Event::Kept(next)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "who signs the leaves of workloads was not changed, it is tried again");
                        if self.begun.as_ref().is_some_and(|begun| !begun.is_kept) {
                            let why = match error {
                                JournalError::NoIssuer(name) => MigrateError::NotFound(name),
                                other => MigrateError::Failed(other.to_string()),
                            };
                            self.answer(Err(why));
                        }
                        migration::Event::KeepFailed
                    }
                }
            }
        }
    }

    async fn delegate(
        &mut self,
        action: delegation::Action,
        dependents: &dyn Dependents,
    ) -> delegation::Event {
        use delegation::{Action, Event};
        let now = self.clock.now();
        match action {
            Action::Keep(next) => match self.keep(&next, now).await {
                Ok(()) => Event::Kept(next),
                Err(error) => {
                    tracing::warn!(%error, "who may sign leaves of workloads was not changed, it is tried again");
                    Event::KeepFailed
                }
            },
            Action::Look(source) => {
                // What was kept a moment ago is published before anybody is asked whether it has arrived.
                self.publish();
                match self.behind(&source, dependents, now).await {
                    Ok(laggards) if laggards.is_empty() => {
                        self.waits_for.remove(&source);
                        Event::Clear(source)
                    }
                    Ok(laggards) => {
                        self.waits_for.insert(source.clone(), laggards);
                        Event::Behind(source)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "who would refuse the leaves of an issuer is not known now");
                        Event::Behind(source)
                    }
                }
            }
            Action::Seek(source) => match self.showing(&source, dependents, now).await {
                Ok(showing) => {
                    if showing.is_empty() {
                        self.waits_for.remove(&source);
                        return Event::Unseen(source);
                    }
                    self.waits_for.insert(source.clone(), showing);
                    Event::Shown(source)
                }
                Err(error) => {
                    tracing::warn!(%error, "who shows leaves of an issuer is not known now");
                    Event::Shown(source)
                }
            },
            // Whether the last leaf has ended, only a clock can tell that is believed.
            Action::Count { source, .. } if self.ca.time().borrow().is_stopped() => {
                Event::CountFailed(source)
            }
            Action::Count { source, at } if !self.known.contains_key(&source) => {
                self.count_unopened(source, at)
            }
            Action::Count { source, at } => match self.count(&source, at).await {
                Ok(leaves) => {
                    self.counted.insert(source.clone(), leaves);
                    Event::Counted(source, leaves)
                }
                Err(error) => {
                    tracing::warn!(%error, issuer = %source, "leaves of an issuer were not counted");
                    Event::CountFailed(source)
                }
            },
        }
    }

    /// Who is served and would refuse what the issuer signs.
    async fn behind(
        &self,
        source: &Source,
        dependents: &dyn Dependents,
        now: Timestamp,
    ) -> Result<Vec<Laggard>, JournalError> {
        let gone = || JournalError::Unavailable(format!("issuer {source} does not open"));
        let outsiders = self.deps.outsiders.borrow().clone();
        let outsider = outsiders.iter().find(|one| one.source == *source).ok_or_else(gone)?;
        let seen = dependents.observe(&[], now).await?;
        // Our own certificate and those of nodes stay of our own authorities: there is always a way back to us.
        let mut laggards = behind_activation(&seen, outsider.root(), true, now);
        let of_lists = behind_lists(&seen, outsider.authority());
        laggards.extend(of_lists.into_iter().filter(|one| one.reason != Reason::NotBack));
        Ok(laggards)
    }

    /// Who is served and shows a leaf of it; or may, where it has acknowledged none since the start.
    async fn showing(
        &self,
        source: &Source,
        dependents: &dyn Dependents,
        now: Timestamp,
    ) -> Result<Vec<Laggard>, JournalError> {
        let signed = self.authorities(source);
        let all: Vec<_> = signed.iter().copied().collect();
        let unexpired = self.journal.unexpired(&all, now).await?;
        let seen = dependents.observe(&unexpired, now).await?;
        Ok(showing(&seen, &signed, now))
    }

    /// One that has not opened since the start has nobody to ask about, and nothing of it is in a bundle.
    fn authorities(&self, source: &Source) -> BTreeSet<AuthorityId> {
        self.known.get(source).into_iter().flat_map(Outsider::authorities).collect()
    }

    /// Nobody can say which leaves are of one whose record has not opened since the start; but none outlives the longest
    /// life of a leaf. Until then its root comes back into the bundle as soon as the record opens.
    fn count_unopened(&self, source: Source, at: Timestamp) -> delegation::Event {
        let members = self.delegation.members();
        let retired = members.iter().find(|one| one.source == source).map_or(at, |one| one.since);
        if at <= retired + Profile::Workload.max_lifetime() {
            return delegation::Event::CountFailed(source);
        }
        delegation::Event::Counted(source, Count::default())
    }

    async fn count(&self, source: &Source, at: Timestamp) -> Result<Count, JournalError> {
        let mut all = Count::default();
        for authority in self.authorities(source) {
            let leaves = self.journal.unexpired_leaves(authority, at).await?;
            all.count += leaves.count;
            all.last = all.last.max(leaves.last);
        }
        Ok(all)
    }

    async fn keep(&mut self, next: &[LeafIssuer], now: Timestamp) -> Result<(), JournalError> {
        let before = self.delegation.members();
        let state = |all: &[LeafIssuer], source: &Source| {
            all.iter().find(|one| one.source == *source).map(|one| one.state)
        };
        let sources: BTreeSet<&Source> = before.iter().chain(next).map(|one| &one.source).collect();
        let changed = sources.into_iter().filter(|source| state(before, source) != state(next, source));
        let rows = changed.map(|source| self.row(source, state(next, source), now)).collect();
        self.deps.store.set_leaf_issuers(next.to_vec(), rows).await?;
        for one in next {
            tracing::info!(issuer = %one.source, state = ?one.state, "issuer of leaves of workloads");
        }
        self.counted.retain(|source, _| next.iter().any(|one| one.source == *source));
        self.waits_for.clear();
        Ok(())
    }

    fn row(&self, source: &Source, state: Option<AuthorityState>, now: Timestamp) -> Row {
        // What opens a gate is what nodes acknowledged, whoever asked for it.
        let begun = self.begun.as_ref().filter(|_| state != Some(AuthorityState::Active));
        let (actor, reason) = match begun {
            Some(Begun { asked, .. }) => (asked.actor.clone(), asked.reason.clone()),
            None => (Actor::System, why(state).to_owned()),
        };
        let mut row = Row::done(now, actor, Done::IssuerSet, source.name.as_str());
        row.reason = reason;
        let outsiders = self.deps.outsiders.borrow();
        let known = outsiders.iter().find(|one| one.source == *source).or_else(|| self.known.get(source));
        let row = row.with("leaves", state.map_or_else(|| "removed".to_owned(), |state| word(&state)));
        match known {
            Some(outsider) => row.with("root", outsider.root()),
            None => row,
        }
    }

    fn default_row(&self, next: &DefaultIssuer, now: Timestamp) -> Row {
        let (actor, reason) = match &self.begun {
            Some(Begun { asked, .. }) => (asked.actor.clone(), asked.reason.clone()),
            None => (Actor::System, next_reason(self.migrations.state(), next)),
        };
        let subject = next.migration.as_ref().map_or(&next.current, |migration| &migration.to);
        let mut row = Row::done(now, actor, Done::IssuerSet, subject.as_str());
        row.reason = reason;
        let row = row.with("default", &next.current);
        let row = match next.left.difference(&self.migrations.state().left).next() {
            Some(left) => row.with("left", left),
            None => row,
        };
        match &next.migration {
            Some(migration) => {
                let percent = migration.stages.get(migration.stage).copied().unwrap_or(100);
                let row =
                    row.with("migration", if migration.stopped.is_some() { "stopped" } else { "goes on" });
                row.with("percent", percent)
            }
            None => row,
        }
    }

    /// Whoever signs in the place of another, by an operator's leave: that is on record when it begins and when it ends.
    async fn record_stand_ins(&mut self, health: &BTreeMap<IssuerName, Health>) {
        let stand_ins = health.iter().filter_map(|(name, one)| Some((name.clone(), one.stands_in.clone()?)));
        let stand_ins: BTreeMap<_, _> = stand_ins.collect();
        self.record_again = None;
        if stand_ins == self.standing_in {
            return;
        }
        let now = self.clock.now();
        let begins = stand_ins.iter().filter(|(name, by)| self.standing_in.get(*name) != Some(*by));
        let mut rows: Vec<_> = begins
            .map(|(name, by)| {
                let mut row = Row::done(now, Actor::System, Done::IssuerFallback, name.as_str());
                row.reason = health.get(name).and_then(|one| one.problem.clone()).unwrap_or_default();
                row.with("signs_instead", by)
            })
            .collect();
        let ends = self.standing_in.keys().filter(|name| !stand_ins.contains_key(*name));
        rows.extend(ends.map(|name| {
            let row = Row::done(now, Actor::System, Done::IssuerFallback, name.as_str());
            row.with("signs_instead", "nobody")
        }));
        for (name, by) in &stand_ins {
            tracing::warn!(issuer = %name, %by, "issuer rests, another signs leaves in its place");
        }
        match self.deps.audit.append(rows).await {
            Ok(()) => self.standing_in = stand_ins,
            Err(error) => {
                tracing::warn!(%error, "that an issuer signs for another was not recorded, it is tried again");
                self.record_again = Some(now + RECORD_AGAIN);
            }
        }
    }

    fn answer(&mut self, answer: Result<(), MigrateError>) {
        if let Some(reply) = self.begun.as_mut().and_then(|begun| begun.reply.take()) {
            // Whoever asked may be gone; what is kept stands.
            let _ = reply.send(answer);
        }
    }

    fn outsider(&self, name: &IssuerName) -> Option<Outsider> {
        self.deps.outsiders.borrow().iter().find(|one| one.source.name == *name).cloned()
    }

    /// Shows everybody what stands: trust first, then where requests go, then whose leaves are to be replaced.
    fn publish(&mut self) {
        let members = self.delegation.members().to_vec();
        let base = Arc::clone(&self.trust.borrow_and_update());
        let outsiders = Arc::clone(&self.deps.outsiders.borrow());
        self.known.retain(|source, _| members.iter().any(|one| one.source == *source));
        for LeafIssuer { source, .. } in &members {
            if let Some(outsider) = outsiders.iter().find(|other| other.source == *source) {
                self.unopened.remove(source);
                self.known.insert(source.clone(), outsider.clone());
            } else if self.unopened.insert(source.clone()) {
                let is_believed = self.known.contains_key(source);
                tracing::error!(issuer = %source, is_believed, "issuer of leaves does not open, it is not asked");
            }
        }
        self.unopened.retain(|source| members.iter().any(|one| one.source == *source));
        let of = |one: &LeafIssuer| self.known.get(&one.source);
        let anchors: Vec<_> = members.iter().filter_map(of).map(|one| one.anchor.clone()).collect();
        let trust =
            if anchors.is_empty() { base } else { Arc::new(Trust::clone(&base).with_anchors(anchors)) };
        replace(&self.published.trust, trust);

        let signing: Vec<Outsider> = members
            .iter()
            .filter(|one| one.state == AuthorityState::Active)
            .filter_map(of)
            .cloned()
            .collect();
        let signers = Arc::new(self.signers(&members, &signing));
        let left = self.ask(&signing);
        let is_rerouted = !left.is_empty()
            || *self.published.routes.borrow().signers != *signers
            || self.published.routes.borrow().ways.len() != self.ways.len();
        if is_rerouted {
            let ways = self.ways.iter().map(|(name, way)| (name.clone(), way.jobs.clone())).collect();
            let builtin = self.ca.jobs().clone();
            let routes = Routes { signers: Arc::clone(&signers), builtin, ways };
            self.published.routes.send_replace(Arc::new(routes));
        }
        // Only now: what waits there goes where requests go from now on.
        drop(left);
        replace(&self.published.signers, signers);
    }

    /// Asks these and no others, and answers the ways to those that are asked no more.
    fn ask(&mut self, signing: &[Outsider]) -> Vec<Way> {
        let domain = self.published.trust.borrow().own().trust_domain().clone();
        for outsider in signing {
            let name = &outsider.source.name;
            if let Some(way) = self.ways.get(name) {
                let is_changed = way.asked.borrow().outsider() != outsider;
                if is_changed {
                    way.asked.send_replace(Arc::new(Asking::new(outsider.clone(), &domain)));
                }
                continue;
            }
            let Some(Beginning { begin, pipeline }) = &self.beginning else { continue };
            let (jobs_in, jobs) = mpsc::channel(MAX_WAITING);
            let (asked, asked_read) = watch::channel(Arc::new(Asking::new(outsider.clone(), &domain)));
            let one = OutsideIssuer {
                name: name.clone(),
                pipeline: Arc::clone(pipeline),
                jobs,
                asked: asked_read,
                routes: self.published.routes.subscribe(),
                health: self.health.clone(),
            };
            if begin.send(one).is_ok() {
                self.ways.insert(name.clone(), Way { jobs: jobs_in, asked });
            }
        }
        let is_asked = |name: &IssuerName| signing.iter().any(|one| one.source.name == *name);
        let left: Vec<_> = self.ways.keys().filter(|name| !is_asked(name)).cloned().collect();
        left.iter().filter_map(|name| self.ways.remove(name)).collect()
    }

    fn signers(&mut self, members: &[LeafIssuer], signing: &[Outsider]) -> Signers {
        let active = *self.active.borrow_and_update();
        let signer =
            |one: &Outsider| OutsideSigner { authority: one.authority(), fallback: one.fallback.clone() };
        let hurried = members.iter().filter(|one| one.is_hurried);
        Signers {
            builtin: active.map(|active| active.id),
            outside: signing.iter().map(|one| (one.source.name.clone(), signer(one))).collect(),
            division: self.migrations.division(),
            hurried: hurried.flat_map(|one| self.authorities(&one.source)).collect(),
            is_urgent: active.is_some_and(|active| active.is_urgent),
        }
    }

    fn publish_status(&mut self) {
        let shown = |one: &LeafIssuer| LeafIssuerStatus {
            source: one.source.clone(),
            state: one.state,
            since: one.since,
            is_hurried: one.is_hurried,
            waits_for: self.waits_for.get(&one.source).cloned().unwrap_or_default(),
            leaves: self.counted.get(&one.source).copied(),
        };
        let share = self.migrations.division().share;
        let status = LeavesStatus {
            issuers: self.delegation.members().iter().map(shown).collect(),
            default: self.migrations.state().clone(),
            moved: share.map_or(0, |share| share.percent),
            followers: self.followers.clone(),
            health: self.health.borrow().clone(),
        };
        replace(&self.published.status, Arc::new(status));
    }
}

fn roots_of<'a>(outsiders: &'a [Outsider], name: &'a IssuerName) -> impl Iterator<Item = &'a Outsider> {
    outsiders.iter().filter(move |one| one.source.name == *name)
}

/// Publishes `next` if it is another.
fn replace<T: PartialEq>(shown: &watch::Sender<Arc<T>>, next: Arc<T>) {
    shown.send_if_modified(|current| {
        let is_changed = **current != *next;
        if is_changed {
            *current = next;
        }
        is_changed
    });
}

/// Why something happens that nobody asked for at that moment.
fn why(state: Option<AuthorityState>) -> &'static str {
    match state {
        Some(AuthorityState::Active) => "every connected node has acknowledged its root",
        Some(AuthorityState::Retired) => "another issuer signs",
        Some(AuthorityState::Prepared) => "leaves are to be of it",
        Some(AuthorityState::Removed) => "",
        None => "nothing depends on it",
    }
}

/// The same, of who signs by default.
fn next_reason(before: &DefaultIssuer, next: &DefaultIssuer) -> String {
    match (&before.migration, &next.migration) {
        (_, Some(Migration { stopped: Some(why), .. })) => why.clone(),
        (Some(_), None) => "all leaves have moved".to_owned(),
        (Some(_), Some(_)) => "the stage before is acknowledged, and was held".to_owned(),
        (None, _) => String::new(),
    }
}
