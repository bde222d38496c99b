//! What one stream wants and holds of one type, and what it must be sent next. Pure.
//!
//! It knows names, versions and nonces of one type; how types wait for each other is the session's.
//!
//! ```text
//! request --names--> due --fill--> queue --part--> flight --ACK--> (held, acknowledged)
//! view ----diff----^                                      --NACK-> parked until content, names or stream change
//! ```
//!
//! A refusal of several resources of a named type says nothing about most of them: Envoy gives each to who waits for
//! it, in no order, and stops at the first that fails. So each of them comes once more in a response of its own, and
//! only what is refused alone is parked.
//!
//! `held` is a persistent map: a stream in step with its view shares the view's own map, so that it costs nothing
//! and the next difference costs the change.

mod deliver;
mod names;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use imbl::OrdMap;
use spiffe::Timestamp;

use self::{names::Names, source::Offer};
pub(crate) use self::{names::NamesChange, source::Source};
use crate::{Resource, TypeUrl, Version, limits::Limits};

/// One response's name on a stream, echoed by the reply. It names the stream too, so that a nonce of another
/// stream is never taken for one of this (xds.md 11).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Nonce(Arc<str>);

impl Nonce {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Counts the nonces of one stream.
#[derive(Debug)]
pub(crate) struct Nonces {
    stream: u64,
    count: u64,
}

impl Nonces {
    pub(crate) fn new(stream: u64) -> Self {
        Self { stream, count: 0 }
    }

    pub(crate) fn next(&mut self) -> Nonce {
        self.count += 1;
        Nonce(format!("{:x}.{:x}", self.stream, self.count).into())
    }
}

/// A refusal of one version by the node, with its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// What it refused.
    pub version: Version,
    /// In which response, with what else.
    pub response: Nonce,
    /// Why, as it said, cleaned of control characters and cut.
    pub words: Arc<str>,
    /// When.
    pub at: Timestamp,
}

/// What is written next for one type.
#[derive(Debug)]
pub struct Response {
    /// The type, as the client spells it.
    pub type_url: Arc<str>,
    /// Its nonce.
    pub nonce: Nonce,
    /// The version of the set; state of the world only.
    pub version: Option<Version>,
    /// What is sent.
    pub resources: Vec<Arc<Resource>>,
    /// What is gone; delta only.
    pub removed: Vec<Arc<str>>,
}

/// A response, and the resources that must follow it although unchanged (xds.md 89, 90).
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) response: Response,
    pub(crate) dependants: Vec<(TypeUrl, Arc<str>)>,
}

/// Which changes must wait for a parent type that cannot be sent yet (xds.md 88, 97).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hold<'a> {
    /// None.
    Nothing,
    /// Changes of these.
    Names(&'a BTreeSet<(TypeUrl, Arc<str>)>),
    /// All changes. What was asked for is answered all the same.
    Changes,
}

/// What a reply with a nonce said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Nothing about any response: a spontaneous request, or one said before.
    Nothing,
    /// Something about a response that is not the newest, or not of this stream.
    Stale,
    /// These were applied, or refused with these words. None, with words: it is not known yet which were refused.
    Settled { items: Vec<(Arc<str>, Version)>, refusal: Option<Arc<str>> },
}

/// Why a name is to be looked at, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// It differs from what it was.
    Changed,
    /// What needs it changed.
    Parent,
    /// The client asked for it.
    Asked,
}

/// Refused resources that are no longer what they were, and the responses that they were refused in.
#[derive(Debug, Default)]
struct Reopened {
    names: HashSet<Arc<str>>,
    responses: HashSet<Nonce>,
}

#[derive(Debug)]
struct Part {
    nonce: Nonce,
    items: Vec<(Arc<str>, Version)>,
    removed: Vec<Arc<str>>,
    set: Option<Version>,
}

/// What is known of delivery, for the status board. Clones share.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) held: OrdMap<Arc<str>, Arc<Resource>>,
    pub(crate) unacked: OrdMap<Arc<str>, Option<Version>>,
    pub(crate) refused: OrdMap<Arc<str>, Arc<Nack>>,
    /// Wanted by name and not sent; only the first few.
    pub(crate) missing: Vec<Arc<str>>,
}

