//! Certificates for public names at the edge, at work: one duty for each edge, and what all of them show.
//!
//! ```text
//! EdgeStore --Topic::Edges--> Edges --one each--> Duty --acme::Order, Renewal--> ACME server
//!                                                  | Desk: keep, publish, withdraw
//!                                                  v
//!                            Bulletin --> sds (certificates) and catalog (chains, texts) --> proxies --ACK--> gate
//! ```

mod bulletin;
mod duty;
mod gate;
mod judge;
mod publisher;
mod record;
mod turns;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use api::{
    calls::configs,
    expiry::EdgeFacts,
    ports::{Edge, EdgeSettings, EdgeStore, KeptEdge},
    sources::{self, EdgeStanding},
    wire,
};
use async_trait::async_trait;
use certs::{Clock, SecretBytes, Timestamp};
use sds::EdgeSecrets;
use spiffe::{EdgeName, IssuerName, Namespace, Tenant};
use tokio::{
    sync::{Notify, watch},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use xds::{Sync as Delivered, TypeUrl};

use self::{
    bulletin::Bulletin,
    duty::Duty,
    gate::{Piece, Proxy},
    record::Record,
    turns::Turns,
};
use super::accounts::{Accounts, Opened};

/// When a store that could not be read is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// Names an edge.
type EdgeKey = (Tenant, EdgeName);

/// What edges need of others.
pub(super) struct EdgeInputs {
    pub(super) store: Arc<dyn EdgeStore>,
    /// Whenever one was written.
    pub(super) changes: watch::Receiver<u64>,
    /// Whenever an issuer was written.
    pub(super) issuer_changes: watch::Receiver<u64>,
    pub(super) accounts: Accounts,
    pub(super) configs: configs::Handle,
    pub(super) board: Arc<xds::Board>,
    pub(super) clock: Arc<dyn Clock>,
    /// The programs that may publish TXT records.
    pub(super) dns_commands: Vec<PathBuf>,
    /// For those that serve them.
    pub(super) secrets: watch::Sender<Arc<EdgeSecrets>>,
    /// For those that watch what ends.
    pub(super) endings: watch::Sender<Vec<EdgeFacts>>,
}

/// What every duty shares.
struct Inputs {
    store: Arc<dyn EdgeStore>,
    issuer_changes: watch::Receiver<u64>,
    accounts: Accounts,
    configs: configs::Handle,
    board: Arc<xds::Board>,
    clock: Arc<dyn Clock>,
    dns_commands: Vec<PathBuf>,
    bulletin: Bulletin,
    endings: watch::Sender<Vec<EdgeFacts>>,
    standings: Mutex<BTreeMap<EdgeKey, EdgeStanding>>,
    /// Where each of them is shown: namespace and listener.
    places: Mutex<BTreeMap<EdgeKey, (Namespace, String)>>,
    /// Who orders which names.
    turns: Turns,
}

impl Inputs {
    fn place(&self, key: &EdgeKey) -> Option<(Namespace, String)> {
        lock(&self.places).get(key).cloned()
    }

    fn standing(&self, key: &EdgeKey, change: impl FnOnce(&mut EdgeStanding)) {
        let mut standings = lock(&self.standings);
        change(standings.entry(key.clone()).or_default());
    }

    /// Changes of issuers from now on.
    fn issuer_changes(&self) -> watch::Receiver<u64> {
        let mut changes = self.issuer_changes.clone();
        changes.mark_unchanged();
        changes
    }

    /// Comes back when the account that was opened is another now, or none.
    async fn issuer_changed(&self, name: &IssuerName, opened: &Opened, changes: &mut watch::Receiver<u64>) {
        loop {
            changed(changes).await;
            let now = self.accounts.open(name).await;
            if !now.is_ok_and(|now| Arc::ptr_eq(&now.client, &opened.client)) {
                return;
            }
        }
    }

    /// The connected proxies of a namespace that serve a listener, and how far each is with `wanted`.
    fn proxies(
        &self,
        tenant: &Tenant,
        namespace: &Namespace,
        listener: &str,
        wanted: &[(TypeUrl, String)],
    ) -> Vec<Proxy> {
        let (views, bindings) = (self.configs.views(), self.configs.bindings());
        let serving =
            bindings.iter().filter(|binding| binding.tenant == *tenant && binding.namespace == *namespace);
        let mut proxies = Vec::new();
        for binding in serving {
            let Some(snapshot) = views.get(&binding.node) else { continue };
            if snapshot.get(TypeUrl::Listener, listener).is_none() {
                continue;
            }
            let Some(status) = self.board.node(&binding.node).filter(|status| status.is_connected) else {
                continue;
            };
            // Of several documents with a listener of that name, a proxy has the tables of its own.
            let is_its = |(type_url, name): &&(TypeUrl, String)| {
                *type_url == TypeUrl::Secret || snapshot.get(*type_url, name).is_some()
            };
            let pieces = wanted.iter().filter(is_its).map(|(type_url, name)| {
                // Of a secret it is not known here which version it should be; it has been sent one, or not yet.
                let version = snapshot.get(*type_url, name).map(|resource| resource.version().to_string());
                piece(&status, *type_url, name, version.as_deref())
            });
            let pieces: Vec<Piece> = pieces.collect();
            // One that has nothing to take would answer nothing.
            if pieces.is_empty() && !wanted.is_empty() {
                continue;
            }
            proxies.push(Proxy { node: binding.node.clone(), pieces });
        }
        proxies
    }

    fn publish_endings(&self, key: &EdgeKey, edge: &Edge) {
        self.endings.send_modify(|all| {
            all.retain(|one| (&one.tenant, &one.name) != (&key.0, &key.1));
            all.extend(facts(edge));
        });
    }
}

/// Comes back with the next change.
async fn changed(changes: &mut watch::Receiver<u64>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How far a node is with one resource, on whichever of its streams it is furthest.
fn piece(status: &xds::NodeStatus, type_url: TypeUrl, name: &str, version: Option<&str>) -> Piece {
    let types = status.streams.iter().flat_map(|stream| &stream.types);
    let resources = types.filter(|one| one.type_url == type_url.as_str()).flat_map(|one| &one.resources);
    let mut refused = None;
    for resource in resources.filter(|one| one.name == name) {
        let is_it = version.is_none_or(|version| resource.acked.as_deref() == Some(version));
        if resource.sync == Delivered::Synced && resource.acked.is_some() && is_it {
            return Piece::Acknowledged;
        }
        let nack =
            resource.nack.as_ref().filter(|nack| version.is_none_or(|version| nack.version == version));
        refused = refused.or_else(|| nack.map(|nack| nack.words.clone()));
    }
    refused.map_or(Piece::Waiting, Piece::Refused)
}

fn facts(edge: &Edge) -> Option<EdgeFacts> {
    let leaf = edge.certificate.as_ref()?.chain.leaf();
    Some(EdgeFacts {
        tenant: edge.tenant.clone(),
        name: edge.name.clone(),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
    })
}

/// The handle that the management door holds.
#[derive(Clone)]
pub(super) struct Edges {
    inputs: Arc<Inputs>,
    hurries: Arc<Mutex<BTreeMap<EdgeKey, Arc<Notify>>>>,
}

/// An edge at work.
struct Working {
    /// Removed and added again, it is another.
    settings: EdgeSettings,
    created: Timestamp,
    stop: CancellationToken,
}

/// The task behind [`Edges`].
pub(super) struct EdgeKeeper {
    edges: Edges,
    changes: watch::Receiver<u64>,
    working: BTreeMap<EdgeKey, Working>,
    /// Tasks of their own: each of them may wait for what another holds, and for the keeper itself.
    duties: JoinSet<()>,
}

impl Edges {
    /// The handle and the task; certificates that are there already are handed to those that serve them, before anybody
    /// can ask.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn open(inputs: EdgeInputs) -> anyhow::Result<(Self, EdgeKeeper)> {
        let EdgeInputs {
            store,
            changes,
            issuer_changes,
            accounts,
            configs,
            board,
            clock,
            dns_commands,
            secrets,
            endings,
        } = inputs;
        let bulletin = Bulletin::new(secrets, configs.clone());
        let inputs = Inputs {
            store,
            issuer_changes,
            accounts,
            configs,
            board,
            clock,
            dns_commands,
            bulletin,
            endings,
            standings: Mutex::default(),
            places: Mutex::default(),
            turns: Turns::default(),
        };
        let edges = Self { inputs: Arc::new(inputs), hurries: Arc::default() };
        let mut keeper =
            EdgeKeeper { edges: edges.clone(), changes, working: BTreeMap::new(), duties: JoinSet::new() };
        keeper.changes.mark_unchanged();
        let all = edges.inputs.store.edges().await?;
        keeper.reconcile(all).await;
        Ok((edges, keeper))
    }

    fn hurry_of(&self, key: &EdgeKey) -> Arc<Notify> {
        let mut hurries = lock(&self.hurries);
        hurries.entry(key.clone()).or_default().clone()
    }
}

impl EdgeKeeper {
    /// Until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut again = None;
        loop {
            let clock = Arc::clone(&self.edges.inputs.clock);
            let retry = async {
                match again {
                    Some(at) => clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(ended) = self.duties.join_next() => {
                    // As with every part: what cannot happen ends the process, and is not passed over.
                    if let Err(panic) = ended.map_err(JoinError::into_panic) {
                        std::panic::resume_unwind(panic);
                    }
                    continue;
                }
                changed = self.changes.changed() => if changed.is_err() { return },
                () = retry => {}
            }
            again = match self.edges.inputs.store.edges().await {
                Ok(all) => {
                    self.reconcile(all).await;
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "edges were not read, those in hand are served");
                    Some(clock.now() + RETRY)
                }
            };
        }
    }

    /// Begins with what is new, and ends what is gone.
    async fn reconcile(&mut self, all: Vec<KeptEdge>) {
        let mut there = BTreeMap::new();
        for kept in all {
            there.insert((kept.edge.tenant.clone(), kept.edge.name.clone()), kept);
        }
        let is_other = |key: &EdgeKey, working: &Working| {
            there.get(key).is_none_or(|kept| {
                (&kept.edge.settings, kept.edge.created) != (&working.settings, working.created)
            })
        };
        let gone: Vec<EdgeKey> = self
            .working
            .iter()
            .filter(|(key, working)| is_other(key, working))
            .map(|(key, _)| key.clone())
            .collect();
        let inputs = Arc::clone(&self.edges.inputs);
        for key in gone {
            if let Some(working) = self.working.remove(&key) {
                working.stop.cancel();
            }
            inputs.bulletin.forget(&key).await;
            lock(&inputs.standings).remove(&key);
            lock(&inputs.places).remove(&key);
            lock(&self.edges.hurries).remove(&key);
        }
        inputs.endings.send_replace(there.values().filter_map(|kept| facts(&kept.edge)).collect());
        for (key, kept) in there {
            if !self.working.contains_key(&key) {
                self.begin(key, kept).await;
            }
        }
    }

    async fn begin(&mut self, key: EdgeKey, kept: KeptEdge) {
        let stop = CancellationToken::new();
        let place = (kept.edge.settings.namespace.clone(), kept.edge.settings.listener.clone());
        lock(&self.edges.inputs.places).insert(key.clone(), place);
        let working =
            Working { settings: kept.edge.settings.clone(), created: kept.edge.created, stop: stop.clone() };
        self.working.insert(key.clone(), working);
        let duty = Duty {
            key: key.clone(),
            inputs: Arc::clone(&self.edges.inputs),
            hurry: self.edges.hurry_of(&key),
            is_hurried: AtomicBool::new(false),
            clear_after: Mutex::new(Timestamp::EPOCH),
        };
        let record = Record::new(kept);
        self.edges.inputs.bulletin.open(&duty.key, record.edge()).await;
        duty.show(&record).await;
        self.duties.spawn(duty.run(record, stop));
    }
}

