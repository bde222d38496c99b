//! The life of revocation lists: when each is made, and when all of them must leave the proxies.
//!
//! A pure machine. Whoever checks against lists needs one of every authority whose leaves it is shown, and refuses
//! everything that an authority signed once its list has ended (measured on Envoy; security reference 5.7). So lists
//! are shown together or not at all, and none is shown that is about to end.
//!
//! ```text
//! of one authority                                    of all of them
//!              at once                                  each that has signed has a fresh one
//! (no list) -----------> Making -> Fresh --.          Hidden <------------------------> Shown
//!                          ^   half life,  |                   one is 75 % used, or missing
//!                          '-- or revoked -'
//! ```
//!
//! Invariants, walked at random in the tests: what is shown is complete for every authority that has signed, and none
//! of it has used 75 % of its life; a revocation is on a list by its hour unless signing fails; nothing is made twice
//! at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use certs::Timestamp;
use spiffe::AuthorityId;

/// The least life of a list, unless development mode allows less.
pub const LEAST_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// The longest wait between two tries.
const MAX_RETRY: Duration = Duration::from_secs(15 * 60);
/// Between the moment in which nobody is known to show a revoked certificate any more and the list that says so:
/// handshakes that were begun with it end.
const SETTLE: Duration = Duration::from_millis(250);
/// The part of a life after which the next list is made.
const RENEW_AT: f64 = 0.5;
/// The part of a life after which a list is not shown any more.
const WITHDRAW_AT: f64 = 0.75;

/// What the machine goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The wait after the first failure; it doubles with each further one, up to 15 minutes.
    pub retry: Duration,
}

impl Settings {
    /// For lists that live `life`: first tries a minute apart, closer together for the short lives of tests.
    #[must_use]
    pub fn new(life: Duration) -> Self {
        Self { retry: (life / 200).clamp(Duration::from_millis(200), Duration::from_secs(60)) }
    }
}

/// A list that was made and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// When; its life is counted from here.
    pub at: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
}

impl Made {
    fn at_part(&self, part: f64) -> Timestamp {
        self.at + self.ends.since(self.at).mul_f64(part)
    }

    /// When the next one is made.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.at_part(RENEW_AT)
    }

    /// When it must not be shown any more.
    #[must_use]
    pub fn withdrawn(&self) -> Timestamp {
        self.at_part(WITHDRAW_AT)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The process began, or time has passed.
    Tick,
    /// These are the issuing authorities that are not removed, and whether each has signed anything.
    Issuers(BTreeMap<AuthorityId, bool>),
    /// A certificate of this authority was revoked; a list that says so is made by then.
    Revoked(AuthorityId, Timestamp),
    /// Nobody is known to show the certificates of this authority that were revoked last.
    Replaced(AuthorityId),
    /// [`Action::Make`] succeeded.
    Made(AuthorityId, Made),
    /// [`Action::Make`] failed; nothing was kept.
    Failed(AuthorityId),
}

/// What to do. [`Action::Make`] is answered by one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Sign a list of everything that this authority signed and was revoked, and keep it.
    Make(AuthorityId),
    /// Show the newest list of every authority.
    Show,
    /// Show no list at all: this authority's is missing, or has used three quarters of its life.
    Withdraw(AuthorityId),
}

#[derive(Debug, Clone, Copy, Default)]
struct Issuer {
    has_signed: bool,
    made: Option<Made>,
    /// By when a list is wanted that is newer than a revocation.
    wanted: Option<Timestamp>,
    /// When a failed try is repeated.
    retry: Option<Timestamp>,
    is_making: bool,
    failures: u32,
}

impl Issuer {
    fn due(&self) -> Option<Timestamp> {
        if self.is_making {
            return None;
        }
        let next = self.retry.or(self.made.map(|made| made.due())).unwrap_or(Timestamp::EPOCH);
        Some(self.wanted.map_or(next, |wanted| wanted.min(next)))
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        self.made.is_some_and(|made| now < made.withdrawn())
    }
}

/// The machine. Feed it every event; carry out every action.
#[derive(Debug)]
pub struct Lists {
    settings: Settings,
    issuers: BTreeMap<AuthorityId, Issuer>,
    is_shown: bool,
    /// Something is newer than what is shown.
    is_changed: bool,
}

