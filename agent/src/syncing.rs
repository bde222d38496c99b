//! When the node asks for news of its bundle (PURE): always, one held call after the other, and with growing pauses
//! while the server does not answer.
//!
//! ```text
//! Idle --due--> InFlight --Answered--> Idle, due at once
//!   ^              |--Failed--> Idle, due after a pause that grows
//!   |              '--Unsupported--> Idle, due in an hour: the server may be a newer one by then
//!   '--Renewed: due at once, over a connection of the new certificate
//! ```
//!
//! A clock that is put back makes no pause longer: what began later than now is over.

use std::time::Duration;

use certs::Timestamp;
use sds::schedule::{Jitter, retry_in};

/// Calls never follow each other closer than this, whatever the server answers.
const MIN_SPACING: Duration = Duration::from_secs(1);
/// Told to renew, the node asks again after this long if it has not renewed until then: there may be another bundle.
const AFTER_RENEW: Duration = Duration::from_secs(5);
/// A server that does not know the call is asked again after this long.
const UNSUPPORTED: Duration = Duration::from_secs(3600);

/// What happens to the asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time passed.
    Tick,
    /// The held call was answered; a new bundle is on disk already, if there was one.
    Answered {
        /// Whether the server wants the certificate renewed now.
        renew: bool,
    },
    /// The call brought nothing.
    Failed {
        /// Spreads the next try.
        jitter: Jitter,
    },
    /// The server does not know the call.
    Unsupported,
    /// The call was given up here, for something that could not wait.
    Interrupted,
    /// The node has another certificate.
    Renewed,
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Tell the server which bundle is held, and wait for its answer.
    Sync,
    /// Renew the certificate before its time.
    Renew,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle { since: Timestamp, next: Timestamp },
    InFlight { since: Timestamp },
}

/// The asking of one node over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syncing {
    state: State,
    failures: u32,
}