#[async_trait]
impl sources::Edges for Edges {
    fn standing(&self, tenant: &Tenant, name: &EdgeName) -> EdgeStanding {
        let key = (tenant.clone(), name.clone());
        let mut standing = {
            let standings = lock(&self.inputs.standings);
            standings.get(&key).cloned().unwrap_or_default()
        };
        if let Some((namespace, listener)) = self.inputs.place(&key) {
            let wanted = [(TypeUrl::Secret, name.to_uri())];
            let proxies = self.inputs.proxies(tenant, &namespace, &listener, &wanted);
            let taken = |proxy: Proxy| (proxy.node, proxy.pieces == [Piece::Acknowledged]);
            standing.proxies = proxies.into_iter().map(taken).collect();
        }
        standing
    }

    async fn examine_edge(
        &self,
        tenant: &Tenant,
        name: &EdgeName,
        settings: &mut EdgeSettings,
        dns_key: Option<&SecretBytes>,
    ) -> Vec<wire::IssuerCheck> {
        judge::examine(&self.inputs, tenant, name, settings, dns_key).await
    }

    fn hurry(&self, tenant: &Tenant, name: &EdgeName) {
        self.hurry_of(&(tenant.clone(), name.clone())).notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use certs::Timestamp;
    use spiffe::NodeId;
    use xds::{NackStatus, NodeStatus, ResourceStatus, StreamStatus, TypeStatus};

    use super::*;

    fn resource(name: &str, sync: Delivered, acked: Option<&str>, nack: Option<&str>) -> ResourceStatus {
        let at = Timestamp::EPOCH;
        ResourceStatus {
            name: name.to_owned(),
            sync,
            sent: Some("v2".to_owned()),
            acked: acked.map(str::to_owned),
            nack: nack.map(|version| NackStatus { version: version.to_owned(), words: "no".to_owned(), at }),
        }
    }

    fn stream(type_url: TypeUrl, resources: Vec<ResourceStatus>) -> StreamStatus {
        let domain = spiffe::TrustDomain::parse("td").unwrap();
        let of_type = TypeStatus {
            word: type_url.word().to_owned(),
            type_url: type_url.as_str().to_owned(),
            sync: Delivered::Synced,
            at: Timestamp::EPOCH,
            resources,
        };
        StreamStatus {
            id: 1,
            since: Timestamp::EPOCH,
            remote: "127.0.0.1:1".parse().unwrap(),
            certificate_expires: Timestamp::MAX,
            certificate_id: domain.server_id(),
            certificate_authority: spiffe::AuthorityId::of(certs::SpkiHash::of(b"key")),
            server_root: None,
            service: "ADS".to_owned(),
            variant: "delta".to_owned(),
            agent: String::new(),
            agent_version: String::new(),
            drain_secs: None,
            responses: 1,
            types: vec![of_type],
        }
    }

    fn status(streams: Vec<StreamStatus>) -> NodeStatus {
        NodeStatus {
            node: NodeId::parse("edge").unwrap(),
            is_connected: true,
            last_seen: Timestamp::EPOCH,
            revision: 1,
            sync: Delivered::Synced,
            before: None,
            streams,
            proven_roots: BTreeMap::new(),
        }
    }

    #[test]
    fn a_proxy_has_taken_the_version_that_it_should_on_one_of_its_streams() {
        use Delivered::{Nack, Stale, Synced};
        let check = |resources: Vec<ResourceStatus>, version: Option<&str>, expected: Piece| {
            let status = status(vec![stream(TypeUrl::Route, resources)]);
            assert_eq!(piece(&status, TypeUrl::Route, "plain", version), expected, "{status:?}");
        };
        let of = |sync, acked, nack| vec![resource("plain", sync, acked, nack)];
        check(of(Synced, Some("v2"), None), Some("v2"), Piece::Acknowledged);
        check(of(Synced, Some("v1"), None), Some("v2"), Piece::Waiting);
        check(of(Stale, Some("v1"), None), Some("v2"), Piece::Waiting);
        check(of(Nack, Some("v1"), Some("v2")), Some("v2"), Piece::Refused("no".to_owned()));
        check(of(Nack, Some("v1"), Some("v1")), Some("v2"), Piece::Waiting);
        check(of(Synced, Some("v9"), None), None, Piece::Acknowledged);
        check(of(Stale, None, None), None, Piece::Waiting);
        check(vec![resource("other", Synced, Some("v2"), None)], Some("v2"), Piece::Waiting);
        check(Vec::new(), Some("v2"), Piece::Waiting);
        let (old, new) = (of(Stale, Some("v1"), None), of(Synced, Some("v2"), None));
        let both = status(vec![stream(TypeUrl::Route, old), stream(TypeUrl::Route, new)]);
        assert_eq!(piece(&both, TypeUrl::Route, "plain", Some("v2")), Piece::Acknowledged);
        assert_eq!(piece(&both, TypeUrl::Listener, "plain", Some("v2")), Piece::Waiting);
    }

    #[test]
    fn every_name_that_is_none_is_told() {
        let names = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            duty::names(&texts).map(|names| names.as_slice().len())
        };
        assert_eq!(names(&["shop.example", "*.shop.example"]), Ok(2));
        let told = names(&["shop", "shop.example", "x..y"]).unwrap_err();
        assert!(told.contains("\"shop\" is neither") && told.contains("; \"x..y\" is neither"), "{told}");
        assert!(names(&["a", "b", "c", "d", "e", "f", "g"]).unwrap_err().ends_with("; and 2 more"));
    }
}
