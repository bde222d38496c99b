//! Who wants which name, and what is there: streams, leaves and contexts, and the order in which leaves are asked
//! for. The one owner of this state is the manager's task; nothing in here waits.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use audit::Refusals;
use certs::{SecretKey, Timestamp};
use spiffe::{
    EdgeName, IssueError, IssuedSvid, IssuerName, NodeId, Peer, Purpose, RevocationLists, SecretName, Tenant,
};
use tokio::sync::watch;
use xds::{Resource, SecretView, Version, Views};

use self::leaf::LeafState;
pub(crate) use self::world::World;
use crate::{
    LeafKey, SdsSettings,
    access::{self, Grant},
    rotation::{Action, Event, Leaf, Used},
    schedule::Life,
    secret::Material,
    status::SdsStatus,
};

mod leaf;
mod names;
mod world;

/// The most names one stream may ask for; further ones are passed over in silence.
pub(crate) const MAX_NAMES: usize = 256;
/// The most contexts that are kept encoded; further ones are encoded for each asker.
const MAX_CONTEXTS: usize = 1024;
/// The longest text of a stranger's or an issuer's that is kept.
const MAX_TEXT: usize = 256;

/// A leaf to be asked for now.
pub(crate) struct Order {
    pub(crate) key: LeafKey,
    pub(crate) tenant: Tenant,
    /// Whom the binding names.
    pub(crate) issuer: Option<IssuerName>,
    pub(crate) purpose: Purpose,
    pub(crate) replaces: Option<Timestamp>,
}

/// Who is asked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    /// A leaf of an authority that is not to be depended on, by how many nodes show its identity: the more do, the
    /// sooner it is replaced.
    Exposed(Reverse<usize>),
    /// Least remaining life first; nothing in hand and nothing known counts as none left.
    Remaining(Timestamp),
}

struct Stream {
    peer: Arc<Peer>,
    node: NodeId,
    /// What each name was found to mean; `None` if it does not exist for this node.
    names: BTreeMap<Arc<str>, Option<Grant>>,
    view: watch::Sender<SecretView>,
}

impl Stream {
    /// Whether it asks for a name of this scheme.
    fn asks(&self, scheme: &str) -> bool {
        self.names.keys().any(|name| name.starts_with(scheme))
    }

    /// Whether it asks for a name in a drain generation.
    fn asks_generation(&self) -> bool {
        self.names.keys().any(|name| name.contains('?'))
    }
}

pub(crate) struct Deliveries {
    settings: SdsSettings,
    refusals: Arc<dyn Refusals>,
    world: World,
    /// When leaves that the journal knows of end, by owner: after a restart the soonest is asked for first.
    known: HashMap<LeafKey, Timestamp>,
    streams: HashMap<u64, Stream>,
    leaves: HashMap<LeafKey, LeafState>,
    deadlines: BTreeSet<(Timestamp, LeafKey)>,
    queue: BTreeSet<(Priority, u64, LeafKey)>,
    queued: u64,
    contexts: HashMap<Arc<str>, Arc<Resource>>,
    /// Imported secrets that somebody asked for, encoded under the names that they were asked for by.
    imported: HashMap<(Tenant, Arc<str>), Arc<Resource>>,
    edges: HashMap<(Tenant, Arc<str>), Arc<Resource>>,
    status: SdsStatus,
    is_dirty: bool,
}

impl Deliveries {
    pub(crate) fn new(
        settings: SdsSettings,
        refusals: Arc<dyn Refusals>,
        world: World,
        known: HashMap<LeafKey, Timestamp>,
    ) -> Self {
        let status = SdsStatus { bundle: world.trust.own().sequence(), ..SdsStatus::default() };
        Self {
            settings,
            refusals,
            world,
            known,
            streams: HashMap::new(),
            leaves: HashMap::new(),
            deadlines: BTreeSet::new(),
            queue: BTreeSet::new(),
            queued: 0,
            contexts: HashMap::new(),
            imported: HashMap::new(),
            edges: HashMap::new(),
            status,
            is_dirty: false,
        }
    }

    pub(crate) fn open(
        &mut self,
        stream: u64,
        peer: Arc<Peer>,
        node: NodeId,
        view: watch::Sender<SecretView>,
    ) {
        self.streams.insert(stream, Stream { peer, node, names: BTreeMap::new(), view });
    }

