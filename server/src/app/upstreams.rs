//! Issuers beside the built-in one at work: the shell of [`ca::upstream`] for each, with a session at its Vault.
//!
//! Everything here waits for others; nothing waits for it. A Vault that is away, sealed or slow holds up what it signs:
//! the next authority, or by a role the leaves of workloads ([`ca::Leaves`], which has a queue of its own for them). No
//! stream and no other issuer waits.

mod examine;
mod obtain;
mod settings;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    calls::{CallError, Caller},
    ports::{Earlier, Issuer, IssuerStore, KeptIssuer},
    sources::{Draft, Examined, IssuerStanding},
};
use async_trait::async_trait;
use audit::{Action, Actor, AuditLog, Event, Outcome};
use ca::{
    Asked, Installed, LeafAsked, LeafDesk, LeafSigner, LeavesStatus, MigrateError, Outsider, Pause,
    SignFailure,
    migration::MigrationWish,
    ports::{Authorities, AuthorityState, LeafRequest, LeafStore, Source},
    upstream::{self, Upstream},
};
use certs::{Chain, Clock, Timestamp};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use spiffe::{IssuerName, TrustDomain};
use store::{Store, Topic};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use vault::Client;

use self::obtain::{Failed, Obtaining};

/// How many operators may have an issuer asked at once.
const MAX_COMMANDS: usize = 16;
/// How often we look whether the authority that is to sign next still will.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// When a store that could not be read is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// After how long nobody waits for a leaf that was asked for any more, nor calls by a session that has ended.
const ANSWERED: Duration = Duration::from_secs(30);

struct Command {
    name: IssuerName,
    automatic: bool,
    caller: Caller,
    reason: String,
    reply: oneshot::Sender<Result<Installed, CallError>>,
}

/// What everybody may see of one issuer at work.
#[derive(Debug, Clone)]
struct Seen {
    client: Client,
    issuer: Issuer,
    standing: IssuerStanding,
}

type Shown = Arc<BTreeMap<IssuerName, Seen>>;

/// What the task needs.
#[derive(Clone)]
pub(super) struct UpstreamInputs {
    pub(super) store: Store,
    pub(super) ca: ca::Handle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pause: watch::Receiver<Option<Arc<Pause>>>,
    pub(super) domain: TrustDomain,
    /// The longest life among the leaves that an authority is to sign.
    pub(super) leaf_life: Duration,
    /// How long leaves of workloads live.
    pub(super) workload_life: Duration,
    /// How long an authority lives that is asked for without saying how long.
    pub(super) lifetime: Duration,
}

/// The ways to issuers that are at work.
pub(super) struct Entrance {
    commands: mpsc::Sender<Command>,
    shown: watch::Receiver<Shown>,
    outsiders: watch::Receiver<Arc<Vec<Outsider>>>,
    inputs: UpstreamInputs,
}

impl Entrance {
    /// Those that sign leaves by a role.
    pub(super) fn outsiders(&self) -> watch::Receiver<Arc<Vec<Outsider>>> {
        self.outsiders.clone()
    }

    /// Asks them.
    pub(super) fn signer(&self) -> VaultSigner {
        VaultSigner(self.shown.clone())
    }

    /// For calls.
    pub(super) fn desk(self, leaves: LeafDesk) -> UpstreamDesk {
        UpstreamDesk { commands: self.commands, shown: self.shown, inputs: self.inputs, leaves }
    }
}

/// Has a Vault sign leaves.
pub(super) struct VaultSigner(watch::Receiver<Shown>);

