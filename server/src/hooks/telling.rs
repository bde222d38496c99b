//! What each hook is told when (PURE): everything once, one after the other, and again later what it did not take.
//!
//! ```text
//! notice --it is on the hook's list, and lasts long enough--> waiting --the hook is free--> in flight --taken--> told
//!                                                                ^---not taken: after a pause that grows---'
//! ```
//!
//! Nothing is queued: what waits is what holds now. A notice that does not hold any more is forgotten, one that still
//! does waits until the hook takes it.
//!
//! Invariants, walked at random in the tests: a hook is told one thing at a time, nothing off its list, and nothing
//! twice that it took; a hook that fails is asked again, with pauses that grow and end at five minutes, and delays no
//! other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use certs::Timestamp;

use super::notice::{Notice, Topic};

/// The first pause after a hook failed; it doubles with each further failure in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// The most notices that wait for one hook; of more, those that are listed last wait for room.
const MAX_WAITING: usize = 1_000;
/// The most that is remembered of one hook. More only if that many things are about to end at once: then those that
/// would be forgotten soonest may be told again.
const MAX_TOLD: usize = 50_000;

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// This is everything that there is to tell, the most urgent first.
    Looked(Vec<Arc<Notice>>),
    /// A hook was told, and took it or did not.
    Told {
        /// Which hook.
        hook: usize,
        /// Whether it took it.
        taken: bool,
    },
    /// Nothing but time passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Tell a hook; answered by [`Event::Told`].
    Tell { hook: usize, notice: Arc<Notice> },
    /// Remember beyond this process that a hook took a notice.
    Remember { hook: usize, notice: Arc<Notice> },
}

/// One hook as it is configured.
#[derive(Debug, Clone)]
pub(crate) struct Interest {
    /// What it hears of.
    pub(crate) topics: BTreeSet<Topic>,
    /// How long something may last before it hears of it, if not as long as by default.
    pub(crate) after: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Waiting {
    notice: Arc<Notice>,
    tries: u32,
    rank: usize,
}

#[derive(Debug, Clone)]
struct Hook {
    interest: Interest,
    /// What it took, and until when that is remembered.
    told: BTreeMap<String, Timestamp>,
    waiting: BTreeMap<String, Waiting>,
    in_flight: Option<Waiting>,
    failures: u32,
    next: Timestamp,
}

/// All hooks.
#[derive(Debug, Clone)]
pub(crate) struct Telling {
    hooks: Vec<Hook>,
}

impl Telling {
    /// Begins with what earlier processes remembered, by hook.
    pub(crate) fn new(hooks: Vec<(Interest, BTreeMap<String, Timestamp>)>, now: Timestamp) -> Self {
        let hook = |(interest, told)| Hook {
            interest,
            told,
            waiting: BTreeMap::new(),
            in_flight: None,
            failures: 0,
            next: now,
        };
        Self { hooks: hooks.into_iter().map(hook).collect() }
    }

    /// How many notices wait for a hook, the one in flight among them.
    pub(crate) fn waiting(&self, hook: usize) -> usize {
        self.hooks.get(hook).map_or(0, |hook| hook.waiting.len() + usize::from(hook.in_flight.is_some()))
    }

    /// How often a hook has failed in a row.
    pub(crate) fn failures(&self, hook: usize) -> u32 {
        self.hooks.get(hook).map_or(0, |hook| hook.failures)
    }

    /// When [`Event::Tick`] is due.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let idle = self.hooks.iter().filter(|hook| hook.in_flight.is_none() && !hook.waiting.is_empty());
        idle.map(|hook| hook.next).min()
    }

    /// Takes one event.
    pub(crate) fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Looked(notices) => self.hooks.iter_mut().for_each(|hook| hook.look(&notices, now)),
            Event::Told { hook: index, taken } => {
                let taken = self.hooks.get_mut(index).and_then(|hook| hook.conclude(taken, now));
                actions.extend(taken.map(|notice| Action::Remember { hook: index, notice }));
            }
            Event::Tick => {}
        }
        for (index, hook) in self.hooks.iter_mut().enumerate() {
            actions.extend(hook.begin(now).map(|notice| Action::Tell { hook: index, notice }));
        }
        actions
    }
}

impl Hook {
    /// Takes over what holds now.
    fn look(&mut self, notices: &[Arc<Notice>], now: Timestamp) {
        let holds: BTreeSet<&str> = notices.iter().map(|notice| notice.id.as_str()).collect();
        self.told.retain(|id, until| now < *until || holds.contains(id.as_str()));
        let in_flight = self.in_flight.as_ref().map(|waiting| waiting.notice.id.clone());
        let mut before = std::mem::take(&mut self.waiting);
        for (rank, notice) in notices.iter().enumerate() {
            let is_wanted = self.interest.topics.contains(&notice.event)
                && notice.is_ripe(self.interest.after, now)
                && !self.told.contains_key(&notice.id)
                && in_flight.as_ref() != Some(&notice.id);
            if !is_wanted || self.waiting.len() >= MAX_WAITING {
                continue;
            }
            let tries = before.remove(&notice.id).map_or(0, |waiting| waiting.tries);
            let waiting = Waiting { notice: Arc::clone(notice), tries, rank };
            self.waiting.insert(notice.id.clone(), waiting);
        }
    }

    /// What the hook took; nothing if it did not.
    fn conclude(&mut self, taken: bool, now: Timestamp) -> Option<Arc<Notice>> {
        let done = self.in_flight.take()?;
        if taken {
            (self.failures, self.next) = (0, now);
            if self.told.len() >= MAX_TOLD {
                let soonest = self.told.iter().min_by_key(|(_, until)| **until).map(|(id, _)| id.clone());
                soonest.and_then(|id| self.told.remove(&id));
            }
            self.told.insert(done.notice.id.clone(), done.notice.remembered_until);
            return Some(done.notice);
        }
        self.failures = self.failures.saturating_add(1);
        self.next = now + pause(self.failures);
        self.waiting.insert(done.notice.id.clone(), Waiting { tries: done.tries.saturating_add(1), ..done });
        None
    }

    /// The next notice, if the hook is free: one that was not tried before one that was, then the most urgent.
    fn begin(&mut self, now: Timestamp) -> Option<Arc<Notice>> {
        if self.in_flight.is_some() || now < self.next {
            return None;
        }
        let next = self.waiting.values().min_by_key(|waiting| (waiting.tries, waiting.rank))?;
        let id = next.notice.id.clone();
        self.in_flight = self.waiting.remove(&id);
        self.in_flight.as_ref().map(|waiting| Arc::clone(&waiting.notice))
    }
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
