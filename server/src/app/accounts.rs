//! Accounts at ACME servers: who makes them, gives them other keys, and opens them for whoever orders certificates.
//!
//! One task does whatever changes an account ([`AccountKeeper`]), so that a caller who goes away leaves nothing
//! half-made: what was begun is finished, now or by the next process.

mod examine;
mod settings;
mod settle;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use acme::{Account, Client};
use api::{
    calls::{CallError, Caller},
    ports::{AcmeIssuer, AcmeSettings, AcmeStore, KeptAcme, StoreError},
    sources::{AcmeDraft, AcmeOutcome, AcmeServers, AcmeStanding},
    wire::IssuerCheck,
};
use async_trait::async_trait;
use certs::{Clock, Timestamp, format_duration};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use spiffe::IssuerName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::settle::{By, Progress, Settling, signer};

/// How many calls may wait for the task.
const MAX_COMMANDS: usize = 16;
/// How many may wait who say that an account is there; the next one says it again.
const MAX_PROVEN: usize = 16;
/// How long a call waits for a server to read its directory, and then for the account: it has ten seconds for both.
/// What was begun goes on.
const READING: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(5);
/// When a store that could not be read is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// When what is not known yet is looked at again; doubles with each failure, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));

/// What everybody here works with.
struct Shared {
    store: Arc<dyn AcmeStore>,
    clock: Arc<dyn Clock>,
    /// With the version of the record that they were made from, so that nonces and directories are used again.
    clients: Mutex<BTreeMap<IssuerName, (u64, Arc<Client>)>>,
}

impl Shared {
    async fn find(&self, name: &IssuerName) -> Result<Option<KeptAcme>, StoreError> {
        let all = self.store.acme_issuers().await?;
        self.forget(&all);
        Ok(all.into_iter().find(|kept| kept.issuer.name == *name))
    }

    /// The client of an issuer as it is kept.
    fn client(&self, issuer: &AcmeIssuer) -> Result<Arc<Client>, String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, client)) = clients.get(&issuer.name)
            && *version == issuer.version
        {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(settings::client(&issuer.acme, &self.clock)?);
        clients.insert(issuer.name.clone(), (issuer.version, Arc::clone(&client)));
        Ok(client)
    }

    /// Drops the clients of issuers that are kept no more.
    fn forget(&self, kept: &[KeptAcme]) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|name, _| kept.iter().any(|one| one.issuer.name == *name));
    }
}

/// An account that can be used.
#[derive(Debug)]
pub(super) struct Opened {
    /// The client of its server.
    pub(super) client: Arc<Client>,
    /// The account.
    pub(super) account: Account,
    /// What the operator gave.
    pub(super) settings: AcmeSettings,
}

enum Work {
    Register(AcmeDraft),
    ChangeKey,
    RegisterAgain(AcmeDraft),
}

/// To whoever asked, who may be gone.
type Reply = oneshot::Sender<Result<AcmeOutcome, CallError>>;

struct Command {
    name: IssuerName,
    by: By,
    work: Work,
    reply: Reply,
}

type Standings = BTreeMap<IssuerName, AcmeStanding>;

/// The way in.
#[derive(Clone)]
pub(super) struct Accounts {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    proven: mpsc::Sender<IssuerName>,
    standings: watch::Receiver<Arc<Standings>>,
}

/// Accounts over what is kept of them, and the task that looks after them.
pub(super) fn open(store: Arc<dyn AcmeStore>, clock: Arc<dyn Clock>) -> (Accounts, AccountKeeper) {
    let (commands, asked) = mpsc::channel(MAX_COMMANDS);
    let (proven, found) = mpsc::channel(MAX_PROVEN);
    let standings = watch::Sender::default();
    let shared = Arc::new(Shared { store, clock, clients: Mutex::default() });
    let accounts =
        Accounts { shared: Arc::clone(&shared), commands, proven, standings: standings.subscribe() };
    let keeper = AccountKeeper {
        shared,
        commands: asked,
        proven: found,
        lost: BTreeSet::new(),
        standings,
        jobs: FuturesUnordered::new(),
        busy: BTreeSet::new(),
    };
    (accounts, keeper)
}

