//! A seeded random walk of a client and its stream: xds.md 164, 34, 69, 150.
//!
//! Whatever the interleaving of publications, requests, replies, refusals, stale nonces, reconnects, slow reading and
//! time: at most one response of a type is un-acknowledged within the gate, a response has no name twice, no name waits
//! that the client did not want and the view does not have, and once all is quiet the client holds exactly what its
//! view says.
//!
//! The client takes named resources as Envoy does: one after another in no order, and at the first that is bad it
//! refuses the response and passes over the rest. What is good reaches it all the same, while the bad stands; nothing
//! else counts as refused, and nothing is sent over and over.

use std::collections::{BTreeSet, VecDeque};

use super::*;

const FULL: [TypeUrl; 2] = [C, L];
const NAMED: [TypeUrl; 2] = [E, R];
const NAMES: u64 = 5;
/// Names that never exist, wanted beside a wildcard and left again.
const STRANGERS: [&str; 3] = ["s0", "s1", "s2"];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}

struct Walk {
    dice: Dice,
    delta: bool,
    now: Timestamp,
    view: Snapshot,
    session: Session,
    stream: u64,
    is_reading: bool,
    inbox: VecDeque<Response>,
    said_node: bool,
    asked: BTreeSet<TypeUrl>,
    wanted: BTreeMap<TypeUrl, BTreeSet<String>>,
    holds: BTreeMap<(TypeUrl, String), Arc<Resource>>,
    /// The nonce and version of the last response that was read, by type.
    read: BTreeMap<TypeUrl, (String, String)>,
    /// Nonces without a reply, and when they were sent.
    open: BTreeMap<TypeUrl, Vec<(String, Timestamp)>>,
    /// What was in a refused response of this stream: it may come alone, one after another.
    refused: BTreeSet<(TypeUrl, Arc<str>)>,
}

