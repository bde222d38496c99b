//! When the node's certificate is renewed (PURE): at 40 to 50 % of its life, again and again until it works, and
//! what is held is kept until something better is on disk.
//!
//! ```text
//! Held --due--> InFlight --Renewed--> Held
//!   ^              '--Failed--> Held, again later --> Expired, when life is over
//! ```

use std::time::Duration;

use certs::Timestamp;
use sds::schedule::{Jitter, Life, retry_in};

/// How soon a renewal that was asked for follows a failure.
const SOON: Duration = Duration::from_secs(5);

/// What happens to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time passed.
    Tick,
    /// The server wants the certificate renewed before its time.
    Asked,
    /// The renewal in flight brought a certificate, which is on disk.
    Renewed {
        /// From when to when it lives.
        life: Life,
        /// Spreads the next renewal.
        jitter: Jitter,
    },
    /// The renewal in flight brought nothing.
    Failed {
        /// Spreads the next try.
        jitter: Jitter,
    },
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask for a certificate with a new key.
    Renew,
    /// Say that the certificate has ended: there is nothing to renew any more. Said once, and nothing follows.
    GiveUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Held { next: Timestamp },
    InFlight,
    Expired,
}

/// One node's certificate over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    life: Life,
    failures: u32,
    /// When the last of them failed.
    failed_at: Option<Timestamp>,
    /// The server wants it replaced: something is the matter with its authority, and less time than its life says.
    is_asked: bool,
    state: State,
}

impl Renewal {
    /// Begins with the certificate that is on disk.
    #[must_use]
    pub fn new(life: Life, jitter: Jitter) -> Self {
        Self {
            life,
            failures: 0,
            failed_at: None,
            is_asked: false,
            state: State::Held { next: life.renew_at(jitter) },
        }
    }

    /// The life of the certificate in hand.
    #[must_use]
    pub fn life(&self) -> Life {
        self.life
    }

