//! Leaves of workloads, whoever signs them: the shell of [`delegation`](crate::delegation) and
//! [`migration`](crate::migration), and the way in for whoever needs one.
//!
//! What is published here is for secrets alone. Doors and nodes go on by what [`Manager`](crate::Manager) publishes:
//! the root of another issuer never opens anything of ours.
//!
//! ```text
//! migrate -> Leaves <-> migration (whose leaves are where)   <- Following (what proxies acknowledged and refused)
//!                   <-> delegation (who may sign)            <- Dependents (what nodes acknowledged)
//!   publishes: trust (own roots and those of issuers), then routes, then who signs whose
//! LeafDesk (SvidIssuer) -> built-in queue, or the queue of the issuer that signs
//! ```

mod keeper;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use audit::AuditLog;
use certs::{Csr, SecretKey, Timestamp};
use futures::{StreamExt, stream::FuturesUnordered};
use spiffe::{IssueError, IssuedSvid, IssuerName, Signers, SvidIssuer, SvidRequest, Trust};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::keeper::{Keeper, Published};
use crate::{
    delegation::{Delegation, Settings},
    dependents::{Dependents, Laggard},
    issuer::{Health, Job, LeafSigner, OutsideIssuer, OutsidePipeline, Outsider, Routes},
    keeper::settings,
    manager::{Asked, Deps, Handle, ended, turned_away},
    migration::{Followers, MigrationWish, Migrations, WishRefusal},
    pause::Pause,
    ports::{AuthorityState, DefaultIssuer, JournalError, LeafIssuer, LeafStore, Leaves as Count, Source},
};

/// How many operators may ask at once.
const MAX_COMMANDS: usize = 16;
/// How often the gate is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Envoy waits up to half a minute between two tries of its streams, and whoever was asked answers within that.
const SETTLE: Duration = Duration::from_secs(60);

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
    /// It cannot be, as leaves are now.
    #[error(transparent)]
    Refused(#[from] WishRefusal),
    /// The change was not kept.
    #[error("it was not kept: {0}")]
    Failed(String),
    /// Too many ask, or the process is shutting down.
    #[error("nobody can be asked now")]
    Unavailable,
}

/// One issuer a root of which stands in the bundle of workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafIssuerStatus {
    /// Its name, and which of its roots.
    pub source: Source,
    /// Where it stands.
    pub state: AuthorityState,
    /// Since when.
    pub since: Timestamp,
    /// Nothing is to depend on it any more.
    pub is_hurried: bool,
    /// Who would refuse its leaves, when that was last looked at; or who still shows one, where it is left in a hurry.
    pub waits_for: Vec<Laggard>,
    /// What depended on it when that was last counted; retired ones only.
    pub leaves: Option<Count>,
}

/// What the outside may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavesStatus {
    /// Every issuer a root of which stands in the bundle of workloads.
    pub issuers: Vec<LeafIssuerStatus>,
    /// Who signs where a binding names nobody, and where these leaves are moved.
    pub default: DefaultIssuer,
    /// How many of a hundred have moved.
    pub moved: u8,
    /// How those do that have, or are about to.
    pub followers: Option<Followers>,
    /// How those do that are asked.
    pub health: BTreeMap<IssuerName, Health>,
}

impl LeavesStatus {
    /// How one of them stands: the root that signs, else the one that is prepared, else one that has retired.
    #[must_use]
    pub fn of(&self, name: &IssuerName) -> Option<&LeafIssuerStatus> {
        let rank = |one: &&LeafIssuerStatus| match one.state {
            AuthorityState::Active => 0,
            AuthorityState::Prepared => 1,
            AuthorityState::Retired | AuthorityState::Removed => 2,
        };
        self.issuers.iter().filter(|one| one.source.name == *name).min_by_key(rank)
    }
}

struct Command {
    wish: MigrationWish,
    asked: Asked,
    reply: oneshot::Sender<Result<(), MigrateError>>,
}

/// The way to whoever signs the leaves of workloads. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LeafDesk {
    builtin: Handle,
    routes: watch::Receiver<Arc<Routes>>,
    commands: mpsc::Sender<Command>,
    trust: watch::Receiver<Arc<Trust>>,
    signers: watch::Receiver<Arc<Signers>>,
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
    pub fn signers(&self) -> watch::Receiver<Arc<Signers>> {
        self.signers.clone()
    }

    /// How issuers stand, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<LeavesStatus>> {
        self.status.clone()
    }

    /// Moves the leaves whose bindings name no issuer from one to another: as soon as every connected node has
    /// acknowledged its root, at once or stage by stage. To the built-in authorities nobody is waited for. Answers when
    /// that is kept.
    ///
    /// # Errors
    /// See [`MigrateError`]; nothing changed.
    pub async fn migrate(&self, wish: MigrationWish, asked: Asked) -> Result<(), MigrateError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { wish, asked, reply };
        self.commands.try_send(command).map_err(|_| MigrateError::Unavailable)?;
        answer.await.map_err(|_| MigrateError::Unavailable)?
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Command({:?})", self.wish)
    }
}

