//! When a node whose certificate has ended asks to come back (PURE): again and again with pauses that grow, until it is
//! let in. Whether it may is the operators' to say; nothing is lost by asking.
//!
//! ```text
//! Waiting --due--> Asking --Failed--> Waiting, a longer pause
//!                     '--let in--> (the node has a certificate, and this machine ends)
//! ```

use std::time::Duration;

use certs::Timestamp;
use sds::schedule::Jitter;

/// Within this time after its certificate has ended a node asks first: not all of a fleet in one second.
const FIRST: Duration = Duration::from_secs(5);
/// The longest pause: a fleet comes back within minutes of an operator's word.
pub const LONGEST: Duration = Duration::from_secs(120);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time passed.
    Tick,
    /// The node was not let in, or nobody answered.
    Failed {
        /// Spreads the next try.
        jitter: Jitter,
    },
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask to come back; what does not bring a certificate is answered by [`Event::Failed`].
    Ask,
}

/// The asking of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// `None` while it asks.
    next: Option<Timestamp>,
    failures: u32,
}

impl Recovery {
    /// Begins at `now`, when the certificate has ended or is found to have.
    #[must_use]
    pub fn new(now: Timestamp, jitter: Jitter) -> Self {
        Self { next: Some(now + jitter.of(FIRST)), failures: 0 }
    }

    /// When [`Event::Tick`] is due. `None` while the node asks.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.next
    }

    /// How often it was not let in.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Takes one event.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        match (self.next, event) {
            // Further away than any pause: the clock was put back meanwhile, and nobody waits for it to catch up.
            (Some(next), Event::Tick) if next <= now || next > now + LONGEST => {
                self.next = None;
                vec![Action::Ask]
            }
            (None, Event::Failed { jitter }) => {
                let whole = FIRST.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
                self.failures = self.failures.saturating_add(1);
                self.next = Some(now + whole / 2 + jitter.of(whole / 2));
                Vec::new()
            }
            (_, Event::Tick) | (Some(_), Event::Failed { .. }) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    #[test]
    fn asks_with_pauses_that_grow_to_two_minutes() {
        let mut machine = Recovery::new(START, Jitter::NONE);
        let (mut now, mut pauses) = (START, Vec::new());
        for _ in 0..8 {
            assert_eq!(machine.step(Event::Tick, now), [Action::Ask]);
            assert_eq!((machine.deadline(), machine.step(Event::Tick, now)), (None, Vec::new()));
            assert_eq!(machine.step(Event::Failed { jitter: Jitter::FULL }, now), []);
            let next = machine.deadline().unwrap();
            pauses.push(next.since(now).as_secs());
            assert_eq!(machine.step(Event::Tick, now), [], "not before its time");
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 120, 120, 120]);
        let first = Recovery::new(START, Jitter::FULL).deadline().unwrap();
        assert_eq!(first.since(START), FIRST);
    }

    #[test]
    fn a_clock_that_is_put_back_makes_nobody_wait_for_longer_than_the_longest_pause() {
        let asked_after = |back: Duration| {
            let mut machine = Recovery::new(START, Jitter::NONE);
            assert_eq!(machine.step(Event::Tick, START), [Action::Ask]);
            machine.step(Event::Failed { jitter: Jitter::FULL }, START);
            machine.step(Event::Tick, START - back)
        };
        let within = LONGEST - FIRST;
        assert_eq!(asked_after(within), [], "it is due within the longest pause");
        assert_eq!(asked_after(within + Duration::from_secs(1)), [Action::Ask]);
        assert_eq!(asked_after(Duration::from_secs(48 * 60 * 60)), [Action::Ask]);
    }

    /// Under any order of events, on a clock that is put back now and then: one question at a time, never before its
    /// time by a clock that only goes on, and whoever looks at the time waits for the longest pause at most.
    #[test]
    fn holds_its_invariants_on_random_walks() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut machine = Recovery::new(START, Jitter::new(random.random()));
            let (mut now, mut is_asking) = (START, false);
            for _ in 0..60 {
                now = match (machine.deadline(), random.random_range(0..8)) {
                    (Some(deadline), 0..4) => deadline.max(now),
                    (_, 4) => now - Duration::from_secs(random.random_range(0..300)),
                    _ => now + Duration::from_millis(random.random_range(0..30_000)),
                };
                let due = machine.deadline();
                let event = match random.random_range(0..3) {
                    0 => Event::Failed { jitter: Jitter::new(random.random()) },
                    _ => Event::Tick,
                };
                let actions = machine.step(event, now);
                if actions == [Action::Ask] {
                    let is_due = |due| due <= now || due > now + LONGEST;
                    assert!(!is_asking && due.is_some_and(is_due), "seed {seed}");
                    is_asking = true;
                } else if matches!(event, Event::Failed { .. }) {
                    is_asking = false;
                }
                assert_eq!(machine.deadline().is_none(), is_asking, "seed {seed}");
                if event == Event::Tick {
                    let wait = machine.deadline().map(|next| next.since(now));
                    assert!(wait.is_none_or(|wait| wait <= LONGEST), "seed {seed}");
                }
            }
        }
    }
}
