//! How a store is opened whose key may be out of reach for a while (PURE): it is tried, ever more slowly, until it
//! opens, and at once when somebody changed what it is opened with.
//!
//! ```text
//! Due --Tick, Changed--> Trying --Opened--> Over
//!  ^                       |  '--Failed for good, at the first try--> Over
//!  '------- a pause -------'
//! ```
//! A server that has once stayed up for a key stays up whatever happens then: who mistypes a path in its configuration
//! must not end it.

use std::time::Duration;

use certs::Timestamp;
use store::Outlook;

/// The first pause, and the longest, while whoever holds the key cannot be asked.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The same while he refuses us: who tries faster is locked out.
const REFUSED_PAUSES: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(15 * 60));

/// A random part of one, drawn by the shell: servers that lost the same Vault do not come back to it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Jitter(pub(crate) u8);

impl Jitter {
    /// At most a quarter more.
    fn on(self, pause: Duration) -> Duration {
        pause + pause * u32::from(self.0) / 1020
    }
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// Nothing but time passed.
    Tick,
    /// What the store is opened with is another: the configuration, or a file that it names.
    Changed,
    /// The store is open.
    Opened,
    /// It is not.
    Failed {
        /// What becomes of that.
        outlook: Outlook,
        /// Spreads the next try.
        jitter: Jitter,
    },
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Try to open the store.
    Try,
    /// Stay up: answer that we live, and are not ready. Once.
    Stay,
    /// End: it stays so.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due(Timestamp),
    Trying,
    Over,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Opening {
    state: State,
    /// Failures in a row, since something was changed: of those that may pass, and of refusals.
    failures: u32,
    refusals: u32,
    stays: bool,
    /// Something was changed while it was being tried.
    again: bool,
}

impl Opening {
    /// Due now.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { state: State::Due(now), failures: 0, refusals: 0, stays: false, again: false }
    }

