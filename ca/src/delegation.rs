//! Which issuers beside the built-in one may sign leaves of workloads.
//!
//! A pure machine. A root of an issuer enters the bundle of workloads first, and nothing under it is delivered before
//! every connected node has acknowledged that; it leaves when no unexpired leaf of it is left, or, where nothing is to
//! depend on it any more, when nobody who is connected shows one. The gate is the one of a root's rotation
//! ([`behind_activation`](crate::dependents::behind_activation)), asked for by [`Action::Look`]. The built-in
//! authorities are no members: their root stands in every bundle all the time.
//!
//! ```text
//!           wanted               nobody would refuse it         not wanted               no leaf is left
//! (absent) --------> Prepared ---------------------> Active ---------------> Retired ---------------> (absent)
//!                        |     not wanted                                    |  ^
//!                        '-------------------------------------------------- | -'
//!                        ^------------------------- wanted again ------------'
//! ```
//!
//! An issuer that is wanted with another root than before signs under that one when its gate has opened, and under the
//! one before until then.
//!
//! Invariants, walked at random in the tests: of each issuer at most one root is active; none becomes active but from
//! prepared, after somebody looked; one with unexpired leaves stays, unless it is left in a hurry.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use certs::Timestamp;
use spiffe::IssuerName;

use crate::ports::{AuthorityState, LeafIssuer, Leaves, Source};

/// The longest wait between two tries.
const MAX_RETRY: Duration = Duration::from_secs(15 * 60);

/// What the machine goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long after its last leaf, or its retirement, an issuer's root stays.
    pub grace: Duration,
    /// How often the gate is looked at.
    pub look: Duration,
    /// How long nobody asks who shows leaves of one that is left in a hurry: after it is left, for what is under way, and
    /// after a start, until proxies are back.
    pub settle: Duration,
    /// The wait after the first failure; it doubles with each further one, up to 15 minutes.
    pub retry: Duration,
}

/// Who is to sign.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// All that anybody is to have leaves of; at most one generation of each issuer.
    pub sources: BTreeSet<Source>,
    /// Nothing is to depend on these any more.
    pub left: BTreeSet<IssuerName>,
    /// Whoever is wanted is so at once: no pause holds its gate.
    pub is_hurried: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The process began, or time has passed.
    Tick,
    /// These are to sign, and no others.
    Wanted(Wanted),
    /// Operators want nothing replaced by itself until then, or no longer.
    Paused(Option<Timestamp>),
    /// [`Action::Look`]: nobody who is connected would refuse what it signs.
    Clear(Source),
    /// [`Action::Look`]: somebody would, or it is not known.
    Behind(Source),
    /// [`Action::Seek`]: nobody who is connected shows a leaf of it.
    Unseen(Source),
    /// [`Action::Seek`]: somebody does, or it is not known.
    Shown(Source),
    /// [`Action::Keep`] succeeded.
    Kept(Vec<LeafIssuer>),
    /// [`Action::Keep`] failed; nothing changed.
    KeepFailed,
    /// [`Action::Count`] was answered.
    Counted(Source, Leaves),
    /// [`Action::Count`] failed.
    CountFailed(Source),
}

/// What to do. Each is answered by one event before the next is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look whether anybody who is connected would refuse what this one signs.
    Look(Source),
    /// Look whether anybody who is connected shows a leaf that this one signed.
    Seek(Source),
    /// Keep these as all there are, and go by them.
    Keep(Vec<LeafIssuer>),
    /// Count the leaves of an issuer that had not expired at a point in time.
    Count {
        /// Of which issuer.
        source: Source,
        /// At which point.
        at: Timestamp,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    /// An action is being carried out.
    Running,
    /// The last change was not kept.
    Waiting {
        until: Timestamp,
    },
}

/// The machine. Feed it every event; carry out every action.
#[derive(Debug)]
pub struct Delegation {
    settings: Settings,
    members: Vec<LeafIssuer>,
    doing: Doing,
    /// What is wanted, until it is kept.
    wanted: Option<Wanted>,
    /// Nobody would refuse what this one signs.
    cleared: Option<Source>,
    /// Nothing depends on this one.
    spent: Option<Source>,
    /// When a gate is looked at next, or who is to be left in a hurry.
    looks: BTreeMap<Source, Timestamp>,
    /// When leaves of a retired one are counted next.
    checks: BTreeMap<Source, Timestamp>,
    failures: u32,
    paused_until: Option<Timestamp>,
    /// No pause holds a gate.
    is_hurried: bool,
}

