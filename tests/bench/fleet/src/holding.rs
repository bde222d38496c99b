//! What one node wants and holds, and whether the server keeps the rules (PURE).
//!
//! It behaves as an Envoy on a delta stream of the aggregated service: everything of the clusters and listeners,
//! and by name what those refer to; after a reconnect it says what it holds. It acknowledges every response, also
//! one that breaks a rule: that is noted, not refused.

mod check;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use certs::{Certificate, Timestamp};
use proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use xds::TypeUrl;

use self::check::Nonces;
use crate::{
    material::{self, Leaf, Material},
    protocol::{Counters, Rule, Violation},
    references::{Library, References},
};

/// Broken rules that are kept with their words; the rest is counted.
const MAX_VIOLATIONS: usize = 32;
/// Types that are asked for by name.
const BY_NAME: [TypeUrl; 4] = [TypeUrl::Endpoints, TypeUrl::Secret, TypeUrl::Extension, TypeUrl::Route];

/// What happens to a node's stream.
#[derive(Debug)]
pub(crate) enum Event {
    /// It can be written to.
    Opened,
    /// A response came.
    Received(Box<DeltaDiscoveryResponse>),
    /// It is over.
    Ended,
}

/// One resource that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) version: Arc<str>,
    /// When it was acknowledged.
    pub(crate) at: Timestamp,
    references: Arc<References>,
    pub(crate) material: Material,
}

#[derive(Debug, Default)]
struct OfType {
    /// Whether the first request of the type is out.
    is_open: bool,
    wanted: BTreeSet<Arc<str>>,
    /// No longer wanted at some time of this stream: what was under way then still comes, be it wanted again or not.
    released: BTreeSet<Arc<str>>,
    held: BTreeMap<Arc<str>, Held>,
    absent: BTreeSet<Arc<str>>,
    /// May come once more although it did not change.
    may_repeat: BTreeSet<Arc<str>>,
    /// Versions that were replaced.
    past: BTreeMap<Arc<str>, HashSet<Arc<str>>>,
}

/// One node's side of discovery.
#[derive(Debug)]
pub(crate) struct Holding {
    library: Arc<Library>,
    secrets: Vec<Arc<str>>,
    types: [OfType; TypeUrl::ALL.len()],
    nonces: Option<Nonces>,
    counters: Counters,
    broken: BTreeMap<Rule, u64>,
    violations: Vec<Violation>,
}