    pub(crate) fn interest(&mut self, stream: u64, changes: Vec<(Arc<str>, bool)>, now: Timestamp) {
        let mut offers = Vec::new();
        for (name, wanted) in changes {
            if wanted {
                let Some(state) = self.streams.get(&stream) else { return };
                if state.names.contains_key(&name) {
                    continue;
                }
                if state.names.len() >= MAX_NAMES {
                    tracing::warn!(node_id = %state.node, limit = MAX_NAMES, "stream asks for too many secrets");
                    continue;
                }
                let offer = self.evaluate(stream, &name, now);
                offers.push((name, Some(offer)));
            } else {
                self.let_go(stream, &name, now);
                offers.push((name, None));
            }
        }
        self.show(stream, offers);
    }

    pub(crate) fn close(&mut self, stream: u64, now: Timestamp) {
        let Some(state) = self.streams.get(&stream) else { return };
        for name in state.names.keys().cloned().collect::<Vec<_>>() {
            self.let_go(stream, &name, now);
        }
        self.streams.remove(&stream);
    }

    pub(crate) fn settled(
        &mut self,
        node: &NodeId,
        name: &Arc<str>,
        version: &Version,
        refusal: Option<String>,
        now: Timestamp,
    ) {
        if let Some(words) = &refusal {
            self.status.counters.refused_by_node += 1;
            self.is_dirty = true;
            tracing::warn!(node_id = %node, secret = %name, %version, words = %shorten(words), "proxy refused a secret");
        }
        let Ok(Grant::Svid(identity)) = access::decide(node, name, self.world.facts()) else { return };
        let key = LeafKey { node: node.clone(), identity };
        let Some(leaf) = self.leaves.get_mut(&key) else { return };
        // A reply to a version that is no longer on offer says nothing about the one that is.
        if leaf.resources.get(name).is_none_or(|resource| resource.version() != version) {
            return;
        }
        let accepted = refusal.is_none();
        if accepted && let Some(held) = leaf.rotation.held() {
            leaf.acknowledged = Some(held.leaf.serial.clone());
            leaf.acknowledged_leaf = Some((held.leaf.authority, held.leaf.life.expires));
            leaf.acknowledged_versions = leaf.versions();
        }
        leaf.refusal = refusal.as_deref().map(shorten);
        let signer = leaf.signer.as_ref().filter(|_| !accepted);
        if let Some(signer) = signer
            && leaf.rotation.held().map(|held| held.leaf.authority) == signer.authority
        {
            self.status.issuers.entry(signer.name.clone()).or_default().refused += 1;
        }
        self.step(&key, Event::Settled { accepted }, now);
    }

