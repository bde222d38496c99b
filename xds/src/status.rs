//! What each node has been sent, has acknowledged and has refused.
//!
//! The board holds names, versions and words, never content of a secret. What a stream holds of a public type is
//! the persistent map that the stream itself shares with its view, so a node in step costs next to nothing.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use spiffe::{AuthorityId, Clock, NodeId, Proof, SpiffeId, Timestamp};
use tokio::sync::watch;

use crate::{Method, Resource, Snapshot, TypeUrl, Version, session::Session, subscription::Progress};

/// Nodes that the board remembers; those that left longest ago make room.
const MAX_NODES: usize = 20_000;
/// Roots that a node may have proven and that are remembered; the oldest proofs make room.
const MAX_PROOFS: usize = 8;
/// Resources that one read lists per type.
const MAX_LISTED: usize = 10_000;

/// How far delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Sync {
    /// The node acknowledged what it was sent last.
    #[serde(rename = "SYNCED")]
    Synced,
    /// It asked, and nothing was sent.
    #[serde(rename = "NOT SENT")]
    NotSent,
    /// It was sent something that it has not answered.
    #[serde(rename = "STALE")]
    Stale,
    /// It refused what it was sent last.
    #[serde(rename = "NACK")]
    Nack,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which.
    pub node: NodeId,
    /// Whether a stream is open.
    pub is_connected: bool,
    /// When something last happened.
    pub last_seen: Timestamp,
    /// Grows with every change; [`Board::changes`] tells it.
    pub revision: u64,
    /// The worst of all types.
    pub sync: Sync,
    /// Its streams; after it left, the last one that says what it has.
    pub streams: Vec<StreamStatus>,
    /// While none of its open streams has asked for secrets: the last one that had, as after a broken connection.
    pub before: Option<StreamStatus>,
    /// The roots under which it has completed a handshake with us since the process began, with the last time.
    pub proven_roots: BTreeMap<AuthorityId, Timestamp>,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Its number.
    pub id: u64,
    /// When it was opened.
    pub since: Timestamp,
    /// From where.
    pub remote: SocketAddr,
    /// When the node certificate that opened it ends.
    pub certificate_expires: Timestamp,
    /// Whose that certificate is.
    pub certificate_id: SpiffeId,
    /// Who signed it.
    pub certificate_authority: AuthorityId,
    /// The root under which its connection verified us.
    pub server_root: Option<AuthorityId>,
    /// `ADS`, or the short word of its only type.
    pub service: String,
    /// `delta` or `sotw`.
    pub variant: String,
    /// What the node calls its software.
    pub agent: String,
    /// The version of that.
    pub agent_version: String,
    /// How many seconds the node lets connections of what was replaced go on, if it said so.
    pub drain_secs: Option<u64>,
    /// Responses written on it.
    pub responses: u64,
    /// The types that it asked for.
    pub types: Vec<TypeStatus>,
}

/// One type on one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeStatus {
    /// The type's short word.
    pub word: String,
    /// The type URL.
    pub type_url: String,
    /// The worst of all its resources.
    pub sync: Sync,
    /// When something of it was sent or answered last.
    pub at: Timestamp,
    /// Its resources by name.
    pub resources: Vec<ResourceStatus>,
}

/// One resource on one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub sync: Sync,
    /// The version it was sent last.
    pub sent: Option<String>,
    /// The version it acknowledged last.
    pub acked: Option<String>,
    /// What it refused, if it did and nothing else was sent since.
    pub nack: Option<NackStatus>,
}

/// A refusal by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NackStatus {
    /// The refused version.
    pub version: String,
    /// The node's words, cleaned and cut.
    pub words: String,
    /// When.
    pub at: Timestamp,
}

/// Whether a node holds what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uptake {
    /// It acknowledged all of it.
    Acknowledged,
    /// It is connected and has not answered yet.
    Waiting,
    /// It refused some of it.
    Refused,
    /// It has no stream.
    Offline,
}

/// All nodes. Read by anyone, written by sessions; the lock is held for a few pointer swaps.
#[derive(Debug, Default)]
pub struct Board {
    nodes: Mutex<BTreeMap<NodeId, Arc<Entry>>>,
    watchers: Mutex<BTreeMap<NodeId, watch::Sender<u64>>>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    last_seen: Timestamp,
    revision: u64,
    streams: BTreeMap<u64, StreamEntry>,
    last: Option<(u64, StreamEntry)>,
    proven: BTreeMap<AuthorityId, Timestamp>,
}

