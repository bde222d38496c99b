//! Rules on a change that need more than one document: nodes, endpoints, and documents that reach nobody.

use std::collections::BTreeSet;

use spiffe::NodeId;

use super::{ClassKey, staging::Staging};
use crate::{
    model::{Cluster, ClusterType, DocumentKey, FieldPath, Kind, node::At},
    translate::eds_name,
    validate::{Findings, Member, NodeSet},
};

impl Staging<'_> {
    /// What a node must be able to do itself.
    pub(super) fn check_node(&self, node: &NodeId, class: &ClassKey, findings: &mut Findings) {
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

    pub(super) fn check_endpoints(&self, class: &ClassKey, member: Member<'_>, findings: &mut Findings) {
        let find = |name: &str| {
            let held = self.state.documents.get(&class.endpoints(name.into()))?;
            Some(&held.document)
        };
        NodeSet::check_endpoints(member, None, find, findings);
    }

    /// Says what changed endpoints mean for the clusters that use them.
    pub(super) fn warn_of_endpoints(&mut self, key: &DocumentKey, concerned: &BTreeSet<DocumentKey>) {
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
            let at = At::new(&held.document.source, FieldPath::default().key("metadata").key("name"));
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
    pub(super) fn check_unreached(&mut self) {
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
}

fn wants(member: Member<'_>, eds: &str) -> bool {
    let is_eds = |cluster: &&Cluster| cluster.cluster_type == ClusterType::Eds;
    member.config.clusters.iter().filter(is_eds).any(|cluster| eds_name(cluster) == eds)
}
