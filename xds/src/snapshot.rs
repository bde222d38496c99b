//! What a node may have at one moment, and how views are shared between nodes.

use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use spiffe::NodeId;

use crate::{Resource, TypeUrl};

/// The complete, consistent set of public resources for a class of nodes. Persistent: a changed copy costs the
/// change, and everything else is shared.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    by_type: [OrdMap<Arc<str>, Arc<Resource>>; TypeUrl::ALL.len()],
}

impl Snapshot {
    /// The resources of one type by name.
    #[must_use]
    pub fn of(&self, type_url: TypeUrl) -> &OrdMap<Arc<str>, Arc<Resource>> {
        &self.by_type[type_url as usize]
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, type_url: TypeUrl, name: &str) -> Option<&Arc<Resource>> {
        self.of(type_url).get(name)
    }

    /// Adds or replaces a resource.
    pub fn insert(&mut self, resource: Arc<Resource>) {
        self.by_type[resource.type_url() as usize].insert(resource.name().clone(), resource);
    }

    /// Removes a resource.
    pub fn remove(&mut self, type_url: TypeUrl, name: &str) {
        self.by_type[type_url as usize].remove(name);
    }
}

/// Names a class of nodes that the same documents reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewId(pub u32);

/// Which snapshot each node has, at one revision of everything. Published as `watch<Arc<Views>>`. Cheap to clone;
/// a change of one resource touches the snapshots that hold it, however many nodes share them.
#[derive(Debug, Clone, Default)]
pub struct Views {
    /// Grows with every publication.
    pub revision: u64,
    /// The drain generation of every connection between proxies. No name of a secret has a later one.
    pub drained: u64,
    /// The class of each node.
    pub view_of: HashMap<NodeId, ViewId>,
    /// The snapshot of each class.
    pub snapshots: HashMap<ViewId, Arc<Snapshot>>,
}

impl Views {
    /// The snapshot of `node`.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&Arc<Snapshot>> {
        self.snapshots.get(self.view_of.get(node)?)
    }
}
