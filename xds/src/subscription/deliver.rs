//! What a subscription sends next.

use std::{collections::BTreeMap, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use spiffe::Timestamp;

use super::{Hold, Nonces, Offer, Outgoing, Part, Reopened, Response, Subscription, Why};
use crate::{Resource, TypeUrl, Version, limits::Limits};

/// Responses that a client never acknowledged are remembered up to this many, and one for each resource that goes alone.
const MAX_FORGOTTEN: usize = 64;
/// So many names that they took away are remembered, of the newest.
const MAX_FORGOTTEN_NAMES: usize = 10_000;

/// One version for a set: equal content, equal version (xds.md 25, 26).
pub(super) fn set_version(set: &OrdMap<Arc<str>, Arc<Resource>>) -> Version {
    version_of(set.values())
}

fn version_of<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> Version {
    let mut text = Vec::new();
    for resource in resources {
        text.extend_from_slice(resource.name().as_bytes());
        text.push(0);
        text.extend_from_slice(resource.version().as_str().as_bytes());
        text.push(0);
    }
    Version::of(&text)
}

/// What Envoy waits for again after `resource` changed: EDS and SDS of a cluster, SDS and ECDS of a listener. It
/// keeps the routes it has (xds.md 89-91).
pub(super) fn dependants(resource: &Resource) -> impl Iterator<Item = (TypeUrl, Arc<str>)> + '_ {
    let parent = resource.type_url();
    let follows = move |child: TypeUrl| match parent {
        TypeUrl::Cluster => matches!(child, TypeUrl::Endpoints | TypeUrl::Secret),
        TypeUrl::Listener => matches!(child, TypeUrl::Secret | TypeUrl::Extension),
        TypeUrl::Endpoints | TypeUrl::Secret | TypeUrl::Extension | TypeUrl::Route => false,
    };
    resource.references().iter().filter(move |(child, _)| follows(*child)).cloned()
}

impl Subscription {
    /// The next response, if there is one and it may go. Called again until there is none.
    pub(crate) fn next(
        &mut self,
        now: Timestamp,
        hold: Hold<'_>,
        limits: &Limits,
        nonces: &mut Nonces,
    ) -> Option<Outgoing> {
        let is_begun = !self.queue.is_empty() || !self.removals.is_empty();
        if !is_begun {
            if !self.gate_open(now, limits) {
                return None;
            }
            self.forget_oldest();
            if !self.delta && self.type_url.is_full_state() {
                return self.whole_set(now, hold, nonces);
            }
            // The first answer to a wildcard is whole, or the client would believe that there is nothing.
            self.fill(if self.answer_due { Hold::Nothing } else { hold });
        }
        let (resources, removed) = self.cut(limits);
        let empty = resources.is_empty() && removed.is_empty();
        if empty && is_begun {
            // Nothing of what was left may go any more.
            return self.next(now, hold, limits, nonces);
        }
        if empty && !(self.delta && self.answer_due && self.queue.is_empty()) {
            return None;
        }
        self.answer_due = false;
        let version = (!self.delta).then(|| version_of(resources.iter()));
        let outgoing = self.send(now, nonces, version, resources, removed, None);
        self.share_view();
        Some(outgoing)
    }

    /// Removes what was withdrawn, now that nothing uses it any more (xds.md 93, 94).
    pub(crate) fn withdraw(
        &mut self,
        now: Timestamp,
        limits: &Limits,
        nonces: &mut Nonces,
    ) -> Option<Outgoing> {
        let is_due =
            |since: &Option<Timestamp>| since.is_some_and(|since| now >= since + limits.removal_linger);
        if !self.withdrawn.values().any(is_due) || !self.gate_open(now, limits) {
            return None;
        }
        self.forget_oldest();
        let (withdrawn, later) =
            std::mem::take(&mut self.withdrawn).into_iter().partition(|(_, s)| is_due(s));
        self.withdrawn = later;
        if !self.delta {
            let mut set = self.target_set();
            for name in self.withdrawn.keys() {
                set.extend(self.held.get(name).map(|held| (name.clone(), held.clone())));
            }
            let version = set_version(&set);
            return Some(self.send_set(now, nonces, version, set));
        }
        let mut removed = Vec::new();
        let withdrawn: BTreeMap<Arc<str>, Option<Timestamp>> = withdrawn;
        for name in withdrawn.into_keys() {
            if self.names.covers(&name) && matches!(self.seen.offer(&name), Offer::Absent) {
                self.forget_name(&name);
                removed.push(name);
            }
        }
        (!removed.is_empty()).then(|| self.send(now, nonces, None, Vec::new(), removed, None))
    }