#[async_trait]
impl SvidIssuer for LeafDesk {
    /// Of the built-in issuer: nobody here holds the key.
    async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, IssueError> {
        self.builtin.issue(request).await
    }

    async fn issue_for_key(&self, request: SvidRequest, key: &SecretKey) -> Result<IssuedSvid, IssueError> {
        let Some(way) = self.routes.borrow().elsewhere(&request).cloned() else {
            return self.builtin.issue(request).await;
        };
        let (reply, answer) = oneshot::channel();
        let job = Job { request, csr: Csr::build(key), is_fallback: false, reply };
        way.try_send(job).map_err(|error| turned_away(&error))?;
        answer.await.map_err(|_| ended())?
    }
}

/// Observes how leaves do.
pub trait Following: Send + Sync {
    /// How those do that are to be of this issuer.
    fn followers(&self, of: &IssuerName) -> Followers;
}

/// What the leaves of workloads need beside the authorities.
pub struct LeavesDeps {
    /// Keeps which issuers sign, and what they were asked for.
    pub store: Arc<dyn LeafStore>,
    /// Hears that an issuer signs in the place of another.
    pub audit: Arc<dyn AuditLog>,
    /// Asks them.
    pub signer: Arc<dyn LeafSigner>,
    /// Every issuer that could be asked, each with its roots.
    pub outsiders: watch::Receiver<Arc<Vec<Outsider>>>,
    /// The issuers that bindings name.
    pub named: watch::Receiver<Arc<BTreeSet<IssuerName>>>,
    /// Operators' wish that nothing is replaced by itself for a while.
    pub pause: watch::Receiver<Option<Arc<Pause>>>,
}

/// Owns who signs the leaves of workloads. [`Leaves::run`] must be running for anything of another issuer to be issued.
pub struct Leaves {
    keeper: Keeper,
    begun: mpsc::UnboundedReceiver<OutsideIssuer>,
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
        let members = deps.store.leaf_issuers().await?;
        let opens = |source: &Source| deps.outsiders.borrow().iter().any(|one| one.source == *source);
        let active = members.iter().filter(|one| one.state == AuthorityState::Active && opens(&one.source));
        let may_sign = active.map(|one| one.source.name.clone()).collect();
        let migrations = Migrations::resume(deps.store.default_issuer().await?, may_sign);
        let settings = Settings { grace, look: LOOK, settle: SETTLE, retry };
        let delegation = Delegation::resume(settings, members, of.clock.now());
        let (commands_in, commands) = mpsc::channel(MAX_COMMANDS);
        let signers = Arc::new(Signers::builtin(None));
        let routes =
            Routes { signers: Arc::clone(&signers), builtin: ca.jobs().clone(), ways: BTreeMap::new() };
        let published = Published {
            trust: watch::Sender::new(Arc::clone(&ca.trust().borrow())),
            routes: watch::Sender::new(Arc::new(routes)),
            signers: watch::Sender::new(signers),
            status: watch::Sender::new(Arc::new(LeavesStatus {
                issuers: Vec::new(),
                default: migrations.state().clone(),
                moved: 0,
                followers: None,
                health: BTreeMap::new(),
            })),
        };
        let desk = LeafDesk {
            builtin: ca.clone(),
            routes: published.routes.subscribe(),
            commands: commands_in,
            trust: published.trust.subscribe(),
            signers: published.signers.subscribe(),
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
        let (begin, begun) = mpsc::unbounded_channel();
        let mut keeper = Keeper::new(deps, of, ca, (delegation, migrations), commands, published);
        keeper.begin_with(begin, pipeline);
        Ok(Self { keeper, begun, desk })
    }

    /// The way in, for everybody else.
    #[must_use]
    pub fn desk(&self) -> LeafDesk {
        self.desk.clone()
    }

    /// Which issuers' roots stand in the bundle of workloads.
    #[must_use]
    pub fn members(&self) -> &[LeafIssuer] {
        self.keeper.members()
    }

    /// Asks issuers, and changes who is asked, until `shutdown`. The gate of a root is what `dependents` observes, that
    /// of a stage what `following` does.
    pub async fn run(
        self,
        dependents: Arc<dyn Dependents>,
        following: Arc<dyn Following>,
        shutdown: CancellationToken,
    ) {
        let Self { keeper, mut begun, desk } = self;
        drop(desk);
        let asking = async {
            let mut all = FuturesUnordered::new();
            loop {
                tokio::select! {
                    Some(one) = begun.recv() => all.push(one.run(shutdown.clone())),
                    Some(()) = all.next(), if !all.is_empty() => {}
                    else => return,
                }
            }
        };
        tokio::join!(keeper.run(dependents, following, shutdown.clone()), asking);
    }
}

#[cfg(test)]
mod tests;