    /// Takes the facts as they are now, and looks again at whatever they touch.
    pub(crate) fn set_world(&mut self, world: World, now: Timestamp) {
        let before = std::mem::replace(&mut self.world, world);
        let trust_changed = !Arc::ptr_eq(&before.trust, &self.world.trust);
        if trust_changed {
            self.clear_contexts();
        }
        let imported_changed = !Arc::ptr_eq(&before.imported, &self.world.imported);
        if imported_changed {
            self.imported.clear();
        }
        let edges_changed = !Arc::ptr_eq(&before.edge.edges, &self.world.edge.edges);
        if edges_changed {
            self.edges.clear();
        }
        // What listeners nodes have may have changed in the same moment: nobody tells that again.
        let views_changed = !Arc::ptr_eq(&before.edge.views, &self.world.edge.views);
        let edges_touched = edges_changed || views_changed && !self.world.edge.edges.is_empty();
        let barred: Vec<LeafKey> = self
            .leaves
            .keys()
            .filter(|key| access::may_hold(&key.node, &key.identity, self.world.facts()).is_err())
            .cloned()
            .collect();
        for key in barred {
            self.step(&key, Event::Barred, now);
        }
        if trust_changed {
            self.replace_revoked(now);
        }
        if !Arc::ptr_eq(&before.signers, &self.world.signers)
            || !Arc::ptr_eq(&before.bindings, &self.world.bindings)
        {
            self.follow_signers(&before, now);
        }
        let touched: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, stream)| {
                trust_changed
                    || !self.world.is_same_for(&stream.node, &before)
                    || imported_changed && stream.asks(SecretName::SCHEME)
                    || edges_touched && stream.asks(EdgeName::SCHEME)
                    || self.is_drained(stream, &before.edge.views)
            })
            .map(|(key, _)| *key)
            .collect();
        for stream in touched {
            self.look_again(stream, now);
        }
    }

    /// Takes what listeners nodes have now: edges are for those that show them, and a drain generation begins with them.
    /// Costs nothing where there are no edges and none begins.
    pub(crate) fn set_views(&mut self, views: Arc<Views>, now: Timestamp) {
        let before = std::mem::replace(&mut self.world.edge.views, views);
        let has_edges = !self.world.edge.edges.is_empty();
        let touched = self.streams.iter().filter(|(_, stream)| {
            has_edges && stream.asks(EdgeName::SCHEME) || self.is_drained(stream, &before)
        });
        for stream in touched.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.look_again(stream, now);
        }
    }

    /// Whether a name of the stream may be of a drain generation that has begun since.
    fn is_drained(&self, stream: &Stream, before: &Views) -> bool {
        self.world.edge.views.drained != before.drained && stream.asks_generation()
    }

    /// Leaves that an operator has revoked are replaced at once.
    fn replace_revoked(&mut self, now: Timestamp) {
        let revoked = |leaf: &LeafState| {
            let held = leaf.rotation.held().map(|held| &held.leaf)?;
            self.world.trust.is_revoked(held.authority, &held.serial).then(|| held.serial.clone())
        };
        let all = self.leaves.iter().filter_map(|(key, leaf)| Some((key.clone(), revoked(leaf)?)));
        for (key, serial) in all.collect::<Vec<_>>() {
            self.step(&key, Event::Revoked(serial), now);
        }
    }

    /// Leaves that another signs now are replaced before their time, at once if that is urgent.
    fn follow_signers(&mut self, before: &World, now: Timestamp) {
        let signers = &self.world.signers;
        let then = &before.signers;
        let is_hurry_as_before = (then.is_urgent, &then.hurried) == (signers.is_urgent, &signers.hurried);
        let is_same = Arc::ptr_eq(then, signers);
        // Where bindings alone have changed, most name whom they named before.
        let is_touched =
            |key: &&LeafKey| !is_same || before.issuer(&key.node) != self.world.issuer(&key.node);
        for key in self.leaves.keys().filter(is_touched).cloned().collect::<Vec<_>>() {
            let signer = self.world.signer(&key);
            let Some(leaf) = self.leaves.get_mut(&key) else { continue };
            if signer.authority.is_none() || is_hurry_as_before && leaf.signer.as_ref() == Some(&signer) {
                continue;
            }
            let before = leaf.signer.replace(signer.clone());
            let mut accepted = signer.accepted;
            // Whoever is to sign from now on has leaves of its own replace others.
            if before.is_some_and(|before| (before.name, before.authority) == (signer.name, signer.authority))
            {
                accepted.extend(signer.fallback);
            }
            // Nobody stays with a leaf that its proxy refused.
            let refused = leaf.rotation.held().filter(|held| held.accepted == Some(false));
            if let Some(refused) = refused.filter(|held| Some(held.leaf.authority) != signer.authority) {
                accepted.remove(&refused.leaf.authority);
            }
            let signers = &self.world.signers;
            let held = leaf.rotation.held().map(|held| held.leaf.authority);
            // What is under way may bring what is to be left at once.
            let is_urgent = held.is_some_and(|authority| signers.hurries(authority))
                || leaf.rotation.requested().is_some() && !signers.hurried.is_empty();
            let spread = if is_urgent { Duration::ZERO } else { self.settings.authority_spread };
            self.step(&key, Event::SignerChanged { accepted, spread }, now);
        }
    }

    /// Roots begin and end: contexts are made anew.
    pub(crate) fn refresh_contexts(&mut self, now: Timestamp) {
        self.clear_contexts();
        for stream in self.streams.keys().copied().collect::<Vec<_>>() {
            self.look_again(stream, now);
        }
    }

    fn clear_contexts(&mut self) {
        self.contexts.clear();
        self.status.contexts.clear();
        self.status.bundle = self.world.trust.own().sequence();
        self.is_dirty = true;
    }

    /// When a root begins or ends next, or the first revocation list: the validation contexts change with it.
    pub(crate) fn next_root_change(&self, now: Timestamp) -> Option<Timestamp> {
        let just_after = |end: Timestamp| end + Duration::from_millis(1);
        let lists = self.world.trust.lists().shown(now).and_then(RevocationLists::end);
        self.world
            .trust
            .bundles()
            .flat_map(|bundle| bundle.authorities())
            .flat_map(|root| [root.not_before(), just_after(root.not_after())])
            .chain(lists)
            .filter(|at| *at > now)
            .min()
    }

    /// Steps every leaf whose time has come.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.deadlines.first().cloned() {
            if at > now {
                return;
            }
            self.step(&key, Event::Tick, now);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The next leaf to ask for, if any waits.
    pub(crate) fn next_order(&mut self, now: Timestamp) -> Option<Order> {
        while let Some((_, _, key)) = self.queue.pop_first() {
            let leaf = self.leaves.get(&key)?;
            let still_wanted = leaf.rotation.requested().is_some();
            let binding = self.world.bindings.enabled(&key.node);
            if let (true, Some((purpose, replaces)), Some(binding)) = (still_wanted, leaf.asked, binding) {
                let (tenant, issuer) = (binding.tenant.clone(), binding.issuer.clone());
                return Some(Order { tenant, issuer, key, purpose, replaces });
            }
            self.step(&key, Event::Failed, now);
        }
        None
    }

    /// What an order brought.
    pub(crate) fn issued(
        &mut self,
        key: &LeafKey,
        secret: SecretKey,
        result: Result<IssuedSvid, IssueError>,
        now: Timestamp,
    ) {
        let result = match result {
            Ok(svid) if svid.chain.leaf().spki_der() != secret.public().spki_der() => {
                Err(IssueError::BadOutput("it certifies another key".to_owned()))
            }
            other => other,
        };
        match result {
            Ok(svid) => self.take(key, secret, &svid, now),
            Err(error) => self.fail(key, &error, now),
        }
    }

    /// The read model.
    pub(crate) fn status(&self) -> Arc<SdsStatus> {
        Arc::new(self.status.clone())
    }

    /// The read model, if it changed since it was last taken.
    pub(crate) fn take_status(&mut self) -> Option<Arc<SdsStatus>> {
        std::mem::take(&mut self.is_dirty).then(|| self.status())
    }

    fn take(&mut self, key: &LeafKey, secret: SecretKey, svid: &IssuedSvid, now: Timestamp) {
        let Some(leaf) = self.leaves.get_mut(key) else { return };
        let life = Life { issued: svid.issued, expires: svid.chain.leaf().not_after() };
        let facts = Leaf { serial: svid.chain.leaf().serial().clone(), authority: svid.authority, life };
        let previous = leaf.material.replace(Material::encode(&svid.chain, secret));
        let asked = leaf.asked;
        let actions = leaf.rotation.step(Event::Issued(facts), now, (self.settings.jitter)());
        if actions.contains(&Action::Offer) {
            leaf.last_error = None;
            leaf.refusal = None;
            if let Some(signer) = leaf.signer.as_ref().filter(|one| one.authority == Some(svid.authority)) {
                self.status.issuers.entry(signer.name.clone()).or_default().issued += 1;
            }
            self.count(asked.map(|(purpose, _)| purpose));
            tracing::debug!(
                node_id = %key.node, spiffe_id = %key.identity, serial = %svid.chain.leaf().serial(),
                authority_id = %svid.authority, "leaf issued"
            );
        } else {
            leaf.material = previous;
        }
        self.carry_out(key, actions);
    }

    fn fail(&mut self, key: &LeafKey, error: &IssueError, now: Timestamp) {
        self.status.counters.failures += 1;
        self.is_dirty = true;
        if let Some(leaf) = self.leaves.get_mut(key) {
            leaf.last_error = Some(shorten(&error.to_string()));
            if let Some(signer) = &leaf.signer {
                self.status.issuers.entry(signer.name.clone()).or_default().failed += 1;
            }
            tracing::warn!(
                node_id = %key.node, spiffe_id = %key.identity, failures = leaf.rotation.failures() + 1,
                error = %error, "leaf not issued, the one in hand stays"
            );
        }
        self.step(key, Event::Failed, now);
    }

    fn count(&mut self, purpose: Option<Purpose>) {
        match purpose {
            Some(Purpose::Renewal) => self.status.counters.rotations += 1,
            Some(Purpose::ForcedRenewal) => self.status.counters.rotations_forced += 1,
            Some(_) => self.status.counters.deliveries += 1,
            None => {}
        }
    }

    fn step(&mut self, key: &LeafKey, event: Event, now: Timestamp) {
        let Some(leaf) = self.leaves.get_mut(key) else { return };
        let actions = leaf.rotation.step(event, now, (self.settings.jitter)());
        self.carry_out(key, actions);
    }

    fn carry_out(&mut self, key: &LeafKey, actions: Vec<Action>) {
        let mut is_offer_changed = false;
        for action in actions {
            let Some(leaf) = self.leaves.get_mut(key) else { return };
            match action {
                Action::Request { purpose, replaces } => {
                    leaf.asked = Some((purpose, replaces));
                    let remaining = replaces.or_else(|| self.known.remove(key)).unwrap_or(Timestamp::EPOCH);
                    let held = leaf.rotation.held().map(|held| held.leaf.authority);
                    let is_urgent = held.is_some_and(|authority| self.world.signers.hurries(authority));
                    let priority = if is_urgent && purpose == Purpose::ForcedRenewal {
                        let shows = |other: &&LeafKey| other.identity == key.identity;
                        Priority::Exposed(Reverse(self.leaves.keys().filter(shows).count()))
                    } else {
                        Priority::Remaining(remaining)
                    };
                    self.queued += 1;
                    self.queue.insert((priority, self.queued, key.clone()));
                }
                Action::Offer => {
                    leaf.resources.clear();
                    is_offer_changed = true;
                }
                Action::Expire => {
                    leaf.material = None;
                    leaf.resources.clear();
                    is_offer_changed = true;
                    self.status.counters.expired += 1;
                    tracing::error!(node_id = %key.node, spiffe_id = %key.identity, "leaf expired before a new one was in hand");
                }
                Action::Forget => {
                    leaf.material = None;
                    leaf.resources.clear();
                    is_offer_changed = true;
                }
                Action::AtRisk => match leaf.rotation.held().map(|held| held.used) {
                    None | Some(Used::None | Used::Offered) => {
                        tracing::warn!(node_id = %key.node, spiffe_id = %key.identity, "leaf has passed 70 % of its life unrenewed");
                    }
                    Some(Used::Earlier(_) | Used::Ended) => {
                        tracing::warn!(node_id = %key.node, spiffe_id = %key.identity, "leaf has passed 70 % of its life, and the proxy has not taken the newer one");
                    }
                },
                Action::Outlived => {
                    self.status.counters.expired += 1;
                    tracing::error!(node_id = %key.node, spiffe_id = %key.identity, "leaf that the proxy uses has expired, and it has not taken the newer one");
                }
            }
        }
        if is_offer_changed {
            self.publish(key);
        }
        self.keep_books(key);
    }

    /// Shows the leaf as it is to each stream that wants it.
    fn publish(&mut self, key: &LeafKey) {
        let Some(leaf) = self.leaves.get_mut(key) else { return };
        let holders: Vec<(u64, Arc<str>)> = leaf.holders.iter().cloned().collect();
        for (stream, name) in holders {
            let offer = leaf.offer(&name, &self.settings.version_key);
            if let Some(stream) = self.streams.get(&stream) {
                stream.view.send_modify(|view| {
                    view.insert(name, offer);
                });
            }
        }
    }

    /// Brings deadline and read model up to date; drops the leaf if nothing is left of it.
    fn keep_books(&mut self, key: &LeafKey) {
        let Some(leaf) = self.leaves.get_mut(key) else { return };
        if let Some(before) = leaf.deadline.take() {
            self.deadlines.remove(&(before, key.clone()));
        }
        self.is_dirty = true;
        if leaf.rotation.is_over() && leaf.holders.is_empty() {
            self.leaves.remove(key);
            self.status.leaves.remove(key);
            return;
        }
        leaf.deadline = leaf.rotation.deadline();
        if let Some(at) = leaf.deadline {
            self.deadlines.insert((at, key.clone()));
        }
        self.status.leaves.insert(key.clone(), Arc::new(leaf.status(key)));
    }
}

/// A stranger's text as it may stand in logs and audit: bounded, without control characters.
fn shorten(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}