    /// When [`Event::Tick`] will bring something.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Due(at) => Some(at),
            State::Trying | State::Over => None,
        }
    }

    /// One step.
    pub(crate) fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        match (self.state, event) {
            (State::Due(at), Event::Tick) if at <= now => self.attempt(),
            (State::Due(_), Event::Changed) => {
                (self.failures, self.refusals) = (0, 0);
                self.attempt()
            }
            (State::Trying, Event::Changed) => {
                self.again = true;
                vec![]
            }
            (State::Trying, Event::Opened) => {
                self.state = State::Over;
                vec![]
            }
            (State::Trying, Event::Failed { outlook: Outlook::Lasting, .. }) if !self.stays => {
                self.state = State::Over;
                vec![Action::End]
            }
            (State::Trying, Event::Failed { outlook, jitter }) => self.failed(outlook, jitter, now),
            (State::Due(_), Event::Tick | Event::Opened | Event::Failed { .. })
            | (State::Trying, Event::Tick)
            | (State::Over, _) => vec![],
        }
    }

    fn attempt(&mut self) -> Vec<Action> {
        (self.state, self.again) = (State::Trying, false);
        vec![Action::Try]
    }

    fn failed(&mut self, outlook: Outlook, jitter: Jitter, now: Timestamp) -> Vec<Action> {
        let mut actions = if self.stays { vec![] } else { vec![Action::Stay] };
        self.stays = true;
        if self.again {
            (self.failures, self.refusals) = (0, 0);
            actions.extend(self.attempt());
            return actions;
        }
        let (count, (first, longest)) = match outlook {
            Outlook::Refused => (&mut self.refusals, REFUSED_PAUSES),
            Outlook::Passing | Outlook::Lasting => (&mut self.failures, PAUSES),
        };
        let pause = first.saturating_mul(1 << (*count).min(16)).min(longest);
        *count = count.saturating_add(1);
        self.state = State::Due(now + jitter.on(pause));
        actions
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn at(secs: u64) -> Timestamp {
        START + Duration::from_secs(secs)
    }

    fn failed(outlook: Outlook) -> Event {
        Event::Failed { outlook, jitter: Jitter(0) }
    }

    /// Steps written as: at which second, what happens, what is done, when the next is due.
    struct Table(Opening);

    impl Table {
        fn new() -> Self {
            Self(Opening::new(START))
        }

        fn check(&mut self, secs: u64, event: Event, actions: &[Action], deadline: Option<u64>) {
            assert_eq!(self.0.step(event, at(secs)), actions, "at {secs}: {event:?}");
            assert_eq!(self.0.deadline(), deadline.map(at), "at {secs}: {event:?}");
        }
    }

    #[test]
    fn a_key_out_of_reach_is_tried_ever_more_slowly_until_it_opens() {
        let mut it = Table::new();
        it.check(0, Event::Tick, &[Action::Try], None);
        it.check(0, Event::Tick, &[], None);
        it.check(1, failed(Outlook::Passing), &[Action::Stay], Some(2));
        let mut now = 2;
        for pause in [2, 4, 8, 16, 30, 30] {
            it.check(now, Event::Tick, &[Action::Try], None);
            it.check(now, failed(Outlook::Passing), &[], Some(now + pause));
            it.check(now, Event::Tick, &[], Some(now + pause));
            now += pause;
        }
        it.check(now, Event::Tick, &[Action::Try], None);
        it.check(now, Event::Opened, &[], None);
        it.check(now + 9, Event::Changed, &[], None);
    }

    #[test]
    fn what_stays_so_ends_the_server_at_the_first_try_and_never_later() {
        let mut it = Table::new();
        it.check(0, Event::Tick, &[Action::Try], None);
        it.check(1, failed(Outlook::Lasting), &[Action::End], None);
        it.check(2, Event::Tick, &[], None);

        let mut stays = Table::new();
        stays.check(0, Event::Tick, &[Action::Try], None);
        stays.check(0, failed(Outlook::Passing), &[Action::Stay], Some(1));
        stays.check(1, Event::Tick, &[Action::Try], None);
        stays.check(1, failed(Outlook::Lasting), &[], Some(3));
    }

    #[test]
    fn who_is_refused_does_not_ask_often_and_another_secret_is_tried_at_once() {
        let mut it = Table::new();
        it.check(0, Event::Tick, &[Action::Try], None);
        it.check(0, failed(Outlook::Refused), &[Action::Stay], Some(30));
        it.check(30, Event::Tick, &[Action::Try], None);
        it.check(30, failed(Outlook::Refused), &[], Some(90));
        // In between Vault was away: that says nothing of the credentials.
        it.check(90, Event::Tick, &[Action::Try], None);
        it.check(90, failed(Outlook::Passing), &[], Some(91));
        it.check(91, Event::Tick, &[Action::Try], None);
        it.check(91, failed(Outlook::Refused), &[], Some(211));
        it.check(100, Event::Changed, &[Action::Try], None);
        it.check(101, failed(Outlook::Refused), &[], Some(131));
        // Changed while it was tried: the try was of what there was before.
        it.check(110, Event::Changed, &[Action::Try], None);
        it.check(110, Event::Changed, &[], None);
        it.check(111, failed(Outlook::Refused), &[Action::Try], None);
        it.check(112, failed(Outlook::Refused), &[], Some(142));
        it.check(120, Event::Changed, &[Action::Try], None);
        it.check(121, Event::Opened, &[], None);
    }

    /// Under any order of events: one try at a time; it stays up once and ends at most at its first try; whoever waits
    /// has a deadline, which lies ahead and not further than the longest pause and a quarter; refusals that nobody
    /// answers by a change come at least half a minute apart; and nothing happens any more when it is over.
    #[test]
    fn holds_its_invariants_on_random_walks() {
        for seed in 0..2000 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut machine = Opening::new(START);
            let (mut now, mut is_trying, mut stayed, mut tries) = (START, false, false, 0_u32);
            let (mut is_over, mut refused_at) = (false, None::<Timestamp>);
            for _ in 0..60 {
                now = match (machine.deadline(), random.random_bool(0.7)) {
                    (Some(deadline), true) => deadline.max(now),
                    _ => now + Duration::from_millis(random.random_range(0..60_000)),
                };
                let outlook = match random.random_range(0..5) {
                    0 => Outlook::Lasting,
                    1 | 2 => Outlook::Refused,
                    _ => Outlook::Passing,
                };
                let event = match random.random_range(0..8) {
                    0..4 => Event::Tick,
                    4 => Event::Changed,
                    5 if random.random_bool(0.1) => Event::Opened,
                    _ => Event::Failed { outlook, jitter: Jitter(random.random()) },
                };
                let was_trying = is_trying;
                match event {
                    Event::Opened if was_trying => (is_trying, is_over) = (false, true),
                    Event::Failed { .. } if was_trying => is_trying = false,
                    Event::Changed => refused_at = None,
                    Event::Tick | Event::Opened | Event::Failed { .. } => {}
                }
                for action in machine.step(event, now) {
                    match action {
                        Action::Try => {
                            assert!(
                                !is_trying && !is_over,
                                "seed {seed}: two tries at once, or one too many"
                            );
                            let since = refused_at.map(|at| now.since(at));
                            let is_soon = since.is_some_and(|since| since < REFUSED_PAUSES.0);
                            assert!(!is_soon, "seed {seed}: asks again {since:?} after a refusal");
                            (is_trying, tries) = (true, tries + 1);
                        }
                        Action::Stay => {
                            assert!(!stayed, "seed {seed}: stays twice");
                            stayed = true;
                        }
                        Action::End => {
                            assert!(tries == 1 && !stayed, "seed {seed}: ends although it stayed");
                            is_over = true;
                        }
                    }
                }
                if let Event::Failed { outlook: Outlook::Refused, .. } = event
                    && was_trying
                    && !is_trying
                {
                    refused_at = Some(now);
                } else if was_trying && !is_trying {
                    refused_at = None;
                }
                assert_eq!(machine.deadline().is_some(), !is_trying && !is_over, "seed {seed}: {event:?}");
                if let Some(deadline) = machine.deadline().filter(|_| tries > 0) {
                    let longest = REFUSED_PAUSES.1 + REFUSED_PAUSES.1 / 4;
                    assert!(deadline <= now + longest, "seed {seed}: waits too long");
                    assert!(event == Event::Tick || !was_trying || deadline > now, "seed {seed}: spins");
                }
            }
        }
    }
}