#[async_trait]
impl LeafSigner for VaultSigner {
    async fn sign(&self, source: &Source, asked: LeafAsked) -> Result<Chain, SignFailure> {
        let seen = self.0.borrow().get(&source.name).cloned();
        let seen = seen.ok_or_else(|| SignFailure::Unavailable("it is not open".to_owned()))?;
        let asked_for = seen.issuer.asked().into_iter().find(|one| one.generation == source.generation);
        let under = asked_for.ok_or_else(|| SignFailure::Unavailable(format!("{source} is not known")))?;
        obtain::leaf(&seen.client, &seen.issuer, &under, &asked).await.map_err(|failed| match &failed {
            Failed::Vault { trouble } if trouble.is_outcome_unknown() => {
                SignFailure::Unknown(failed.to_string())
            }
            // Of this request: others may be signed.
            Failed::Vault { trouble } if matches!(**trouble, vault::Trouble::Refused { .. }) => {
                SignFailure::Refused(failed.to_string())
            }
            Failed::Refused { .. } | Failed::Unusable(_) => SignFailure::Refused(failed.to_string()),
            Failed::Vault { .. }
            | Failed::Pending { .. }
            | Failed::Waits(_)
            | Failed::Install(_)
            | Failed::Call(_) => SignFailure::Unavailable(failed.to_string()),
        })
    }
}

/// The way in for calls.
pub(super) struct UpstreamDesk {
    commands: mpsc::Sender<Command>,
    shown: watch::Receiver<Shown>,
    inputs: UpstreamInputs,
    leaves: LeafDesk,
}

impl UpstreamDesk {
    /// How every issuer stands that is at work.
    pub(super) fn all(&self) -> Vec<(IssuerName, IssuerStanding)> {
        let names: Vec<_> = self.shown.borrow().keys().cloned().collect();
        names
            .into_iter()
            .map(|name| {
                let standing = api::sources::Upstreams::standing(self, &name);
                (name, standing)
            })
            .collect()
    }
}

#[async_trait]
impl api::sources::Upstreams for UpstreamDesk {
    fn lifetime(&self) -> Duration {
        self.inputs.lifetime
    }

    fn standing(&self, name: &IssuerName) -> IssuerStanding {
        let shown = Arc::clone(&self.shown.borrow());
        let status = Arc::clone(&self.leaves.status().borrow());
        let leaves = status.of(name).cloned();
        let health = status.health.get(name).cloned().unwrap_or_default();
        let Some(seen) = shown.get(name) else {
            return IssuerStanding { leaves, ..IssuerStanding::default() };
        };
        let mut standing = seen.standing.clone();
        if leaves.as_ref().is_some_and(|leaves| leaves.state == AuthorityState::Active) {
            standing.failures = health.failures;
            standing.problem = health.problem;
        }
        standing.leaves = leaves;
        let session = seen.client.status().borrow().clone();
        standing.warnings.extend(session.warnings.iter().map(ToString::to_string));
        let wide = match session.breadth {
            Some(vault::Breadth::Wide(surplus)) => Some(vault::Trouble::OverGranted(surplus)),
            _ => None,
        };
        // A token that may not be used is said before whatever the last try came to.
        let trouble = wide.or(session.trouble).map(|trouble| format!("{trouble}; {}", trouble.hint()));
        // A token that has ended is no trouble of a call, and there is none any more.
        let reason = session.reason.filter(|reason| *reason != vault::NotLoggedIn::NotYet);
        let reason = reason.map(|reason| format!("{reason}; {}", reason.hint()));
        standing.problem = standing.problem.or(trouble).or(reason);
        standing
    }

    fn leaves(&self) -> Arc<LeavesStatus> {
        Arc::clone(&self.leaves.status().borrow())
    }

    async fn examine(&self, draft: Draft) -> Examined {
        let at_work = self.shown.borrow().get(&draft.name).map(|seen| seen.client.clone());
        let examined = examine::examine_in_time(&self.inputs, draft).await;
        // Whoever tries it may have changed in Vault what its token may do.
        if let Some(client) = at_work {
            client.look_again();
        }
        examined
    }

