//! Gathers refusals, so that whoever is refused a million times writes two rows and not a million.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use certs::Timestamp;

use crate::{Action, Actor, Event};

/// How long equal refusals are gathered into one row.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How many (actor, action, reason) are told apart at once; further ones share one row.
pub const MAX_KEYS: usize = 10_000;
/// How many of them may be one actor's: who is refused for ever new reasons, which a stranger can write into a
/// certificate, fills neither the disk nor the place of others.
const MAX_KEYS_OF_ACTOR: usize = 100;
/// How long a reason may be, in characters.
const MAX_REASON: usize = 500;

/// What the counter hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CounterEvent {
    /// Something was refused.
    Refused(Event),
    /// Time has passed.
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    One(Actor, Action, String),
    Rest(Actor),
    Other,
}

/// Repeats since the last row.
struct Window {
    latest: Event,
    repeats: u64,
}

/// A pure machine: refusals and time in, rows to keep out. The first refusal of an actor for a reason is a row at
/// once; its repeats are one row with their count at the end of each minute, for as long as they go on.
///
/// Invariants: every window has exactly one place in `ends`, and `ends` is in order of time; `told_apart` counts the
/// windows of each actor that has any.
#[derive(Default)]
pub struct RefusalCounter {
    windows: HashMap<Key, Window>,
    told_apart: HashMap<Actor, usize>,
    ends: VecDeque<(Timestamp, Key)>,
}

impl RefusalCounter {
    /// A counter that has heard nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event and answers the rows to keep now.
    pub fn step(&mut self, event: CounterEvent, now: Timestamp) -> Vec<Event> {
        let mut rows = self.close(now);
        if let CounterEvent::Refused(refusal) = event {
            rows.extend(self.refused(refusal, now));
        }
        rows
    }

    /// When the next window ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Every count that is not a row yet; for the end of the process.
    #[must_use]
    pub fn finish(mut self) -> Vec<Event> {
        let ends = std::mem::take(&mut self.ends);
        ends.into_iter().filter_map(|(_, key)| self.windows.remove(&key)).filter_map(row).collect()
    }

    fn refused(&mut self, mut refusal: Event, now: Timestamp) -> Option<Event> {
        if let Some((end, _)) = refusal.reason.char_indices().nth(MAX_REASON) {
            refusal.reason.truncate(end);
        }
        let key = Key::One(refusal.actor.clone(), refusal.action, refusal.reason.clone());
        if let Some(window) = self.windows.get_mut(&key) {
            window.repeats += refusal.count;
            window.latest = refusal;
            return None;
        }
        let of_actor = self.told_apart.get(&refusal.actor).copied().unwrap_or_default();
        if of_actor >= MAX_KEYS_OF_ACTOR {
            let actor = refusal.actor.clone();
            return self.overflowed(Key::Rest(actor.clone()), actor, &refusal, now);
        }
        if self.windows.len() >= MAX_KEYS {
            let actor = Actor::Stranger { address: "other".to_owned() };
            return self.overflowed(Key::Other, actor, &refusal, now);
        }
        self.open(key, refusal, now)
    }

    fn overflowed(&mut self, key: Key, actor: Actor, refusal: &Event, now: Timestamp) -> Option<Event> {
        let reason = "too many different refusals to tell apart";
        let mut other = Event::refused(now, actor, refusal.action, "other", reason);
        other.count = refusal.count;
        if let Some(window) = self.windows.get_mut(&key) {
            window.repeats += other.count;
            window.latest = other;
            return None;
        }
        self.open(key, other, now)
    }

    fn open(&mut self, key: Key, refusal: Event, now: Timestamp) -> Option<Event> {
        if let Key::One(actor, ..) = &key {
            *self.told_apart.entry(actor.clone()).or_default() += 1;
        }
        self.ends.push_back((now + WINDOW, key.clone()));
        self.windows.insert(key, Window { latest: refusal.clone(), repeats: 0 });
        Some(refusal)
    }

    /// Ends the windows that are over. One with repeats begins again; one without is forgotten.
    fn close(&mut self, now: Timestamp) -> Vec<Event> {
        let mut rows = Vec::new();
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            let Some((_, key)) = self.ends.pop_front() else { break };
            let Some(window) = self.windows.remove(&key) else { continue };
            let latest = window.latest.clone();
            if let Some(row) = row(window) {
                rows.push(row);
                self.ends.push_back((now + WINDOW, key.clone()));
                self.windows.insert(key, Window { latest, repeats: 0 });
            } else {
                self.forget(&key);
            }
        }
        rows
    }

    /// A window of the actor is over.
    fn forget(&mut self, key: &Key) {
        let Key::One(actor, ..) = key else { return };
        if let Some(count) = self.told_apart.get_mut(actor) {
            *count -= 1;
            if *count == 0 {
                self.told_apart.remove(actor);
            }
        }
    }
}

