//! A change, made on a copy of the state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spiffe::{Binding, BindingState, Bindings, Labels, Namespace, NodeId, Tenant};

use super::{Change, Class, ClassKey, Held, Reaches, Staged, State};
use crate::{
    Resource, Snapshot, TypeUrl, ViewId,
    counters::Counters,
    model::{Document, DocumentKey, Kind, Problem, Problems, Spec, node::At},
    translate::{self, Made, eds_name, translate},
    validate::{Context, Findings, Member, NodeSet, check_document, check_envoy, identities_of},
};

pub(super) struct Staging<'a> {
    context: &'a Context,
    counters: &'a Counters,
    pub(super) state: State,
    findings: Findings,
    changed: BTreeSet<DocumentKey>,
}

impl<'a> Staging<'a> {
    pub(super) fn new(context: &'a Context, counters: &'a Counters, state: State) -> Self {
        Self { context, counters, state, findings: Findings::default(), changed: BTreeSet::new() }
    }

    pub(super) fn change(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(document) => self.put(*document),
                Change::Delete(key) => self.delete(key),
            }
        }
        let moves = self.moves();
        self.regroup(moves);
        self.swap_endpoints();
        self.check_unreached();
    }

    pub(super) fn finish(self, before: &State) -> Result<Staged, Problems> {
        if !self.findings.problems.is_empty() {
            return Err(Problems::sorted(self.findings.problems));
        }
        let reaches = self.reaches(before);
        let mut warnings = self.findings.warnings;
        warnings.sort();
        warnings.dedup();
        Ok(Staged { state: self.state, warnings, reaches })
    }

    fn put(&mut self, document: Document) {
        let key = document.key.clone();
        if self.changed.contains(&key) {
            let earlier = self.state.documents.get(&key);
            let place = earlier.map(|held| At::spec(&held.document.source).cite()).unwrap_or_default();
            let at =
                At::new(&document.source, crate::model::FieldPath::default().key("metadata").key("name"));
            let message = format!("{key} is given twice, first at {place}");
            self.findings.refuse(&at, "duplicate-document", message, "give each document once");
            return;
        }
        let mut findings = check_document(&document, &self.context.defaults);
        let all = translate(&document, &self.context.defaults);
        if findings.problems.is_empty() {
            for made in &all {
                check_envoy(&document, made, &self.context.defaults, &mut findings);
            }
        }
        let mut identities = Vec::new();
        if let Some(member) = Member::of(&document) {
            NodeSet::collect(&[member], &mut findings);
            NodeSet::check_own_addresses(member, false, self.context, &mut findings);
            identities = identities_of(member).into_iter().map(|(id, at)| (id.clone(), at.path)).collect();
        }
        self.findings.append(findings);
        let previous = self.state.documents.get(&key).cloned();
        let resources = all.into_iter().map(|made| self.encode(made, previous.as_deref())).collect();
        self.state.documents.insert(key.clone(), Arc::new(Held { document, resources, identities }));
        self.changed.insert(key);
    }

    fn delete(&mut self, key: DocumentKey) {
        if self.state.documents.remove(&key).is_none() {
            self.findings.problems.push(Problem {
                file: "".into(),
                line: 0,
                column: 0,
                path: String::new(),
                value: String::new(),
                rule: "not-found".to_owned(),
                message: format!("{key} does not exist"),
                hint: "see what is there with: credence get".to_owned(),
            });
        }
        self.changed.insert(key);
    }

    /// A resource; the one that the document had before if it is the same, so that streams see no change.
    fn encode(&self, made: Made, previous: Option<&Held>) -> (Arc<Resource>, crate::model::FieldPath) {
        self.counters.count_encoded();
        self.counters.count_hashed();
        let Made { type_url, name, content, references, origin } = made;
        let resource = Resource::new(type_url, name, content, references);
        let same = previous.and_then(|held| {
            held.resources.iter().map(|(old, _)| old).find(|old| {
                old.type_url() == type_url
                    && old.name() == resource.name()
                    && old.version() == resource.version()
            })
        });
        (same.cloned().unwrap_or_else(|| Arc::new(resource)), origin)
    }

    /// Which class each node belongs to now, as far as changed documents have a say in it.
    fn moves(&self) -> BTreeMap<ClassKey, Vec<NodeId>> {
        // By namespace, with the document if there still is one.
        let mut configs: BTreeMap<(&Tenant, &Namespace), Vec<(&DocumentKey, Option<&Document>)>> =
            BTreeMap::new();
        for key in self.changed.iter().filter(|key| key.kind == Kind::ProxyConfig) {
            let document = self.state.documents.get(key).map(|held| &held.document);
            configs.entry((&key.tenant, &key.namespace)).or_default().push((key, document));
        }
        // Nodes that look alike to selectors, and have the same class, go to the same class.
        let mut alike: BTreeMap<(ViewId, &Labels), Option<ClassKey>> = BTreeMap::new();
        let mut moves: BTreeMap<ClassKey, Vec<NodeId>> = BTreeMap::new();
        for (node, binding) in &self.state.bindings {
            let Some(changed) = configs.get(&(&binding.tenant, &binding.namespace)) else { continue };
            let id = self.state.views.view_of.get(node).copied();
            let class = id.and_then(|id| self.state.classes.get(&id));
            let target = match (id, class) {
                (Some(id), Some(class)) if !self.state.refused.contains(node) => alike
                    .entry((id, &binding.labels))
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
    fn next_class(
        &self,
        class: &Class,
        changed: &[(&DocumentKey, Option<&Document>)],
        binding: &Binding,
    ) -> Option<ClassKey> {
        let kept = class.key.members.iter().filter(|member| !self.changed.contains(*member));
        let mut members: Vec<_> = kept.cloned().collect();
        let lost = members.len() < class.key.members.len();
        let now = changed
            .iter()
            .filter(|(_, document)| document.is_some_and(|document| reaches(document, binding)));
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
        let members = self.configs_of(binding).filter(|held| reaches(&held.document, binding));
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
    fn regroup(&mut self, moves: BTreeMap<ClassKey, Vec<NodeId>>) {
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

    /// The endpoints of an EDS name, empty if no document gives them.
    fn endpoints(&mut self, class: &ClassKey, name: &Arc<str>) -> Arc<Resource> {
        let document = self.state.documents.get(&class.endpoints(name.clone()));
        if let Some((resource, _)) = document.and_then(|held| held.resources.first()) {
            return resource.clone();
        }
        if let Some(empty) = self.state.empty.get(name) {
            return empty.clone();
        }
        let (empty, _) = self.encode(translate::empty_endpoints(name), None);
        self.state.empty.insert(name.clone(), empty.clone());
        empty
    }

    /// What a node must be able to do itself.
    fn check_node(&self, node: &NodeId, class: &ClassKey, findings: &mut Findings) {
        let Some(binding) = self.state.bindings.get(node) else { return };
        for held in class.members.iter().filter_map(|member| self.state.documents.get(member)) {
            for (id, path) in held.identities.iter().filter(|(id, _)| !binding.identities.contains(id)) {
                let at = At::new(&held.document.source, path.clone());
                let known: Vec<_> = binding.identities.iter().map(ToString::to_string).collect();
                let message =
                    format!("node {node} does not speak for {id}, which {} needs", held.document.key);
                let hint = format!(
                    "it has {}; enrol it with --identity {id}, or narrow the selector",
                    known.join(", ")
                );
                findings.refuse(&at, "identity-not-bound", message, hint);
            }
            if self.context.local_nodes.contains(node)
                && let Some(member) = Member::of(&held.document)
            {
                NodeSet::check_own_addresses(member, true, self.context, findings);
            }
        }
    }

    fn check_endpoints(&self, class: &ClassKey, member: Member<'_>, findings: &mut Findings) {
        let find = |name: &str| {
            let held = self.state.documents.get(&class.endpoints(name.into()))?;
            Some(&held.document)
        };
        NodeSet::check_endpoints(member, None, find, findings);
    }

    /// Puts changed endpoints into the snapshots that hold them.
    fn swap_endpoints(&mut self) {
        let changed: Vec<_> =
            self.changed.iter().filter(|key| key.kind == Kind::Endpoints).cloned().collect();
        for key in changed {
            let users = self.state.eds_users.get(&key).cloned().unwrap_or_default();
            let mut concerned = BTreeSet::new();
            for id in users {
                let Some(class) = self.state.classes.get(&id).cloned() else { continue };
                let resource = self.endpoints(&class.key, &key.name);
                let Some(snapshot) = self.state.views.snapshots.get(&id) else { continue };
                let present = snapshot.get(TypeUrl::Endpoints, &key.name);
                if present.is_none_or(|present| !Arc::ptr_eq(present, &resource)) {
                    let mut snapshot = Snapshot::clone(snapshot);
                    snapshot.insert(resource);
                    self.state.views.snapshots.insert(id, Arc::new(snapshot));
                }
                concerned.extend(class.key.members.iter().cloned());
            }
            self.warn_of_endpoints(&key, &concerned);
        }
    }

    /// Says what changed endpoints mean for the clusters that use them.
    fn warn_of_endpoints(&mut self, key: &DocumentKey, concerned: &BTreeSet<DocumentKey>) {
        let class =
            ClassKey { tenant: key.tenant.clone(), namespace: key.namespace.clone(), members: Vec::new() };
        let mut findings = Findings::default();
        for held in concerned.iter().filter_map(|key| self.state.documents.get(key)) {
            let Some(member) = Member::of(&held.document) else { continue };
            if wants(member, &key.name) {
                let find = |name: &str| {
                    let held = self.state.documents.get(&class.endpoints(name.into()))?;
                    Some(&held.document)
                };
                NodeSet::check_endpoints(member, Some(&key.name), find, &mut findings);
            }
        }
        let orphan = concerned.is_empty() && !self.anybody_wants(key);
        if let (true, Some(held)) = (orphan, self.state.documents.get(key)) {
            let at = At::new(
                &held.document.source,
                crate::model::FieldPath::default().key("metadata").key("name"),
            );
            let message = format!("no EDS cluster of namespace {} is called {:?}", key.namespace, &*key.name);
            findings.warn(
                &at,
                "unused-endpoints",
                message,
                "an Endpoints document has the name of its cluster",
            );
        }
        self.findings.append(findings);
    }

    fn anybody_wants(&self, key: &DocumentKey) -> bool {
        let same = |other: &DocumentKey| other.tenant == key.tenant && other.namespace == key.namespace;
        let all = self.state.documents.values().filter(|held| same(&held.document.key));
        all.filter_map(|held| Member::of(&held.document)).any(|member| wants(member, &key.name))
    }

    /// Checks documents that reach no node, as far as that is possible: their references must resolve somewhere in
    /// their namespace.
    fn check_unreached(&mut self) {
        let configs = self.changed.iter().filter(|key| key.kind == Kind::ProxyConfig);
        let namespaces: BTreeSet<_> =
            configs.map(|key| (key.tenant.clone(), key.namespace.clone())).collect();
        for (tenant, namespace) in namespaces {
            let here = |key: &DocumentKey| key.tenant == tenant && key.namespace == namespace;
            let class =
                ClassKey { tenant: tenant.clone(), namespace: namespace.clone(), members: Vec::new() };
            let classes = self.state.classes.values();
            let reached: BTreeSet<&DocumentKey> = classes.flat_map(|class| &class.key.members).collect();
            let all: Vec<Member<'_>> = self
                .state
                .documents
                .values()
                .filter(|held| here(&held.document.key))
                .filter_map(|held| Member::of(&held.document))
                .collect();
            let unreached: Vec<_> =
                all.iter().filter(|member| !reached.contains(&member.document.key)).copied().collect();
            let mut findings = Findings::default();
            if !unreached.is_empty() {
                // Names may be taken twice here: the documents may be meant for different nodes.
                let set = NodeSet::collect(&all, &mut Findings::default());
                for member in unreached {
                    set.check_references(member, &mut findings);
                    if self.changed.contains(&member.document.key) {
                        self.check_endpoints(&class, member, &mut findings);
                        if !self.state.bindings.is_empty() {
                            let at = At::spec(&member.document.source);
                            let message = format!("{} reaches no node", member.document.key);
                            findings.warn(
                                &at,
                                "reaches-nobody",
                                message,
                                "compare its selector with: credence proxy list",
                            );
                        }
                    }
                }
            }
            self.findings.append(findings);
        }
    }

    /// Forgets classes that no node is in.
    fn sweep(&mut self) {
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

    /// Whom the changed documents reach, or reached `before`.
    fn reaches(&self, before: &State) -> Reaches {
        let mut nodes: BTreeMap<&DocumentKey, BTreeSet<NodeId>> = BTreeMap::new();
        for state in [before, &self.state] {
            let mut nodes_of: BTreeMap<ViewId, Vec<&NodeId>> = BTreeMap::new();
            for (node, id) in &state.views.view_of {
                nodes_of.entry(*id).or_default().push(node);
            }
            let mut reached = |key, id: &ViewId| {
                let there = nodes_of.get(id).into_iter().flatten().map(|node| (*node).clone());
                nodes.entry(key).or_default().extend(there);
            };
            for key in self.changed.iter().filter(|key| key.kind == Kind::Endpoints) {
                state.eds_users.get(key).into_iter().flatten().for_each(|id| reached(key, id));
            }
            if self.changed.iter().any(|key| key.kind == Kind::ProxyConfig) {
                for (id, class) in &state.classes {
                    let changed = class.key.members.iter().filter_map(|member| self.changed.get(member));
                    changed.for_each(|key| reached(key, id));
                }
            }
        }
        let of = |key: &DocumentKey| nodes.get(key).into_iter().flatten().cloned().collect();
        self.changed.iter().map(|key| (key.clone(), of(key))).collect()
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

fn reaches(document: &Document, binding: &Binding) -> bool {
    match &document.spec {
        Spec::Endpoints(_) => false,
        Spec::ProxyConfig(config) => {
            config.selector.as_ref().is_none_or(|selector| binding.matches(&selector.match_labels))
        }
    }
}

fn wants(member: Member<'_>, eds: &str) -> bool {
    let is_eds = |cluster: &&crate::model::Cluster| cluster.cluster_type == crate::model::ClusterType::Eds;
    member.config.clusters.iter().filter(is_eds).any(|cluster| eds_name(cluster) == eds)
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