impl Syncing {
    /// Begins with a call that is due at once.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { state: State::Idle { since: now, next: now }, failures: 0 }
    }

    /// When [`Event::Tick`] is due. `None` while a call is held.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Idle { next, .. } => Some(next),
            State::InFlight { .. } => None,
        }
    }

    /// How many calls have failed in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes one event.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        match (self.state, event) {
            // A pause that began later than now: the clock was put back meanwhile, and nobody waits for it to catch up.
            (State::Idle { since, next }, Event::Tick) if next <= now || now < since => {
                self.state = State::InFlight { since: now };
                vec![Action::Sync]
            }
            (State::InFlight { since }, Event::Answered { renew }) => {
                self.failures = 0;
                let pause = if renew { now + AFTER_RENEW } else { now };
                self.idle(now, pause.max(since.min(now) + MIN_SPACING));
                if renew { vec![Action::Renew] } else { Vec::new() }
            }
            (State::InFlight { .. }, Event::Failed { jitter }) => {
                self.failures = self.failures.saturating_add(1);
                self.idle(now, now + retry_in(self.failures, None, jitter));
                Vec::new()
            }
            (State::InFlight { .. }, Event::Unsupported) => {
                self.failures = 0;
                self.idle(now, now + UNSUPPORTED);
                Vec::new()
            }
            (State::InFlight { since }, Event::Interrupted) => {
                self.idle(now, now.max(since.min(now) + MIN_SPACING));
                Vec::new()
            }
            // A held call speaks for the certificate of before; the shell gives it up.
            (State::Idle { .. } | State::InFlight { .. }, Event::Renewed) => {
                self.failures = 0;
                self.idle(now, now);
                Vec::new()
            }
            (State::Idle { .. } | State::InFlight { .. }, Event::Tick)
            | (
                State::Idle { .. },
                Event::Answered { .. } | Event::Failed { .. } | Event::Unsupported | Event::Interrupted,
            ) => Vec::new(),
        }
    }

    fn idle(&mut self, since: Timestamp, next: Timestamp) {
        self.state = State::Idle { since, next };
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn at(millis: u64) -> Timestamp {
        START + Duration::from_millis(millis)
    }

    #[test]
    fn asks_again_and_again_backs_off_and_renews_when_told() {
        let mut machine = Syncing::new(START);
        let answered = |renew| Event::Answered { renew };
        let failed = Event::Failed { jitter: Jitter::NONE };
        let mut check = |millis: u64, event, actions: &[Action], deadline: Option<u64>| {
            assert_eq!(machine.step(event, at(millis)), actions, "at {millis}: {event:?}");
            assert_eq!(machine.deadline(), deadline.map(at), "at {millis}: {event:?}");
        };
        check(0, answered(true), &[], Some(0));
        check(0, Event::Tick, &[Action::Sync], None);
        check(10, Event::Tick, &[], None);
        // Held for its whole time, the next follows at once; answered at once, a second after it.
        check(50_000, answered(false), &[], Some(50_000));
        check(50_000, Event::Tick, &[Action::Sync], None);
        check(50_010, answered(false), &[], Some(51_000));
        check(51_000, Event::Tick, &[Action::Sync], None);
        check(51_000, failed, &[], Some(52_000));
        check(51_999, Event::Tick, &[], Some(52_000));
        check(52_000, Event::Tick, &[Action::Sync], None);
        check(52_000, failed, &[], Some(54_000));
        check(54_000, Event::Tick, &[Action::Sync], None);
        check(54_500, answered(true), &[Action::Renew], Some(59_500));
        check(59_000, Event::Renewed, &[], Some(59_000));
        check(59_000, Event::Tick, &[Action::Sync], None);
        check(60_000, Event::Interrupted, &[], Some(60_000));
        check(60_000, Event::Tick, &[Action::Sync], None);
        check(60_200, Event::Interrupted, &[], Some(61_000));
        check(61_000, Event::Tick, &[Action::Sync], None);
        check(61_000, Event::Unsupported, &[], Some(3_661_000));
        check(70_000, Event::Renewed, &[], Some(70_000));
        check(70_000, Event::Tick, &[Action::Sync], None);
        check(70_001, failed, &[], Some(71_001));
    }

    #[test]
    fn no_pause_is_longer_because_the_clock_was_put_back() {
        let later = START + Duration::from_secs(7200);
        let held = || {
            let mut machine = Syncing::new(later);
            assert_eq!(machine.step(Event::Tick, later), [Action::Sync]);
            machine
        };
        // While the call was held.
        for event in [Event::Answered { renew: false }, Event::Interrupted] {
            let mut machine = held();
            machine.step(event, START);
            assert_eq!(machine.deadline(), Some(START + MIN_SPACING), "{event:?}");
        }
        // During a pause, however short the step.
        for event in [Event::Failed { jitter: Jitter::NONE }, Event::Unsupported] {
            let mut machine = held();
            machine.step(event, later);
            assert_eq!(machine.step(Event::Tick, later), [], "{event:?}");
            assert_eq!(
                machine.step(Event::Tick, later - Duration::from_secs(1)),
                [Action::Sync],
                "{event:?}"
            );
        }
    }

    /// Under any order of events, on a clock that is put back now and then: one call at a time; a deadline stands unless
    /// a call is held, and whoever looks at the time waits for an hour at most; without renewals, calls keep their
    /// distance on a clock that only goes on; it renews only when an answer says so.
    #[test]
    fn holds_its_invariants_on_random_walks() {
        for seed in 0..500 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut machine, mut now) = (Syncing::new(START), START);
            let (mut held, mut last_call, mut was_renewed) = (false, None::<Timestamp>, false);
            for _ in 0..80 {
                now = match (machine.deadline(), random.random_range(0..10)) {
                    (Some(deadline), 0..6) => deadline.max(now),
                    (_, 6) if seed % 2 == 1 => {
                        last_call = None;
                        now - Duration::from_secs(random.random_range(0..20_000))
                    }
                    _ => now + Duration::from_millis(random.random_range(0..5_000)),
                };
                let jitter = Jitter::new(random.random());
                let event = match random.random_range(0..8) {
                    0..=3 => Event::Tick,
                    4 => Event::Answered { renew: random.random_bool(0.3) },
                    5 => Event::Failed { jitter },
                    6 => Event::Interrupted,
                    _ if random.random_bool(0.5) => Event::Unsupported,
                    _ => Event::Renewed,
                };
                was_renewed |= event == Event::Renewed;
                let actions = machine.step(event, now);
                for action in &actions {
                    match action {
                        Action::Sync => {
                            assert!(!held, "seed {seed}: a second call");
                            let distance = last_call.map_or(MIN_SPACING, |last| now.since(last));
                            // Jitter takes a quarter off the first pause after a failure.
                            assert!(was_renewed || distance >= MIN_SPACING.mul_f64(0.75), "seed {seed}");
                            (held, last_call, was_renewed) = (true, Some(now), false);
                        }
                        Action::Renew => {
                            assert_eq!(event, Event::Answered { renew: true }, "seed {seed}");
                        }
                    }
                }
                if event != Event::Tick {
                    held = false;
                }
                assert_eq!(machine.deadline().is_none(), held, "seed {seed}: {event:?}");
                if event == Event::Tick {
                    assert!(machine.deadline().is_none_or(|at| at.since(now) <= UNSUPPORTED), "seed {seed}");
                }
            }
        }
    }
}
