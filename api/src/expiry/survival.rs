//! Until when each identity survives if its issuer stays down: as long as the leaf that its node acknowledged.
//!
//! A renewal that is issued and not acknowledged does not count yet: the proxy still shows the leaf before it. For
//! a node that is away nothing newer than its newest leaf can be in use.

use std::collections::{BTreeMap, HashMap, HashSet};

use ca::ports::{CertificateFilter, Journal};
use certs::{Profile, Serial, Timestamp};
use spiffe::{Bindings, NodeId, SpiffeId, Tenant};

use crate::calls::{CallError, unavailable};

/// How many leaves that were replaced and not yet acknowledged are looked up at a time; the others count by their
/// newest leaf until the next time.
const MAX_LOOKED_UP: usize = 256;

/// What one node that is, or was just now, connected makes of the leaf of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafFact {
    /// Where.
    pub node: NodeId,
    /// Whose.
    pub identity: SpiffeId,
    /// Whether a stream of the node uses it.
    pub is_wanted: bool,
    /// The newest leaf that the node acknowledged.
    pub acknowledged: Option<Serial>,
}

/// Tells what nodes make of their leaves.
pub trait LeafFacts: Send + Sync {
    /// All that is known now.
    fn facts(&self) -> Vec<LeafFact>;
}

/// The same, for looking up.
#[derive(Debug, Default)]
pub struct LeafView {
    facts: HashMap<(NodeId, SpiffeId), (bool, Option<Serial>)>,
    connected: HashSet<NodeId>,
}

impl LeafView {
    /// From what is known.
    #[must_use]
    pub fn new(facts: Vec<LeafFact>) -> Self {
        let connected = facts.iter().filter(|fact| fact.is_wanted).map(|fact| fact.node.clone()).collect();
        let facts =
            facts.into_iter().map(|fact| ((fact.node, fact.identity), (fact.is_wanted, fact.acknowledged)));
        Self { facts: facts.collect(), connected }
    }

    /// Whether `node` uses `identity`. A node that is connected says which it uses; one that is away may use all.
    #[must_use]
    pub fn may_use(&self, node: &NodeId, identity: &SpiffeId) -> bool {
        let key = (node.clone(), identity.clone());
        !self.connected.contains(node) || self.facts.get(&key).is_some_and(|(is_wanted, _)| *is_wanted)
    }

    fn acknowledged(&self, node: &NodeId, identity: &SpiffeId) -> Option<&Serial> {
        self.facts.get(&(node.clone(), identity.clone()))?.1.as_ref()
    }
}

/// How long one identity holds at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Whose.
    pub identity: SpiffeId,
    /// Where.
    pub node: NodeId,
    /// On whose account.
    pub tenant: Tenant,
    /// When the leaf in use was issued.
    pub since: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Whether the node said that it uses it; else it is the newest that was issued.
    pub is_acknowledged: bool,
}

/// How long one identity survives without its issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survival {
    /// Whose.
    pub identity: SpiffeId,
    /// Until then every node has a valid leaf of it.
    pub until: Timestamp,
    /// Where it ends first.
    pub first: NodeId,
    /// After this no node has one.
    pub last: Timestamp,
    /// At how many nodes it is.
    pub nodes: usize,
}

/// How long each identity holds at each node that is bound to it and has a leaf.
///
/// # Errors
/// When the journal cannot read.
pub async fn holds(
    journal: &dyn Journal,
    bindings: &Bindings,
    facts: &dyn LeafFacts,
    now: Timestamp,
) -> Result<Vec<Hold>, CallError> {
    let rows = journal.remaining(now).await.map_err(|error| unavailable("journal", &error))?;
    let view = LeafView::new(facts.facts());
    let (mut holds, mut looked_up) = (Vec::new(), 0);
    for row in rows.into_iter().filter(|row| row.profile == Profile::Workload) {
        let Some(node) = row.node else { continue };
        let binding = bindings.enabled(&node).filter(|binding| row.issued >= binding.created);
        if binding.is_none_or(|binding| !binding.identities.contains(&row.id)) {
            continue;
        }
        if !view.may_use(&node, &row.id) {
            continue;
        }
        let acknowledged = view.acknowledged(&node, &row.id).cloned();
        let mut hold = Hold {
            is_acknowledged: acknowledged.as_ref() == Some(&row.serial),
            identity: row.id,
            node,
            tenant: row.tenant,
            since: row.issued,
            until: row.not_after,
        };
        if let Some(serial) = acknowledged.filter(|_| !hold.is_acknowledged && looked_up < MAX_LOOKED_UP) {
            looked_up += 1;
            in_use(journal, serial, &mut hold).await?;
        }
        holds.push(hold);
    }
    holds.sort_by(|a, b| (a.until, &a.identity, &a.node).cmp(&(b.until, &b.identity, &b.node)));
    Ok(holds)
}

/// Replaces the leaf of `hold` by the one with this serial number, which its node still uses.
async fn in_use(journal: &dyn Journal, serial: Serial, hold: &mut Hold) -> Result<(), CallError> {
    let filter = CertificateFilter {
        serial: Some(serial),
        id: Some(hold.identity.clone()),
        node: Some(hold.node.clone()),
        limit: 1,
        ..CertificateFilter::default()
    };
    let rows = journal.certificates(&filter).await.map_err(|error| unavailable("journal", &error))?;
    if let Some(row) = rows.first() {
        (hold.since, hold.until, hold.is_acknowledged) = (row.intent.at, row.intent.not_after, true);
    }
    Ok(())
}

/// How long each identity of `holds` survives, soonest first.
#[must_use]
pub fn survivals(holds: &[Hold]) -> Vec<Survival> {
    let mut by_identity: BTreeMap<&SpiffeId, Survival> = BTreeMap::new();
    for hold in holds {
        let survival = by_identity.entry(&hold.identity).or_insert_with(|| Survival {
            identity: hold.identity.clone(),
            until: hold.until,
            first: hold.node.clone(),
            last: hold.until,
            nodes: 0,
        });
        survival.nodes += 1;
        survival.last = survival.last.max(hold.until);
        if hold.until < survival.until {
            (survival.until, survival.first) = (hold.until, hold.node.clone());
        }
    }
    let mut survivals: Vec<Survival> = by_identity.into_values().collect();
    survivals.sort_by(|a, b| (a.until, &a.identity).cmp(&(b.until, &b.identity)));
    survivals
}
