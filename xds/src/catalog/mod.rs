//! The effective documents, and what each node gets of them. One owner holds the catalog; everybody else reads the
//! [`Views`] that it returns.
//!
//! Pure and incremental: a changed `Endpoints` document is one resource, encoded and hashed once, and put into the
//! snapshots that hold it. Nodes that the same documents reach share one view. A change that breaks a rule on any
//! node changes nothing.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, OrdSet};
use spiffe::{Binding, Bindings, Namespace, NodeId, SpiffeId, Tenant};

use crate::{
    Resource, TypeUrl, Version, ViewId, Views,
    counters::Counters,
    model::{Document, DocumentKey, FieldPath, Problems, Warning},
    translate::Denied,
    validate::{Context, NodeSet},
};

mod blocks;
mod challenges;
mod checks;
mod classes;
mod drains;
mod plan;
mod staging;

#[cfg(test)]
mod tests;

pub use self::blocks::Concerned;
pub use self::challenges::EdgeListener;
pub use self::plan::{Plan, PlannedNodes, ResourceChange};

use self::staging::Staging;

/// The most documents that can be effective at once.
pub const MAX_EFFECTIVE_DOCUMENTS: usize = 100_000;

/// One change of the effective documents.
#[derive(Debug, Clone)]
pub enum Change {
    /// The document is there, in this form.
    Put(Box<Document>),
    /// The document is gone.
    Delete(DocumentKey),
}

/// Which nodes a changed document reaches, or reached until now.
pub type Reaches = Vec<(DocumentKey, Vec<NodeId>)>;

/// A change that took effect.
#[derive(Debug, Clone)]
pub struct Applied {
    /// What every node gets now.
    pub views: Arc<Views>,
    /// What a person should read.
    pub warnings: Vec<Warning>,
    /// Whom each changed document reaches.
    pub reaches: Reaches,
}

/// A change of bindings that took effect.
#[derive(Debug, Clone)]
pub struct Rebound {
    /// What every node gets now.
    pub views: Arc<Views>,
    /// Nodes that would get a set of documents that does not fit together: they keep what they had.
    pub refused: Vec<(NodeId, Problems)>,
}

/// Where one resource of a node comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Its type.
    pub type_url: TypeUrl,
    /// Its name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Version,
    /// The document, and the field of it that it was made from; `None` for the empty endpoints of a cluster that
    /// no document gives addresses to, and for the filters that refuse who is blocked.
    pub cause: Option<Cause>,
}

/// What a resource was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The document.
    pub document: DocumentKey,
    /// The field of it.
    pub path: String,
    /// `file:line:column`.
    pub place: String,
}

/// A document with what it became.
#[derive(Debug)]
struct Held {
    document: Document,
    /// Each with the field it was made from.
    resources: Vec<(Arc<Resource>, FieldPath)>,
    /// Whom its nodes must be able to speak for.
    identities: Vec<(SpiffeId, FieldPath)>,
}

/// Names a class of nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ClassKey {
    tenant: Tenant,
    namespace: Namespace,
    /// The `ProxyConfig` documents that reach them, in order.
    members: Vec<DocumentKey>,
}

#[derive(Debug)]
struct Class {
    key: ClassKey,
    set: NodeSet,
}

/// Everything, in maps that are cheap to copy: a change is made on a copy, and the copy thrown away if it is bad.
#[derive(Debug, Clone, Default)]
struct State {
    documents: OrdMap<DocumentKey, Arc<Held>>,
    /// Enabled ones only.
    bindings: OrdMap<NodeId, Arc<Binding>>,
    views: Views,
    classes: OrdMap<ViewId, Arc<Class>>,
    ids: OrdMap<ClassKey, ViewId>,
    /// Which classes have a cluster that wants these endpoints.
    eds_users: OrdMap<DocumentKey, OrdSet<ViewId>>,
    /// Endpoints of clusters that no document gives addresses to.
    empty: OrdMap<Arc<str>, Arc<Resource>>,
    /// Whom proxies refuse.
    denied: Denied,
    /// The filters that do, each encoded once, for all.
    filters: OrdMap<Arc<str>, Arc<Resource>>,
    /// Nodes whose documents did not fit together when their binding changed.
    refused: OrdSet<NodeId>,
    next_view: u32,
}

/// See the module. A copy shares everything: whoever must write a change down before it takes effect makes it on a
/// copy.
#[derive(Debug, Clone)]
pub struct Catalog {
    context: Context,
    counters: Arc<Counters>,
    state: State,
}

