//! What a change would do, by nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::ordmap::DiffItem;
use spiffe::NodeId;

use super::Reaches;
use crate::{Resource, Snapshot, TypeUrl, ViewId, Views, model::Warning};

/// What a change would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// By nodes that get the same changes; nodes that get none are not in it.
    pub nodes: Vec<PlannedNodes>,
    /// What a person should read.
    pub warnings: Vec<Warning>,
    /// Whom each changed document reaches.
    pub reaches: Reaches,
}

/// Nodes, and the changes that all of them would get.
#[derive(Debug, Clone)]
pub struct PlannedNodes {
    /// The nodes, in order.
    pub nodes: Vec<NodeId>,
    /// The changes, in the order of sending.
    pub changes: Vec<ResourceChange>,
}

/// One resource that is added (no `before`), changed or removed (no `after`).
#[derive(Debug, Clone)]
pub struct ResourceChange {
    /// Its type.
    pub type_url: TypeUrl,
    /// Its name.
    pub name: Arc<str>,
    /// As it is.
    pub before: Option<Arc<Resource>>,
    /// As it would be.
    pub after: Option<Arc<Resource>>,
}

pub(super) fn diff(before: &Views, after: &Views) -> Vec<PlannedNodes> {
    let nodes: BTreeSet<&NodeId> = before.view_of.keys().chain(after.view_of.keys()).collect();
    let mut groups: BTreeMap<(Option<ViewId>, Option<ViewId>), Vec<NodeId>> = BTreeMap::new();
    for node in nodes {
        let views = (before.view_of.get(node).copied(), after.view_of.get(node).copied());
        groups.entry(views).or_default().push(node.clone());
    }
    let nothing = Arc::new(Snapshot::default());
    let planned = groups.into_iter().map(|((old, new), nodes)| {
        let old = old.and_then(|id| before.snapshots.get(&id)).unwrap_or(&nothing);
        let new = new.and_then(|id| after.snapshots.get(&id)).unwrap_or(&nothing);
        PlannedNodes { nodes, changes: changes(old, new) }
    });
    planned.filter(|planned| !planned.changes.is_empty()).collect()
}

fn changes(before: &Snapshot, after: &Snapshot) -> Vec<ResourceChange> {
    let mut changes = Vec::new();
    for type_url in TypeUrl::ALL {
        for item in before.of(type_url).diff(after.of(type_url)) {
            let (name, before, after) = match item {
                DiffItem::Add(name, new) => (name, None, Some(new)),
                DiffItem::Remove(name, old) => (name, Some(old), None),
                DiffItem::Update { old: (name, old), new: (_, new) } => (name, Some(old), Some(new)),
            };
            changes.push(ResourceChange {
                type_url,
                name: name.clone(),
                before: before.cloned(),
                after: after.cloned(),
            });
        }
    }
    changes
}
