//! How delivery stands, in the words of the management door.

use std::{sync::Arc, time::Duration};

use api::{calls::configs::Locality, node::NodeDoor, sources::Delivery, wire};
use certs::Timestamp;
use spiffe::{AuthorityId, NodeId, Trust};
use tokio::sync::watch;
use xds::{Board, NodeStatus, Snapshot, Sync, TypeUrl, Uptake, XdsServer};

use crate::config::Config;

/// The board of delivery, and the streams it is about.
pub(super) struct BoardDelivery {
    pub(super) board: Arc<Board>,
    pub(super) xds: XdsServer,
    pub(super) nodes: Arc<NodeDoor>,
    pub(super) trust: watch::Receiver<Arc<Trust>>,
}

impl BoardDelivery {
    /// Which bundle the node holds, as its agent said last.
    fn bundle(&self, node: &NodeId) -> Option<wire::HeldBundle> {
        let report = self.nodes.reported_bundle(node)?;
        let wanted = self.trust.borrow().own().content_hash();
        Some(wire::HeldBundle {
            sha256: report.bundle.map(hex::encode),
            is_current: report.bundle == Some(wanted),
            reported: report.at.to_string(),
        })
    }
}

impl Delivery for BoardDelivery {
    fn status(&self, node: &NodeId) -> wire::ProxyStatus {
        let status = match self.board.node(node) {
            Some(status) => to_wire(&status),
            None => wire::ProxyStatus { sync: "OFFLINE".to_owned(), ..wire::ProxyStatus::default() },
        };
        wire::ProxyStatus { bundle: self.bundle(node), ..status }
    }

    fn resync(&self, node: &NodeId) -> usize {
        self.xds.end_streams_of(node)
    }

    fn uptake(&self, node: &NodeId, snapshot: &Snapshot, types: &[TypeUrl]) -> Uptake {
        self.board.uptake(node, snapshot, types)
    }

    fn drain_time(&self, node: &NodeId) -> Option<Duration> {
        self.board.drain_time(node)
    }

    fn shown_authorities(&self, node: &NodeId) -> Vec<AuthorityId> {
        let agent = self.nodes.reported_bundle(node).map(|report| report.authority);
        self.board.shown_authority(node).into_iter().chain(agent).collect()
    }
}

/// Which nodes run on our own host, and so cannot listen where we do: all of them if we listen on loopback only,
/// else those that connected over it.
pub(super) fn locality(config: &Config, board: Arc<Board>) -> Locality {
    let all = config.grpc.address.is_loopback();
    Box::new(move |bindings| {
        if all {
            return bindings.iter().map(|binding| binding.node.clone()).collect();
        }
        let here = |node: &NodeStatus| node.streams.iter().any(|stream| stream.remote.ip().is_loopback());
        board.nodes().into_iter().filter(here).map(|node| node.node).collect()
    })
}

/// Counts of nodes for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Summary {
    pub(super) connected: usize,
    pub(super) synced: usize,
    pub(super) refusing: usize,
    pub(super) next_expiry: Option<Timestamp>,
}

impl Summary {
    /// Of everything on `board`.
    pub(super) fn of(board: &Board) -> Self {
        let mut summary = Self::default();
        for node in board.nodes() {
            summary.connected += usize::from(node.is_connected);
            summary.synced += usize::from(node.is_connected && node.sync == Sync::Synced);
            summary.refusing += usize::from(node.sync == Sync::Nack);
            for stream in &node.streams {
                let ends = stream.certificate_expires;
                summary.next_expiry = Some(summary.next_expiry.map_or(ends, |next| next.min(ends)));
            }
        }
        summary
    }
}

fn to_wire(node: &NodeStatus) -> wire::ProxyStatus {
    let newest = node.streams.iter().max_by_key(|stream| stream.since);
    let sync = if node.is_connected { word(node.sync) } else { "OFFLINE" };
    wire::ProxyStatus {
        connected: node.is_connected,
        // Of a node that is away the last stream is known, and none is open.
        streams: if node.is_connected { node.streams.len() } else { 0 },
        since: Some(
            node.streams.iter().map(|stream| stream.since).min().unwrap_or(node.last_seen).to_string(),
        ),
        remote: newest.map(|stream| stream.remote.to_string()),
        version: newest
            .map(|stream| format!("{} {}", stream.agent, stream.agent_version).trim().to_owned())
            .filter(|version| !version.is_empty()),
        certificate_expires: newest.map(|stream| stream.certificate_expires.to_string()),
        sync: sync.to_owned(),
        types: newest.map(|stream| stream.types.iter().map(type_to_wire).collect()).unwrap_or_default(),
        bundle: None,
        server_root: newest.and_then(|stream| stream.server_root).map(|root| root.to_string()),
        proven_roots: node.proven_roots.iter().map(|(root, at)| (root.to_string(), at.to_string())).collect(),
    }
}

/// How many that were not sent are named of a type.
const MAX_WAITED: usize = 8;

fn type_to_wire(status: &xds::TypeStatus) -> wire::TypeStatus {
    let not_sent = || status.resources.iter().filter(|resource| resource.sync == Sync::NotSent);
    let refusals = status.resources.iter().filter_map(|resource| resource.nack.as_ref());
    let latest = refusals.max_by_key(|nack| nack.at);
    wire::TypeStatus {
        word: status.word.clone(),
        type_url: status.type_url.clone(),
        sync: word(status.sync).to_owned(),
        waits_for: not_sent().take(MAX_WAITED).map(|resource| resource.name.clone()).collect(),
        waiting: not_sent().count(),
        sent: status.resources.iter().filter_map(|resource| resource.sent.clone()).next_back(),
        sent_at: Some(status.at.to_string()),
        acked: status.resources.iter().filter_map(|resource| resource.acked.clone()).next_back(),
        acked_at: None,
        refusal: latest.map(|nack| wire::Refusal {
            at: nack.at.to_string(),
            version: nack.version.clone(),
            message: nack.words.clone(),
        }),
        resources: status
            .resources
            .iter()
            .map(|resource| wire::ResourceStatus {
                name: resource.name.clone(),
                sent: resource.sent.clone(),
                acked: resource.acked.clone(),
                refusal: resource.nack.as_ref().map(|nack| nack.words.clone()),
            })
            .collect(),
    }
}

fn word(sync: Sync) -> &'static str {
    match sync {
        Sync::Synced => "SYNCED",
        Sync::NotSent => "NOT SENT",
        Sync::Stale => "STALE",
        Sync::Nack => "NACK",
    }
}