impl Lists {
    /// Takes up where the last process ended, with the newest list of each authority; step [`Event::Issuers`] next.
    #[must_use]
    pub fn resume(settings: Settings, made: impl IntoIterator<Item = (AuthorityId, Made)>) -> Self {
        let known = |made| Issuer { made: Some(made), ..Issuer::default() };
        let issuers = made.into_iter().map(|(id, made)| (id, known(made))).collect();
        Self { settings, issuers, is_shown: false, is_changed: false }
    }

    /// Wants lists of `late` at once: what was revoked before the last process ended is not on theirs.
    pub fn open(&mut self, late: &BTreeSet<AuthorityId>, now: Timestamp) {
        for (_, issuer) in self.issuers.iter_mut().filter(|(id, _)| late.contains(id)) {
            issuer.wanted = Some(now);
        }
    }

    /// Whether lists are shown.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// When the machine wants an [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let made = self.issuers.values().filter_map(Issuer::due);
        let signers = self.issuers.values().filter(|issuer| self.is_shown && issuer.has_signed);
        let ends = signers.filter_map(|issuer| issuer.made).map(|made| made.withdrawn());
        made.chain(ends).min()
    }

    /// When the next list of `issuer` is made, if nothing is revoked before.
    #[must_use]
    pub fn due(&self, issuer: AuthorityId) -> Option<Timestamp> {
        self.issuers.get(&issuer)?.due()
    }

    /// Takes one event and answers what to do now.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        match event {
            Event::Tick => {}
            Event::Issuers(issuers) => self.follow(&issuers),
            Event::Revoked(id, by) => {
                if let Some(issuer) = self.issuers.get_mut(&id) {
                    issuer.wanted = Some(issuer.wanted.map_or(by, |wanted| wanted.min(by)));
                }
            }
            Event::Replaced(id) => {
                if let Some(issuer) = self.issuers.get_mut(&id) {
                    issuer.wanted = issuer.wanted.map(|wanted| wanted.min(now + SETTLE));
                }
            }
            Event::Made(id, made) => {
                if let Some(issuer) = self.issuers.get_mut(&id) {
                    (issuer.made, issuer.retry, issuer.failures) = (Some(made), None, 0);
                    issuer.is_making = false;
                    self.is_changed = true;
                }
            }
            Event::Failed(id) => self.failed(id, now),
        }
        let mut actions = self.make(now);
        actions.extend(self.show(now));
        actions
    }

    fn follow(&mut self, issuers: &BTreeMap<AuthorityId, bool>) {
        let before = self.issuers.len();
        self.issuers.retain(|id, _| issuers.contains_key(id));
        self.is_changed |= self.issuers.len() != before;
        for (id, has_signed) in issuers {
            let issuer = self.issuers.entry(*id).or_default();
            if *has_signed && !issuer.has_signed {
                // It is needed now: no wait after a failed try holds it up.
                issuer.retry = None;
            }
            issuer.has_signed = *has_signed;
        }
    }

    fn failed(&mut self, id: AuthorityId, now: Timestamp) {
        let Some(issuer) = self.issuers.get_mut(&id) else { return };
        let wait = self.settings.retry.saturating_mul(1 << issuer.failures.min(12)).min(MAX_RETRY);
        issuer.failures += 1;
        issuer.is_making = false;
        issuer.retry = Some(now + wait);
    }

    fn make(&mut self, now: Timestamp) -> Vec<Action> {
        let due = self.issuers.iter_mut().filter(|(_, issuer)| issuer.due().is_some_and(|due| due <= now));
        due.map(|(id, issuer)| {
            // Whatever was revoked until now is on it; what is revoked meanwhile wants another.
            (issuer.wanted, issuer.is_making) = (None, true);
            Action::Make(*id)
        })
        .collect()
    }

    fn show(&mut self, now: Timestamp) -> Option<Action> {
        let gap = self.issuers.iter().find(|(_, issuer)| issuer.has_signed && !issuer.is_fresh(now));
        let gap = gap.map(|(id, _)| *id);
        let is_making = self.issuers.values().any(|issuer| issuer.is_making);
        match gap {
            // One that is being made may close the gap in a moment.
            Some(_) if is_making => None,
            Some(id) => std::mem::take(&mut self.is_shown).then_some(Action::Withdraw(id)),
            None if is_making || (self.is_shown && !self.is_changed) => None,
            None => {
                (self.is_shown, self.is_changed) = (true, false);
                Some(Action::Show)
            }
        }
    }
}

#[cfg(test)]
mod tests;