    /// Decides about every name that is due and need not wait. What goes alone comes last: it delays nothing.
    fn fill(&mut self, hold: Hold<'_>) {
        let mut reopened = Reopened::default();
        let mut apart = Vec::new();
        for (name, why) in std::mem::take(&mut self.due) {
            let waits = why == Why::Changed
                && match hold {
                    Hold::Nothing => false,
                    Hold::Names(names) => names.contains(&(self.type_url, name.clone())),
                    Hold::Changes => true,
                };
            if waits {
                self.due.insert(name, why);
            } else if self.goes_apart(&name) {
                apart.push((name, why));
            } else {
                self.decide(name, why, &mut reopened);
            }
        }
        for (name, why) in apart {
            // In state of the world only the newest response can be answered, so each of them waits for the one before.
            if self.delta || self.queue.is_empty() {
                self.decide(name, why, &mut reopened);
            } else {
                self.due.insert(name, why);
            }
        }
        self.retry(&reopened);
    }

    /// What was refused once is tried where it can harm nothing else.
    fn goes_apart(&self, name: &Arc<str>) -> bool {
        self.apart.contains(name) || (!self.type_url.is_full_state() && self.parked.contains_key(name))
    }

    fn decide(&mut self, name: Arc<str>, why: Why, reopened: &mut Reopened) {
        self.leaving.remove(&name);
        if !self.names.covers(&name) {
            return;
        }
        let was_unanswered = self.unanswered.remove(&name);
        let why = if was_unanswered { Why::Asked } else { why };
        let offered = match self.seen.offer(&name) {
            Offer::Held(resource) => resource.clone(),
            Offer::Silent => {
                if why == Why::Asked {
                    self.unanswered.insert(name);
                }
                return;
            }
            Offer::Absent => return self.decide_absent(name, why, reopened),
        };
        self.withdrawn.remove(&name);
        let same = !self.apart.contains(&name)
            && self.held.get(&name).is_some_and(|held| held.version() == offered.version());
        let refused = self.parked.get(&name).is_some_and(|nack| nack.version == *offered.version());
        let send = match why {
            Why::Asked => true,
            Why::Parent => !refused,
            Why::Changed => !same && !refused,
        };
        if send {
            self.reopen(&name, reopened);
            if self.goes_apart(&name) {
                self.apart.insert(name);
            }
            self.queue.push_back(offered);
        }
    }

    fn decide_absent(&mut self, name: Arc<str>, why: Why, reopened: &mut Reopened) {
        let in_hand = self.held.contains_key(&name)
            || self.parked.contains_key(&name)
            || self.recalled.contains(&name)
            || self.withdrawn.contains_key(&name);
        self.reopen(&name, reopened);
        if !self.delta {
            // The parent's going says it (xds.md 41); a name that does not exist is remembered (xds.md 42).
            self.forget_name(&name);
            return;
        }
        match (why, self.type_url) {
            // A listener that uses it would answer 5xx at once (xds.md 96).
            (_, TypeUrl::Extension) if in_hand => {}
            (Why::Asked, _) => {
                self.forget_name(&name);
                self.removals.push(name);
            }
            // Its successor may bind the same address: both in one message (xds.md 95).
            (_, TypeUrl::Listener) if in_hand => {
                self.forget_name(&name);
                self.removals.push(name);
            }
            _ if in_hand => {
                self.withdrawn.entry(name).or_insert(None);
            }
            _ => {}
        }
    }

    /// Takes from the queue what fits into one message, or goes alone; removals ride in the last (xds.md 64, 127). Only
    /// delta responses may be cut. What waited goes as it is now, if it still may: the client may read so slowly that
    /// access to a secret has ended since.
    fn cut(&mut self, limits: &Limits) -> (Vec<Arc<Resource>>, Vec<Arc<str>>) {
        let mut size = 0;
        let mut resources = Vec::new();
        while let Some(next) = self.queue.pop_front() {
            if !self.names.covers(next.name()) {
                continue;
            }
            let next = match self.seen.offer(next.name()) {
                Offer::Held(current) => current.clone(),
                Offer::Silent | Offer::Absent => {
                    self.due.insert(next.name().clone(), Why::Asked);
                    continue;
                }
            };
            size += next.delta_field().len();
            let is_apart = self.apart.contains(next.name());
            let is_full = !resources.is_empty() && (is_apart || size > limits.delta_bytes);
            if self.delta && is_full {
                self.queue.push_front(next);
                return (resources, Vec::new());
            }
            resources.push(next);
            if is_apart {
                return (resources, Vec::new());
            }
        }
        (resources, std::mem::take(&mut self.removals))
    }

    /// The whole of a full-state type, in state of the world (xds.md 36).
    fn whole_set(&mut self, now: Timestamp, hold: Hold<'_>, nonces: &mut Nonces) -> Option<Outgoing> {
        let asked = self.answer_due || self.due.values().any(|why| *why == Why::Asked);
        let held_back = matches!(hold, Hold::Changes) && !asked;
        if held_back || !self.is_pending() {
            return None;
        }
        self.due.clear();
        self.leaving.clear();
        self.answer_due = false;
        let mut set = self.target_set();
        self.keep_withdrawn(&mut set);
        let version = set_version(&set);
        if !asked {
            let same = self.refused_set.is_none() && self.held.diff(&set).next().is_none();
            if same || self.refused_set.as_ref() == Some(&version) {
                return None;
            }
        }
        Some(self.send_set(now, nonces, version, set))
    }

