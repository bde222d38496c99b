//! The shell: one task that owns every leaf in memory, asks the issuer, and shows each stream what it may have.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use audit::Refusals;
use certs::{Clock, Profile, SecretKey, Timestamp};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use spiffe::{
    Bindings, BlockList, IssueError, IssuedSvid, NodeId, Peer, RequestId, Signers, SpiffeId, SvidIssuer,
    SvidRequest, Trust,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use xds::{SecretFeed, SecretSource, SecretView, Version, Views};

use crate::{
    deliveries::{Deliveries, Order, World},
    edges::{EdgeSecrets, EdgeWorld},
    imported::ImportedSecrets,
    schedule::Jitter,
    status::SdsStatus,
};

/// Streams that wait to be opened, and acknowledgements, at most. Past it a new stream finds its door closed and
/// must come again; an acknowledgement is lost, which costs a line of status.
const MAX_COMMANDS: usize = 16_384;
/// Changes of interest that wait, per stream, at most. Past it the session waits.
const MAX_INTERESTS: usize = 256;

/// Outcomes that are taken at once, at most.
const MAX_TOGETHER: usize = 256;

/// How leaves are made and kept.
#[derive(Debug, Clone)]
pub struct SdsSettings {
    /// How long a leaf lives.
    pub leaf_lifetime: Duration,
    /// How long a leaf stays in memory after its last stream has closed.
    pub grace: Duration,
    /// Over how long early renewals are spread when another authority begins to sign; zero for at once.
    pub authority_spread: Duration,
    /// How many requests the issuer has before it at a time.
    pub max_in_flight: usize,
    /// When a request that got no answer counts as failed.
    pub issue_timeout: Duration,
    /// Keys the versions of secrets; random and new in each process.
    pub version_key: [u8; 32],
    /// Draws jitter.
    pub jitter: fn() -> Jitter,
}

impl Default for SdsSettings {
    /// Leaves of 12 h, 5 min of grace, 10 min of spread, 256 requests at a time, 30 s for each.
    fn default() -> Self {
        Self {
            leaf_lifetime: Profile::Workload.default_lifetime(),
            grace: Duration::from_secs(300),
            authority_spread: Duration::from_secs(600),
            max_in_flight: 256,
            issue_timeout: Duration::from_secs(30),
            version_key: rand::random(),
            jitter: Jitter::spread,
        }
    }
}

/// Whose leaf: one per node and identity, shared by the node's streams.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafKey {
    /// The node.
    pub node: NodeId,
    /// The workload identity.
    pub identity: SpiffeId,
}

/// What the manager needs from others.
pub struct SdsInputs {
    /// Makes certificates.
    pub issuer: Arc<dyn SvidIssuer>,
    /// What may be trusted.
    pub trust: watch::Receiver<Arc<Trust>>,
    /// What nodes are entitled to.
    pub bindings: watch::Receiver<Arc<Bindings>>,
    /// Who is blocked.
    pub blocks: watch::Receiver<Arc<BlockList>>,
    /// What was imported.
    pub imported: watch::Receiver<Arc<ImportedSecrets>>,
    /// Certificates for public names.
    pub edges: watch::Receiver<Arc<EdgeSecrets>>,
    /// What each node gets: an edge is for those whose listeners show it.
    pub views: watch::Receiver<Arc<Views>>,
    /// Who signs whose leaves.
    pub signers: watch::Receiver<Arc<Signers>>,
    /// When the leaves that the journal knows of end: after a restart the soonest is replaced first.
    pub known: HashMap<LeafKey, Timestamp>,
    /// Hears of names that were asked for and not granted.
    pub refusals: Arc<dyn Refusals>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

enum Command {
    Open {
        stream: u64,
        peer: Arc<Peer>,
        node: NodeId,
        interest: mpsc::Receiver<(Arc<str>, bool)>,
        view: watch::Sender<SecretView>,
    },
    Settled {
        node: NodeId,
        name: Arc<str>,
        version: Version,
        refusal: Option<String>,
    },
}

/// The handle that sessions and the management door hold. Never blocks.
#[derive(Clone)]
pub struct Sds {
    commands: mpsc::Sender<Command>,
    streams: Arc<AtomicU64>,
    status: watch::Receiver<Arc<SdsStatus>>,
}

impl Sds {
    /// What is known of every leaf, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<SdsStatus>> {
        self.status.clone()
    }
}

impl fmt::Debug for Sds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sds({} leaves)", self.status.borrow().leaves.len())
    }
}

