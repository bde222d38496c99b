//! A seeded random walk: a server that fails in every way, kills in between, and what holds whatever happens.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

/// An order of the simulated server.
#[derive(Clone)]
struct SimOrder {
    status: OrderStatus,
    valid: [bool; 2],
    told: [bool; 2],
}

/// A server, whoever publishes, and what is stored; they outlive the machine.
struct Sim {
    random: StdRng,
    orders: Vec<SimOrder>,
    stored: Option<Saved>,
    /// What is published, since when.
    published: BTreeMap<Presented, Timestamp>,
    /// Nothing may be asked before.
    closed_until: Timestamp,
    now: Timestamp,
    /// No further faults, so that it ends.
    is_calm: bool,
    seed: u64,
}

impl Sim {
    fn fault(&mut self, percent: u32) -> bool {
        !self.is_calm && self.random.random_range(0..100) < percent
    }

    fn body(&self, index: usize) -> OrderBody {
        let mut body = order_body(self.orders[index].status);
        body.authorizations = [0, 1].map(|which| url(&format!("authz/{index}/{which}"))).to_vec();
        body.finalize = url(&format!("finalize/{index}"));
        body.certificate = body.certificate.map(|_| url(&format!("cert/{index}")));
        body.expires = None;
        body
    }

    fn numbers(of: &Url) -> Vec<usize> {
        of.as_str().split('/').filter_map(|part| part.parse().ok()).collect()
    }

    /// What the server does, whether or not its answer arrives.
    fn serve(&mut self, ask: &Ask, pem: &[u8]) -> Result<Answered, Trouble> {
        let retry_after = None;
        match ask {
            Ask::FindOrder { .. } => {
                let is_open =
                    |one: &SimOrder| matches!(one.status, OrderStatus::Pending | OrderStatus::Ready);
                let index = self.orders.iter().rposition(is_open);
                Ok(Answered::Found(index.map(|index| (url(&format!("order/{index}")), self.body(index)))))
            }
            Ask::NewOrder { .. } => {
                let one = SimOrder { status: OrderStatus::Pending, valid: [false; 2], told: [false; 2] };
                self.orders.push(one);
                let index = self.orders.len() - 1;
                Ok(Answered::Made {
                    url: url(&format!("order/{index}")),
                    body: self.body(index),
                    retry_after,
                })
            }
            Ask::Order(of) => {
                let index = Self::numbers(of)[0];
                let moves = self.random.random();
                let one = &mut self.orders[index];
                if one.status == OrderStatus::Pending && one.valid == [true; 2] {
                    one.status = OrderStatus::Ready;
                }
                if one.status == OrderStatus::Processing && moves {
                    one.status = OrderStatus::Valid;
                }
                Ok(Answered::Order { body: self.body(index), retry_after })
            }
            Ask::Authorization(of) => {
                let [index, which] = Self::numbers(of)[..] else { panic!("{of}") };
                let (fails, moves) = (self.fault(4), self.random.random());
                let token = format!("{index}-{which}");
                let is_published = self.published.keys().any(|one| one.token == token);
                let one = &mut self.orders[index];
                if one.told[which] && !one.valid[which] && moves && one.status == OrderStatus::Pending {
                    if is_published && !fails {
                        one.valid[which] = true;
                    } else {
                        one.status = OrderStatus::Invalid;
                    }
                }
                let status = match (one.valid[which], one.status) {
                    (true, _) => AuthorizationStatus::Valid,
                    (false, OrderStatus::Invalid) => AuthorizationStatus::Invalid,
                    (false, _) => AuthorizationStatus::Pending,
                };
                let mut body = authorization(["a", "b"][which], status, ChallengeStatus::Pending);
                for challenge in &mut body.challenges {
                    challenge.token.clone_from(&token);
                    challenge.url = url(&format!("chall/{index}/{which}"));
                }
                Ok(Answered::Authorization { body, retry_after })
            }
            Ask::Challenge(of) => {
                let [index, which] = Self::numbers(of)[..] else { panic!("{of}") };
                self.orders[index].told[which] = true;
                Ok(Answered::Told { retry_after })
            }
            Ask::Finalize(of) => {
                let index = Self::numbers(of)[0];
                if self.orders[index].status != OrderStatus::Ready {
                    return Err(problem(ProblemKind::OrderNotReady));
                }
                self.orders[index].status = OrderStatus::Processing;
                let valid =
                    self.orders.iter().enumerate().filter(|(_, one)| {
                        matches!(one.status, OrderStatus::Processing | OrderStatus::Valid)
                    });
                assert_eq!(valid.count(), 1, "seed {}: two orders become valid", self.seed);
                Ok(Answered::Order { body: self.body(index), retry_after })
            }
            Ask::Certificate(_) => Ok(Answered::Certificate { pem: pem.to_vec(), alternates: Vec::new() }),
        }
    }

    /// What an asker must have stored before it asks.
    fn must_be_stored(&self, ask: &Ask) {
        let stored = self.stored.as_ref().expect("something was stored");
        let seed = self.seed;
        assert!(self.now >= self.closed_until, "seed {seed}: {ask:?} sooner than the server said");
        match ask {
            Ask::FindOrder { .. } => assert!(stored.is_asking && stored.order.is_none(), "seed {seed}"),
            Ask::NewOrder { .. } => {
                assert!(stored.is_asking && stored.order.is_none(), "seed {seed}");
                let open = self
                    .orders
                    .iter()
                    .enumerate()
                    .filter(|(_, one)| !matches!(one.status, OrderStatus::Invalid));
                // One whose answer was lost is found; no other is left behind while it can become something.
                assert_eq!(open.count(), 0, "seed {seed}: two orders at once");
            }
            Ask::Order(of) => assert_eq!(stored.order.as_ref(), Some(of), "seed {seed}"),
            Ask::Authorization(of) | Ask::Challenge(of) | Ask::Finalize(of) | Ask::Certificate(of) => {
                let order = stored.order.as_ref().expect("the order is stored");
                assert_eq!(Self::numbers(of)[0], Self::numbers(order)[0], "seed {seed}: {of}");
            }
        }
    }