    fn target_set(&self) -> OrdMap<Arc<str>, Arc<Resource>> {
        match self.seen.all() {
            Some(all) if self.names.is_wildcard() => all.clone(),
            _ => self
                .names
                .explicit()
                .iter()
                .filter_map(|name| match self.seen.offer(name) {
                    Offer::Held(resource) => Some((resource.name().clone(), resource.clone())),
                    Offer::Silent | Offer::Absent => None,
                })
                .collect(),
        }
    }

    /// Clusters that are gone stay in the set until nothing uses them (xds.md 94); listeners go at once (95).
    fn keep_withdrawn(&mut self, set: &mut OrdMap<Arc<str>, Arc<Resource>>) {
        let before = std::mem::take(&mut self.withdrawn);
        if self.type_url != TypeUrl::Cluster {
            return;
        }
        let gone: Vec<Arc<Resource>> = self
            .held
            .diff(set)
            .filter_map(|item| match item {
                DiffItem::Remove(name, resource) if self.names.covers(name) => Some(resource.clone()),
                DiffItem::Remove(..) | DiffItem::Add(..) | DiffItem::Update { .. } => None,
            })
            .collect();
        for resource in gone {
            let since = before.get(resource.name()).copied().flatten();
            self.withdrawn.insert(resource.name().clone(), since);
            set.insert(resource.name().clone(), resource);
        }
    }

    fn send_set(
        &mut self,
        now: Timestamp,
        nonces: &mut Nonces,
        version: Version,
        set: OrdMap<Arc<str>, Arc<Resource>>,
    ) -> Outgoing {
        let mut changed = Vec::new();
        let mut gone = Vec::new();
        for item in self.held.diff(&set) {
            match item {
                DiffItem::Add(_, new) | DiffItem::Update { new: (_, new), .. } => changed.push(new.clone()),
                DiffItem::Remove(name, _) => gone.push(name.clone()),
            }
        }
        gone.iter().for_each(|name| self.forget_name(name));
        self.refused_set = None;
        self.parked = OrdMap::new();
        let resources = set.values().cloned().collect();
        let outgoing = self.send(now, nonces, Some(version), resources, Vec::new(), Some(changed));
        self.held = set;
        outgoing
    }

    /// Writes down what is about to be written, before it is (xds.md, J#70). `changed` are the resources that are
    /// news in a whole set; in any other response all are.
    fn send(
        &mut self,
        now: Timestamp,
        nonces: &mut Nonces,
        version: Option<Version>,
        resources: Vec<Arc<Resource>>,
        removed: Vec<Arc<str>>,
        changed: Option<Vec<Arc<Resource>>>,
    ) -> Outgoing {
        let set = changed.as_ref().and(version.clone());
        let news = changed.as_ref().unwrap_or(&resources);
        for resource in news {
            self.note_sent(resource);
        }
        let items = news.iter().map(|sent| (sent.name().clone(), sent.version().clone())).collect();
        let dependants = news.iter().flat_map(|sent| dependants(sent)).collect();
        let nonce = nonces.next();
        if !removed.is_empty() {
            self.forget_names(removed.len());
        }
        self.flight.push_back(Part { nonce: nonce.clone(), items, removed: removed.clone(), set });
        self.last_nonce = Some(nonce.clone());
        self.sent_at = now;
        let type_url = self.type_url.shared();
        Outgoing { response: Response { type_url, nonce, version, resources, removed }, dependants }
    }

    /// Between responses only: the parts of one that is cut are all remembered, however many they are.
    fn forget_oldest(&mut self) {
        while self.flight.len() >= MAX_FORGOTTEN + self.apart.len() {
            self.flight.pop_front();
        }
    }

    /// Before `more` are remembered.
    fn forget_names(&mut self, more: usize) {
        let mut names = more;
        for part in self.flight.iter_mut().rev() {
            names += part.removed.len();
            if names > MAX_FORGOTTEN_NAMES {
                part.removed = Vec::new();
            }
        }
    }

    fn note_sent(&mut self, resource: &Arc<Resource>) {
        let name = resource.name();
        if !self.unacked.contains_key(name) {
            let before = self.held.get(name).map(|held| held.version().clone());
            self.unacked.insert(name.clone(), before);
        }
        self.parked.remove(name);
        self.recalled.remove(name);
        self.held.insert(name.clone(), resource.clone());
    }

    /// A stream in step with its view holds the view's own map: no memory, and differences that cost the change.
    fn share_view(&mut self) {
        let in_step = self.names.is_wildcard()
            && !self.is_pending()
            && self.parked.is_empty()
            && self.withdrawn.is_empty();
        if in_step && let Some(all) = self.seen.all() {
            self.held = all.clone();
        }
    }
}