impl SecretSource for Sds {
    fn open(&self, peer: &Arc<Peer>, stream: u64) -> SecretFeed {
        let (interest, wanted) = mpsc::channel(MAX_INTERESTS);
        let (shown, view) = watch::channel(SecretView::new());
        let feed = SecretFeed { interest, view };
        let Some(node) = peer.node().cloned() else { return feed };
        // The caller's number tells the streams of one listener apart; ours is unique over all callers.
        let key = self.streams.fetch_add(1, Ordering::Relaxed);
        let command =
            Command::Open { stream: key, peer: Arc::clone(peer), node, interest: wanted, view: shown };
        if self.commands.try_send(command).is_err() {
            tracing::warn!(stream, "secrets are overloaded, a stream must come again");
        }
        feed
    }

    fn settled(&self, node: &NodeId, name: &Arc<str>, version: &Version, refusal: Option<&str>) {
        let command = Command::Settled {
            node: node.clone(),
            name: Arc::clone(name),
            version: version.clone(),
            refusal: refusal.map(str::to_owned),
        };
        if self.commands.try_send(command).is_err() {
            tracing::debug!(node_id = %node, "an acknowledgement of a secret was not recorded");
        }
    }
}

type Interest = (u64, mpsc::Receiver<(Arc<str>, bool)>, Vec<(Arc<str>, bool)>);
type Outcome = (LeafKey, SecretKey, Result<IssuedSvid, IssueError>);

enum Input {
    Commands(Vec<Command>),
    Interest(Interest),
    Outcomes(Vec<Outcome>),
    World,
    Views,
    Time,
    Shutdown,
}

/// The task behind [`Sds`]: the one owner of leaves and keys.
pub struct SdsManager {
    deliveries: Deliveries,
    settings: SdsSettings,
    inputs: SdsInputs,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Arc<SdsStatus>>,
    interests: FuturesUnordered<BoxFuture<'static, Interest>>,
    in_flight: FuturesUnordered<BoxFuture<'static, Outcome>>,
    root_change: Option<Timestamp>,
}

impl SdsManager {
    /// The task and the handle to it. Nothing happens before [`SdsManager::run`].
    #[must_use]
    pub fn new(settings: SdsSettings, mut inputs: SdsInputs) -> (Sds, Self) {
        let (send_command, commands) = mpsc::channel(MAX_COMMANDS);
        let known = std::mem::take(&mut inputs.known);
        let world = inputs.world();
        let deliveries = Deliveries::new(settings.clone(), Arc::clone(&inputs.refusals), world, known);
        let (status, status_read) = watch::channel(deliveries.status());
        let root_change = deliveries.next_root_change(inputs.clock.now());
        let manager = Self {
            deliveries,
            settings,
            inputs,
            commands,
            status,
            interests: FuturesUnordered::new(),
            in_flight: FuturesUnordered::new(),
            root_change,
        };
        (Sds { commands: send_command, streams: Arc::default(), status: status_read }, manager)
    }

