use super::*;

const GRACE: Duration = Duration::from_secs(300);
const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

fn authority(of: [u8; 32]) -> AuthorityId {
    AuthorityId::of(certs::SpkiHash(of))
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_unix_secs(1_000_000) + Duration::from_secs(secs)
}

fn leaf(from: u64, secs: u64, signed_by: [u8; 32]) -> Leaf {
    let life = Life { issued: at(from), expires: at(from + secs) };
    Leaf { serial: Serial::from_random([from as u8; 20]), authority: authority(signed_by), life }
}

fn request(purpose: Purpose, replaces: Option<u64>) -> Action {
    Action::Request { purpose, replaces: replaces.map(at) }
}

/// Feeds (second, event) pairs and compares the actions of each.
fn check(name: &str, script: Vec<(u64, Event, Vec<Action>)>) -> Rotation {
    let mut rotation = Rotation::new(GRACE);
    for (step, (second, event, expected)) in script.into_iter().enumerate() {
        let actions = rotation.step(event, at(second), Jitter::NONE);
        assert_eq!(actions, expected, "{name}, step {step}");
    }
    rotation
}

fn changed() -> Event {
    Event::SignerChanged { accepted: [authority(NEW)].into(), spread: Duration::from_secs(60) }
}

#[test]
fn delivers_then_renews_at_40_percent() {
    let rotation = check(
        "renewal",
        vec![
            (0, Event::Tick, vec![]),
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Wanted, vec![]),
            (1, Event::Issued(leaf(1, 100, OLD)), vec![Action::Offer]),
            (40, Event::Tick, vec![]),
            (41, Event::Tick, vec![request(Purpose::Renewal, Some(101))]),
            (42, Event::Tick, vec![]),
            (43, Event::Issued(leaf(43, 100, OLD)), vec![Action::Offer]),
        ],
    );
    assert_eq!(rotation.deadline(), Some(at(83)));
}

#[test]
fn keeps_valid_leaf_when_renewal_fails() {
    let rotation = check(
        "failing issuer",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Issued(leaf(0, 100, OLD)), vec![Action::Offer]),
            (40, Event::Tick, vec![request(Purpose::Renewal, Some(100))]),
            (40, Event::Failed, vec![]),
            (45, Event::Tick, vec![]),
            (46, Event::Tick, vec![request(Purpose::Renewal, Some(100))]),
            (60, Event::Failed, vec![]),
            (70, Event::Tick, vec![Action::AtRisk, request(Purpose::Renewal, Some(100))]),
            (71, Event::Failed, vec![]),
            (99, Event::Tick, vec![request(Purpose::Renewal, Some(100))]),
        ],
    );
    assert_eq!(rotation.held().map(|held| held.at_risk), Some(true));
    assert_eq!(rotation.failures(), 3);
}

#[test]
fn an_expired_leaf_is_withdrawn_and_asked_for_again() {
    check(
        "outage longer than a life",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Issued(leaf(0, 100, OLD)), vec![Action::Offer]),
            (90, Event::Tick, vec![Action::AtRisk, request(Purpose::Renewal, Some(100))]),
            (100, Event::Tick, vec![Action::Expire]),
            (100, Event::Failed, vec![]),
            (101, Event::Tick, vec![request(Purpose::Delivery, None)]),
            (101, Event::Issued(leaf(0, 100, OLD)), vec![]),
            (103, Event::Tick, vec![request(Purpose::Delivery, None)]),
            (103, Event::Issued(leaf(103, 100, OLD)), vec![Action::Offer]),
        ],
    );
}

#[test]
fn a_node_that_takes_no_newer_leaf_is_at_risk_by_the_one_that_it_uses() {
    let took = |accepted| Event::Settled { accepted };
    let begin = || {
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Issued(leaf(0, 100, OLD)), vec![Action::Offer]),
            (1, took(true), vec![]),
            (40, Event::Tick, vec![request(Purpose::Renewal, Some(100))]),
            (41, Event::Issued(leaf(41, 100, OLD)), vec![Action::Offer]),
        ]
    };
    let at_risk = |rotation: &Rotation| rotation.held().map(|held| held.at_risk);
    let renewed = (81, Event::Tick, vec![request(Purpose::Renewal, Some(141))]);

    let silent = [
        (69, Event::Tick, vec![]),
        (70, Event::Tick, vec![Action::AtRisk]),
        (75, took(false), vec![]),
        renewed.clone(),
        (82, Event::Issued(leaf(82, 100, OLD)), vec![Action::Offer]),
        (100, Event::Tick, vec![Action::Outlived]),
        (122, Event::Tick, vec![request(Purpose::Renewal, Some(182))]),
        (123, Event::Issued(leaf(123, 100, OLD)), vec![Action::Offer]),
    ];
    let mut rotation = check("it takes none", [begin(), silent.to_vec()].concat());
    assert_eq!(at_risk(&rotation), Some(true));
    assert_eq!(rotation.step(took(true), at(124), Jitter::NONE), []);
    assert_eq!(at_risk(&rotation), Some(false));
    assert_eq!(rotation.deadline(), Some(at(163)));

    let late = [(60, took(true), vec![]), (70, Event::Tick, vec![]), renewed];
    let rotation = check("it takes it late", [begin(), late.to_vec()].concat());
    assert_eq!(at_risk(&rotation), Some(false));

    let away = [
        (69, Event::Unwanted, vec![]),
        (101, Event::Tick, vec![]),
        (102, Event::Wanted, vec![Action::AtRisk, request(Purpose::Renewal, Some(141))]),
    ];
    check("it is away when that ends", [begin(), away.to_vec()].concat());
}

