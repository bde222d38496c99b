//! When an outage of the server is worth a word (PURE): once after some seconds, again when its reason is another, and
//! once when it is over; never for each try.
//!
//! ```text
//! Well --Failed--> Failing --Failed, after 5 s--> Failing, said
//!   ^------------Answered----|----------------------'
//! ```

use std::time::Duration;

use certs::Timestamp;

/// A restart of the server within this time is nobody's business.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a call brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nobody answers, or not to the end.
    Away,
    /// Somebody answers who is not believed.
    Disbelieved,
    /// The server answers, and refuses.
    Refused,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A call brought nothing.
    Failed(Reason),
    /// A call was answered, or the server holds it.
    Answered,
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Say that calls fail, why, and that they go on.
    Warn(Reason),
    /// Say that the server answers again, after this long.
    Back(Duration),
}

/// The outage of one node's server, if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outage {
    /// When the first call failed.
    since: Option<Timestamp>,
    /// Which reasons were said.
    said: Vec<Reason>,
}

impl Outage {
    /// Takes one event.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        match event {
            Event::Failed(reason) => {
                let since = *self.since.get_or_insert(now);
                if now.since(since) < PATIENCE || self.said.contains(&reason) {
                    return Vec::new();
                }
                self.said.push(reason);
                vec![Action::Warn(reason)]
            }
            Event::Answered => {
                let ended = std::mem::take(self);
                let since = ended.since.filter(|_| !ended.said.is_empty());
                since.map(|since| Action::Back(now.since(since))).into_iter().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn check(events: &[(u64, Event, &[Action])]) {
        let mut machine = Outage::default();
        for (secs, event, actions) in events {
            let now = START + Duration::from_secs(*secs);
            assert_eq!(machine.step(*event, now), *actions, "at {secs}: {event:?}");
        }
    }

    #[test]
    fn warns_once_and_says_once_that_it_is_over() {
        let away = Event::Failed(Reason::Away);
        check(&[
            (0, Event::Answered, &[]),
            (10, away, &[]),
            (11, away, &[]),
            (14, away, &[]),
            (17, away, &[Action::Warn(Reason::Away)]),
            (25, away, &[]),
            (3_600, away, &[]),
            (3_610, Event::Answered, &[Action::Back(Duration::from_secs(3_600))]),
            (3_611, Event::Answered, &[]),
            (3_620, away, &[]),
            (3_630, away, &[Action::Warn(Reason::Away)]),
        ]);
    }

    #[test]
    fn says_nothing_of_a_short_restart() {
        let away = Event::Failed(Reason::Away);
        check(&[(0, away, &[]), (4, away, &[]), (6, Event::Answered, &[]), (7, away, &[]), (11, away, &[])]);
    }

    #[test]
    fn says_each_reason_once() {
        let failed = Event::Failed;
        check(&[
            (0, failed(Reason::Refused), &[]),
            (5, failed(Reason::Away), &[Action::Warn(Reason::Away)]),
            (60, failed(Reason::Disbelieved), &[Action::Warn(Reason::Disbelieved)]),
            (120, failed(Reason::Away), &[]),
            (121, failed(Reason::Disbelieved), &[]),
            (122, failed(Reason::Refused), &[Action::Warn(Reason::Refused)]),
        ]);
    }

    /// Whatever happens: nothing is said before it lasted, each reason once, and the end once, of what was said.
    #[test]
    fn a_walk_says_each_outage_once_and_its_end_once() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut machine, mut now) = (Outage::default(), START);
            let (mut began, mut said) = (None, Vec::new());
            for _ in 0..300 {
                now = now + Duration::from_secs(random.random_range(0..4));
                let reasons = [Reason::Away, Reason::Disbelieved, Reason::Refused];
                if random.random_range(0..8) == 0 {
                    let back = machine.step(Event::Answered, now);
                    let lasted = began.take().map(|began| now.since(began));
                    let expected = lasted.filter(|_| !said.is_empty()).map(Action::Back);
                    assert_eq!(back, expected.into_iter().collect::<Vec<_>>(), "seed {seed}");
                    said.clear();
                    continue;
                }
                let reason = reasons[random.random_range(0..reasons.len())];
                let lasts = now.since(*began.get_or_insert(now));
                let is_new = lasts >= PATIENCE && !said.contains(&reason);
                let expected = if is_new { vec![Action::Warn(reason)] } else { Vec::new() };
                assert_eq!(machine.step(Event::Failed(reason), now), expected, "seed {seed}");
                said.extend(is_new.then_some(reason));
            }
        }
    }

    #[test]
    fn a_clock_that_is_put_back_only_delays_the_word() {
        let mut machine = Outage::default();
        let away = Event::Failed(Reason::Away);
        machine.step(away, START);
        assert_eq!(machine.step(away, START - Duration::from_secs(3_600)), []);
        assert_eq!(machine.step(away, START + PATIENCE), [Action::Warn(Reason::Away)]);
    }
}