/// What one stream wants and holds of one type.
#[derive(Debug)]
pub(crate) struct Subscription {
    type_url: TypeUrl,
    delta: bool,
    names: Names,
    seen: Source,
    /// As sent, acknowledged or not; without what was refused.
    held: OrdMap<Arc<str>, Arc<Resource>>,
    due: BTreeMap<Arc<str>, Why>,
    /// Those of them that the client named, and wants by its wildcard only now, and that the view does not have: what
    /// bounds `due` beside the names that are wanted and the view.
    leaving: BTreeSet<Arc<str>>,
    /// An answer is due even if it is empty (xds.md 30, 61).
    answer_due: bool,
    queue: VecDeque<Arc<Resource>>,
    removals: Vec<Arc<str>>,
    /// Asked for while nothing could be said.
    unanswered: BTreeSet<Arc<str>>,
    /// What the client holds from an earlier stream at another version, until it is sent or removed.
    recalled: BTreeSet<Arc<str>>,
    /// Gone from the view, perhaps still in use by the node (xds.md 93): since when all that may use it is settled.
    withdrawn: BTreeMap<Arc<str>, Option<Timestamp>>,
    /// What was refused, by name, with the version that is not sent again.
    parked: OrdMap<Arc<str>, Arc<Nack>>,
    /// What goes in a response of its own, until that is answered: it was refused before, with others or alone.
    apart: BTreeSet<Arc<str>>,
    /// The refused set; state of the world, full-state types.
    refused_set: Option<Version>,
    unacked: OrdMap<Arc<str>, Option<Version>>,
    flight: VecDeque<Part>,
    last_nonce: Option<Nonce>,
    sent_at: Timestamp,
}

impl Subscription {
    pub(crate) fn new(type_url: TypeUrl, delta: bool, seen: Source) -> Self {
        Self {
            type_url,
            delta,
            names: Names::new(type_url),
            seen,
            held: OrdMap::new(),
            due: BTreeMap::new(),
            leaving: BTreeSet::new(),
            answer_due: false,
            queue: VecDeque::new(),
            removals: Vec::new(),
            unanswered: BTreeSet::new(),
            recalled: BTreeSet::new(),
            withdrawn: BTreeMap::new(),
            parked: OrdMap::new(),
            apart: BTreeSet::new(),
            refused_set: None,
            unacked: OrdMap::new(),
            flight: VecDeque::new(),
            last_nonce: None,
            sent_at: Timestamp::EPOCH,
        }
    }

    /// A request of the state of the world: the names, and the version the client says it holds.
    pub(crate) fn request_sotw(&mut self, names: Vec<String>, version: &str) -> NamesChange {
        let first = !self.names.started();
        let change = self.names.replace(names);
        self.forget(&change);
        if self.type_url.is_full_state() {
            self.answer_due |= change.wildcard_asked || !change.asked.is_empty();
            if first && self.holds_already(version) {
                self.answer_due = false;
            }
        } else {
            self.ask(&change, first);
        }
        if self.names.is_empty() {
            self.answer_due = false;
            self.due.clear();
        }
        change
    }

    /// The only reconnect that may stay unanswered (xds.md 43): nothing but the wildcard of a full-state type, at
    /// the version that would be sent.
    fn holds_already(&mut self, version: &str) -> bool {
        let Some(all) = self.seen.all() else { return false };
        let only_all = self.names.is_wildcard() && self.names.explicit().is_empty();
        let equal = only_all && !version.is_empty() && deliver::set_version(all).as_str() == version;
        if equal {
            self.held = all.clone();
        }
        equal
    }

    /// A delta request. `known` are the versions that the client holds from an earlier stream, read only in the
    /// first message of the type (xds.md 56); `trust_known` is false for clients that report them wrongly.
    pub(crate) fn request_delta(
        &mut self,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        known: HashMap<String, String>,
        trust_known: bool,
    ) -> NamesChange {
        let first = !self.names.started();
        let change = self.names.adjust(subscribe, unsubscribe);
        self.forget(&change);
        self.ask(&change, first);
        self.answer_due |= change.wildcard_asked;
        if first {
            known.iter().for_each(|(name, version)| self.recall(name, version, trust_known));
        }
        change
    }

