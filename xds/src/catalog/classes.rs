//! Which nodes belong together, and what each class of them gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spiffe::{Binding, BindingState, Bindings, Labels, Namespace, NodeId, Tenant};

use super::{Class, ClassKey, Held, staging::Staging};
use crate::{
    Resource, Snapshot, TypeUrl, ViewId,
    model::{Document, DocumentKey, Kind, Problems},
    validate::{Findings, Member, NodeSet},
};

/// A changed document, if there still is one.
type Changed<'a> = (&'a DocumentKey, Option<&'a Document>);

impl Staging<'_> {
    /// Which class each node belongs to now, as far as changed documents have a say in it.
    pub(super) fn moves(&self) -> BTreeMap<ClassKey, Vec<NodeId>> {
        // By namespace, with the document if there still is one.
        let mut configs: BTreeMap<(&Tenant, &Namespace), Vec<Changed<'_>>> = BTreeMap::new();
        for key in self.changed.iter().filter(|key| key.kind == Kind::ProxyConfig) {
            let document = self.state.documents.get(key).map(|held| &held.document);
            configs.entry((&key.tenant, &key.namespace)).or_default().push((key, document));
        }
        let is_named = |changed: &[Changed<'_>], node: &NodeId| {
            let mut selectors = changed.iter().filter_map(|(_, document)| document.and_then(Document::node));
            selectors.any(|named| named == node.as_str())
        };
        // Nodes that look alike to selectors, and have the same class, go to the same class. Whoever a selector names looks
        // like nobody else.
        let mut alike: BTreeMap<(ViewId, &Labels, Option<&NodeId>), Option<ClassKey>> = BTreeMap::new();
        let mut moves: BTreeMap<ClassKey, Vec<NodeId>> = BTreeMap::new();
        for (node, binding) in &self.state.bindings {
            let Some(changed) = configs.get(&(&binding.tenant, &binding.namespace)) else { continue };
            let id = self.state.views.view_of.get(node).copied();
            let class = id.and_then(|id| self.state.classes.get(&id));
            let target = match (id, class) {
                (Some(id), Some(class)) if !self.state.refused.contains(node) => alike
                    .entry((id, &binding.labels, is_named(changed, node).then_some(node)))
                    .or_insert_with(|| self.next_class(class, changed, binding))
                    .clone(),
                _ => Some(self.class_of(binding)),
            };
            if let Some(target) = target {
                moves.entry(target).or_default().push(node.clone());
            }
        }
        moves
    }

    /// Where the nodes of `class` that look like `binding` go; `None` when nothing changes for them.
    fn next_class(&self, class: &Class, changed: &[Changed<'_>], binding: &Binding) -> Option<ClassKey> {
        let kept = class.key.members.iter().filter(|member| !self.changed.contains(*member));
        let mut members: Vec<_> = kept.cloned().collect();
        let lost = members.len() < class.key.members.len();
        let now =
            changed.iter().filter(|(_, document)| document.is_some_and(|document| document.reaches(binding)));
        let before = members.len();
        members.extend(now.map(|(key, _)| (*key).clone()));
        if !lost && members.len() == before {
            return None;
        }
        members.sort();
        Some(ClassKey { members, ..class.key.clone() })
    }

    /// The class of a node, from all documents of its namespace.
    fn class_of(&self, binding: &Binding) -> ClassKey {
        let members = self.configs_of(binding).filter(|held| held.document.reaches(binding));
        ClassKey {
            tenant: binding.tenant.clone(),
            namespace: binding.namespace.clone(),
            members: members.map(|held| held.document.key.clone()).collect(),
        }
    }

    fn configs_of(&self, binding: &Binding) -> impl Iterator<Item = &Arc<Held>> {
        let first = DocumentKey {
            tenant: binding.tenant.clone(),
            namespace: binding.namespace.clone(),
            kind: Kind::ProxyConfig,
            name: "".into(),
        };
        let same = |key: &DocumentKey, first: &DocumentKey| {
            key.tenant == first.tenant && key.namespace == first.namespace && key.kind == first.kind
        };
        let from = first.clone();
        self.state.documents.range(first..).take_while(move |(key, _)| same(key, &from)).map(|(_, held)| held)
    }

    /// Moves nodes to their classes, and builds those that are new or hold a changed document.
    pub(super) fn regroup(&mut self, moves: BTreeMap<ClassKey, Vec<NodeId>>) {
        for (key, nodes) in moves {
            let mut findings = Findings::default();
            let id = self.class(&key, nodes.first(), &mut findings);
            for node in nodes {
                let mut of_node = findings.clone();
                self.check_node(&node, &key, &mut of_node);
                if of_node.problems.is_empty() {
                    self.state.refused.remove(&node);
                } else if self.state.refused.contains(&node) {
                    // It did not fit before either, and it is not this change that must answer for it.
                    continue;
                }
                self.findings.append(of_node);
                self.state.views.view_of.insert(node, id);
            }
        }
        self.sweep();
    }

    /// The id of a class, whose snapshot is up to date afterwards. `like` is a node that goes there: what it has
    /// now is the base, so that what stays is shared.
    fn class(&mut self, key: &ClassKey, like: Option<&NodeId>, findings: &mut Findings) -> ViewId {
        let known = self.state.ids.get(key).copied();
        if let Some(id) = known
            && !key.members.iter().any(|member| self.changed.contains(member))
        {
            return id;
        }
        let held: Vec<Arc<Held>> =
            key.members.iter().filter_map(|member| self.state.documents.get(member).cloned()).collect();
        let members: Vec<Member<'_>> = held.iter().filter_map(|held| Member::of(&held.document)).collect();
        let set = NodeSet::collect(&members, findings);
        for (member, held) in members.iter().zip(&held) {
            set.check_references(*member, findings);
            if self.changed.contains(&held.document.key) {
                self.check_endpoints(key, *member, findings);
            }
        }
        let id = known.unwrap_or_else(|| {
            self.state.next_view += 1;
            ViewId(self.state.next_view)
        });
        let base = self.state.views.snapshots.get(&id).cloned();
        let base = base.or_else(|| like.and_then(|node| self.state.views.get(node).cloned()));
        let mut wanted: Vec<Arc<Resource>> = held
            .iter()
            .flat_map(|held| held.resources.iter().map(|(resource, _)| resource.clone()))
            .collect();
        wanted.extend(set.eds.iter().map(|name| self.endpoints(key, name)));
        wanted.extend(self.filters_of(&wanted));
        let snapshot = rebase(base.as_deref(), wanted);
        self.state.views.snapshots.insert(id, Arc::new(snapshot));
        self.forget_users(id);
        for name in &set.eds {
            self.state.eds_users.entry(key.endpoints(name.clone())).or_default().insert(id);
        }
        self.state.ids.insert(key.clone(), id);
        self.state.classes.insert(id, Arc::new(Class { key: key.clone(), set }));
        id
    }

    fn forget_users(&mut self, id: ViewId) {
        let Some(class) = self.state.classes.get(&id).cloned() else { return };
        for name in &class.set.eds {
            let key = class.key.endpoints(name.clone());
            if let Some(users) = self.state.eds_users.get_mut(&key) {
                users.remove(&id);
                if users.is_empty() {
                    self.state.eds_users.remove(&key);
                }
            }
        }
    }

    /// Forgets classes that no node is in.
    pub(super) fn sweep(&mut self) {
        let used: BTreeSet<ViewId> = self.state.views.view_of.values().copied().collect();
        let unused: Vec<ViewId> =
            self.state.classes.keys().filter(|id| !used.contains(id)).copied().collect();
        for id in unused {
            self.forget_users(id);
            if let Some(class) = self.state.classes.remove(&id) {
                self.state.ids.remove(&class.key);
            }
            self.state.views.snapshots.remove(&id);
        }
    }

    /// Takes over bindings; returns nodes whose documents do not fit together.
    pub(super) fn bind(&mut self, bindings: &Bindings) -> Vec<(NodeId, Problems)> {
        let enabled = bindings.iter().filter(|binding| binding.state == BindingState::Enabled);
        let new: imbl::OrdMap<NodeId, Arc<Binding>> = enabled
            .map(|binding| match self.state.bindings.get(&binding.node) {
                Some(same) if **same == *binding => (binding.node.clone(), same.clone()),
                _ => (binding.node.clone(), Arc::new(binding.clone())),
            })
            .collect();
        let gone: Vec<_> =
            self.state.bindings.keys().filter(|node| !new.contains_key(*node)).cloned().collect();
        for node in gone {
            self.state.views.view_of.remove(&node);
            self.state.refused.remove(&node);
        }
        let old = std::mem::replace(&mut self.state.bindings, new.clone());
        let mut moves: BTreeMap<ClassKey, Vec<NodeId>> = BTreeMap::new();
        for (node, binding) in &new {
            let same = old.get(node).is_some_and(|old| Arc::ptr_eq(old, binding));
            if !same || self.state.refused.contains(node) {
                moves.entry(self.class_of(binding)).or_default().push(node.clone());
            }
        }
        let mut refused = Vec::new();
        for (key, nodes) in moves {
            let mut findings = Findings::default();
            let id = self.class(&key, nodes.first(), &mut findings);
            for node in nodes {
                let mut of_node = findings.clone();
                self.check_node(&node, &key, &mut of_node);
                if of_node.problems.is_empty() {
                    self.state.refused.remove(&node);
                    self.state.views.view_of.insert(node, id);
                    continue;
                }
                self.state.refused.insert(node.clone());
                if !self.state.views.view_of.contains_key(&node) {
                    let nothing = ClassKey { members: Vec::new(), ..key.clone() };
                    let nothing = self.class(&nothing, None, &mut Findings::default());
                    self.state.views.view_of.insert(node.clone(), nothing);
                }
                refused.push((node, Problems::sorted(of_node.problems)));
            }
        }
        self.sweep();
        refused
    }
}

/// `base` with exactly the wanted resources: what stays is shared with it.
fn rebase(base: Option<&Snapshot>, wanted: Vec<Arc<Resource>>) -> Snapshot {
    let mut snapshot = base.cloned().unwrap_or_default();
    let names: BTreeSet<(TypeUrl, Arc<str>)> =
        wanted.iter().map(|resource| (resource.type_url(), resource.name().clone())).collect();
    for type_url in TypeUrl::ALL {
        let present: Vec<Arc<str>> = snapshot.of(type_url).keys().cloned().collect();
        for name in present.into_iter().filter(|name| !names.contains(&(type_url, name.clone()))) {
            snapshot.remove(type_url, &name);
        }
    }
    for resource in wanted {
        let present = snapshot.get(resource.type_url(), resource.name());
        if present.is_none_or(|present| !Arc::ptr_eq(present, &resource)) {
            snapshot.insert(resource);
        }
    }
    snapshot
}