    fn ask(&mut self, ask: &Ask, pem: &[u8]) -> Event {
        self.must_be_stored(ask);
        // An answer may take its time.
        if self.fault(20) {
            self.now = self.now + Duration::from_secs(self.random.random_range(1..=120));
        }
        if self.fault(8) {
            let reason = "refused".to_owned();
            return Event::Failed(Trouble::Unreachable { origin: "https://acme.example".to_owned(), reason });
        }
        if self.fault(5) {
            let secs = self.random.random_range(1..40_000);
            self.closed_until = self.now + Duration::from_secs(secs);
            let retry_after = match self.random.random() {
                true => RetryAfter::In(Duration::from_secs(secs)),
                false => RetryAfter::At(self.closed_until),
            };
            let problem = Problem::new(ProblemKind::RateLimited, "slow down");
            return Event::Failed(Trouble::Problem { status: 429, problem, retry_after: Some(retry_after) });
        }
        if self.fault(5) {
            return Event::Failed(problem(ProblemKind::BadNonce));
        }
        let result = self.serve(ask, pem);
        if self.fault(10) {
            return Event::Failed(lost());
        }
        result.map_or_else(Event::Failed, answered)
    }

    fn publish(&mut self, all: Vec<Presented>) -> Option<Event> {
        let stored = &self.stored.as_ref().expect("something was stored").presented;
        assert!(
            all.iter().all(|one| stored.contains(one)),
            "seed {}: published before it was stored",
            self.seed
        );
        for one in all {
            self.published.entry(one).or_insert(self.now);
        }
        match self.fault(10) {
            true if self.random.random() => Some(Event::NotPublished("edge-1".to_owned())),
            // Nobody says anything: the minute passes.
            true => None,
            false => Some(Event::Published),
        }
    }

    fn withdraw(&mut self, all: &[Presented]) -> Event {
        if self.fault(10) {
            // Some of it may be done all the same.
            let (done, left) = all.split_at(self.random.random_range(0..all.len()));
            self.published.retain(|one, _| !done.contains(one));
            return Event::NotWithdrawn(left.to_vec());
        }
        self.published.retain(|one, _| !all.contains(one));
        Event::Withdrawn
    }
}

fn walk(seed: u64, certified: &Certified) -> u32 {
    let mut sim = Sim {
        random: StdRng::seed_from_u64(seed),
        orders: Vec::new(),
        stored: None,
        published: BTreeMap::new(),
        closed_until: START,
        now: START,
        is_calm: false,
        seed,
    };
    let begin = |sim: &Sim| {
        let (key, saved) = (certified.key.clone(), sim.stored.clone());
        Order::new(wanted(), saved, key, THUMBPRINT.to_owned(), Vec::new(), sim.now)
    };
    let (mut order, mut kills, mut is_obtained) = (begin(&sim), 0, false);
    let mut events = vec![Event::Tick];
    for turn in 0..5000 {
        sim.is_calm = turn > 300;
        if events.is_empty() {
            let Some(deadline) = order.deadline() else { break };
            sim.now = deadline.max(sim.now);
            events.push(Event::Tick);
        }
        if sim.fault(4) {
            events.push(Event::Hurry);
        }
        let event = events.remove(0);
        let jitter = Jitter::new(sim.random.random());
        for action in order.step(event, jitter, sim.now) {
            // Killed between any two actions.
            if sim.fault(3) {
                kills += 1;
                // What it was told and had not stored, nobody knows.
                if sim
                    .stored
                    .as_ref()
                    .is_none_or(|saved| saved.failures.not_before() != Some(sim.closed_until))
                {
                    sim.closed_until = sim.now;
                }
                events = vec![Event::Tick];
                order = begin(&sim);
                break;
            }
            match action {
                Action::Keep(saved) => sim.stored = Some(*saved),
                Action::Ask(ask) => events.push(sim.ask(&ask, &certified.pem)),
                Action::Publish(all) => events.extend(sim.publish(all)),
                Action::Withdraw(all) => events.push(sim.withdraw(&all)),
                Action::GiveUp(all) => panic!("seed {seed}: so much cannot be left over: {all:?}"),
                Action::Report { again, .. } => {
                    assert!(again >= sim.closed_until, "seed {seed}: sooner than the server said");
                }
                Action::Obtained(_) => is_obtained = true,
            }
        }
        // Ten minutes, and as many again for each time that somebody could not withdraw it.
        for (one, since) in &sim.published {
            assert!(sim.now.since(*since) <= 6 * MAX_PRESENTED, "seed {seed}: {one:?} since {since}");
        }
    }
    assert!(is_obtained && order.is_done(), "seed {seed}: {order:?}");
    assert!(sim.published.is_empty() && order.presented().is_empty(), "seed {seed}: {:?}", sim.published);
    let valid = sim.orders.iter().filter(|one| one.status == OrderStatus::Valid).count();
    assert_eq!(valid, 1, "seed {seed}: valid orders");
    kills
}

#[test]
fn whatever_fails_there_is_one_valid_order_and_nothing_stays_published() {
    let certified = Certified::new();
    let kills: u32 = (0..500).map(|seed| walk(seed, &certified)).sum();
    assert!(kills > 400, "the walk was to be killed now and then: {kills}");
}