    /// Takes note of what the client holds from before. That alone subscribes to nothing (xds.md 58), and a name
    /// that is subscribed to is answered all the same (xds.md 59).
    fn recall(&mut self, name: &str, version: &str, trust: bool) {
        if !self.names.covers(name) || self.names.is_explicit(name) {
            return;
        }
        match self.seen.offer(name) {
            Offer::Held(resource) if trust && resource.version().as_str() == version => {
                self.held.insert(resource.name().clone(), resource.clone());
            }
            Offer::Held(_) | Offer::Silent => {
                self.recalled.insert(name.into());
            }
            Offer::Absent if self.type_url == TypeUrl::Listener => {
                self.due.insert(name.into(), Why::Asked);
            }
            Offer::Absent if self.type_url == TypeUrl::Extension => {}
            Offer::Absent => {
                self.withdrawn.insert(name.into(), None);
            }
        }
    }

    /// Names are answered whatever is held; so is a wildcard that was asked for again (xds.md 49, 50).
    fn ask(&mut self, change: &NamesChange, first: bool) {
        if change.wildcard_asked
            && let Some(all) = self.seen.all()
        {
            let why = if first { Why::Changed } else { Why::Asked };
            for name in all.keys() {
                self.due.entry(name.clone()).and_modify(|known| *known = why.max(*known)).or_insert(why);
            }
        }
        for name in &change.asked {
            self.leaving.remove(name);
            self.due.insert(name.clone(), Why::Asked);
        }
        // What the client never wanted by name and cannot have is ignored (xds.md 53), or its names would pile up here.
        for name in &change.strange {
            if self.held.contains_key(name) || matches!(self.seen.offer(name), Offer::Held(_)) {
                self.due.insert(name.clone(), Why::Asked);
            }
        }
    }

    fn forget(&mut self, change: &NamesChange) {
        if change.wildcard_dropped {
            let names = &self.names;
            let explicit = |name: &Arc<str>| names.is_explicit(name);
            self.held = only(&self.held, names);
            self.parked = only(&self.parked, names);
            self.unacked = only(&self.unacked, names);
            self.apart.retain(explicit);
            self.due.retain(|name, _| explicit(name));
            self.leaving.clear();
            self.unanswered.retain(explicit);
            self.recalled.retain(explicit);
            self.withdrawn.retain(|name, _| explicit(name));
        }
        let mut reopened = Reopened::default();
        for name in &change.dropped {
            if !self.names.covers(name) {
                self.reopen(name, &mut reopened);
                self.forget_name(name);
                self.due.remove(name);
                self.unanswered.remove(name);
            } else {
                self.leave(name);
            }
        }
        self.retry(&reopened);
    }

    /// The client cannot know whether the wildcard covers the name that it leaves, so it is told (xds.md 54); state of
    /// the world has no words for that.
    fn leave(&mut self, name: &Arc<str>) {
        if self.delta {
            self.due.insert(name.clone(), Why::Asked);
        }
        let has = matches!(self.seen.offer(name), Offer::Held(_));
        if !has && self.due.contains_key(name) {
            self.leaving.insert(name.clone());
        }
    }

    /// Something of a refused response is no longer what it was.
    fn reopen(&self, name: &Arc<str>, reopened: &mut Reopened) {
        if let Some(nack) = self.parked.get(name) {
            reopened.names.insert(name.clone());
            reopened.responses.insert(nack.response.clone());
        }
    }

    /// What was refused along with it, and may be right, gets another chance. Looked for once for all names: many may
    /// have been refused together, and all of them change at once.
    fn retry(&mut self, reopened: &Reopened) {
        if reopened.names.is_empty() {
            return;
        }
        for (name, nack) in &self.parked {
            if reopened.responses.contains(&nack.response) && !reopened.names.contains(name) {
                self.due.insert(name.clone(), Why::Asked);
            }
        }
    }

    fn forget_name(&mut self, name: &str) {
        self.held.remove(name);
        self.recalled.remove(name);
        self.parked.remove(name);
        self.apart.remove(name);
        self.unacked.remove(name);
        self.withdrawn.remove(name);
    }

    /// What may be sent became `newer`. Costs the difference.
    pub(crate) fn update(&mut self, newer: Source) {
        if self.names.started() {
            let (names, due) = (&self.names, &mut self.due);
            self.seen.differences(&newer, |name| {
                if names.covers(name) {
                    due.entry(name.clone()).or_insert(Why::Changed);
                }
            });
        }
        self.seen = newer;
    }

    /// What needs `name` changed: it follows, even if it did not change itself.
    pub(crate) fn touch(&mut self, name: &Arc<str>) {
        if self.names.started() && self.names.covers(name) {
            let why = self.due.entry(name.clone()).or_insert(Why::Parent);
            *why = (*why).max(Why::Parent);
        }
    }