#[test]
fn a_revoked_leaf_is_replaced_at_once_and_kept_until_then() {
    let serial = |from: u8| Event::Revoked(Serial::from_random([from; 20]));
    let rotation = check(
        "wanted",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (1, Event::Issued(leaf(1, 100, OLD)), vec![Action::Offer]),
            (2, serial(9), vec![]),
            (3, serial(1), vec![request(Purpose::ForcedRenewal, Some(101))]),
            (3, serial(1), vec![]),
            (4, Event::Failed, vec![]),
            (20, Event::Tick, vec![request(Purpose::ForcedRenewal, Some(101))]),
            (21, Event::Issued(leaf(21, 100, OLD)), vec![Action::Offer]),
            (22, serial(1), vec![]),
        ],
    );
    assert!(rotation.held().is_some());
    check(
        "nobody wants it",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (1, Event::Issued(leaf(1, 100, OLD)), vec![Action::Offer]),
            (2, Event::Unwanted, vec![]),
            (3, serial(1), vec![Action::Forget]),
            (4, Event::Wanted, vec![request(Purpose::Delivery, None)]),
        ],
    );
}

#[test]
fn another_authority_forces_a_new_leaf() {
    check(
        "held by the old one",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Issued(leaf(0, 100, OLD)), vec![Action::Offer]),
            (5, changed(), vec![request(Purpose::ForcedRenewal, Some(100))]),
            (6, Event::Issued(leaf(6, 100, NEW)), vec![Action::Offer]),
            (7, changed(), vec![]),
        ],
    );
    check(
        "changed while a request of the old one was in flight",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, changed(), vec![]),
            (
                1,
                Event::Issued(leaf(1, 100, OLD)),
                vec![Action::Offer, request(Purpose::ForcedRenewal, Some(101))],
            ),
            (2, Event::Issued(leaf(2, 100, OLD)), vec![Action::Offer]),
        ],
    );
}

#[test]
fn a_failed_request_keeps_the_demand_for_another_authority() {
    check(
        "changed while a renewal was in flight that failed",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Issued(leaf(0, 100, OLD)), vec![Action::Offer]),
            (40, Event::Tick, vec![request(Purpose::Renewal, Some(100))]),
            (41, changed(), vec![]),
            (41, Event::Failed, vec![]),
            (47, Event::Tick, vec![request(Purpose::ForcedRenewal, Some(100))]),
        ],
    );
}

#[test]
fn a_change_of_authority_is_spread_by_jitter() {
    let mut rotation = check(
        "spread",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Issued(leaf(0, 1000, OLD)), vec![Action::Offer]),
        ],
    );
    assert_eq!(rotation.step(changed(), at(5), Jitter::FULL), []);
    assert_eq!(rotation.next_request(), Some(at(65)));
}

#[test]
fn access_withdrawn_drops_the_leaf_and_what_is_in_flight() {
    check(
        "barred, then allowed again",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Issued(leaf(0, 100, OLD)), vec![Action::Offer]),
            (40, Event::Tick, vec![request(Purpose::Renewal, Some(100))]),
            (41, Event::Barred, vec![Action::Forget]),
            (42, Event::Wanted, vec![]),
            (43, Event::Issued(leaf(43, 100, OLD)), vec![request(Purpose::Delivery, None)]),
            (44, Event::Issued(leaf(44, 100, OLD)), vec![Action::Offer]),
        ],
    );
}

#[test]
fn a_leaf_outlives_its_last_stream_by_the_grace() {
    let life = 1000;
    let rotation = check(
        "back within the grace",
        vec![
            (0, Event::Wanted, vec![request(Purpose::Delivery, None)]),
            (0, Event::Issued(leaf(0, life, OLD)), vec![Action::Offer]),
            (100, Event::Unwanted, vec![]),
            (399, Event::Tick, vec![]),
            (399, Event::Wanted, vec![]),
            (399, Event::Unwanted, vec![]),
            (698, Event::Tick, vec![]),
            (699, Event::Tick, vec![Action::Forget]),
        ],
    );
    assert!(rotation.is_over());
    assert_eq!(rotation.deadline(), None);
}

