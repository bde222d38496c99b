//! Who is refused, in everything that nodes get: two filters that all share, and the clusters that would take a
//! blocked server for theirs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spiffe::{NodeId, SpiffeId};

use super::{Catalog, Class, Held, staging::Staging};
use crate::{
    Resource, Snapshot, TypeUrl, ViewId, Views,
    model::{Cluster, Document, DocumentKey, Spec},
    translate::{Denied, is_touched, may_hold_session, names_server, translate},
};

impl Catalog {
    /// Whom proxies refuse now.
    #[must_use]
    pub fn denied(&self) -> &Denied {
        &self.state.denied
    }

    /// Makes every proxy refuse exactly `denied`. It touches the two filters, and clusters whose servers are not the
    /// same any more; no listener.
    pub fn deny(&mut self, denied: Denied) -> Arc<Views> {
        let mut staging = Staging::new(&self.context, &self.counters, self.state.clone());
        staging.deny(denied);
        self.state = staging.state;
        self.state.views.revision += 1;
        self.views()
    }

    /// What a block of `id`, or lifting it, concerns.
    #[must_use]
    pub fn concerned(&self, id: &SpiffeId) -> Concerned {
        let mut by_class: BTreeMap<ViewId, (usize, usize)> = BTreeMap::new();
        for (view, class) in &self.state.classes {
            let held = class.key.members.iter().filter_map(|member| self.state.documents.get(member));
            let configs = held.filter_map(|held| match &held.document.spec {
                Spec::ProxyConfig(config) => Some(config),
                Spec::Endpoints(_) => None,
            });
            let counts = configs.fold((0, 0), |(clusters, listeners), config| {
                let named = config.clusters.iter().filter(|cluster| names_server(cluster, id)).count();
                let defaults = &self.context.defaults;
                let holds = config
                    .listeners
                    .iter()
                    .filter(|listener| may_hold_session(listener, &config.clusters, id, defaults));
                (clusters + named, listeners + holds.count())
            });
            by_class.insert(*view, counts);
        }
        let mut concerned = Concerned::default();
        for (node, view) in &self.state.views.view_of {
            let (clusters, listeners) = by_class.get(view).copied().unwrap_or_default();
            concerned.clusters += clusters;
            concerned.cluster_nodes += usize::from(clusters > 0);
            concerned.tcp_listeners += listeners;
            if listeners > 0 {
                concerned.tcp_nodes.insert(node.clone());
            }
        }
        concerned
    }
}

/// What a block concerns, node by node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Concerned {
    /// Clusters that name the identity for a server, counted on every node.
    pub clusters: usize,
    /// The nodes that have them.
    pub cluster_nodes: usize,
    /// Listeners with TCP chains that admit the identity or lead to it, counted on every node: it may have sessions
    /// there, which no filter ends.
    pub tcp_listeners: usize,
    /// The nodes that have them.
    pub tcp_nodes: BTreeSet<NodeId>,
}

impl Staging<'_> {
    fn deny(&mut self, denied: Denied) {
        let before = std::mem::replace(&mut self.state.denied, denied);
        for made in self.state.denied.filters() {
            let (filter, _) = self.encode(made, None);
            let same = self.state.filters.get(filter.name()).is_some_and(|old| **old == *filter);
            if !same {
                self.state.filters.insert(filter.name().clone(), filter);
            }
        }
        let after = self.state.denied.clone();
        let touched = self.translate_again(|document| clusters(document, &before, &after).next().is_some());
        self.put_into_views(&touched);
    }

    /// Makes the resources of some documents anew, and says which these are.
    pub(super) fn translate_again(
        &mut self,
        is_touched: impl Fn(&Document) -> bool,
    ) -> BTreeSet<DocumentKey> {
        let touched: Vec<(DocumentKey, Arc<Held>)> = self
            .state
            .documents
            .iter()
            .filter(|(_, held)| is_touched(&held.document))
            .map(|(key, held)| (key.clone(), held.clone()))
            .collect();
        for (key, held) in &touched {
            let all = translate(&held.document, &self.context.defaults, &self.state.denied);
            let resources = all.into_iter().map(|made| self.encode(made, Some(held))).collect();
            let again =
                Held { document: held.document.clone(), resources, identities: held.identities.clone() };
            self.state.documents.insert(key.clone(), Arc::new(again));
        }
        touched.into_iter().map(|(key, _)| key).collect()
    }

    /// Puts the resources of these documents, and the filters, in the place of those of their names, wherever they are.
    pub(super) fn put_into_views(&mut self, documents: &BTreeSet<DocumentKey>) {
        let classes: Vec<(ViewId, Arc<Class>)> =
            self.state.classes.iter().map(|(id, class)| (*id, class.clone())).collect();
        for (id, class) in classes {
            let Some(old) = self.state.views.snapshots.get(&id) else { continue };
            let mut snapshot = Snapshot::clone(old);
            let mut is_changed = false;
            for held in class.key.members.iter().filter(|member| documents.contains(member)) {
                let Some(held) = self.state.documents.get(held) else { continue };
                for (resource, _) in &held.resources {
                    is_changed |= replace(&mut snapshot, resource);
                }
            }
            for filter in self.state.filters.values() {
                is_changed |= replace(&mut snapshot, filter);
            }
            if is_changed {
                self.state.views.snapshots.insert(id, Arc::new(snapshot));
            }
        }
    }

    /// The filters that `resources` name.
    pub(super) fn filters_of(&self, resources: &[Arc<Resource>]) -> Vec<Arc<Resource>> {
        let names = resources.iter().flat_map(|resource| resource.references());
        let names: BTreeSet<&Arc<str>> =
            names.filter(|(type_url, _)| *type_url == TypeUrl::Extension).map(|(_, name)| name).collect();
        names.into_iter().filter_map(|name| self.state.filters.get(name).cloned()).collect()
    }
}

fn clusters<'a>(
    document: &'a Document,
    before: &'a Denied,
    after: &'a Denied,
) -> impl Iterator<Item = &'a Cluster> {
    let clusters = match &document.spec {
        Spec::ProxyConfig(config) => config.clusters.as_slice(),
        Spec::Endpoints(_) => &[],
    };
    clusters.iter().filter(move |cluster| is_touched(cluster, before, after))
}

/// Puts a resource in the place of another of its name, if there is one; says whether there was.
fn replace(snapshot: &mut Snapshot, resource: &Arc<Resource>) -> bool {
    let present = snapshot.get(resource.type_url(), resource.name());
    let is_other = present.is_some_and(|present| !Arc::ptr_eq(present, resource));
    if is_other {
        snapshot.insert(resource.clone());
    }
    is_other
}