impl Accounts {
    /// The account of an issuer, if it can be used now.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn open(&self, name: &IssuerName) -> Result<Opened, String> {
        let found = self.shared.find(name).await.map_err(|error| error.to_string())?;
        let kept = found.ok_or_else(|| format!("there is no ACME server {name}"))?;
        // What the matter is stands there, if it was tried and failed.
        let why = self.standing(name).problem.map(|problem| format!(": {problem}")).unwrap_or_default();
        let account = match &kept.issuer.account {
            None => return Err(format!("the account at {name} is being registered{why}")),
            Some(_) if !kept.is_settled() => {
                return Err(format!("the account at {name} is getting another key{why}"));
            }
            Some(url) => Account { url: settings::url(url)?, signer: signer(&kept.key)? },
        };
        Ok(Opened { client: self.shared.client(&kept.issuer)?, account, settings: kept.issuer.acme })
    }

    /// The server has done something for the account: whatever was said of its loss is over.
    pub(super) fn proven(&self, name: &IssuerName) {
        if self.standing(name).problem.is_some() {
            // Where too many say so, the next success says it again.
            let _ = self.proven.try_send(name.clone());
        }
    }

    /// How every one stands where something is not done yet.
    pub(super) fn standings(&self) -> Arc<Standings> {
        Arc::clone(&self.standings.borrow())
    }

    async fn ask(&self, name: &IssuerName, by: By, work: Work) -> Result<AcmeOutcome, CallError> {
        let (rule, registering) = match &work {
            Work::Register(draft) => ("account", Some(draft.acme.clone())),
            Work::ChangeKey => ("account-key", None),
            Work::RegisterAgain(_) => ("account", None),
        };
        let (reply, answer) = oneshot::channel();
        let command = Command { name: name.clone(), by, work, reply };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => busy(name),
            mpsc::error::TrySendError::Closed(_) => CallError::stopped("accounts"),
        })?;
        let clock = &self.shared.clock;
        tokio::select! {
            answered = answer => answered.map_err(|_| CallError::stopped("accounts"))?,
            () = clock.sleep_until(clock.now() + PATIENCE) => self.unanswered(name, rule, registering).await,
        }
    }

    /// The task goes on, and its caller is told so: what stands in the record says nothing of how it ended.
    async fn unanswered(
        &self,
        name: &IssuerName,
        rule: &str,
        registering: Option<AcmeSettings>,
    ) -> Result<AcmeOutcome, CallError> {
        let issuer = match (self.shared.find(name).await?, registering) {
            (Some(kept), _) => kept.issuer,
            // The task has not stored it yet.
            (None, Some(acme)) => {
                let now = self.shared.clock.now();
                AcmeIssuer {
                    name: name.clone(),
                    acme,
                    account: None,
                    is_changing_key: false,
                    created: now,
                    updated: now,
                    version: 0,
                }
            }
            (None, None) => return Err(CallError::NotFound { what: "issuer", name: name.to_string() }),
        };
        let check = IssuerCheck {
            rule: rule.into(),
            verdict: "warning".into(),
            found: format!("what became of it is not known after {}", format_duration(PATIENCE)),
            advice: "nothing: it goes on by itself, and credence issuer list says how it ended".into(),
        };
        Ok(AcmeOutcome { issuer, check })
    }
}

fn busy(name: &IssuerName) -> CallError {
    let why = "is being asked already: wait".to_owned();
    CallError::Conflict { what: "issuer", name: name.to_string(), why }
}

#[async_trait]
impl AcmeServers for Accounts {
    async fn examine(&self, draft: &AcmeDraft) -> Vec<IssuerCheck> {
        Box::pin(examine::directory(&self.shared.clock, &draft.acme, draft.external_key.as_ref())).await
    }