impl Delegation {
    /// Takes up where the last process ended; step [`Event::Tick`] next.
    #[must_use]
    pub fn resume(settings: Settings, members: Vec<LeafIssuer>, now: Timestamp) -> Self {
        let mut machine = Self {
            settings,
            members: Vec::new(),
            doing: Doing::Nothing,
            wanted: None,
            cleared: None,
            spent: None,
            looks: BTreeMap::new(),
            checks: BTreeMap::new(),
            failures: 0,
            paused_until: None,
            is_hurried: false,
        };
        machine.follow(members, now);
        machine
    }

    /// Every root of an issuer that stands in the bundle of workloads.
    #[must_use]
    pub fn members(&self) -> &[LeafIssuer] {
        &self.members
    }

    /// Under which of its roots an issuer signs, if it may.
    #[must_use]
    pub fn active(&self, name: &IssuerName) -> Option<&Source> {
        let mut active = self.members.iter().filter(|one| one.state == AuthorityState::Active);
        active.find(|one| one.source.name == *name).map(|one| &one.source)
    }

    /// When the machine wants an [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.doing {
            Doing::Running => None,
            Doing::Waiting { until } => Some(until),
            Doing::Nothing => self.due().map(|(at, _)| at),
        }
    }

    /// Takes one event and answers what to do now.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Option<Action> {
        match event {
            Event::Tick => {}
            Event::Paused(until) => self.paused_until = until,
            Event::Wanted(wanted) => {
                self.is_hurried = wanted.is_hurried;
                self.wanted = Some(wanted);
                if matches!(self.doing, Doing::Waiting { .. }) {
                    self.doing = Doing::Nothing;
                }
            }
            Event::Clear(source) => {
                self.doing = Doing::Nothing;
                self.cleared = Some(source);
            }
            Event::Behind(source) | Event::Shown(source) => {
                self.doing = Doing::Nothing;
                if let Some(look) = self.looks.get_mut(&source) {
                    *look = now + self.settings.look;
                }
            }
            Event::Kept(members) => {
                self.doing = Doing::Nothing;
                self.failures = 0;
                (self.cleared, self.spent) = (None, None);
                self.follow(members, now);
            }
            Event::KeepFailed => {
                let wait = self.settings.retry.saturating_mul(1 << self.failures.min(10)).min(MAX_RETRY);
                self.failures += 1;
                self.doing = Doing::Waiting { until: now + wait };
                (self.cleared, self.spent) = (None, None);
            }
            Event::Unseen(source) | Event::Counted(source, Leaves { count: 0, .. }) => {
                self.doing = Doing::Nothing;
                self.spent = Some(source);
            }
            Event::Counted(source, leaves) => {
                self.doing = Doing::Nothing;
                // A leaf is valid through its last second.
                let last = leaves.last.unwrap_or(now) + Duration::from_secs(1) + self.settings.grace;
                self.check(&source, last.max(now + self.settings.retry));
            }
            Event::CountFailed(source) => {
                self.doing = Doing::Nothing;
                self.check(&source, now + self.settings.retry);
            }
        }
        let action = self.act(now);
        if action.is_some() {
            self.doing = Doing::Running;
        }
        action
    }

    fn act(&mut self, now: Timestamp) -> Option<Action> {
        match self.doing {
            Doing::Running => return None,
            Doing::Waiting { until } if now < until => return None,
            Doing::Waiting { .. } | Doing::Nothing => self.doing = Doing::Nothing,
        }
        if let Some(wanted) = &self.wanted {
            let next = self.turned_to(wanted, now);
            if next != self.members {
                return Some(Action::Keep(next));
            }
            self.wanted = None;
        }
        if let Some(source) = self.cleared.take()
            && self.stands(&source) == Some(AuthorityState::Prepared)
        {
            return Some(Action::Keep(self.activated(&source, now)));
        }
        if let Some(source) = self.spent.take()
            && self.stands(&source) == Some(AuthorityState::Retired)
        {
            return Some(Action::Keep(
                self.members.iter().filter(|one| one.source != source).cloned().collect(),
            ));
        }
        self.due().filter(|(at, _)| *at <= now).map(|(_, what)| match what {
            Due::Look(source) => Action::Look(source.clone()),
            Due::Seek(source) => Action::Seek(source.clone()),
            Due::Count(source) => Action::Count { source: source.clone(), at: now - self.settings.grace },
        })
    }

    /// What is due next, and when.
    fn due(&self) -> Option<(Timestamp, Due<'_>)> {
        let looks = self.looks.iter().map(|(source, at)| match self.stands(source) {
            // A pause holds gates closed; who is to be left in a hurry is left all the same.
            Some(AuthorityState::Prepared) => {
                let pause = self.paused_until.filter(|_| !self.is_hurried);
                (pause.map_or(*at, |until| until.max(*at)), Due::Look(source))
            }
            _ => (*at, Due::Seek(source)),
        });
        let checks = self.checks.iter().map(|(source, at)| (*at, Due::Count(source)));
        looks.chain(checks).min_by_key(|(at, _)| *at)
    }

    fn stands(&self, source: &Source) -> Option<AuthorityState> {
        self.members.iter().find(|one| one.source == *source).map(|one| one.state)
    }

    fn check(&mut self, source: &Source, at: Timestamp) {
        if let Some(check) = self.checks.get_mut(source) {
            *check = at;
        }
    }

    fn follow(&mut self, members: Vec<LeafIssuer>, now: Timestamp) {
        let before = std::mem::take(&mut self.checks);
        let looked = std::mem::take(&mut self.looks);
        for one in &members {
            match one.state {
                AuthorityState::Prepared => drop(self.looks.insert(one.source.clone(), now)),
                AuthorityState::Retired => {
                    let first = one.since + self.settings.grace;
                    let known = before.get(&one.source).copied().unwrap_or(first);
                    self.checks.insert(one.source.clone(), known.max(first));
                    if one.is_hurried {
                        let first = now + self.settings.settle;
                        let known = self.stands(&one.source) == Some(AuthorityState::Retired);
                        let known = looked.get(&one.source).copied().filter(|_| known);
                        self.looks.insert(one.source.clone(), known.unwrap_or(first));
                    }
                }
                AuthorityState::Active | AuthorityState::Removed => {}
            }
        }
        self.members = members;
    }

    /// As it is wanted: whoever is wanted and does not sign yet is prepared, and whoever signs goes on until another
    /// root of the same issuer may.
    fn turned_to(&self, wanted: &Wanted, now: Timestamp) -> Vec<LeafIssuer> {
        let mut next = self.members.clone();
        for one in &mut next {
            let is_wanted = wanted.sources.contains(&one.source);
            let is_followed = wanted.sources.iter().any(|other| other.name == one.source.name);
            let state = match one.state {
                AuthorityState::Prepared if !is_wanted => AuthorityState::Retired,
                AuthorityState::Active if !is_wanted && !is_followed => AuthorityState::Retired,
                AuthorityState::Retired if is_wanted => AuthorityState::Prepared,
                other => other,
            };
            if state != one.state {
                (one.state, one.since) = (state, now);
            }
            let is_left = wanted.left.contains(&one.source.name);
            one.is_hurried = state == AuthorityState::Retired && (one.is_hurried || is_left);
        }
        for source in &wanted.sources {
            if !next.iter().any(|one| one.source == *source) {
                let state = AuthorityState::Prepared;
                next.push(LeafIssuer { source: source.clone(), state, since: now, is_hurried: false });
            }
        }
        next.sort_by(|one, other| one.source.cmp(&other.source));
        next
    }

    fn activated(&self, source: &Source, now: Timestamp) -> Vec<LeafIssuer> {
        let mut next = self.members.clone();
        for one in next.iter_mut().filter(|one| one.source.name == source.name) {
            let state = match one.state {
                AuthorityState::Prepared if one.source == *source => AuthorityState::Active,
                AuthorityState::Active => AuthorityState::Retired,
                other => other,
            };
            if state != one.state {
                (one.state, one.since) = (state, now);
            }
        }
        next
    }
}

/// What is due of a member.
enum Due<'a> {
    Look(&'a Source),
    Seek(&'a Source),
    Count(&'a Source),
}

#[cfg(test)]
mod tests;