#[derive(Debug, Clone)]
struct StreamEntry {
    since: Timestamp,
    remote: SocketAddr,
    certificate_expires: Timestamp,
    certificate_id: SpiffeId,
    certificate_authority: AuthorityId,
    server_root: Option<AuthorityId>,
    method: Method,
    agent: Arc<str>,
    agent_version: Arc<str>,
    drain_time: Option<Duration>,
    responses: u64,
    types: [Option<TypeEntry>; TypeUrl::ALL.len()],
}

#[derive(Debug, Clone)]
struct TypeEntry {
    at: Timestamp,
    sent: Sent,
    progress: Delivery,
}

#[derive(Debug, Clone)]
enum Sent {
    Shared(OrdMap<Arc<str>, Arc<Resource>>),
    /// Of secrets, which have no place here.
    Versions(OrdMap<Arc<str>, Version>),
}

#[derive(Debug, Clone)]
struct Delivery {
    unacked: OrdMap<Arc<str>, Option<Version>>,
    refused: OrdMap<Arc<str>, Arc<crate::Nack>>,
    missing: Vec<Arc<str>>,
}

impl Board {
    /// The state of one node.
    #[must_use]
    pub fn node(&self, node: &NodeId) -> Option<NodeStatus> {
        let entry = lock(&self.nodes).get(node).cloned()?;
        Some(entry.read(node))
    }

    /// The state of every node. The lock is held for copying pointers only.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let entries: Vec<_> =
            lock(&self.nodes).iter().map(|(node, entry)| (node.clone(), entry.clone())).collect();
        entries.iter().map(|(node, entry)| entry.read(node)).collect()
    }

    /// Whether `node` holds the resources of `snapshot` that are of `types`, on one of its streams.
    #[must_use]
    pub fn uptake(&self, node: &NodeId, snapshot: &Snapshot, types: &[TypeUrl]) -> Uptake {
        let Some(entry) = lock(&self.nodes).get(node).cloned() else { return Uptake::Offline };
        let of = |stream: &StreamEntry| {
            let of_type = |type_url: &TypeUrl| match &stream.types[*type_url as usize] {
                _ if snapshot.of(*type_url).is_empty() => Uptake::Acknowledged,
                Some(entry) => entry.uptake(snapshot.of(*type_url)),
                None => Uptake::Waiting,
            };
            types.iter().map(of_type).max().unwrap_or(Uptake::Acknowledged)
        };
        entry.streams.values().map(of).min().unwrap_or(Uptake::Offline)
    }

    /// The roots under which `node` has completed the handshake of a connection that opened a stream, since the
    /// process began, each with the time of the last such handshake. An acknowledgement does not prove this: it may
    /// come over a connection that is older than the root.
    #[must_use]
    pub fn proven_roots(&self, node: &NodeId) -> BTreeMap<AuthorityId, Timestamp> {
        lock(&self.nodes).get(node).map(|entry| entry.proven.clone()).unwrap_or_default()
    }

    /// How long `node` lets connections of what was replaced go on, as it said when it opened its newest stream; known
    /// while it is away, too.
    #[must_use]
    pub fn drain_time(&self, node: &NodeId) -> Option<Duration> {
        let entry = lock(&self.nodes).get(node).cloned()?;
        entry.newest()?.drain_time
    }

    /// Who signed the certificate with which `node` opened its newest stream; known while it is away, too.
    #[must_use]
    pub fn shown_authority(&self, node: &NodeId) -> Option<AuthorityId> {
        let entry = lock(&self.nodes).get(node).cloned()?;
        entry.newest().map(|stream| stream.certificate_authority)
    }

    /// A notice of every change of one node, whether it is known yet or not.
    #[must_use]
    pub fn changes(&self, node: &NodeId) -> watch::Receiver<u64> {
        let mut watchers = lock(&self.watchers);
        watchers.retain(|_, sender| sender.receiver_count() > 0);
        watchers.entry(node.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Forgets a node that was removed, though its streams are still to end; but what it did since `again`, when another
    /// one was enrolled by its name.
    pub fn forget(&self, node: &NodeId, again: Option<Timestamp>) {
        let mut nodes = lock(&self.nodes);
        let newer = nodes
            .get_mut(node)
            .is_some_and(|entry| again.is_some_and(|again| Arc::make_mut(entry).forget_before(again)));
        if !newer {
            nodes.remove(node);
        }
    }

    /// Notes that a stream is open. The answer's end is the stream's.
    pub(crate) fn open(
        self: &Arc<Self>,
        session: &Session,
        method: Method,
        stream: u64,
        clock: Arc<dyn Clock>,
    ) -> Place {
        let place = Place { board: self.clone(), node: session.node().clone(), stream, clock };
        let proof = session.peer().proof();
        let entry = StreamEntry {
            since: place.clock.now(),
            remote: session.peer().remote(),
            certificate_expires: session.peer().svid().not_after(),
            certificate_id: session.peer().id().clone(),
            certificate_authority: AuthorityId::of(session.peer().svid().authority()),
            server_root: proof.map(|proof| proof.root),
            method,
            agent: "".into(),
            agent_version: "".into(),
            drain_time: None,
            responses: 0,
            types: Default::default(),
        };
        self.make_room();
        self.change(&place.node, place.clock.now(), Unknown::Begins, |node| {
            node.streams.insert(stream, entry);
            if let Some(proof) = proof {
                node.prove(proof);
            }
        });
        place
    }

    fn make_room(&self) {
        let mut nodes = lock(&self.nodes);
        if nodes.len() < MAX_NODES {
            return;
        }
        let gone = nodes.iter().filter(|(_, entry)| entry.streams.is_empty());
        let oldest = gone.min_by_key(|(_, entry)| entry.last_seen).map(|(node, _)| node.clone());
        if let Some(oldest) = oldest {
            nodes.remove(&oldest);
        }
    }

    fn change(&self, node: &NodeId, now: Timestamp, unknown: Unknown, change: impl FnOnce(&mut Entry)) {
        let revision = {
            let mut nodes = lock(&self.nodes);
            if unknown == Unknown::Begins {
                nodes.entry(node.clone()).or_default();
            }
            let Some(entry) = nodes.get_mut(node).map(Arc::make_mut) else { return };
            change(entry);
            entry.last_seen = now;
            entry.revision += 1;
            entry.revision
        };
        if let Some(sender) = lock(&self.watchers).get(node) {
            sender.send_replace(revision);
        }
    }
}

/// What becomes of a node that is not on the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// It is from now on.
    Begins,
    /// Nothing is noted: it was forgotten meanwhile.
    StaysSo,
}