    async fn test(&self, kept: KeptAcme) -> Vec<IssuerCheck> {
        let checks = Box::pin(examine::kept(&self.shared.clock, &kept)).await;
        if checks.iter().any(|check| check.rule == "account" && check.verdict == "passed") {
            self.proven(&kept.issuer.name);
        }
        checks
    }

    async fn register(
        &self,
        caller: &Caller,
        draft: AcmeDraft,
        reason: &str,
    ) -> Result<AcmeOutcome, CallError> {
        let by = By::Caller(caller.clone(), reason.to_owned());
        self.ask(&draft.name.clone(), by, Work::Register(draft)).await
    }

    async fn change_key(
        &self,
        caller: &Caller,
        name: &IssuerName,
        reason: &str,
    ) -> Result<AcmeOutcome, CallError> {
        self.ask(name, By::Caller(caller.clone(), reason.to_owned()), Work::ChangeKey).await
    }

    async fn register_again(
        &self,
        caller: &Caller,
        draft: AcmeDraft,
        reason: &str,
    ) -> Result<AcmeOutcome, CallError> {
        let by = By::Caller(caller.clone(), reason.to_owned());
        self.ask(&draft.name.clone(), by, Work::RegisterAgain(draft)).await
    }

    fn standing(&self, name: &IssuerName) -> AcmeStanding {
        self.standings.borrow().get(name).cloned().unwrap_or_default()
    }
}

/// What a job came to.
struct Finished {
    name: IssuerName,
    outcome: Result<Progress, CallError>,
    reply: Option<Reply>,
}

/// The task: one job of an issuer at a time, and what is not known yet is looked at again.
pub(super) struct AccountKeeper {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    /// Accounts that the server has done something for.
    proven: mpsc::Receiver<IssuerName>,
    /// Those of which the last that was said is that there is none for its key.
    lost: BTreeSet<IssuerName>,
    standings: watch::Sender<Arc<Standings>>,
    jobs: FuturesUnordered<BoxFuture<'static, Finished>>,
    busy: BTreeSet<IssuerName>,
}

