//! Gathers refusals, so that whoever is refused a million times writes two rows and not a million.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use certs::Timestamp;

use crate::{Action, Actor, Event};

/// How long equal refusals are gathered into one row.
pub const WINDOW: Duration = Duration::from_secs(60);
/// How many (actor, action, reason) are told apart at once; further ones share one row.
pub const MAX_KEYS: usize = 10_000;
/// How many different reasons one actor may have for rows of their own at once. Reasons quote what the actor sent:
/// without this bound it could choose a new one each time and fill the disk.
pub const REASONS_AT_ONCE: u32 = 64;
/// How long it takes until an actor has earned one more.
pub const REASON_REFILL: Duration = Duration::from_secs(60);

/// What the counter hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CounterEvent {
    /// Something was refused.
    Refused(Event),
    /// Time has passed.
    Tick,
}

/// Who is told apart. An IPv6 host owns 64 bits of addresses: they are one actor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Who(Actor);

impl Who {
    fn of(actor: &Actor) -> Self {
        if let Actor::Stranger { address } = actor
            && let Ok(IpAddr::V6(v6)) = address.parse()
            && v6.to_ipv4_mapped().is_none()
        {
            let network = Ipv6Addr::from(u128::from(v6) >> 64 << 64);
            return Self(Actor::Stranger { address: network.to_string() });
        }
        Self(actor.clone())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    One(Who, Action, String),
    /// Reasons beyond those that the actor may have told apart.
    Rest(Who, Action),
    Other,
}

/// How many more reasons an actor may have told apart, and since when that is known.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    left: u32,
    since: Timestamp,
}

impl Allowance {
    fn refill(&mut self, now: Timestamp) {
        let earned = now.since(self.since).as_secs() / REASON_REFILL.as_secs();
        if earned > 0 {
            self.left =
                self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(REASONS_AT_ONCE);
            self.since = now;
        }
    }
}

/// Repeats since the last row.
struct Window {
    latest: Event,
    repeats: u64,
}

/// A pure machine: refusals and time in, rows to keep out. The first refusal of an actor for a reason is a row at
/// once; its repeats are one row with their count at the end of each minute, for as long as they go on.
///
/// Invariant: every window has exactly one place in `ends`, and `ends` is in order of time.
#[derive(Default)]
pub struct RefusalCounter {
    windows: HashMap<Key, Window>,
    ends: VecDeque<(Timestamp, Key)>,
    /// Of actors that have used some; at most [`MAX_KEYS`].
    allowances: HashMap<Who, Allowance>,
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

    fn refused(&mut self, refusal: Event, now: Timestamp) -> Option<Event> {
        let who = Who::of(&refusal.actor);
        let key = Key::One(who.clone(), refusal.action, refusal.reason.clone());
        if let Some(window) = self.windows.get_mut(&key) {
            window.repeats += refusal.count;
            window.latest = refusal;
            return None;
        }
        if self.windows.len() >= MAX_KEYS {
            return self.overflowed(&refusal, now);
        }
        if self.spend(&who, now) {
            return self.open(key, refusal, now);
        }
        let reason = "further reasons of this actor, the log has each".to_owned();
        let rest = Event { object: "several".to_owned(), reason, ..refusal };
        let key = Key::Rest(who, rest.action);
        if let Some(window) = self.windows.get_mut(&key) {
            window.repeats += rest.count;
            window.latest = rest;
            return None;
        }
        self.open(key, rest, now)
    }

    /// Whether `who` may have one more reason told apart.
    fn spend(&mut self, who: &Who, now: Timestamp) -> bool {
        if !self.allowances.contains_key(who) && self.allowances.len() >= MAX_KEYS {
            self.allowances.retain(|_, allowance| {
                allowance.refill(now);
                allowance.left < REASONS_AT_ONCE
            });
            if self.allowances.len() >= MAX_KEYS {
                return false;
            }
        }
        let full = Allowance { left: REASONS_AT_ONCE, since: now };
        let allowance = self.allowances.entry(who.clone()).or_insert(full);
        allowance.refill(now);
        let may = allowance.left > 0;
        allowance.left = allowance.left.saturating_sub(1);
        may
    }

    fn overflowed(&mut self, refusal: &Event, now: Timestamp) -> Option<Event> {
        let actor = Actor::Stranger { address: "other".to_owned() };
        let reason = "too many different refusals to tell apart";
        let mut other = Event::refused(now, actor, refusal.action, "other", reason);
        other.count = refusal.count;
        if let Some(window) = self.windows.get_mut(&Key::Other) {
            window.repeats += other.count;
            window.latest = other;
            return None;
        }
        self.open(Key::Other, other, now)
    }

    fn open(&mut self, key: Key, refusal: Event, now: Timestamp) -> Option<Event> {
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
            }
        }
        rows
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
    fn an_actor_that_invents_reasons_writes_few_rows() {
        let mut counter = RefusalCounter::new();
        let (mut rows, mut told) = (0, 0);
        for second in 0..3_600 {
            for number in 0..10 {
                let event = refusal("192.0.2.1", &format!("foreign {second} {number}"), at(second));
                let kept = counter.step(event, at(second));
                rows += kept.len();
                told += counts(&kept).iter().sum::<u64>();
            }
        }
        told += counts(&counter.finish()).iter().sum::<u64>();
        assert_eq!(told, 36_000, "no refusal is lost from the counts");
        assert!(rows < 64 + 2 * 60 + 4, "{rows} rows in an hour");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_actor() {
        let mut counter = RefusalCounter::new();
        let rows: usize = (0..500)
            .map(|host| counter.step(refusal(&format!("2001:db8:1:2::{host:x}"), "none", at(0)), at(0)).len())
            .sum();
        assert_eq!(rows, 1);
        assert_eq!(counter.step(refusal("2001:db8:1:3::1", "none", at(0)), at(0)).len(), 1);
        assert_eq!(counter.step(refusal("::ffff:192.0.2.1", "none", at(0)), at(0)).len(), 1);
        assert_eq!(counter.step(refusal("::ffff:192.0.2.2", "none", at(0)), at(0)).len(), 1);
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
