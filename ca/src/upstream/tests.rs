use super::*;
use crate::testing::Random;
use certs::SpkiHash;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
}

/// Lives for 1,000 s from `since` on.
fn current(id: u8, since: u64) -> Current {
    Current {
        id: AuthorityId::of(SpkiHash([id; 32])),
        since: at(since),
        until: at(since + 1000),
        has_successor: false,
    }
}

fn following() -> Upstream {
    let mut machine = Upstream::default();
    assert_eq!(machine.step(Event::Signs(Some(current(1, 0))), at(0)), []);
    machine
}

#[test]
fn asks_at_45_percent_of_the_life_and_not_twice() {
    let mut machine = following();
    assert_eq!(machine.next(), Some(at(450)));
    assert_eq!(machine.step(Event::Tick, at(449)), []);
    assert_eq!(machine.step(Event::Tick, at(450)), [Action::Obtain]);
    assert_eq!(machine.step(Event::Tick, at(460)), []);
    // It waits at a gate: the old one signs on, and no second one is asked for.
    let waits = Current { has_successor: true, ..current(1, 0) };
    assert_eq!(machine.step(Event::Obtained(Some(waits)), at(461)), []);
    assert_eq!(machine.step(Event::Tick, at(600)), []);
    assert_eq!(machine.step(Event::Signs(Some(current(2, 461))), at(610)), []);
    assert_eq!(machine.next(), Some(at(911)));
    // That it signs may be seen before the answer.
    assert_eq!(machine.step(Event::Tick, at(911)), [Action::Obtain]);
    assert_eq!(machine.step(Event::Signs(Some(current(3, 912))), at(912)), []);
    assert_eq!(machine.step(Event::Obtained(Some(current(3, 912))), at(912)), []);
    assert_eq!(machine.next(), Some(at(1362)));
    // What came, and is not there, is not asked for again and again.
    assert_eq!(machine.step(Event::Tick, at(1362)), [Action::Obtain]);
    assert_eq!(machine.step(Event::Obtained(Some(current(3, 912))), at(1363)), []);
    assert_eq!(machine.next(), Some(at(1423)));
}

#[test]
fn asks_for_nothing_where_the_authority_is_not_its_own() {
    let mut machine = Upstream::default();
    assert_eq!(machine.step(Event::Tick, at(10_000)), []);
    assert_eq!(machine.deadline(), None);
    let mut machine = following();
    assert_eq!(machine.step(Event::Signs(None), at(10)), []);
    assert_eq!(machine.deadline(), None);
    assert_eq!(machine.step(Event::Tick, at(999)), []);
}

#[test]
fn failures_back_off_and_never_past_a_tenth_of_what_is_left() {
    let mut machine = Upstream::default();
    let long = Current { until: at(1_000_000), ..current(1, 0) };
    assert_eq!(machine.step(Event::Signs(Some(long)), at(0)), []);
    let mut now = 450_000;
    for (pause, nth) in [(60, 1), (120, 2), (240, 3), (480, 4), (900, 5), (900, 6)] {
        assert_eq!(machine.step(Event::Tick, at(now)), [Action::Obtain], "{nth}");
        assert_eq!(machine.step(Event::Failed, at(now)), []);
        assert_eq!((machine.failures(), machine.next()), (nth, Some(at(now + pause))));
        now += pause;
    }
    let mut machine = following();
    let _ = machine.step(Event::Tick, at(950));
    assert_eq!(machine.step(Event::Failed, at(950)), []);
    assert_eq!(machine.next(), Some(at(955)));
}

#[test]
fn a_pause_holds_it_up_and_a_successor_ends_it() {
    let mut machine = following();
    assert_eq!(machine.step(Event::Paused(Some(at(600))), at(10)), []);
    assert_eq!(machine.step(Event::Tick, at(500)), []);
    assert_eq!(machine.next(), Some(at(600)));
    assert_eq!(machine.step(Event::Paused(None), at(510)), [Action::Obtain]);
    let mut machine = following();
    let prepared = Current { has_successor: true, ..current(1, 0) };
    assert_eq!(machine.step(Event::Signs(Some(prepared)), at(500)), []);
    assert_eq!(machine.next(), None);
}

#[test]
fn waiting_for_another_issuer_is_no_failure() {
    let mut machine = following();
    assert_eq!(machine.step(Event::Tick, at(450)), [Action::Obtain]);
    assert_eq!(machine.step(Event::Deferred, at(450)), []);
    assert_eq!((machine.failures(), machine.next()), (0, Some(at(451))));
}