/// Numbers that look random and are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What an observer of events and actions believes; the invariants are checked against it.
#[derive(Default)]
struct Observer {
    allowed: bool,
    in_flight: u32,
    offered: Option<Leaf>,
    incoming: Option<Leaf>,
    /// What the node took last.
    used: Option<Leaf>,
}

impl Observer {
    fn see(&mut self, event: &Event) {
        match event {
            Event::Wanted => self.allowed = true,
            Event::Barred => self.allowed = false,
            Event::Issued(leaf) => {
                self.in_flight -= 1;
                self.incoming = Some(leaf.clone());
            }
            Event::Failed => self.in_flight -= 1,
            Event::Unwanted
            | Event::SignerChanged { .. }
            | Event::Revoked(_)
            | Event::Settled { accepted: false }
            | Event::Tick => {}
            Event::Settled { accepted: true } => self.used.clone_from(&self.offered),
        }
    }

    fn carry_out(&mut self, actions: &[Action], event: &Event, now: Timestamp, grace_over: bool) {
        for action in actions {
            match action {
                Action::Request { .. } => {
                    assert!(self.allowed, "nothing is requested before access said yes");
                    self.in_flight += 1;
                    assert_eq!(self.in_flight, 1, "at most one request is in flight");
                }
                Action::Offer => {
                    assert!(self.allowed, "nothing is offered after access said no");
                    self.offered = self.incoming.take();
                    let life = self.offered.as_ref().expect("only what was issued is offered").life;
                    assert!(!life.is_over(now), "an expired leaf is never offered");
                }
                Action::Expire => {
                    self.used = None;
                    let gone = self.offered.take().expect("only an offered leaf expires");
                    assert!(gone.life.is_over(now), "a valid leaf is never withdrawn as expired");
                }
                Action::Forget => {
                    let gone = self.offered.take();
                    let over = gone.is_some_and(|leaf| leaf.life.is_over(now));
                    self.used = None;
                    let is_ordered = matches!(event, Event::Barred | Event::Revoked(_));
                    assert!(is_ordered || grace_over || over, "a valid leaf is dropped by order only");
                }
                Action::AtRisk => {
                    assert!(self.offered.is_some(), "only a leaf in hand is at risk");
                    let used = self.used.as_ref().or(self.offered.as_ref()).expect("one of them");
                    assert!(used.life.at_risk_at() <= now, "what is used is young");
                }
                Action::Outlived => {
                    let used = self.used.as_ref().expect("only what was taken is outlived");
                    assert!(used.life.is_over(now) && self.offered.as_ref() != Some(used));
                }
            }
        }
    }
}

#[test]
fn random_walks_keep_every_invariant() {
    for seed in 0..400 {
        walk(seed);
    }
}

fn walk(seed: u64) {
    let mut numbers = Numbers(seed);
    let mut rotation = Rotation::new(GRACE);
    let mut seen = Observer::default();
    let mut now = at(0);
    let life = [12, 600, 43_200][numbers.below(3) as usize];
    for step in 0..300 {
        now = now + Duration::from_millis(numbers.below(life * 200));
        if numbers.below(3) == 0 {
            now = rotation.deadline().unwrap_or(now).max(now);
        }
        let signer = if numbers.below(2) == 0 { OLD } else { NEW };
        let event = match numbers.below(12) {
            0..=2 => Event::Wanted,
            3 => Event::Unwanted,
            4..=6 if seen.in_flight == 1 => {
                let start = now - Duration::from_secs(numbers.below(life + 2));
                let life = Life { issued: start, expires: start + Duration::from_secs(life) };
                Event::Issued(Leaf {
                    serial: Serial::from_random([step as u8; 20]),
                    authority: authority(signer),
                    life,
                })
            }
            7 | 8 if seen.in_flight == 1 => Event::Failed,
            9 => Event::SignerChanged {
                accepted: [authority(signer)].into(),
                spread: Duration::from_secs(numbers.below(60)),
            },
            10 if numbers.below(4) == 0 => Event::Barred,
            10 => match &seen.offered {
                Some(leaf) => Event::Revoked(leaf.serial.clone()),
                None => Event::Tick,
            },
            11 => Event::Settled { accepted: numbers.below(2) == 0 },
            _ => Event::Tick,
        };
        let grace_over = matches!(rotation.standing, Standing::Grace(until) if until <= now);
        seen.see(&event);
        let actions = rotation.step(event.clone(), now, Jitter::new(numbers.next() as u32));
        seen.carry_out(&actions, &event, now, grace_over);
        let held = rotation.held().map(|held| &held.leaf);
        assert_eq!(
            held,
            seen.offered.as_ref(),
            "seed {seed} step {step}: the machine holds what is on offer"
        );
        assert!(
            rotation.deadline().is_none_or(|deadline| deadline > now),
            "seed {seed} step {step}: no spinning"
        );
        if rotation.is_wanted() {
            let moves = rotation.deadline().is_some() || seen.in_flight == 1;
            assert!(moves, "seed {seed} step {step}: what is wanted is pursued");
        }
    }
}
