//! What is known of every leaf: a read model that cannot hold a key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::{Serial, Timestamp};
use imbl::OrdMap;
use serde::{Serialize, Serializer};
use spiffe::{AuthorityId, IssuerName, NodeId, SpiffeId};
use xds::Version;

use crate::LeafKey;

/// Where a leaf stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeafPhase {
    /// There is none, and the node waits.
    Requested,
    /// There is a valid one.
    Held,
    /// There is a valid one, and the next is being made.
    Renewing,
    /// There is a valid one, the last attempt to renew it failed, and another will follow.
    Retrying,
}

/// One leaf of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeafStatus {
    /// Whose proxy.
    pub node: NodeId,
    /// Which identity.
    pub identity: SpiffeId,
    /// Where it stands.
    pub phase: LeafPhase,
    /// Whether a stream wants it now; if not, it is kept for a grace only.
    pub wanted: bool,
    /// Its serial number.
    pub serial: Option<Serial>,
    /// Who signed it.
    pub authority: Option<AuthorityId>,
    /// When it was issued.
    pub issued: Option<Timestamp>,
    /// When it ends.
    pub not_after: Option<Timestamp>,
    /// Whether what the node uses has passed 70 % of its life without a successor that it took.
    pub at_risk: bool,
    /// When the next request is due.
    pub next_request: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last of them said.
    pub last_error: Option<String>,
    /// The newest serial that the node acknowledged.
    pub acknowledged: Option<Serial>,
    /// Who signed that one.
    pub acknowledged_authority: Option<AuthorityId>,
    /// When that one ends.
    pub acknowledged_until: Option<Timestamp>,
    /// The names by which streams want it, each with the version that the newest acknowledged one has by it: whoever has
    /// another one has not taken that.
    #[serde(skip)]
    pub names: BTreeMap<Arc<str>, Option<Version>>,
    /// What the node said when it refused the leaf on offer.
    pub refusal: Option<String>,
}

/// A validation context as it is offered now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextStatus {
    /// The version under which it is offered; whoever acknowledged that one holds these roots.
    pub version: Version,
    /// The roots of our own trust domain in it.
    pub roots: BTreeSet<AuthorityId>,
    /// The numbers of the revocation lists in it, by authority; `None` if there are none in it.
    pub lists: Option<BTreeMap<AuthorityId, u64>>,
}

/// What happened since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SdsCounters {
    /// First leaves: a node asked for the first time, or again after our restart.
    pub deliveries: u64,
    /// Renewals by their own deadline.
    pub rotations: u64,
    /// Renewals before their time, because the authority was replaced or the leaf revoked.
    pub rotations_forced: u64,
    /// Requests that brought nothing.
    pub failures: u64,
    /// Leaves that ended while a node used them: before a new one was in hand, or before it took that.
    pub expired: u64,
    /// Names that were asked for and do not exist for the asker.
    pub refused_names: u64,
    /// Secrets that a proxy did not accept.
    pub refused_by_node: u64,
}

/// What came of one issuer's leaves since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct IssuerCounters {
    /// Leaves that it gave.
    pub issued: u64,
    /// Requests for one of its leaves that brought nothing.
    pub failed: u64,
    /// Leaves of it that a proxy did not accept.
    pub refused: u64,
}

/// All leaves at one moment. Published as `watch<Arc<SdsStatus>>`; cloning shares its parts.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SdsStatus {
    #[serde(serialize_with = "values")]
    pub(crate) leaves: OrdMap<LeafKey, Arc<LeafStatus>>,
    #[serde(skip)]
    pub(crate) contexts: OrdMap<String, ContextStatus>,
    pub(crate) bundle: u64,
    pub(crate) counters: SdsCounters,
    #[serde(skip)]
    pub(crate) issuers: BTreeMap<IssuerName, IssuerCounters>,
}

impl SdsStatus {
    /// Every leaf, by node and identity.
    pub fn leaves(&self) -> impl Iterator<Item = &LeafStatus> {
        self.leaves.values().map(Arc::as_ref)
    }

    /// One leaf.
    #[must_use]
    pub fn leaf(&self, node: &NodeId, identity: &SpiffeId) -> Option<&LeafStatus> {
        self.leaves.get(&LeafKey { node: node.clone(), identity: identity.clone() }).map(Arc::as_ref)
    }

    /// The validation context of that name as it is offered now; `None` if nobody asked for it since it changed.
    #[must_use]
    pub fn context(&self, name: &str) -> Option<&ContextStatus> {
        self.contexts.get(name)
    }

    /// The sequence number of the bundle that validation contexts are made from: nobody is served an older one.
    #[must_use]
    pub fn bundle(&self) -> u64 {
        self.bundle
    }

    /// When the first leaf ends, over all nodes.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.leaves.values().filter_map(|leaf| leaf.not_after).min()
    }

    /// What came of the leaves of one issuer.
    #[must_use]
    pub fn issuer(&self, name: &IssuerName) -> IssuerCounters {
        self.issuers.get(name).copied().unwrap_or_default()
    }

    /// What happened since the process started.
    #[must_use]
    pub fn counters(&self) -> SdsCounters {
        self.counters
    }
}

fn values<S: Serializer>(
    leaves: &OrdMap<LeafKey, Arc<LeafStatus>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(leaves.values().map(Arc::as_ref))
}