    /// Reads the nonce and error of a request.
    pub(crate) fn reply(&mut self, nonce: &str, refusal: Option<Arc<str>>, now: Timestamp) -> Reply {
        if nonce.is_empty() {
            return Reply::Nothing;
        }
        let newest = self.last_nonce.as_ref().is_some_and(|last| last.as_str() == nonce);
        let Some(at) = self.flight.iter().position(|part| part.nonce.as_str() == nonce) else {
            return if newest { Reply::Nothing } else { Reply::Stale };
        };
        if !self.delta && !newest {
            return Reply::Stale;
        }
        let Some(part) = self.flight.remove(at) else { return Reply::Stale };
        if !self.delta {
            self.overtaken();
        }
        match refusal {
            None => self.acknowledge(&part),
            Some(words) if self.is_company(&part) => self.divide(&part, words),
            Some(words) => self.park(&part, words, now),
        }
    }

    /// State of the world, where the gate ran out: older responses can no longer be acknowledged, so what only
    /// they carried is sent once more.
    fn overtaken(&mut self) {
        for (name, version) in std::mem::take(&mut self.flight).into_iter().flat_map(|part| part.items) {
            let current = self.held.get(&name).is_some_and(|held| *held.version() == version);
            if current && self.unacked.contains_key(&name) && !self.type_url.is_full_state() {
                self.due.insert(name, Why::Asked);
            }
        }
    }

    fn acknowledge(&mut self, part: &Part) -> Reply {
        if part.set.is_some() {
            self.unacked = OrdMap::new();
        }
        for (name, version) in &part.items {
            match self.held.get(name) {
                Some(held) if held.version() == version => {
                    self.unacked.remove(name);
                    self.apart.remove(name);
                }
                Some(_) => {
                    self.unacked.insert(name.clone(), Some(version.clone()));
                }
                None => {}
            }
        }
        Reply::Settled { items: part.items.clone(), refusal: None }
    }

    /// Whether a refusal of the response leaves open what of it was wrong. Clusters and listeners are applied one by
    /// one, whatever becomes of the others.
    fn is_company(&self, part: &Part) -> bool {
        !self.type_url.is_full_state() && !part.items.is_empty() && part.items.len() + part.removed.len() > 1
    }

    /// One of them was wrong, and the client may have passed over others for it: each comes once more, alone. Until
    /// that is answered, nothing is said of any.
    fn divide(&mut self, part: &Part, words: Arc<str>) -> Reply {
        for (name, version) in &part.items {
            if self.held.get(name).is_some_and(|held| held.version() == version) {
                self.apart.insert(name.clone());
                // What changed meanwhile waits for what it refers to, as before.
                self.due.entry(name.clone()).or_insert(Why::Asked);
            }
        }
        self.remove_again(part);
        Reply::Settled { items: Vec::new(), refusal: Some(words) }
    }

    /// Removals that were refused for their company are said again, alone; a refusal of nothing but removals has no
    /// cure.
    fn remove_again(&mut self, part: &Part) {
        if !part.items.is_empty() {
            for name in part.removed.iter().filter(|name| self.names.covers(name)) {
                self.due.entry(name.clone()).or_insert(Why::Asked);
            }
        }
    }

    /// Nothing of a refused response counts as held, since the client may have applied some of it; the refused
    /// content is not sent again (xds.md 18, 19, 66).
    fn park(&mut self, part: &Part, words: Arc<str>, now: Timestamp) -> Reply {
        if part.set.is_some() {
            self.refused_set.clone_from(&part.set);
        }
        let mut is_overtaken = false;
        for (name, version) in &part.items {
            if self.held.get(name).is_none_or(|held| held.version() != version) {
                is_overtaken = true;
                continue;
            }
            let (version, response) = (version.clone(), part.nonce.clone());
            let nack = Nack { version, response, words: words.clone(), at: now };
            self.parked.insert(name.clone(), Arc::new(nack));
            self.apart.remove(name);
            if part.set.is_none() {
                self.held.remove(name);
            }
        }
        if is_overtaken && part.set.is_none() {
            // What was wrong may be mended already: the rest gets its chance at once.
            for (name, nack) in &self.parked {
                if nack.response == part.nonce {
                    self.due.insert(name.clone(), Why::Asked);
                }
            }
        }
        self.remove_again(part);
        Reply::Settled { items: part.items.clone(), refusal: Some(words) }
    }