    async fn obtain(
        &self,
        caller: &Caller,
        name: &IssuerName,
        automatic: bool,
        reason: &str,
    ) -> Result<Installed, CallError> {
        let (reply, answer) = oneshot::channel();
        let command = Command {
            name: name.clone(),
            automatic,
            caller: caller.clone(),
            reason: reason.to_owned(),
            reply,
        };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                let why = "is being asked by many: wait".to_owned();
                CallError::Conflict { what: "issuer", name: name.to_string(), why }
            }
            mpsc::error::TrySendError::Closed(_) => CallError::stopped("issuers"),
        })?;
        answer.await.map_err(|_| CallError::stopped("issuers"))?
    }

    async fn turn(&self, caller: &Caller, wish: MigrationWish, reason: &str) -> Result<(), CallError> {
        let asked = Asked { actor: caller.actor.clone(), reason: reason.to_owned() };
        self.leaves.migrate(wish, asked).await.map_err(|error| match error {
            MigrateError::NotFound(name) => CallError::NotFound { what: "issuer", name: name.to_string() },
            error @ MigrateError::Lists => CallError::Policy(error.to_string()),
            MigrateError::Refused(refusal) => CallError::wish(&refusal),
            MigrateError::Failed(why) => CallError::Unavailable { part: "store", why },
            MigrateError::Unavailable => CallError::stopped("issuers"),
        })
    }

    async fn unknown(&self, name: &IssuerName) -> Result<Vec<LeafRequest>, CallError> {
        let now = self.inputs.clock.now();
        let found = self.inputs.store.unknown_leaves(name, now - ANSWERED, now).await;
        found.map_err(|error| CallError::Unavailable { part: "journal", why: error.to_string() })
    }
}

/// One issuer at work.
struct Working {
    kept: KeptIssuer,
    client: Client,
    machine: Upstream,
    problem: Option<String>,
    warnings: Vec<String>,
    /// Ends its session, whose token is given back a little later.
    _session: DropGuard,
}

/// What an asking came to.
struct Answered {
    name: IssuerName,
    outcome: Result<Installed, Failed>,
    /// Who waits for it, if an operator does.
    reply: Option<oneshot::Sender<Result<Installed, CallError>>>,
}

/// The task: owner of every issuer at work.
pub(super) struct Upstreams {
    inputs: UpstreamInputs,
    commands: mpsc::Receiver<Command>,
    shown: watch::Sender<Shown>,
    outsiders: watch::Sender<Arc<Vec<Outsider>>>,
    working: BTreeMap<IssuerName, Working>,
    sessions: FuturesUnordered<BoxFuture<'static, ()>>,
    /// One at a time: there is one request for an authority.
    asking: Option<BoxFuture<'static, Answered>>,
    /// Who was asked last.
    asked: Option<IssuerName>,
    looking: FuturesUnordered<BoxFuture<'static, (IssuerName, Option<Vec<String>>)>>,
    look_at: Timestamp,
    read_at: Option<Timestamp>,
}

impl Upstreams {
    /// Who signs leaves is known from here on, before anybody is asked.
    pub(super) async fn resume(inputs: UpstreamInputs) -> Result<(Entrance, Self), api::ports::StoreError> {
        let (commands, asked) = mpsc::channel(MAX_COMMANDS);
        let shown = watch::Sender::new(Shown::default());
        let outsiders = watch::Sender::new(Arc::new(outsiders(&inputs.store.issuers().await?)));
        let (shown_read, outsiders_read) = (shown.subscribe(), outsiders.subscribe());
        let desk =
            Entrance { commands, shown: shown_read, outsiders: outsiders_read, inputs: inputs.clone() };
        let look_at = inputs.clock.now();
        let task = Self {
            inputs,
            commands: asked,
            shown,
            outsiders,
            working: BTreeMap::new(),
            sessions: FuturesUnordered::new(),
            asking: None,
            asked: None,
            looking: FuturesUnordered::new(),
            look_at,
            read_at: None,
        };
        Ok((desk, task))
    }