    /// How many tries have failed in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When [`Event::Tick`] is due. `None` while a renewal is in flight, and at the end.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Held { next } => Some(next.min(self.life.expires)),
            State::InFlight | State::Expired => None,
        }
    }

    /// Takes one event.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        match (self.state, event) {
            (State::Held { .. }, Event::Tick) if self.life.is_over(now) => self.expire(),
            // A failure later than now: the clock was put back meanwhile, and nobody waits for it to catch up.
            (State::Held { next }, Event::Tick)
                if next <= now || self.failed_at.is_some_and(|failed| now < failed) =>
            {
                self.state = State::InFlight;
                vec![Action::Renew]
            }
            // Whoever has failed by itself does not sleep through it. Being asked again and again undoes no pause.
            (State::Held { next }, Event::Asked)
                if !self.is_asked && !self.life.is_over(now) && self.failures > 0 =>
            {
                self.is_asked = true;
                self.state = State::Held { next: next.min(now + SOON) };
                Vec::new()
            }
            (State::Held { .. }, Event::Asked) if self.failures == 0 && !self.life.is_over(now) => {
                self.is_asked = true;
                self.state = State::InFlight;
                vec![Action::Renew]
            }
            (State::InFlight, Event::Renewed { life, jitter }) if !life.is_over(now) => {
                *self = Self::new(life, jitter);
                Vec::new()
            }
            // A certificate that is over when it comes is no certificate.
            (State::InFlight, Event::Renewed { jitter, .. } | Event::Failed { jitter }) => {
                self.failures = self.failures.saturating_add(1);
                self.failed_at = Some(now);
                if self.life.is_over(now) {
                    return self.expire();
                }
                let remaining = (!self.is_asked).then(|| self.life.remaining(now));
                let pause = retry_in(self.failures, remaining, jitter);
                self.state = State::Held { next: now + pause };
                Vec::new()
            }
            (State::Held { .. } | State::InFlight | State::Expired, Event::Tick | Event::Asked)
            | (State::Held { .. } | State::Expired, Event::Renewed { .. } | Event::Failed { .. }) => {
                Vec::new()
            }
        }
    }

    fn expire(&mut self) -> Vec<Action> {
        self.state = State::Expired;
        vec![Action::GiveUp]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn at(secs: u64) -> Timestamp {
        START + Duration::from_secs(secs)
    }

    fn life(from: u64, length: u64) -> Life {
        Life { issued: at(from), expires: at(from + length) }
    }

    #[test]
    fn renews_at_its_time_backs_off_and_gives_up_at_the_end() {
        let mut machine = Renewal::new(life(0, 1000), Jitter::NONE);
        let renewed = |from| Event::Renewed { life: life(from, 1000), jitter: Jitter::NONE };
        let failed = Event::Failed { jitter: Jitter::NONE };
        let mut check = |secs: u64, event, actions: &[Action], deadline: Option<u64>| {
            assert_eq!(machine.step(event, at(secs)), actions, "at {secs}: {event:?}");
            assert_eq!(machine.deadline(), deadline.map(at), "at {secs}: {event:?}");
        };
        check(399, Event::Tick, &[], Some(400));
        check(399, failed, &[], Some(400));
        check(400, Event::Tick, &[Action::Renew], None);
        check(401, Event::Tick, &[], None);
        check(401, renewed(401), &[], Some(801));
        check(801, Event::Tick, &[Action::Renew], None);
        check(801, failed, &[], Some(861));
        check(861, Event::Tick, &[Action::Renew], None);
        // Two minutes would be the second pause; a tenth of the 540 s that are left is less.
        check(861, failed, &[], Some(915));
        // Asked while it waits out a failure of its own, it comes within seconds; asked again, no sooner.
        check(862, Event::Asked, &[], Some(867));
        check(863, Event::Asked, &[], Some(867));
        check(867, Event::Tick, &[Action::Renew], None);
        check(867, failed, &[], Some(871));
        check(921, Event::Tick, &[Action::Renew], None);
        // A certificate that is over when it comes counts as a failure, after which it is still in a hurry.
        check(921, Event::Renewed { life: life(0, 900), jitter: Jitter::NONE }, &[], Some(929));
        check(930, Event::Asked, &[], Some(929));
        check(969, Event::Tick, &[Action::Renew], None);
        check(970, Event::Asked, &[], None);
        check(970, renewed(970), &[], Some(1370));
        check(1000, Event::Asked, &[Action::Renew], None);
        check(1001, renewed(1001), &[], Some(1401));
        // What the server asked for is tried again in seconds, and not in minutes.
        check(1002, Event::Asked, &[Action::Renew], None);
        check(1002, failed, &[], Some(1003));
        check(1003, Event::Asked, &[], Some(1003));
        check(1003, Event::Tick, &[Action::Renew], None);
        check(1003, failed, &[], Some(1005));
        check(1005, Event::Tick, &[Action::Renew], None);
        check(1005, renewed(1001), &[], Some(1401));
        check(2001, Event::Asked, &[], Some(1401));
        check(2001, Event::Tick, &[Action::GiveUp], None);
        check(2002, Event::Asked, &[], None);
        check(1402, Event::Tick, &[], None);
        check(1402, renewed(1402), &[], None);
    }

    #[test]
    fn takes_a_certificate_that_comes_after_the_old_one_ended() {
        let mut machine = Renewal::new(life(0, 10), Jitter::FULL);
        assert_eq!(machine.step(Event::Tick, at(9)), [Action::Renew]);
        assert_eq!(machine.step(Event::Renewed { life: life(10, 10), jitter: Jitter::FULL }, at(11)), []);
        assert_eq!(machine.deadline(), Some(at(15)));
        assert_eq!(machine.step(Event::Tick, at(15)), [Action::Renew]);
        assert_eq!(machine.step(Event::Failed { jitter: Jitter::NONE }, at(20)), [Action::GiveUp]);
    }

    #[test]
    fn is_tried_again_at_once_when_the_clock_was_put_back_since_it_failed() {
        let mut machine = Renewal::new(life(0, 100_000), Jitter::NONE);
        assert_eq!(machine.step(Event::Tick, at(10_000)), [], "its time is told by its life alone");
        assert_eq!(machine.step(Event::Tick, at(50_000)), [Action::Renew]);
        assert_eq!(machine.step(Event::Failed { jitter: Jitter::NONE }, at(50_000)), []);
        assert_eq!(machine.step(Event::Tick, at(50_059)), []);
        assert_eq!(machine.step(Event::Tick, at(40_000)), [Action::Renew]);
        assert_eq!(machine.step(Event::Failed { jitter: Jitter::NONE }, at(40_000)), []);
        assert_eq!(machine.deadline(), Some(at(40_120)), "and the pauses go on to grow");
    }

    /// Under any order of events: one renewal at a time; what is held is never given up while it lives; a deadline
    /// stands unless a renewal is in flight or all is over; the next try is never later than the end.
    #[test]
    fn holds_its_invariants_on_random_walks() {
        for seed in 0..500 {
            let mut random = StdRng::seed_from_u64(seed);
            let length = random.random_range(2..100_000);
            let mut machine = Renewal::new(life(0, length), Jitter::new(random.random()));
            let (mut now, mut in_flight, mut over) = (START, false, false);
            for _ in 0..60 {
                now = match (machine.deadline(), random.random_bool(0.7)) {
                    (Some(deadline), true) => deadline.max(now),
                    _ => now + Duration::from_millis(random.random_range(0..length * 100)),
                };
                let jitter = Jitter::new(random.random());
                let event = match random.random_range(0..4) {
                    0 => Event::Tick,
                    1 => Event::Asked,
                    2 => Event::Failed { jitter },
                    _ => {
                        let length = Duration::from_secs(random.random_range(0..length));
                        Event::Renewed { life: Life { issued: now, expires: now + length }, jitter }
                    }
                };
                let held = machine.life();
                for action in machine.step(event, now) {
                    match action {
                        Action::Renew => {
                            assert!(!in_flight && !over, "seed {seed}: a second renewal in flight");
                            assert!(
                                !machine.life().is_over(now),
                                "seed {seed}: renews with an ended certificate"
                            );
                            in_flight = true;
                        }
                        Action::GiveUp => {
                            assert!(
                                !over && machine.life().is_over(now),
                                "seed {seed}: gave up a living one"
                            );
                            over = true;
                        }
                    }
                }
                if !matches!(event, Event::Tick | Event::Asked) {
                    in_flight = false;
                }
                if machine.life() != held {
                    assert!(!machine.life().is_over(now), "seed {seed}: took an ended certificate");
                }
                assert_eq!(machine.deadline().is_none(), in_flight || over, "seed {seed}");
                assert!(machine.deadline().is_none_or(|at| at <= machine.life().expires), "seed {seed}");
            }
        }
    }
}