    /// Whether newer content may go: at most one response is un-acknowledged, for a while (xds.md 34).
    pub(crate) fn gate_open(&self, now: Timestamp, limits: &Limits) -> bool {
        self.flight.is_empty() || now >= self.gate_ends(limits)
    }

    pub(crate) fn gate_ends(&self, limits: &Limits) -> Timestamp {
        self.sent_at + limits.soft_gate
    }

    pub(crate) fn in_flight(&self) -> bool {
        !self.flight.is_empty()
    }

    pub(crate) fn started(&self) -> bool {
        self.names.started()
    }

    /// How many names are wanted by name.
    pub(crate) fn name_count(&self) -> usize {
        self.names.explicit().len()
    }

    /// How many names that were wanted by name it still remembers, to answer that they are wanted no longer.
    pub(crate) fn leaving_count(&self) -> usize {
        self.leaving.len()
    }

    /// How many resources there are that the client may know.
    pub(crate) fn offer_count(&self) -> usize {
        self.seen.len()
    }

    /// Whether something waits to be sent.
    pub(crate) fn is_pending(&self) -> bool {
        self.answer_due || !self.due.is_empty() || !self.queue.is_empty() || !self.removals.is_empty()
    }

    /// Whether a change of what it sends waits. What only follows a parent, or is asked for, holds back nobody.
    pub(crate) fn is_change_pending(&self) -> bool {
        self.due.values().any(|why| *why == Why::Changed)
    }

    /// Whether something that still stands was refused, so that the client goes on with what it had before.
    pub(crate) fn is_refused(&self) -> bool {
        let stands = |name: &Arc<str>| matches!(self.seen.offer(name), Offer::Held(_));
        self.refused_set.is_some() || self.parked.keys().any(stands)
    }

    pub(crate) fn has_withdrawn(&self) -> bool {
        !self.withdrawn.is_empty()
    }

    /// All that may use what is withdrawn is settled now.
    pub(crate) fn settle_withdrawn(&mut self, now: Timestamp) {
        self.withdrawn.values_mut().for_each(|since| *since = since.or(Some(now)));
    }

    /// Since when the first of what is withdrawn is settled.
    pub(crate) fn withdrawn_since(&self) -> Option<Timestamp> {
        self.withdrawn.values().copied().flatten().min()
    }

    /// What changes that wait refer to.
    pub(crate) fn pending_references(&self) -> impl Iterator<Item = (TypeUrl, Arc<str>)> + '_ {
        self.due
            .keys()
            .filter_map(|name| match self.seen.offer(name) {
                Offer::Held(resource) => Some(resource),
                Offer::Silent | Offer::Absent => None,
            })
            .flat_map(|resource| deliver::dependants(resource))
    }

    pub(crate) fn progress(&self) -> Progress {
        let is_missing =
            |name: &&Arc<str>| !self.held.contains_key(*name) && !self.parked.contains_key(*name);
        Progress {
            held: self.held.clone(),
            unacked: self.unacked.clone(),
            refused: self.parked.clone(),
            missing: self.names.explicit().iter().take(256).filter(is_missing).cloned().collect(),
        }
    }
}

#[cfg(test)]
impl Subscription {
    /// How many names that were taken away wait for an acknowledgement.
    pub(crate) fn taken_away(&self) -> usize {
        self.flight.iter().map(|part| part.removed.len()).sum()
    }

    /// Every name that waits for something.
    pub(crate) fn waiting(&self) -> BTreeSet<Arc<str>> {
        assert!(self.leaving.iter().all(|name| self.due.contains_key(name) && !self.names.is_explicit(name)));
        let sets = [&self.unanswered, &self.recalled, &self.leaving, &self.apart].into_iter().flatten();
        sets.chain(self.due.keys()).chain(self.withdrawn.keys()).chain(&self.removals).cloned().collect()
    }
}

fn only<V: Clone>(map: &OrdMap<Arc<str>, V>, names: &Names) -> OrdMap<Arc<str>, V> {
    let kept = |name: &Arc<str>| map.get_key_value(name).map(|(name, value)| (name.clone(), value.clone()));
    names.explicit().iter().filter_map(kept).collect()
}

#[cfg(test)]
mod tests;