    /// Until `shutdown`. What is being signed then for an authority that signs now is asked for again by the next
    /// process; what an operator asked for is to be asked for again.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.inputs.store.changes(Topic::Issuers);
        let (mut status, mut pause) = (self.inputs.ca.status(), self.inputs.pause.clone());
        let clock = Arc::clone(&self.inputs.clock);
        self.read().await;
        loop {
            let machines = self.working.values().filter_map(|one| one.machine.deadline());
            let looks = (!self.working.is_empty()).then_some(self.look_at);
            let deadline = machines.chain(looks).chain(self.read_at).min().unwrap_or(Timestamp::MAX);
            let asking = async {
                match &mut self.asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                answered = asking => {
                    self.asking = None;
                    self.answered(answered).await;
                }
                Some(command) = self.commands.recv() => self.command(command).await,
                Ok(()) = changes.changed() => self.read().await,
                Ok(()) = status.changed() => self.follow().await,
                Ok(()) = pause.changed() => self.follow().await,
                Some((name, warnings)) = self.looking.next(), if !self.looking.is_empty() => {
                    if let (Some(working), Some(warnings)) = (self.working.get_mut(&name), warnings) {
                        working.warnings = warnings;
                    }
                }
                Some(()) = self.sessions.next(), if !self.sessions.is_empty() => {}
                () = clock.sleep_until(deadline) => {}
            }
            let now = clock.now();
            if self.read_at.is_some_and(|at| at <= now) {
                self.read().await;
            }
            if self.look_at <= now {
                self.look(now);
            }
            let names: Vec<_> = self.working.keys().cloned().collect();
            for name in names {
                self.step(&name, upstream::Event::Tick).await;
            }
            self.show();
        }
    }

    /// Takes over what the store holds: sessions of what has changed are opened anew, the others go on.
    async fn read(&mut self) {
        let kept = match self.inputs.store.issuers().await {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(%error, "issuers were not read, those in hand are asked");
                self.read_at = Some(self.inputs.clock.now() + RETRY);
                return;
            }
        };
        self.read_at = None;
        let outsiders = outsiders(&kept);
        let mut before = std::mem::take(&mut self.working);
        for kept in kept {
            let name = kept.issuer.name.clone();
            let known = before.remove(&name).filter(|known| known.kept.issuer.version == kept.issuer.version);
            let working = match known {
                Some(known) => known,
                None => match self.open(kept) {
                    Ok(working) => {
                        self.look_at = self.inputs.clock.now();
                        working
                    }
                    Err(problem) => {
                        tracing::error!(issuer = %name, %problem, "issuer cannot be asked");
                        continue;
                    }
                },
            };
            self.working.insert(name, working);
        }
        // Whoever is asked under another authority is so by a client that knows it.
        self.show();
        self.outsiders.send_if_modified(|known| {
            let is_changed = **known != outsiders;
            if is_changed {
                *known = Arc::new(outsiders);
            }
            is_changed
        });
        self.follow().await;
    }

    fn open(&mut self, kept: KeptIssuer) -> Result<Working, String> {
        let (client, keeper) = settings::open(&self.inputs, &kept.issuer.vault, &kept.credential)?;
        let end = CancellationToken::new();
        self.sessions.push(Box::pin(keeper.run_and_give_back(end.clone(), ANSWERED)));
        Ok(Working {
            kept,
            client,
            machine: Upstream::default(),
            problem: None,
            warnings: Vec::new(),
            _session: end.drop_guard(),
        })
    }

    /// Tells every machine what signs now, and whether there is a pause.
    async fn follow(&mut self) {
        let paused = self.inputs.pause.borrow().as_ref().map(|pause| pause.until);
        let names: Vec<_> = self.working.keys().cloned().collect();
        for name in &names {
            self.step(name, upstream::Event::Paused(paused)).await;
        }
        let records = match self.inputs.store.load().await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "authorities were not read, issuers go by what was seen last");
                self.read_at = Some(self.inputs.clock.now() + RETRY);
                return;
            }
        };
        for name in names {
            let Some(working) = self.working.get_mut(&name) else { continue };
            let is_upstream = working.kept.issuer.vault.role.is_none();
            let signers = working.kept.issuer.signers();
            let current = upstream::current(&records, signers).filter(|_| is_upstream);
            if current.map(|current| current.id) != working.machine.current().map(|current| current.id) {
                // Whatever was in the way of the one before.
                working.problem = None;
            }
            self.step(&name, upstream::Event::Signs(current)).await;
        }
        self.show();
    }

    async fn step(&mut self, name: &IssuerName, event: upstream::Event) {
        let now = self.inputs.clock.now();
        let Some(working) = self.working.get_mut(name) else { return };
        for action in working.machine.step(event, now) {
            match action {
                upstream::Action::AtRisk => {
                    tracing::error!(issuer = %name, "the authority that signs has passed 70 % of its life, and no \
                                     successor is signed");
                }
                upstream::Action::Obtain if self.asking.is_some() => {
                    // Nothing follows before its time has come again.
                    let _ = working.machine.step(upstream::Event::Deferred, now);
                }
                upstream::Action::Obtain => {
                    tracing::info!(issuer = %name, "asking for the next issuing authority");
                    let event = Event::done(now, Actor::System, Action::IssuerAsk, name.as_str());
                    let obtaining = self.obtaining(name, true, String::new(), false);
                    self.ask(name.clone(), event, obtaining, None);
                    return;
                }
            }
        }
    }

    fn obtaining(
        &self,
        name: &IssuerName,
        automatic: bool,
        reason: String,
        drops: bool,
    ) -> Option<Obtaining> {
        let working = self.working.get(name)?;
        Some(Obtaining {
            store: Arc::new(self.inputs.store.clone()),
            ca: self.inputs.ca.clone(),
            client: working.client.clone(),
            clock: Arc::clone(&self.inputs.clock),
            issuer: working.kept.issuer.clone(),
            domain: self.inputs.domain.clone(),
            automatic,
            reason,
            drops,
        })
    }

    fn ask(
        &mut self,
        name: IssuerName,
        event: Event,
        obtaining: Option<Obtaining>,
        reply: Option<oneshot::Sender<Result<Installed, CallError>>>,
    ) {
        let Some(obtaining) = obtaining else { return };
        let (store, clock) = (self.inputs.store.clone(), Arc::clone(&self.inputs.clock));
        self.asked = Some(name.clone());
        self.asking = Some(Box::pin(async move {
            let outcome = match store.append(vec![event.clone()]).await {
                Ok(()) => obtaining.run().await,
                Err(error) => Err(Failed::Call(error.into())),
            };
            if let Err(failed) = &outcome {
                // It quotes Vault.
                let reason = failed.to_string().chars().take(audit::MAX_REASON).collect();
                let failure = Event { at: clock.now(), outcome: Outcome::Failed, reason, ..event };
                if let Err(error) = store.append(vec![failure]).await {
                    tracing::warn!(%error, "that an issuer did not sign was not recorded");
                }
            }
            Answered { name, outcome, reply }
        }));
    }

    async fn command(&mut self, command: Command) {
        let Command { name, automatic, caller, reason, reply } = command;
        let refusal = if !self.working.contains_key(&name) {
            Some(CallError::NotFound { what: "issuer", name: name.to_string() })
        } else if self.asking.is_some() {
            let why = "is being asked, or another one: wait for it".to_owned();
            Some(CallError::Conflict { what: "issuer", name: name.to_string(), why })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let _ = reply.send(Err(refusal));
            return;
        }
        let mut event = caller.event(self.inputs.clock.now(), Action::IssuerAsk, name.as_str());
        event.reason.clone_from(&reason);
        let obtaining = self.obtaining(&name, automatic, reason, true);
        self.ask(name, event, obtaining, Some(reply));
    }

    async fn answered(&mut self, answered: Answered) {
        let Answered { name, outcome, reply } = answered;
        // What signs now may be it, and may have been seen before this answer.
        let records = self.inputs.store.load().await;
        if let Some(working) = self.working.get_mut(&name) {
            let obtained = match &records {
                Ok(records) => {
                    upstream::Event::Obtained(upstream::current(records, working.kept.issuer.signers()))
                }
                Err(error) => {
                    tracing::warn!(%error, "authorities were not read, issuers wait");
                    upstream::Event::Failed
                }
            };
            let event = match &outcome {
                Ok(installed) => {
                    tracing::info!(issuer = %name, authority_id = %installed.issuing, "next authority is signed");
                    working.problem = None;
                    obtained
                }
                Err(Failed::Waits(laggards)) => {
                    tracing::info!(issuer = %name, laggards, "next authority is signed, and waits for laggards");
                    working.problem = None;
                    obtained
                }
                Err(failed) => {
                    tracing::warn!(issuer = %name, error = %failed, "next authority was not signed");
                    if !is_heard(reply.as_ref()) {
                        working.problem = Some(failed.to_string());
                    }
                    upstream::Event::Failed
                }
            };
            // An operator's asking was not the machine's: it hears of it only what signs now.
            self.step(&name, event).await;
        }
        if let Some(reply) = reply {
            // Whoever asked may be gone; what was done stands.
            let _ = reply.send(outcome.map_err(|failed| failed.into_call(&name)));
        }
    }

    /// Looks at the authority of each issuer, so that nobody is surprised when it does not sign any more.
    fn look(&mut self, now: Timestamp) {
        self.look_at = now + LOOK_EVERY;
        self.looking.clear();
        for (name, working) in &self.working {
            let (client, issuer) = (working.client.clone(), working.kept.issuer.clone());
            let leaf_life = match issuer.vault.role {
                Some(_) => self.inputs.workload_life,
                None => self.inputs.leaf_life,
            };
            let name = name.clone();
            self.looking.push(Box::pin(async move {
                let warnings = examine::warnings(&client, &issuer, leaf_life, now).await;
                (name, warnings)
            }));
        }
    }

    fn seen(&self, name: &IssuerName, one: &Working) -> Seen {
        let mut seen = one.seen();
        seen.standing.is_asked = self.asking.is_some() && self.asked.as_ref() == Some(name);
        seen
    }

    fn show(&self) {
        let shown: BTreeMap<_, _> =
            self.working.iter().map(|(name, one)| (name.clone(), self.seen(name, one))).collect();
        self.shown.send_replace(Arc::new(shown));
    }
}