impl Walk {
    fn new(seed: u64, delta: bool) -> Self {
        let view = Snapshot::default();
        Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            delta,
            now: T0,
            session: open(delta, 1, T0, &view),
            view,
            stream: 1,
            is_reading: true,
            inbox: VecDeque::new(),
            said_node: false,
            asked: BTreeSet::new(),
            wanted: NAMED.map(|type_url| (type_url, BTreeSet::new())).into(),
            holds: BTreeMap::new(),
            read: BTreeMap::new(),
            open: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    fn step(&mut self, event: Event) {
        let mut actions = self.session.step(event, self.now);
        loop {
            let mut sent = false;
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Send(response) => {
                        sent = true;
                        self.check(&response);
                        self.inbox.push_back(response);
                    }
                    Action::Refuse(refusal) => panic!("refused: {refusal}"),
                    Action::Close(code) => panic!("closed: {code:?}"),
                    Action::Settled { .. }
                    | Action::Interest { .. }
                    | Action::Dropped(_)
                    | Action::Note(_) => {}
                }
            }
            for waiting in self.session.subscriptions.iter().map(Subscription::waiting) {
                let is_known = |name: &str| name.parse::<u64>().is_ok_and(|n| n < NAMES);
                let strange = waiting.iter().find(|name| !is_known(name) && !STRANGERS.contains(&&***name));
                assert_eq!(strange, None, "a name that nobody wanted waits");
            }
            if !sent || !self.is_reading {
                return;
            }
            actions = self.session.step(Event::Writable, self.now);
        }
    }

    fn check(&mut self, response: &Response) {
        let type_url = TypeUrl::parse(&response.type_url).unwrap();
        assert!(self.asked.contains(&type_url), "nobody asked for {}", type_url.word());
        let names = response.resources.iter().map(|resource| resource.name()).chain(&response.removed);
        let mut seen = BTreeSet::new();
        assert!(names.into_iter().all(|name| seen.insert(name.clone())), "a name twice (39, 67)");
        let is_part = match &*response.resources {
            [alone] => self.refused.contains(&(type_url, alone.name().clone())),
            // Removals ride in the last part.
            resources => resources.is_empty() && self.refused.iter().any(|(of, _)| *of == type_url),
        };
        let open = self.open.entry(type_url).or_default();
        let gate = Limits::default().soft_gate;
        let newest = open.iter().map(|(_, at)| *at).max();
        let may_follow = self.delta && NAMED.contains(&type_url) && is_part;
        assert!(may_follow || newest.is_none_or(|at| self.now >= at + gate), "two responses under way (34)");
        open.push((response.nonce.to_string(), self.now));
    }

    fn node(&mut self) -> Option<Node> {
        (!std::mem::replace(&mut self.said_node, true)).then(node).flatten()
    }

    fn list(&self, type_url: TypeUrl) -> Vec<String> {
        self.wanted.get(&type_url).map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }

    /// The whole wish for a type: on a new stream, or where the list is always whole.
    fn ask(&mut self, type_url: TypeUrl, nonce: String, error: bool) {
        self.asked.insert(type_url);
        let error_detail = error.then(|| status("refused"));
        let node = self.node();
        let event = if self.delta {
            let known = self.holds.iter().filter(|((of, _), _)| *of == type_url);
            Event::Delta(Box::new(DeltaDiscoveryRequest {
                node,
                type_url: type_url.as_str().to_owned(),
                resource_names_subscribe: self.list(type_url),
                initial_resource_versions: known
                    .map(|((_, name), resource)| (name.clone(), resource.version().to_string()))
                    .collect(),
                ..Default::default()
            }))
        } else {
            let version = self.read.get(&type_url).map(|(_, version)| version.clone());
            Event::Sotw(Box::new(DiscoveryRequest {
                node,
                type_url: type_url.as_str().to_owned(),
                resource_names: self.list(type_url),
                version_info: version.unwrap_or_default(),
                response_nonce: nonce,
                error_detail,
                ..Default::default()
            }))
        };
        self.step(event);
    }

    fn nonce(&self, type_url: TypeUrl) -> String {
        self.read.get(&type_url).map(|(nonce, _)| nonce.clone()).unwrap_or_default()
    }

    fn wish(&mut self, type_url: TypeUrl, name: String) {
        let names = self.wanted.get_mut(&type_url).unwrap();
        let leaves = names.remove(&name);
        if leaves {
            self.holds.remove(&(type_url, name.clone()));
        } else {
            names.insert(name.clone());
        }
        if !self.delta || !self.asked.contains(&type_url) {
            let nonce = if self.asked.contains(&type_url) { self.nonce(type_url) } else { String::new() };
            return self.ask(type_url, nonce, false);
        }
        let (subscribe, unsubscribe) = if leaves { (vec![], vec![name]) } else { (vec![name], vec![]) };
        self.change(type_url, subscribe, unsubscribe);
    }

    fn change(&mut self, type_url: TypeUrl, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        let request = DeltaDiscoveryRequest {
            node: self.node(),
            type_url: type_url.as_str().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Default::default()
        };
        self.step(Event::Delta(Box::new(request)));
    }

    /// Leaves many names at once that it does not want by name: of nothing, and of what the wildcard may cover. Beside
    /// a wildcard it may want names that do not exist, before or in the same message.
    fn leave_many(&mut self) {
        let type_url = [C, E, L, R][self.dice.roll(4) as usize];
        if !self.delta || !self.asked.contains(&type_url) {
            return;
        }
        let is_wanted = |name: &String| self.wanted.get(&type_url).is_some_and(|names| names.contains(name));
        let from = self.dice.roll(1 << 20) + NAMES;
        let known = (0..NAMES).map(|n| n.to_string()).filter(|name| !is_wanted(name));
        let mut left: Vec<String> = known.chain((from..from + 50).map(|n| n.to_string())).collect();
        let mut wanted = Vec::new();
        if FULL.contains(&type_url) {
            let strangers = STRANGERS.map(str::to_owned);
            match self.dice.roll(3) {
                0 => left.extend(strangers),
                1 => wanted.extend(strangers),
                _ => {
                    wanted.extend(strangers.clone());
                    left.extend(strangers);
                }
            }
        }
        self.change(type_url, wanted, left);
    }

    /// Reads one response, applies it or refuses it, and says which.
    fn read_one(&mut self) {
        let Some(response) = self.inbox.pop_front() else { return };
        let type_url = TypeUrl::parse(&response.type_url).unwrap();
        let is_bad = response.resources.iter().any(is_refused);
        if !is_bad {
            self.apply(type_url, &response);
        } else {
            let names = response.resources.iter().map(|resource| (type_url, resource.name().clone()));
            self.refused.extend(names);
            self.apply_some(type_url, response.resources);
        }
        let nonce = response.nonce.to_string();
        let replied = if self.delta { vec![nonce.clone()] } else { self.nonces_up_to(type_url, &nonce) };
        self.open.entry(type_url).or_default().retain(|(open, _)| !replied.contains(open));
        let version = response.version.as_ref().map(ToString::to_string).unwrap_or_default();
        let before = self.read.get(&type_url).map(|(_, version)| version.clone()).unwrap_or_default();
        self.read.insert(type_url, (nonce.clone(), if is_bad { before } else { version }));
        if !self.delta {
            return self.ask(type_url, nonce, is_bad);
        }
        let request = DeltaDiscoveryRequest {
            type_url: type_url.as_str().to_owned(),
            response_nonce: nonce,
            error_detail: is_bad.then(|| status("refused")),
            ..Default::default()
        };
        self.step(Event::Delta(Box::new(request)));
    }

    fn nonces_up_to(&self, type_url: TypeUrl, nonce: &str) -> Vec<String> {
        let open = self.open.get(&type_url).into_iter().flatten().map(|(nonce, _)| nonce.clone());
        let mut open: Vec<_> = open.collect();
        // An older response is no longer what the gate waits for, and never was the newest.
        let at = open.iter().position(|known| known == nonce).map_or(0, |at| at + 1);
        if at < open.len() { Vec::new() } else { std::mem::take(&mut open) }
    }

    fn apply(&mut self, type_url: TypeUrl, response: &Response) {
        if !self.delta && FULL.contains(&type_url) {
            self.holds.retain(|(of, _), _| *of != type_url);
        }
        response.resources.iter().for_each(|resource| self.take(type_url, resource));
        for name in &response.removed {
            self.holds.remove(&(type_url, name.to_string()));
        }
    }

    /// What came before the first bad one of a named type, in no order.
    fn apply_some(&mut self, type_url: TypeUrl, mut resources: Vec<Arc<Resource>>) {
        while !FULL.contains(&type_url) && !resources.is_empty() {
            let resource = resources.swap_remove(self.dice.roll(resources.len() as u64) as usize);
            if is_refused(&resource) {
                return;
            }
            self.take(type_url, &resource);
        }
    }

    fn take(&mut self, type_url: TypeUrl, resource: &Arc<Resource>) {
        let name = resource.name().to_string();
        if self.wanted.get(&type_url).is_none_or(|names| names.contains(&name)) {
            self.holds.insert((type_url, name), resource.clone());
        }
    }

    fn reconnect(&mut self) {
        self.stream += 1;
        self.session = open(self.delta, self.stream, self.now, &self.view);
        self.inbox.clear();
        self.open.clear();
        self.refused.clear();
        self.said_node = false;
        self.is_reading = true;
        for type_url in std::mem::take(&mut self.asked) {
            let nonce = self.nonce(type_url);
            self.ask(type_url, nonce, false);
        }
    }

    fn publish(&mut self) {
        for _ in 0..=self.dice.roll(3) {
            let type_url = [C, E, L, R][self.dice.roll(4) as usize];
            let n = self.dice.roll(NAMES);
            if self.dice.roll(4) == 0 {
                self.view.remove(type_url, &n.to_string());
                continue;
            }
            let bad = if self.dice.roll(6) == 0 { "!" } else { "" };
            let content = format!("{}{bad}", self.dice.roll(4));
            self.put(type_url, &n.to_string(), &content);
        }
        self.step(Event::View(Some(Arc::new(self.view.clone()))));
    }

    fn put(&mut self, type_url: TypeUrl, name: &str, content: &str) {
        let needs: &[(TypeUrl, &str)] = match type_url {
            C => &[(E, name)],
            L => &[(R, name)],
            _ => &[],
        };
        self.view.insert(resource(type_url, name, content, needs));
    }

    fn wait(&mut self, length: Duration) {
        let until = self.now + length;
        for _ in 0..1000 {
            let Some(at) = self.session.deadline().filter(|at| *at <= until) else { break };
            assert!(at > self.now, "a deadline must lie ahead");
            self.now = at;
            self.step(Event::Tick);
        }
        self.now = until;
    }

    fn random_step(&mut self) {
        match self.dice.roll(15) {
            0..3 => self.publish(),
            3 => {
                let type_url = FULL[self.dice.roll(2) as usize];
                if !self.asked.contains(&type_url) {
                    self.ask(type_url, String::new(), false);
                }
            }
            4..6 => {
                let type_url = NAMED[self.dice.roll(2) as usize];
                let name = self.dice.roll(NAMES).to_string();
                self.wish(type_url, name);
            }
            6..10 => self.read_one(),
            10 => {
                let millis = self.dice.roll(3000);
                self.wait(Duration::from_millis(millis));
            }
            11 => self.is_reading = false,
            12 => {
                self.is_reading = true;
                self.step(Event::Writable);
            }
            13 => self.leave_many(),
            _ if self.dice.roll(4) == 0 => self.reconnect(),
            _ => {}
        }
    }

    /// Waits until nothing moves.
    fn quiesce(&mut self) {
        self.is_reading = true;
        self.step(Event::Writable);
        let mut count = 0;
        for round in 0..40 {
            while !self.inbox.is_empty() {
                count += 1;
                assert!(round < 20 && count < 200, "something is sent over and over");
                self.read_one();
            }
            self.wait(secs(6));
        }
    }

    /// Repairs what the client refuses.
    fn mend(&mut self) {
        for type_url in [C, E, L, R] {
            let bad: Vec<_> =
                self.view.of(type_url).values().filter(|resource| is_refused(resource)).cloned().collect();
            for resource in bad {
                self.put(type_url, resource.name(), "good");
            }
        }
        self.step(Event::View(Some(Arc::new(self.view.clone()))));
    }

    /// What is good is held, whatever else there is, and what is bad alone is known as refused.
    fn assert_good_is_held(&self, seed: u64) {
        for type_url in NAMED.into_iter().filter(|type_url| self.asked.contains(type_url)) {
            let context = format!("{} of seed {seed}, delta: {}", type_url.word(), self.delta);
            let view = self.view.of(type_url);
            let wanted = self.wanted[&type_url].iter().filter_map(|name| view.get(name.as_str()));
            let (bad, good): (Vec<_>, Vec<_>) = wanted.partition(|resource| is_refused(resource));
            for resource in good {
                let held = self.holds.get(&(type_url, resource.name().to_string()));
                assert_eq!(held, Some(resource), "{context}");
            }
            let progress = self.session.progress(type_url).unwrap();
            let refused: Vec<_> =
                progress.refused.keys().filter(|name| view.contains_key(*name)).cloned().collect();
            assert_eq!(
                refused,
                bad.iter().map(|resource| resource.name().clone()).collect::<Vec<_>>(),
                "{context}"
            );
        }
    }

    fn assert_converged(&self, seed: u64) {
        for type_url in &self.asked {
            let wants = |name: &str| self.wanted.get(type_url).is_none_or(|names| names.contains(name));
            let should: BTreeMap<String, String> = self
                .view
                .of(*type_url)
                .iter()
                .filter(|(name, _)| wants(name))
                .map(|(name, resource)| (name.to_string(), content(resource)))
                .collect();
            // In state of the world nothing says that a named resource is gone: its parent does (41).
            let counts = |name: &str| self.delta || FULL.contains(type_url) || should.contains_key(name);
            let holds: BTreeMap<String, String> = self
                .holds
                .iter()
                .filter(|((of, name), _)| of == type_url && counts(name))
                .map(|((_, name), resource)| (name.clone(), content(resource)))
                .collect();
            assert_eq!(holds, should, "{} of seed {seed}, delta: {}", type_url.word(), self.delta);
        }
    }
}

fn is_refused(resource: &Arc<Resource>) -> bool {
    content(resource).ends_with('!')
}

fn open(delta: bool, stream: u64, now: Timestamp, view: &Snapshot) -> Session {
    let method = Method { only: None, delta };
    let mut session =
        Session::open(Opening { stream, now, view: Some(Arc::new(view.clone())), ..opening(method) })
            .unwrap();
    // The walk may say nothing for long; the first-message rule has its own example.
    session.limits.first_message = secs(1 << 30);
    session
}

#[test]
fn every_interleaving_ends_with_what_the_view_says() {
    for seed in 1..=500 {
        for delta in [true, false] {
            let mut walk = Walk::new(seed, delta);
            for _ in 0..120 {
                walk.random_step();
            }
            walk.quiesce();
            walk.assert_good_is_held(seed);
            walk.mend();
            walk.quiesce();
            walk.assert_converged(seed);
        }
    }
}