impl AccountKeeper {
    /// Until `shutdown`; what is asked then is gone on with by the next process.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let clock = Arc::clone(&self.shared.clock);
        let mut begin = Some(clock.now());
        loop {
            let again = self.standings.borrow().values().filter_map(|standing| standing.next).min();
            let deadline = begin.into_iter().chain(again).min().unwrap_or(Timestamp::MAX);
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(command) = self.commands.recv() => self.command(command),
                Some(name) = self.proven.recv() => self.found(&name),
                Some(finished) = self.jobs.next(), if !self.jobs.is_empty() => self.finished(finished),
                () = clock.sleep_until(deadline) => {}
            }
            if begin.is_some_and(|at| at <= clock.now()) {
                begin = self.begin().await;
            }
            self.go_on(clock.now());
        }
    }

    /// What the process before left undone; answers when the store is read again, if it must be.
    async fn begin(&mut self) -> Option<Timestamp> {
        let now = self.shared.clock.now();
        match self.shared.store.acme_issuers().await {
            Ok(all) => {
                let due = |name| (name, AcmeStanding { next: Some(now), ..AcmeStanding::default() });
                let undone =
                    all.into_iter().filter(|kept| !kept.is_settled()).map(|kept| due(kept.issuer.name));
                self.standings.send_replace(Arc::new(undone.collect()));
                None
            }
            Err(error) => {
                tracing::warn!(%error, "accounts were not read");
                Some(now + RETRY)
            }
        }
    }

    fn command(&mut self, command: Command) {
        let Command { name, by, work, reply } = command;
        if self.busy.contains(&name) {
            // Whoever asked may be gone.
            drop(reply.send(Err(busy(&name))));
            return;
        }
        self.start(name, by, Some(work), Some(reply));
    }

    /// What was said of its loss is over, unless something else is under way or was said since.
    fn found(&mut self, name: &IssuerName) {
        if self.lost.remove(name) && !self.busy.contains(name) {
            tracing::info!(issuer = %name, "account is there");
            self.settled(name);
        }
    }

    /// Starts what is due.
    fn go_on(&mut self, now: Timestamp) {
        let standings = Arc::clone(&self.standings.borrow());
        for (name, standing) in standings.iter() {
            if standing.next.is_some_and(|next| next <= now) && !self.busy.contains(name) {
                self.start(name.clone(), By::Ourselves, None, None);
            }
        }
    }

    fn start(&mut self, name: IssuerName, by: By, work: Option<Work>, reply: Option<Reply>) {
        self.busy.insert(name.clone());
        // It is looked at again when this says so.
        self.stand(&name, |standing| standing.next = None);
        let shared = Arc::clone(&self.shared);
        self.jobs.push(Box::pin(async move {
            let settling = Settling::new(&shared, by, name.clone(), reply.as_ref());
            let outcome = match work {
                Some(Work::Register(draft)) => settling.register(draft).await,
                Some(Work::ChangeKey) => settling.change_key().await,
                Some(Work::RegisterAgain(draft)) => settling.register_again(draft).await,
                None => settling.go_on().await,
            };
            Finished { name, outcome, reply }
        }));
    }

    fn finished(&mut self, finished: Finished) {
        let Finished { name, outcome, reply } = finished;
        self.busy.remove(&name);
        if matches!(outcome, Ok(Progress::Lost(_))) {
            self.lost.insert(name.clone());
        } else {
            self.lost.remove(&name);
        }
        let now = self.shared.clock.now();
        let answer = match outcome {
            Ok(Progress::Nothing) => {
                self.settled(&name);
                return;
            }
            Ok(Progress::Settled(outcome)) => {
                self.settled(&name);
                tracing::info!(issuer = %name, "account is settled");
                Ok(outcome)
            }
            Ok(Progress::Pending { outcome, problem, pause }) => {
                tracing::warn!(issuer = %name, %problem, "account is not settled yet");
                self.failed(&name, problem, pause, now);
                Ok(outcome)
            }
            // Nothing is tried again, and whoever asked may have gone before: it is shown until something else is.
            Ok(Progress::NotChanged(check) | Progress::Lost(check)) => {
                tracing::warn!(issuer = %name, found = %check.found, "account is as it was");
                let problem = Some(format!("{}; {}", check.found, check.advice));
                self.stand(&name, |standing| *standing = AcmeStanding { problem, ..AcmeStanding::default() });
                Err(CallError::Issuer { name: name.to_string(), checks: vec![check] })
            }
            // Nothing half-made is left, or nothing was done.
            Err(error @ (CallError::Issuer { .. } | CallError::NotFound { .. })) => {
                self.settled(&name);
                Err(error)
            }
            // What there is of that name is looked at for itself.
            Err(error @ (CallError::Exists { .. } | CallError::Conflict { .. })) => {
                self.stand(&name, |standing| standing.next = Some(now));
                Err(error)
            }
            Err(error) => {
                self.failed(&name, error.to_string(), None, now);
                Err(error)
            }
        };
        // Whoever asked may be gone.
        if let Some(reply) = reply
            && let Err(Err(error)) = reply.send(answer)
        {
            tracing::warn!(issuer = %name, %error, "nobody waited for how it ended");
        }
    }

    fn settled(&mut self, name: &IssuerName) {
        self.standings.send_modify(|standings| {
            Arc::make_mut(standings).remove(name);
        });
    }

    fn failed(&mut self, name: &IssuerName, problem: String, pause: Option<Duration>, now: Timestamp) {
        self.stand(name, |standing| {
            let doubled = PAUSE.0 * 2_u32.saturating_pow(standing.failures.min(16));
            standing.failures = standing.failures.saturating_add(1);
            standing.problem = Some(problem);
            standing.next = Some(now + doubled.min(PAUSE.1).max(pause.unwrap_or_default()));
        });
    }

    fn stand(&mut self, name: &IssuerName, change: impl FnOnce(&mut AcmeStanding)) {
        self.standings.send_modify(|standings| {
            change(Arc::make_mut(standings).entry(name.clone()).or_default());
        });
    }
}
