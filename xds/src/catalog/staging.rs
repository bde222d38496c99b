//! A change, made on a copy of the state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spiffe::NodeId;

use super::{Change, ClassKey, Held, MAX_EFFECTIVE_DOCUMENTS, Reaches, Staged, State};
use crate::{
    Resource, Snapshot, TypeUrl, ViewId,
    counters::Counters,
    model::{Document, DocumentKey, FieldPath, Kind, Problem, Problems, Warning, node::At},
    translate::{self, Made, translate},
    validate::{Context, Findings, Member, NodeSet, check_document, check_envoy, identities_of},
};

pub(super) struct Staging<'a> {
    pub(super) context: &'a Context,
    counters: &'a Counters,
    pub(super) state: State,
    pub(super) findings: Findings,
    pub(super) changed: BTreeSet<DocumentKey>,
    /// Whether what is put was effective before this process began.
    is_restored: bool,
}

impl<'a> Staging<'a> {
    pub(super) fn new(context: &'a Context, counters: &'a Counters, state: State) -> Self {
        let (findings, changed) = (Findings::default(), BTreeSet::new());
        Self { context, counters, state, findings, changed, is_restored: false }
    }

    /// The same, for what was effective before this process began: by the rules of the version that took it.
    pub(super) fn restoring(self) -> Self {
        Self { is_restored: true, ..self }
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
            let at = At::new(&document.source, FieldPath::default().key("metadata").key("name"));
            let message = format!("{key} is given twice, first at {place}");
            self.findings.refuse(&at, "duplicate-document", message, "give each document once");
            return;
        }
        let mut findings = check_document(&document, &self.context.defaults);
        if !self.state.documents.contains_key(&key) && self.state.documents.len() >= MAX_EFFECTIVE_DOCUMENTS {
            let message = format!("more than {MAX_EFFECTIVE_DOCUMENTS} documents cannot be effective");
            findings.refuse(&At::spec(&document.source), "limit.effective", message, "delete some first");
        }
        let all = translate(&document, &self.context.defaults, &self.state.denied);
        if findings.problems.is_empty() {
            for made in &all {
                check_envoy(&document, made, &self.context.defaults, &mut findings);
            }
        }
        if self.is_restored {
            let of_envoy = findings.problems.extract_if(.., |problem| problem.is_of_envoy());
            findings.warnings.extend(of_envoy.map(Warning));
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
    pub(super) fn encode(&self, made: Made, previous: Option<&Held>) -> (Arc<Resource>, FieldPath) {
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

    /// The endpoints of an EDS name, empty if no document gives them.
    pub(super) fn endpoints(&mut self, class: &ClassKey, name: &Arc<str>) -> Arc<Resource> {
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
}