#[test]
fn says_once_that_it_is_late() {
    let mut machine = following();
    assert_eq!(machine.step(Event::Tick, at(450)), [Action::Obtain]);
    assert_eq!(machine.step(Event::Failed, at(690)), []);
    assert_eq!(machine.deadline(), Some(at(700)));
    assert_eq!(machine.step(Event::Tick, at(700)), [Action::AtRisk]);
    assert!(machine.is_at_risk());
    assert!(!machine.step(Event::Tick, at(710)).contains(&Action::AtRisk));
    let _ = machine.step(Event::Signs(Some(current(2, 720))), at(720));
    assert!(!machine.is_at_risk());
}

#[test]
fn a_random_walk_keeps_the_invariants() {
    let mut random = Random::new(7);
    for _ in 0..200 {
        let (mut machine, mut now, mut asked) = (Upstream::default(), 0, false);
        let (mut signs, mut paused): (Option<Current>, Option<Timestamp>) = (None, None);
        for _ in 0..200 {
            let pass = random.below(400) + 1;
            now += pass;
            let event = match random.below(8) {
                0 => Event::Signs(None),
                1 => Event::Signs(Some(current(u8::try_from(now % 200).unwrap(), now))),
                2 => {
                    Event::Signs(signs.map(|signs| Current { has_successor: !signs.has_successor, ..signs }))
                }
                3 if asked => {
                    signs = Some(current(u8::try_from(now % 200).unwrap(), now));
                    Event::Obtained(signs)
                }
                4 if asked && random.once_in(2) => Event::Deferred,
                4 if asked => Event::Failed,
                5 => Event::Paused(Some(at(now + pass))),
                6 => Event::Paused(None),
                _ => Event::Tick,
            };
            match event {
                Event::Signs(current) => signs = current,
                Event::Paused(until) => paused = until,
                Event::Obtained(_) | Event::Failed | Event::Deferred => asked = false,
                Event::Tick => {}
            }
            for action in machine.step(event, at(now)) {
                if action == Action::Obtain {
                    assert!(!asked, "one request at a time");
                    assert!(paused.is_none_or(|until| until <= at(now)), "not while paused");
                    let signs = signs.expect("only for an authority of its own");
                    assert!(signs.due() <= at(now) && !signs.has_successor, "only when it is due");
                    asked = true;
                }
            }
            assert!(machine.deadline().is_none_or(|deadline| deadline > at(now)), "nothing is left undone");
            if let (Some(signs), false) = (signs, asked) {
                assert!(signs.has_successor || machine.next().is_some(), "it is never forgotten");
            }
        }
    }
}

#[test]
fn an_authority_is_of_who_signed_it_and_its_successor_is_under_the_same_root() {
    let now = at(0);
    let policy = crate::Policy {
        trust_domain: spiffe::TrustDomain::parse("td").unwrap(),
        lifetimes: crate::Lifetimes::default(),
        max_connection: Duration::from_secs(3600),
        lists: None,
        dev: false,
    };
    let (root, key) = crate::authority::make_root(&policy, now).unwrap();
    let (issuing, _) = crate::authority::make_issuing(&policy, &root, &key, now).unwrap();
    let (other, other_key) = crate::authority::make_root(&policy, now).unwrap();
    let (next, _) = crate::authority::make_issuing(&policy, &root, &key, now).unwrap();
    let (elsewhere, _) = crate::authority::make_issuing(&policy, &other, &other_key, now).unwrap();
    let id = issuing.id;
    let active = AuthorityRecord { state: AuthorityState::Active, ..issuing };
    let records = |more: &[&AuthorityRecord]| {
        let mut all = vec![root.clone(), other.clone(), active.clone()];
        all.extend(more.iter().map(|one| (*one).clone()));
        all
    };
    let found = super::current(&records(&[]), [&root.certificate]).unwrap();
    assert_eq!((found.id, found.since, found.has_successor), (id, now, false));
    assert_eq!(super::current(&records(&[]), [&other.certificate]), None);
    assert!(
        super::current(&records(&[]), [&other.certificate, &root.certificate]).is_some(),
        "one that signed before"
    );
    // A root that is prepared elsewhere may never sign.
    assert!(!super::current(&records(&[&elsewhere]), [&root.certificate]).unwrap().has_successor);
    assert!(super::current(&records(&[&next]), [&root.certificate]).unwrap().has_successor);
}