fn row(window: Window) -> Option<Event> {
    (window.repeats > 0).then_some(Event { count: window.repeats, ..window.latest })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_unix_secs(1_800_000_000 + secs)
    }

    fn refusal(address: &str, reason: &str, now: Timestamp) -> CounterEvent {
        let actor = Actor::Stranger { address: address.to_owned() };
        CounterEvent::Refused(Event::refused(now, actor, Action::ConnectionRefuse, "18000", reason))
    }

    fn counts(rows: &[Event]) -> Vec<u64> {
        rows.iter().map(|row| row.count).collect()
    }

    #[test]
    fn shows_the_first_at_once_and_the_repeats_at_the_end_of_each_minute() {
        let mut counter = RefusalCounter::new();
        assert_eq!(counts(&counter.step(refusal("a", "expired", at(0)), at(0))), [1]);
        assert_eq!(counter.deadline(), Some(at(60)));
        for second in 1..50 {
            assert_eq!(counter.step(refusal("a", "expired", at(second)), at(second)), []);
        }
        assert_eq!(counts(&counter.step(refusal("a", "foreign", at(50)), at(50))), [1], "another reason");
        assert_eq!(counts(&counter.step(refusal("b", "expired", at(50)), at(50))), [1], "another actor");
        let rows = counter.step(CounterEvent::Tick, at(60));
        assert_eq!(counts(&rows), [49]);
        assert_eq!(rows[0].at, at(49));
        // It went on, so the next minute is one row again; when it stops, nothing remains.
        assert_eq!(counter.step(refusal("a", "expired", at(61)), at(61)), []);
        assert_eq!(counts(&counter.step(CounterEvent::Tick, at(120))), [1]);
        assert_eq!(counter.step(CounterEvent::Tick, at(180)), []);
        assert_eq!(counter.deadline(), None);
        assert_eq!(counts(&counter.step(refusal("a", "expired", at(181)), at(181))), [1]);
    }

    #[test]
    fn holds_no_more_than_its_bound_and_counts_the_rest_together() {
        let mut counter = RefusalCounter::new();
        let mut rows = 0;
        for number in 0..MAX_KEYS + 500 {
            rows += counter.step(refusal(&number.to_string(), "no certificate", at(0)), at(0)).len();
        }
        assert_eq!(rows, MAX_KEYS + 1);
        assert_eq!(counter.windows.len(), MAX_KEYS + 1);
        let rows = counter.step(CounterEvent::Tick, at(60));
        assert_eq!(counts(&rows), [499]);
        assert_eq!(rows[0].object, "other");
    }

    #[test]
    fn one_actor_with_ever_new_reasons_gets_no_more_rows_than_its_share() {
        let mut counter = RefusalCounter::new();
        let mut rows = 0;
        for number in 0..5_000 {
            rows += counter.step(refusal("a", &format!("issuer {number}"), at(0)), at(0)).len();
        }
        assert_eq!(rows, MAX_KEYS_OF_ACTOR + 1);
        assert_eq!(counts(&counter.step(refusal("b", "expired", at(1)), at(1))), [1], "another actor");
        let gathered = counter.step(CounterEvent::Tick, at(60));
        assert_eq!(counts(&gathered), [4_899]);
        assert_eq!(gathered[0].reason, "too many different refusals to tell apart");
        // Its share is free again once its windows are over.
        assert_eq!(counts(&counter.step(refusal("a", "again", at(62)), at(62))), [1]);
        let long = "x".repeat(20_000);
        assert_eq!(counter.step(refusal("c", &long, at(62)), at(62))[0].reason.len(), MAX_REASON);
        counter.step(CounterEvent::Tick, at(500));
        counter.step(CounterEvent::Tick, at(900));
        assert!(counter.told_apart.is_empty() && counter.windows.is_empty());
    }

    #[test]
    fn the_end_of_the_process_loses_no_count() {
        let mut counter = RefusalCounter::new();
        let mut told = 0;
        let mut random = 7_u64;
        for step in 0..20_000_i64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let who = (random >> 33) % 40;
            let now = at(step / 20);
            told += counts(&counter.step(refusal(&who.to_string(), "x", now), now)).iter().sum::<u64>();
            assert_eq!(counter.windows.len(), counter.ends.len());
            assert!(counter.ends.iter().zip(counter.ends.iter().skip(1)).all(|(a, b)| a.0 <= b.0));
            assert!(counter.deadline().is_none_or(|deadline| deadline > now));
        }
        assert_eq!(told + counts(&counter.finish()).iter().sum::<u64>(), 20_000);
    }
}