impl Holding {
    /// Holds nothing, and wants these secrets whatever else it is sent.
    pub(crate) fn new(library: Arc<Library>, secrets: Vec<Arc<str>>) -> Self {
        Self {
            library,
            secrets,
            types: Default::default(),
            nonces: None,
            counters: Counters::default(),
            broken: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// Takes one event; answers what to send, in this order.
    pub(crate) fn step(&mut self, event: Event, now: Timestamp) -> Vec<DeltaDiscoveryRequest> {
        match event {
            Event::Opened => self.open(),
            Event::Received(response) if self.nonces.is_some() => self.receive(*response, now),
            Event::Received(_) => Vec::new(),
            Event::Ended => {
                self.nonces = None;
                Vec::new()
            }
        }
    }

    fn open(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.nonces = Some(Nonces::default());
        for of in &mut self.types {
            of.is_open = false;
            of.released.clear();
            // A name that is asked for is answered, whatever is held (the xDS protocol page, "Subscribing to
            // Resources"); all of a type is answered with the differences.
            of.may_repeat = of.wanted.clone();
        }
        let mut requests: Vec<_> = [TypeUrl::Cluster, TypeUrl::Listener]
            .map(|type_url| self.request(type_url, Vec::new(), Vec::new()))
            .into();
        for type_url in BY_NAME {
            let names: Vec<String> = self.of(type_url).wanted.iter().map(ToString::to_string).collect();
            if !names.is_empty() {
                requests.push(self.request(type_url, names, Vec::new()));
            }
        }
        requests.extend(self.follow());
        requests
    }

    fn receive(&mut self, response: DeltaDiscoveryResponse, now: Timestamp) -> Vec<DeltaDiscoveryRequest> {
        self.counters.responses += 1;
        self.check_nonce(&response.nonce, now);
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        let Some(type_url) = TypeUrl::parse(&response.type_url) else {
            self.note(Rule::Unasked, now, format!("type {}", response.type_url));
            return vec![acknowledgement];
        };
        for resource in response.resources {
            let content = resource.resource.map(|any| any.value).unwrap_or_default();
            self.take(type_url, &resource.name, &resource.version, &content, now);
        }
        for name in response.removed_resources {
            self.remove(type_url, &name, now);
        }
        if type_url == TypeUrl::Secret {
            self.check_leaves(now);
        }
        let mut requests = vec![acknowledgement];
        if matches!(type_url, TypeUrl::Cluster | TypeUrl::Listener) {
            requests.extend(self.follow());
        }
        requests
    }

    fn take(&mut self, type_url: TypeUrl, name: &str, version: &str, content: &[u8], now: Timestamp) {
        let (name, version) = (self.library.text(name), self.library.text(version));
        let of = &mut self.types[type_url as usize];
        if !type_url.is_full_state() && !of.wanted.contains(&name) {
            if !of.released.contains(&name) {
                self.note(Rule::Unasked, now, format!("{} {name}", type_url.word()));
            }
            return;
        }
        let may_repeat = of.may_repeat.remove(&name) || of.released.contains(&name);
        of.absent.remove(&name);
        let same = of.held.get(&name).filter(|held| held.version == version).cloned();
        if let Some(held) = same {
            self.counters.repeats += 1;
            self.let_repeat(type_url, &held.references);
            if !may_repeat {
                self.note(Rule::Duplicate, now, format!("{} {name} at {version}", type_url.word()));
            }
            return;
        }
        self.counters.resources += 1;
        if of.past.get(&name).is_some_and(|past| past.contains(&version)) {
            self.note(Rule::WentBack, now, format!("{} {name} to {version}", type_url.word()));
        }
        let references = self.library.references(type_url, &version, content).unwrap_or_else(|error| {
            self.note(Rule::Unreadable, now, format!("{} {name}: {error}", type_url.word()));
            Arc::default()
        });
        let material =
            if type_url == TypeUrl::Secret { self.read_secret(&name, content, now) } else { Material::Other };
        self.check_references(type_url, &name, &references, now);
        self.let_repeat(type_url, &references);
        let of = &mut self.types[type_url as usize];
        let before = of.held.insert(Arc::clone(&name), Held { version, at: now, references, material });
        if let Some(before) = before {
            of.past.entry(name).or_default().insert(before.version);
        }
    }

    fn read_secret(&mut self, name: &str, content: &[u8], now: Timestamp) -> Material {
        match material::read(content) {
            Ok(Material::Leaf(leaf)) if name.starts_with("spiffe://") && leaf.id.as_str() != name => {
                self.note(Rule::Unreadable, now, format!("SDS {name} brings a leaf of {}", leaf.id));
                Material::Leaf(leaf)
            }
            Ok(material) => material,
            Err(error) => {
                self.note(Rule::Unreadable, now, format!("SDS {name}: {error}"));
                Material::Other
            }
        }
    }

    /// What depends on `references`' owner is warmed again with it, and sent again for that: EDS and SDS of a
    /// cluster, SDS and ECDS of a listener.
    fn let_repeat(&mut self, parent: TypeUrl, references: &References) {
        for (child, name) in references {
            let follows = match parent {
                TypeUrl::Cluster => matches!(child, TypeUrl::Endpoints | TypeUrl::Secret),
                TypeUrl::Listener => matches!(child, TypeUrl::Secret | TypeUrl::Extension),
                TypeUrl::Endpoints | TypeUrl::Secret | TypeUrl::Extension | TypeUrl::Route => false,
            };
            if follows {
                self.types[*child as usize].may_repeat.insert(Arc::clone(name));
            }
        }
    }

    fn remove(&mut self, type_url: TypeUrl, name: &str, now: Timestamp) {
        self.counters.removals += 1;
        let name = self.library.text(name);
        let of = &mut self.types[type_url as usize];
        of.may_repeat.remove(&name);
        if of.wanted.contains(&name) {
            of.absent.insert(Arc::clone(&name));
        }
        if of.held.remove(&name).is_some() {
            self.check_unused(type_url, &name, now);
        }
    }

    /// Asks for what is referred to by now, and no longer for what is not.
    fn follow(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let mut named: BTreeMap<TypeUrl, BTreeSet<Arc<str>>> = BTreeMap::new();
        named.insert(TypeUrl::Secret, self.secrets.iter().cloned().collect());
        for parent in [TypeUrl::Cluster, TypeUrl::Listener] {
            for held in self.of(parent).held.values() {
                for (child, name) in held.references.iter() {
                    named.entry(*child).or_default().insert(Arc::clone(name));
                }
            }
        }
        let mut requests = Vec::new();
        for type_url in BY_NAME {
            let wanted = named.remove(&type_url).unwrap_or_default();
            let of = &mut self.types[type_url as usize];
            let added: Vec<Arc<str>> = wanted.difference(&of.wanted).cloned().collect();
            let dropped: Vec<Arc<str>> = of.wanted.difference(&wanted).cloned().collect();
            for name in &dropped {
                of.held.remove(name);
                of.absent.remove(name);
                of.released.insert(Arc::clone(name));
            }
            for name in &added {
                of.may_repeat.insert(Arc::clone(name));
            }
            of.wanted = wanted;
            if !added.is_empty() || !dropped.is_empty() {
                let text = |names: Vec<Arc<str>>| names.iter().map(ToString::to_string).collect();
                requests.push(self.request(type_url, text(added), text(dropped)));
            }
        }
        requests
    }

    /// A request of a type; the first on a stream says what is held.
    fn request(
        &mut self,
        type_url: TypeUrl,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
    ) -> DeltaDiscoveryRequest {
        let of = &mut self.types[type_url as usize];
        let held = if of.is_open {
            HashMap::new()
        } else {
            of.held.iter().map(|(name, held)| (name.to_string(), held.version.to_string())).collect()
        };
        of.is_open = true;
        DeltaDiscoveryRequest {
            type_url: type_url.as_str().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: held,
            ..Default::default()
        }
    }

    fn of(&self, type_url: TypeUrl) -> &OfType {
        &self.types[type_url as usize]
    }

    /// Counters.
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// How often each rule was broken.
    pub(crate) fn broken(&self) -> &BTreeMap<Rule, u64> {
        &self.broken
    }

    /// The first broken rules.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// What is held under a name.
    pub(crate) fn held(&self, type_url: TypeUrl, name: &str) -> Option<&Held> {
        self.of(type_url).held.get(name)
    }

    /// Everything that is held of a type.
    pub(crate) fn all(&self, type_url: TypeUrl) -> &BTreeMap<Arc<str>, Held> {
        &self.of(type_url).held
    }

    /// What was asked for by name and neither sent nor said to be absent.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = (TypeUrl, &Arc<str>)> {
        BY_NAME.into_iter().flat_map(|type_url| {
            let of = self.of(type_url);
            let is_open = move |name: &&Arc<str>| !of.held.contains_key(*name) && !of.absent.contains(*name);
            of.wanted.iter().filter(is_open).map(move |name| (type_url, name))
        })
    }

    /// The leaf under a name, and since when.
    pub(crate) fn leaf(&self, name: &str) -> Option<(&Leaf, Timestamp)> {
        match self.held(TypeUrl::Secret, name)? {
            Held { material: Material::Leaf(leaf), at, .. } => Some((leaf, *at)),
            _ => None,
        }
    }

    /// The roots under a name, and since when.
    pub(crate) fn roots(&self, name: &str) -> Option<(&[Certificate], Timestamp)> {
        match self.held(TypeUrl::Secret, name)? {
            Held { material: Material::Roots(roots), at, .. } => Some((roots, *at)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
