//! Whether an issuer elsewhere is asked at all: one that failed again and again rests, so that nobody waits for it in
//! vain and it is not pushed while it comes back (PURE).
//!
//! ```text
//! Closed --5 failures in a row--> Resting --its time has come--> one probe --answered--> Closed
//!                                    ^---------- failed: longer -----'
//! ```

use std::time::Duration;

use certs::Timestamp;

/// How many failures in a row it takes.
const TRIES: u32 = 5;
/// The first rest; it doubles with each further failure.
const REST: Duration = Duration::from_secs(1);
/// The longest rest.
const MAX_REST: Duration = Duration::from_secs(30);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Somebody wants to ask.
    Wanted,
    /// It answered, whatever it said about the request.
    Answered,
    /// It could not be asked, or gave no answer.
    Failed,
    /// It was not asked after all: that says nothing about it, and the next one may.
    NotAsked,
}

/// What to do about [`Event::Wanted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask, and tell what came of it.
    Ask,
    /// Do not ask before then.
    Rest(Timestamp),
}

/// The machine of one issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Circuit {
    max_rest: Duration,
    failures: u32,
    until: Option<Timestamp>,
    is_probed: bool,
}

impl Circuit {
    /// For leaves that live so long: a rest is never more than a twentieth of that.
    pub(crate) fn new(life: Duration) -> Self {
        let max_rest = (life / 20).clamp(REST, MAX_REST);
        Self { max_rest, failures: 0, until: None, is_probed: false }
    }

    /// Takes one event; answers what to do.
    pub(crate) fn step(&mut self, event: Event, now: Timestamp) -> Option<Action> {
        match event {
            Event::Wanted => Some(match self.until {
                None => Action::Ask,
                Some(until) if now < until => Action::Rest(until),
                Some(_) if self.is_probed => Action::Rest(now + REST),
                Some(_) => {
                    self.is_probed = true;
                    Action::Ask
                }
            }),
            Event::Answered => {
                (self.failures, self.until, self.is_probed) = (0, None, false);
                None
            }
            Event::NotAsked => {
                self.is_probed = false;
                None
            }
            Event::Failed => {
                // Those that were under way when it began to rest are no further failures.
                if self.until.is_some_and(|until| now < until) {
                    return None;
                }
                self.failures = self.failures.saturating_add(1);
                if self.failures >= TRIES {
                    let doubled =
                        REST.saturating_mul(1 << (self.failures - TRIES).min(10)).min(self.max_rest);
                    self.until = Some(now + doubled);
                    self.is_probed = false;
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
    }

    fn circuit() -> Circuit {
        Circuit::new(Duration::from_secs(12 * 3600))
    }

    fn failed(circuit: &mut Circuit, times: usize, now: u64) {
        for _ in 0..times {
            assert_eq!(circuit.step(Event::Failed, at(now)), None);
        }
    }

    #[test]
    fn rests_after_five_failures_in_a_row_and_longer_each_time() {
        let mut circuit = circuit();
        failed(&mut circuit, 4, 0);
        assert_eq!(circuit.step(Event::Wanted, at(0)), Some(Action::Ask));
        failed(&mut circuit, 1, 0);
        let mut now = 0;
        for rest in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(circuit.step(Event::Wanted, at(now)), Some(Action::Rest(at(now + rest))));
            now += rest;
            assert_eq!(circuit.step(Event::Wanted, at(now)), Some(Action::Ask), "one probe");
            assert_eq!(circuit.step(Event::Wanted, at(now)), Some(Action::Rest(at(now + 1))), "and no other");
            failed(&mut circuit, 1, now);
        }
        assert_eq!(circuit.step(Event::Answered, at(now)), None);
        assert_eq!((circuit.step(Event::Wanted, at(now)), circuit), (Some(Action::Ask), self::circuit()));
    }

    #[test]
    fn leaves_that_live_shortly_are_asked_for_the_sooner() {
        let mut circuit = Circuit::new(Duration::from_secs(40));
        failed(&mut circuit, 5, 0);
        for now in [1, 3, 5, 7] {
            assert_eq!(circuit.step(Event::Wanted, at(now)), Some(Action::Ask));
            failed(&mut circuit, 1, now);
        }
        assert_eq!(circuit.step(Event::Wanted, at(7)), Some(Action::Rest(at(9))));
    }

    #[test]
    fn those_that_were_under_way_make_the_rest_no_longer() {
        let mut circuit = circuit();
        // Sixteen were asked before the first failed, and all of them fail.
        failed(&mut circuit, 16, 0);
        assert_eq!(circuit.step(Event::Wanted, at(0)), Some(Action::Rest(at(1))));
    }

    #[test]
    fn a_probe_that_was_not_made_leaves_it_to_the_next_one() {
        let mut circuit = circuit();
        failed(&mut circuit, 5, 0);
        for _ in 0..3 {
            assert_eq!(circuit.step(Event::Wanted, at(1)), Some(Action::Ask));
            assert_eq!(circuit.step(Event::Wanted, at(1)), Some(Action::Rest(at(2))));
            assert_eq!(circuit.step(Event::NotAsked, at(1)), None);
        }
        // And it is neither a failure nor an answer.
        failed(&mut circuit, 1, 1);
        assert_eq!(circuit.step(Event::Wanted, at(1)), Some(Action::Rest(at(3))));
    }

    #[test]
    fn whatever_happens_it_is_asked_again_once_its_rest_is_over() {
        for seed in 0..200 {
            let (mut random, mut circuit, mut now) = (Random::new(seed), circuit(), 0);
            let mut under_way = 0;
            for _ in 0..200 {
                now += random.below(20);
                match circuit.step(Event::Wanted, at(now)) {
                    Some(Action::Ask) => under_way += 1,
                    Some(Action::Rest(until)) => {
                        assert!(until > at(now) && until <= at(now) + MAX_REST, "seed {seed}");
                    }
                    None => panic!("seed {seed}: no answer"),
                }
                for _ in 0..random.below(under_way + 1) {
                    let event = *random.of(&[Event::Answered, Event::Failed, Event::Failed, Event::NotAsked]);
                    assert_eq!(circuit.step(event, at(now)), None);
                    under_way -= 1;
                }
                // With nothing under way, nobody is in the way of the next one but its rest.
                if under_way == 0 {
                    let mut later = circuit;
                    let over = at(now) + MAX_REST;
                    assert_eq!(
                        later.step(Event::Wanted, over),
                        Some(Action::Ask),
                        "seed {seed}: {circuit:?}"
                    );
                }
            }
        }
    }
}