/// Whether somebody still waits for the answer. A call that took too long was told to read the state.
fn is_heard<T>(reply: Option<&oneshot::Sender<T>>) -> bool {
    reply.is_some_and(|reply| !reply.is_closed())
}

/// Those that sign leaves by a role, each with its roots, the newest first.
fn outsiders(kept: &[KeptIssuer]) -> Vec<Outsider> {
    let of = |issuer: &Issuer| {
        let role = issuer.vault.role.clone();
        let roots = role.map(|role| {
            let outsider = |under: Earlier| {
                let of_root = |one: &&Earlier| {
                    one.generation == under.generation && one.signer.spki_hash() != under.signer.spki_hash()
                };
                Outsider {
                    earlier: issuer.earlier.iter().filter(of_root).map(|one| one.signer.clone()).collect(),
                    source: Source { name: issuer.name.clone(), generation: under.generation },
                    role: role.clone(),
                    anchor: under.anchor,
                    signer: under.signer,
                    fallback: issuer.fallback.clone(),
                }
            };
            issuer.asked().into_iter().map(outsider).collect::<Vec<_>>()
        });
        roots.unwrap_or_default()
    };
    kept.iter().flat_map(|one| of(&one.issuer)).collect()
}

impl Working {
    fn seen(&self) -> Seen {
        let standing = IssuerStanding {
            next: self.machine.next(),
            failures: self.machine.failures(),
            problem: self.problem.clone(),
            is_at_risk: self.machine.is_at_risk(),
            warnings: self.warnings.clone(),
            is_asked: false,
            leaves: None,
        };
        Seen { client: self.client.clone(), issuer: self.kept.issuer.clone(), standing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_hears_an_answer_whose_call_took_too_long() {
        let (reply, answer) = oneshot::channel::<()>();
        assert!(is_heard(Some(&reply)));
        drop(answer);
        assert!(!is_heard(Some(&reply)) && !is_heard::<()>(None));
    }
}
