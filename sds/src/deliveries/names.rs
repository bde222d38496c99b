//! What each name of each stream means now, and what is shown for it.

use std::sync::Arc;

use audit::{Action, Actor, Event as AuditEvent};
use certs::Timestamp;
use spiffe::{AuthorityId, EdgeName, NodeId, RevocationLists, SecretName};
use xds::{Resource, SecretOffer};

use super::{Deliveries, MAX_CONTEXTS, leaf::LeafState, shorten};
use crate::{
    LeafKey,
    access::{self, Absence, Grant},
    edges::EdgePart,
    rotation::Event,
    secret,
    status::ContextStatus,
};

impl Deliveries {
    pub(super) fn look_again(&mut self, stream: u64, now: Timestamp) {
        let Some(state) = self.streams.get(&stream) else { return };
        let names: Vec<Arc<str>> = state.names.keys().cloned().collect();
        let offers = names
            .into_iter()
            .map(|name| {
                let offer = self.evaluate(stream, &name, now);
                (name, Some(offer))
            })
            .collect();
        self.show(stream, offers);
    }

    /// Puts the offers into the stream's view at once; `None` takes a name out. Wakes nobody if nothing changes.
    pub(super) fn show(&self, stream: u64, offers: Vec<(Arc<str>, Option<SecretOffer>)>) {
        let Some(stream) = self.streams.get(&stream) else { return };
        stream.view.send_if_modified(|view| {
            let mut is_changed = false;
            for (name, offer) in offers {
                is_changed |= match (&offer, view.get(&name)) {
                    (Some(new), Some(old)) => !is_same(new, old),
                    (None, None) => false,
                    _ => true,
                };
                match offer {
                    Some(offer) => view.insert(name, offer),
                    None => view.remove(&name),
                };
            }
            is_changed
        });
    }

    /// Decides about a name anew: keeps the leaf's holders in step, audits a refusal once, answers what to show.
    pub(super) fn evaluate(&mut self, stream: u64, name: &Arc<str>, now: Timestamp) -> SecretOffer {
        let Some(state) = self.streams.get_mut(&stream) else { return SecretOffer::Absent };
        let node = state.node.clone();
        let decision = access::decide(&node, name, self.world.facts());
        let before = state.names.insert(Arc::clone(name), decision.as_ref().ok().cloned());
        if let Some(Some(Grant::Svid(old))) = &before
            && decision.as_ref() != Ok(&Grant::Svid(old.clone()))
        {
            self.release(stream, name, &LeafKey { node: node.clone(), identity: old.clone() }, now);
        }
        match decision {
            Ok(Grant::Svid(identity)) => self.hold(stream, name, LeafKey { node, identity }, now),
            Ok(Grant::Context(domain)) => {
                let trust = Arc::clone(&self.world.trust);
                let is_own = domain == *trust.own().trust_domain();
                let lists = trust.lists().shown(now).filter(|_| is_own);
                self.context(name, now, lists, || secret::context(name, trust.of(&domain)?, lists, now))
            }
            Ok(Grant::Imported(secret)) => self.imported(&node, name, &secret),
            Ok(Grant::Edge(edge, part)) => self.edge(&node, name, &edge, &part),
            Ok(Grant::All) => {
                let trust = Arc::clone(&self.world.trust);
                self.context(name, now, None, || secret::all_bundles(name, &trust, now))
            }
            Err(absence) => {
                // A challenge that is over is no attempt at anything.
                if before != Some(None) && !matches!(absence, Absence::ChallengeOver(_)) {
                    self.refuse(stream, name, &absence, now);
                }
                match absence {
                    // A removal revokes nothing: Envoy keeps what it has (xds.md 108). Peers refuse who is blocked.
                    Absence::Blocked(_) => SecretOffer::Pending,
                    Absence::UnknownName
                    | Absence::NotBound(_)
                    | Absence::NotGranted(_)
                    | Absence::SecretNotGranted(_)
                    | Absence::EdgeNotShown(_)
                    | Absence::ChallengeOver(_)
                    | Absence::Unlisted(_)
                    | Absence::UnknownDomain(_) => SecretOffer::Absent,
                }
            }
        }
    }

    fn hold(&mut self, stream: u64, name: &Arc<str>, key: LeafKey, now: Timestamp) -> SecretOffer {
        let grace = self.settings.grace;
        let signer = self.world.signer(&key);
        let leaf = self.leaves.entry(key.clone()).or_insert_with(|| LeafState::new(grace));
        if leaf.signer.is_none() {
            leaf.signer = Some(signer).filter(|signer| signer.authority.is_some());
        }
        let is_new = leaf.holders.insert((stream, Arc::clone(name)));
        if !leaf.rotation.is_wanted() {
            self.step(&key, Event::Wanted, now);
        }
        let Some(leaf) = self.leaves.get_mut(&key) else { return SecretOffer::Pending };
        let offer = leaf.offer(name, &self.settings.version_key);
        if is_new {
            self.keep_books(&key);
        }
        offer
    }