impl Catalog {
    /// Without documents and nodes.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let mut catalog = Self { context, counters: Arc::default(), state: State::default() };
        catalog.state.views.drained = catalog.context.defaults.drains.all();
        catalog.deny(Denied::default());
        catalog
    }

    /// What it has cost so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What every node gets now.
    #[must_use]
    pub fn views(&self) -> Arc<Views> {
        Arc::new(self.state.views.clone())
    }

    /// The effective documents, in order.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        self.state.documents.values().map(|held| &held.document)
    }

    /// One effective document.
    #[must_use]
    pub fn document(&self, key: &DocumentKey) -> Option<&Document> {
        self.state.documents.get(key).map(|held| &held.document)
    }

    /// Says which nodes run on our own host. It holds for later changes; what is effective stays.
    pub fn set_local_nodes(&mut self, nodes: BTreeSet<NodeId>) {
        self.context.local_nodes = nodes;
    }

    /// Makes all of `changes` effective, or none.
    ///
    /// # Errors
    /// Every problem that they have or would make; the last state stands.
    pub fn apply(&mut self, changes: Vec<Change>) -> Result<Applied, Problems> {
        let staged = self.stage(changes)?;
        let Staged { mut state, warnings, reaches } = staged;
        state.views.revision += 1;
        self.state = state;
        Ok(Applied { views: self.views(), warnings, reaches })
    }

    /// Takes over what was effective before this process began, of an empty catalog. A rule on what Envoy takes that is
    /// younger than a document is a warning: the document stays as it is, until somebody changes it.
    ///
    /// # Errors
    /// As [`Catalog::apply`].
    pub fn restore(&mut self, changes: Vec<Change>) -> Result<Applied, Problems> {
        let mut staging = Staging::new(&self.context, &self.counters, self.state.clone()).restoring();
        staging.change(changes);
        let Staged { mut state, warnings, reaches } = staging.finish(&self.state)?;
        state.views.revision += 1;
        self.state = state;
        Ok(Applied { views: self.views(), warnings, reaches })
    }

    /// What [`Catalog::apply`] would do.
    ///
    /// # Errors
    /// As [`Catalog::apply`].
    pub fn plan(&self, changes: Vec<Change>) -> Result<Plan, Problems> {
        let Staged { state, warnings, reaches } = self.stage(changes)?;
        Ok(Plan { nodes: plan::diff(&self.state.views, &state.views), warnings, reaches })
    }

    /// Takes over changed bindings. Never refused as a whole: a node whose documents do not fit together keeps what
    /// it had, or gets nothing if it is new.
    pub fn bind(&mut self, bindings: &Bindings) -> Rebound {
        let mut staging = Staging::new(&self.context, &self.counters, self.state.clone());
        let refused = staging.bind(bindings);
        self.state = staging.state;
        self.state.views.revision += 1;
        Rebound { views: self.views(), refused }
    }

    /// Where each resource of `node` comes from, in the order of sending; `None` for a node without a binding.
    #[must_use]
    pub fn explain(&self, node: &NodeId) -> Option<Vec<Explained>> {
        let class = self.state.classes.get(self.state.views.view_of.get(node)?)?;
        let snapshot = self.state.views.get(node)?;
        let resources = TypeUrl::ALL.into_iter().flat_map(|type_url| snapshot.of(type_url).values());
        Some(resources.map(|resource| self.explain_resource(class, resource)).collect())
    }

    fn explain_resource(&self, class: &Class, resource: &Arc<Resource>) -> Explained {
        let owner = match resource.type_url() {
            TypeUrl::Endpoints => Some(class.key.endpoints(resource.name().clone())),
            type_url => class.set.owners.get(&(type_url, resource.name().clone())).cloned(),
        };
        let held = owner.and_then(|key| self.state.documents.get(&key));
        let cause = held.and_then(|held| {
            let (_, path) = held
                .resources
                .iter()
                .find(|(made, _)| made.type_url() == resource.type_url() && made.name() == resource.name())?;
            let place = held.document.source.place(path);
            Some(Cause {
                document: held.document.key.clone(),
                path: path.to_string(),
                place: format!("{}:{}:{}", held.document.source.file(), place.line, place.column),
            })
        });
        Explained {
            type_url: resource.type_url(),
            name: resource.name().clone(),
            version: resource.version().clone(),
            cause,
        }
    }

    fn stage(&self, changes: Vec<Change>) -> Result<Staged, Problems> {
        let mut staging = Staging::new(&self.context, &self.counters, self.state.clone());
        staging.change(changes);
        staging.finish(&self.state)
    }
}

/// A change that breaks no rule.
struct Staged {
    state: State,
    warnings: Vec<Warning>,
    reaches: Reaches,
}

impl ClassKey {
    /// The key of the document that gives addresses to an EDS name of this class.
    fn endpoints(&self, name: Arc<str>) -> DocumentKey {
        DocumentKey {
            tenant: self.tenant.clone(),
            namespace: self.namespace.clone(),
            kind: crate::model::Kind::Endpoints,
            name,
        }
    }
}

/// Checks documents by themselves, as far as that is possible without the nodes: what `check` does offline.
///
/// # Errors
/// Every problem that they have.
pub fn check(documents: Vec<Document>, context: Context) -> Result<Vec<Warning>, Problems> {
    let changes = documents.into_iter().map(|document| Change::Put(Box::new(document))).collect();
    Catalog::new(context).plan(changes).map(|plan| plan.warnings)
}