    /// Serves until shutdown. Every leaf and key is dropped at the end.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let input = self.next_input(&shutdown).await;
            let now = self.inputs.clock.now();
            match input {
                Input::Commands(commands) => {
                    commands.into_iter().for_each(|command| self.command(command, now))
                }
                Input::Interest((stream, _, changes)) if changes.is_empty() => {
                    self.deliveries.close(stream, now)
                }
                Input::Interest((stream, wanted, changes)) => {
                    self.deliveries.interest(stream, changes, now);
                    self.interests.push(Box::pin(listen(stream, wanted)));
                }
                Input::Outcomes(outcomes) => {
                    for (key, secret, result) in outcomes {
                        self.deliveries.issued(&key, secret, result, now);
                    }
                }
                Input::World => {
                    let world = self.inputs.world();
                    self.deliveries.set_world(world, now);
                    self.root_change = self.deliveries.next_root_change(now);
                }
                Input::Views => {
                    let views = Arc::clone(&self.inputs.views.borrow_and_update());
                    self.deliveries.set_views(views, now);
                }
                Input::Time => {}
                Input::Shutdown => return,
            }
            self.follow_time(now);
            self.dispatch(now);
            if let Some(status) = self.deliveries.take_status() {
                self.status.send_replace(status);
            }
        }
    }

    async fn next_input(&mut self, shutdown: &CancellationToken) -> Input {
        let deadline = [self.deliveries.deadline(), self.root_change].into_iter().flatten().min();
        let inputs = &mut self.inputs;
        let mut commands = Vec::new();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Input::Shutdown,
            Some(outcomes) = together(&mut self.in_flight) => Input::Outcomes(outcomes),
            Ok(()) = inputs.trust.changed() => Input::World,
            Ok(()) = inputs.signers.changed() => Input::World,
            Ok(()) = inputs.bindings.changed() => Input::World,
            Ok(()) = inputs.blocks.changed() => Input::World,
            Ok(()) = inputs.imported.changed() => Input::World,
            Ok(()) = inputs.edges.changed() => Input::World,
            // Before what nodes ask for: they do so by listeners that they have from there.
            Ok(()) = inputs.views.changed() => Input::Views,
            1.. = self.commands.recv_many(&mut commands, 256) => Input::Commands(commands),
            Some(interest) = self.interests.next() => Input::Interest(interest),
            () = sleep_until(inputs.clock.as_ref(), deadline) => Input::Time,
        }
    }

    fn command(&mut self, command: Command, now: Timestamp) {
        match command {
            Command::Open { stream, peer, node, interest, view } => {
                self.deliveries.open(stream, peer, node, view);
                self.interests.push(Box::pin(listen(stream, interest)));
            }
            Command::Settled { node, name, version, refusal } => {
                self.deliveries.settled(&node, &name, &version, refusal, now);
            }
        }
    }

    /// After every input, so that no flood of them keeps a leaf from its renewal.
    fn follow_time(&mut self, now: Timestamp) {
        if self.root_change.is_some_and(|at| at <= now) {
            self.deliveries.refresh_contexts(now);
            self.root_change = self.deliveries.next_root_change(now);
        }
        self.deliveries.tick(now);
    }

    fn dispatch(&mut self, now: Timestamp) {
        while self.in_flight.len() < self.settings.max_in_flight {
            let Some(order) = self.deliveries.next_order(now) else { return };
            let issuer = Arc::clone(&self.inputs.issuer);
            let clock = Arc::clone(&self.inputs.clock);
            let (lifetime, timeout) = (self.settings.leaf_lifetime, self.settings.issue_timeout);
            self.in_flight.push(Box::pin(issue(issuer, clock, order, lifetime, now + timeout)));
        }
    }
}

/// The next outcome, with those that are there at the same moment: leaves of one commit come together, and who looks at
/// the read model looks once. `None` while nothing is in flight.
async fn together(in_flight: &mut FuturesUnordered<BoxFuture<'static, Outcome>>) -> Option<Vec<Outcome>> {
    let mut outcomes = vec![in_flight.next().await?];
    while outcomes.len() < MAX_TOGETHER
        && let Some(Some(outcome)) = in_flight.next().now_or_never()
    {
        outcomes.push(outcome);
    }
    Some(outcomes)
}

impl fmt::Debug for SdsManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SdsManager({} in flight)", self.in_flight.len())
    }
}

impl SdsInputs {
    fn world(&mut self) -> World {
        World {
            trust: Arc::clone(&self.trust.borrow_and_update()),
            signers: Arc::clone(&self.signers.borrow_and_update()),
            bindings: Arc::clone(&self.bindings.borrow_and_update()),
            blocks: Arc::clone(&self.blocks.borrow_and_update()),
            imported: Arc::clone(&self.imported.borrow_and_update()),
            edge: EdgeWorld {
                edges: Arc::clone(&self.edges.borrow_and_update()),
                views: Arc::clone(&self.views.borrow_and_update()),
            },
        }
    }
}

/// The next changes of one stream's interest; none when the stream is gone.
async fn listen(stream: u64, mut wanted: mpsc::Receiver<(Arc<str>, bool)>) -> Interest {
    let mut changes = Vec::new();
    wanted.recv_many(&mut changes, MAX_INTERESTS).await;
    (stream, wanted, changes)
}

/// Makes a key in memory and has it certified.
async fn issue(
    issuer: Arc<dyn SvidIssuer>,
    clock: Arc<dyn Clock>,
    order: Order,
    lifetime: Duration,
    until: Timestamp,
) -> Outcome {
    let secret = SecretKey::generate(Profile::Workload.key_kind());
    let request = SvidRequest {
        id: order.key.identity.clone(),
        profile: Profile::Workload,
        public_key: secret.public().clone(),
        lifetime,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        tenant: order.tenant,
        node: Some(order.key.node.clone()),
        issuer: order.issuer,
        purpose: order.purpose,
        deadline: order.replaces,
        spend: None,
        request_id: RequestId::random(),
    };
    let result = tokio::select! {
        result = issuer.issue_for_key(request, &secret) => result,
        () = clock.sleep_until(until) => Err(IssueError::Unavailable("no answer in time".to_owned())),
    };
    (order.key, secret, result)
}

async fn sleep_until(clock: &dyn Clock, deadline: Option<Timestamp>) {
    match deadline {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