    pub(super) fn let_go(&mut self, stream: u64, name: &Arc<str>, now: Timestamp) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let node = state.node.clone();
        if let Some(Some(Grant::Svid(identity))) = state.names.remove(name) {
            self.release(stream, name, &LeafKey { node, identity }, now);
        }
    }

    fn release(&mut self, stream: u64, name: &Arc<str>, key: &LeafKey, now: Timestamp) {
        let Some(leaf) = self.leaves.get_mut(key) else { return };
        leaf.holders.remove(&(stream, Arc::clone(name)));
        if !leaf.holders.iter().any(|(_, other)| other == name) {
            leaf.resources.remove(name);
        }
        if leaf.holders.is_empty() {
            self.step(key, Event::Unwanted, now);
        } else {
            self.keep_books(key);
        }
    }

    /// As the secret of that name, encoded once for all nodes of the tenant that may have it.
    fn imported(&mut self, node: &NodeId, name: &Arc<str>, secret: &SecretName) -> SecretOffer {
        let Some(binding) = self.world.bindings.get(node) else { return SecretOffer::Absent };
        let Some(served) = self.world.imported.get(&binding.tenant, secret) else {
            return SecretOffer::Absent;
        };
        let key = (binding.tenant.clone(), Arc::clone(name));
        let encode = || served.material.to_resource(name, &self.settings.version_key);
        SecretOffer::Held(Arc::clone(self.imported.entry(key).or_insert_with(encode)))
    }

    /// As the secret of that name, encoded once for all nodes of the tenant that show it.
    fn edge(&mut self, node: &NodeId, name: &Arc<str>, edge: &EdgeName, part: &EdgePart) -> SecretOffer {
        let Some(binding) = self.world.bindings.get(node) else { return SecretOffer::Absent };
        let Some(material) = self.world.edge.edges.get(&binding.tenant, edge, part) else {
            return SecretOffer::Pending;
        };
        let key = (binding.tenant.clone(), Arc::clone(name));
        let encode = || material.to_resource(name, &self.settings.version_key);
        SecretOffer::Held(Arc::clone(self.edges.entry(key).or_insert_with(encode)))
    }

    fn context(
        &mut self,
        name: &Arc<str>,
        now: Timestamp,
        lists: Option<&RevocationLists>,
        encode: impl FnOnce() -> Option<Arc<Resource>>,
    ) -> SecretOffer {
        if let Some(known) = self.contexts.get(name) {
            return SecretOffer::Held(Arc::clone(known));
        }
        let Some(resource) = encode() else { return SecretOffer::Pending };
        if self.contexts.len() < MAX_CONTEXTS {
            self.contexts.insert(Arc::clone(name), Arc::clone(&resource));
            let roots = self.world.trust.own().valid_authorities(now);
            let roots = roots.map(|root| AuthorityId::of(root.spki_hash())).collect();
            let lists = lists.map(RevocationLists::numbers);
            let offered = ContextStatus { version: resource.version().clone(), roots, lists };
            self.status.contexts.insert(name.to_string(), offered);
            self.is_dirty = true;
        }
        SecretOffer::Held(resource)
    }

    fn refuse(&mut self, stream: u64, name: &str, absence: &Absence, now: Timestamp) {
        self.status.counters.refused_names += 1;
        self.is_dirty = true;
        let Some(state) = self.streams.get(&stream) else { return };
        let tenant =
            self.world.bindings.get(&state.node).map(|binding| binding.tenant.clone()).unwrap_or_default();
        let actor = Actor::Identity { id: state.peer.id().clone() };
        let event = AuditEvent::refused(
            now,
            actor,
            Action::SecretRefuse,
            shorten(name),
            shorten(&absence.to_string()),
        );
        self.refusals.refuse(event.for_tenant(tenant).with("node_id", &state.node));
    }
}

fn is_same(new: &SecretOffer, old: &SecretOffer) -> bool {
    match (new, old) {
        (SecretOffer::Held(new), SecretOffer::Held(old)) => new.version() == old.version(),
        (SecretOffer::Pending, SecretOffer::Pending) | (SecretOffer::Absent, SecretOffer::Absent) => true,
        _ => false,
    }
}