/// A stream's place on the board, left when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    board: Arc<Board>,
    node: NodeId,
    stream: u64,
    clock: Arc<dyn Clock>,
}

impl Place {
    /// Notes how far `session` is with one type.
    pub(crate) fn record(&self, session: &Session, type_url: TypeUrl, wrote: bool) {
        let Some(progress) = session.progress(type_url) else { return };
        let now = self.clock.now();
        let (agent, agent_version) = session.agent();
        self.board.change(&self.node, now, Unknown::StaysSo, |node| {
            let Some(stream) = node.streams.get_mut(&self.stream) else { return };
            if *stream.agent != *agent || *stream.agent_version != *agent_version {
                (stream.agent, stream.agent_version) = (agent.into(), agent_version.into());
            }
            stream.drain_time = session.drain_time();
            stream.responses += u64::from(wrote);
            stream.types[type_url as usize] = Some(TypeEntry::new(type_url, progress, now));
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let now = self.clock.now();
        self.board.change(&self.node, now, Unknown::StaysSo, |node| {
            let Some(left) = node.streams.remove(&self.stream) else { return };
            // One that broke before it asked for anything tells nothing of what its node has.
            let had = node.last.as_ref().is_some_and(|(_, last)| last.has_secrets());
            if left.has_secrets() || !had {
                node.last = Some((self.stream, left));
            }
        });
    }
}

impl TypeEntry {
    fn new(type_url: TypeUrl, progress: Progress, at: Timestamp) -> Self {
        let Progress { held, unacked, refused, missing } = progress;
        let sent = match type_url {
            TypeUrl::Secret => Sent::Versions(
                held.iter().map(|(name, secret)| (name.clone(), secret.version().clone())).collect(),
            ),
            _ => Sent::Shared(held),
        };
        Self { at, sent, progress: Delivery { unacked, refused, missing } }
    }

    fn uptake(&self, wanted: &OrdMap<Arc<str>, Arc<Resource>>) -> Uptake {
        let of = |(name, resource): (&Arc<str>, &Arc<Resource>)| {
            if self.progress.refused.contains_key(name) {
                return Uptake::Refused;
            }
            let sent = match &self.sent {
                Sent::Shared(map) => map.get(name).map(|sent| sent.version()),
                Sent::Versions(map) => map.get(name),
            };
            let is_held = sent == Some(resource.version()) && !self.progress.unacked.contains_key(name);
            if is_held { Uptake::Acknowledged } else { Uptake::Waiting }
        };
        wanted.iter().map(of).max().unwrap_or(Uptake::Acknowledged)
    }

    fn read(&self, type_url: TypeUrl) -> TypeStatus {
        let mut resources: BTreeMap<&str, ResourceStatus> = BTreeMap::new();
        match &self.sent {
            Sent::Shared(map) => map.iter().take(MAX_LISTED).for_each(|(name, resource)| {
                resources.insert(name, self.resource(name, resource.version()));
            }),
            Sent::Versions(map) => map.iter().take(MAX_LISTED).for_each(|(name, version)| {
                resources.insert(name, self.resource(name, version));
            }),
        }
        for (name, nack) in self.progress.refused.iter().take(MAX_LISTED) {
            resources.insert(name, self.resource(name, &nack.version));
        }
        for name in &self.progress.missing {
            resources.entry(name).or_insert_with(|| ResourceStatus {
                name: name.to_string(),
                sync: Sync::NotSent,
                sent: None,
                acked: None,
                nack: None,
            });
        }
        let resources: Vec<_> = resources.into_values().collect();
        TypeStatus {
            word: type_url.word().to_owned(),
            type_url: type_url.as_str().to_owned(),
            sync: resources.iter().map(|resource| resource.sync).max().unwrap_or(Sync::Synced),
            at: self.at,
            resources,
        }
    }

    fn resource(&self, name: &Arc<str>, sent: &Version) -> ResourceStatus {
        let nack = self.progress.refused.get(name);
        let acked = match self.progress.unacked.get(name) {
            Some(before) => before.clone(),
            None if nack.is_some() => None,
            None => Some(sent.clone()),
        };
        let sync = match (&nack, acked.as_ref() == Some(sent)) {
            (Some(_), _) => Sync::Nack,
            (None, true) => Sync::Synced,
            (None, false) => Sync::Stale,
        };
        ResourceStatus {
            name: name.to_string(),
            sync,
            sent: Some(sent.to_string()),
            acked: acked.map(|version| version.to_string()),
            nack: nack.map(|nack| NackStatus {
                version: nack.version.to_string(),
                words: nack.words.to_string(),
                at: nack.at,
            }),
        }
    }
}

impl Entry {
    /// The newest stream; when all have ended, the last one.
    fn newest(&self) -> Option<&StreamEntry> {
        let newest = self.streams.values().max_by_key(|stream| stream.since);
        newest.or(self.last.as_ref().map(|(_, stream)| stream))
    }

    fn read(&self, node: &NodeId) -> NodeStatus {
        let is_connected = !self.streams.is_empty();
        let open = self.streams.iter().map(|(id, stream)| stream.read(*id));
        let last = self.last.iter().filter(|_| !is_connected).map(|(id, stream)| stream.read(*id));
        let streams: Vec<_> = open.chain(last).collect();
        let is_new = is_connected && !self.streams.values().any(StreamEntry::has_secrets);
        let before = self.last.as_ref().filter(|(_, last)| is_new && last.has_secrets());
        let types = streams.iter().flat_map(|stream| &stream.types);
        NodeStatus {
            node: node.clone(),
            is_connected,
            last_seen: self.last_seen,
            revision: self.revision,
            sync: types.map(|found| found.sync).max().unwrap_or(Sync::NotSent),
            before: before.map(|(id, stream)| stream.read(*id)),
            streams,
            proven_roots: self.proven.clone(),
        }
    }

    /// Whether anything is left that was not before `time`.
    fn forget_before(&mut self, time: Timestamp) -> bool {
        self.streams.retain(|_, stream| stream.since >= time);
        self.last.take_if(|(_, stream)| stream.since < time);
        self.proven.retain(|_, at| *at >= time);
        !self.streams.is_empty() || self.last.is_some()
    }

    fn prove(&mut self, proof: Proof) {
        let last = self.proven.entry(proof.root).or_insert(proof.at);
        *last = proof.at.max(*last);
        if self.proven.len() > MAX_PROOFS {
            let oldest = self.proven.iter().min_by_key(|(_, at)| **at).map(|(root, _)| *root);
            oldest.and_then(|oldest| self.proven.remove(&oldest));
        }
    }
}

impl StreamEntry {
    fn has_secrets(&self) -> bool {
        self.types[TypeUrl::Secret as usize].is_some()
    }

    fn read(&self, id: u64) -> StreamStatus {
        StreamStatus {
            id,
            since: self.since,
            remote: self.remote,
            certificate_expires: self.certificate_expires,
            certificate_id: self.certificate_id.clone(),
            certificate_authority: self.certificate_authority,
            server_root: self.server_root,
            service: self.method.only.map_or("ADS", TypeUrl::word).to_owned(),
            variant: if self.method.delta { "delta" } else { "sotw" }.to_owned(),
            agent: self.agent.to_string(),
            agent_version: self.agent_version.to_string(),
            drain_secs: self.drain_time.map(|time| time.as_secs()),
            responses: self.responses,
            types: TypeUrl::ALL
                .iter()
                .filter_map(|type_url| Some(self.types[*type_url as usize].as_ref()?.read(*type_url)))
                .collect(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
