//! Who signs the leaves of workloads: the built-in authorities, or an issuer beside them.
//!
//! A pure machine. The root of another issuer enters the bundle of workloads first, and nothing of it is delivered
//! before every connected node has acknowledged that; it leaves when no unexpired leaf of it is left. The gate is the
//! one of a root's rotation ([`behind_activation`](crate::dependents::behind_activation)), asked for by
//! [`Action::Look`]. Going back to the built-in authorities waits for nobody: their root stands in every bundle all the
//! time.
//!
//! ```text
//!           wanted               nobody would refuse it         another is wanted          no leaf is left
//! (absent) --------> Prepared ---------------------> Active ---------------------> Retired ---------------> (absent)
//!                        |     another is wanted                                   |  ^
//!                        '-------------------------------------------------------- | -'
//!                        ^------------------------- wanted again ------------------'
//! ```
//!
//! Invariants, walked at random in the tests: at most one is prepared and at most one active; none becomes active but
//! from prepared, after somebody looked; one with unexpired leaves stays.

use std::{collections::BTreeMap, time::Duration};

use certs::Timestamp;
use spiffe::IssuerName;

use crate::ports::{AuthorityState, LeafIssuer, Leaves};

/// The longest wait between two tries.
const MAX_RETRY: Duration = Duration::from_secs(15 * 60);

/// What the machine goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long after its last leaf, or its retirement, an issuer's root stays.
    pub grace: Duration,
    /// How often the gate is looked at.
    pub look: Duration,
    /// The wait after the first failure; it doubles with each further one, up to 15 minutes.
    pub retry: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The process began, or time has passed.
    Tick,
    /// An operator wants this issuer to sign the leaves of workloads; `None` for the built-in one.
    Wanted(Option<IssuerName>),
    /// Operators want nothing replaced by itself until then, or no longer.
    Paused(Option<Timestamp>),
    /// [`Action::Look`]: nobody who is connected would refuse what it signs.
    Clear(IssuerName),
    /// [`Action::Look`]: somebody would, or it is not known.
    Behind(IssuerName),
    /// [`Action::Keep`] succeeded.
    Kept(Vec<LeafIssuer>),
    /// [`Action::Keep`] failed; nothing changed.
    KeepFailed,
    /// [`Action::Count`] was answered.
    Counted(IssuerName, Leaves),
    /// [`Action::Count`] failed.
    CountFailed(IssuerName),
}

/// What to do. Each is answered by one event before the next is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look whether anybody who is connected would refuse what this one signs.
    Look(IssuerName),
    /// Keep these as all there are, and go by them.
    Keep(Vec<LeafIssuer>),
    /// Count the leaves of an issuer that had not expired at a point in time.
    Count {
        /// Which issuer.
        name: IssuerName,
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
    /// What an operator wants, until it is kept.
    wanted: Option<Option<IssuerName>>,
    /// Nobody would refuse what this one signs.
    cleared: Option<IssuerName>,
    /// Nothing depends on this one.
    spent: Option<IssuerName>,
    /// When a retired one is looked at next.
    checks: BTreeMap<IssuerName, Timestamp>,
    look: Timestamp,
    failures: u32,
    paused_until: Option<Timestamp>,
}

impl Delegation {
    /// Takes up where the last process ended; step [`Event::Tick`] next.
    #[must_use]
    pub fn resume(settings: Settings, members: Vec<LeafIssuer>) -> Self {
        let mut machine = Self {
            settings,
            members: Vec::new(),
            doing: Doing::Nothing,
            wanted: None,
            cleared: None,
            spent: None,
            checks: BTreeMap::new(),
            look: Timestamp::EPOCH,
            failures: 0,
            paused_until: None,
        };
        machine.follow(members);
        machine
    }

    /// Every issuer whose root stands in the bundle of workloads.
    #[must_use]
    pub fn members(&self) -> &[LeafIssuer] {
        &self.members
    }

    /// Who signs the leaves of workloads; `None` for the built-in authorities.
    #[must_use]
    pub fn active(&self) -> Option<&IssuerName> {
        self.in_state(AuthorityState::Active)
    }

    /// Who is to sign them as soon as nobody would refuse it.
    #[must_use]
    pub fn prepared(&self) -> Option<&IssuerName> {
        self.in_state(AuthorityState::Prepared)
    }

    /// When the machine wants an [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.doing {
            Doing::Running => None,
            Doing::Waiting { until } => Some(until),
            Doing::Nothing => {
                let look =
                    self.prepared().map(|_| self.paused_until.map_or(self.look, |at| at.max(self.look)));
                self.checks.values().copied().chain(look).min()
            }
        }
    }

    /// Takes one event and answers what to do now.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Option<Action> {
        match event {
            Event::Tick => {}
            Event::Paused(until) => self.paused_until = until,
            Event::Wanted(wanted) => {
                self.wanted = Some(wanted);
                if matches!(self.doing, Doing::Waiting { .. }) {
                    self.doing = Doing::Nothing;
                }
            }
            Event::Clear(name) => {
                self.doing = Doing::Nothing;
                self.cleared = Some(name);
            }
            Event::Behind(_) => {
                self.doing = Doing::Nothing;
                self.look = now + self.settings.look;
            }
            Event::Kept(members) => {
                self.doing = Doing::Nothing;
                self.failures = 0;
                self.look = now;
                (self.cleared, self.spent) = (None, None);
                self.follow(members);
            }
            Event::KeepFailed => {
                let wait = self.settings.retry.saturating_mul(1 << self.failures.min(10)).min(MAX_RETRY);
                self.failures += 1;
                self.doing = Doing::Waiting { until: now + wait };
                (self.cleared, self.spent) = (None, None);
            }
            Event::Counted(name, Leaves { count: 0, .. }) => {
                self.doing = Doing::Nothing;
                self.spent = Some(name);
            }
            Event::Counted(name, leaves) => {
                self.doing = Doing::Nothing;
                // A leaf is valid through its last second.
                let last = leaves.last.unwrap_or(now) + Duration::from_secs(1) + self.settings.grace;
                self.check(name, last.max(now + self.settings.retry));
            }
            Event::CountFailed(name) => {
                self.doing = Doing::Nothing;
                self.check(name, now + self.settings.retry);
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
            let next = self.turned_to(wanted.as_ref(), now);
            if next != self.members {
                return Some(Action::Keep(next));
            }
            self.wanted = None;
        }
        if let Some(name) = self.cleared.take()
            && self.prepared() == Some(&name)
        {
            return Some(Action::Keep(self.activated(now)));
        }
        if let Some(name) = self.spent.take() {
            let stays = |one: &&LeafIssuer| one.name != name || one.state != AuthorityState::Retired;
            let rest: Vec<_> = self.members.iter().filter(stays).cloned().collect();
            if rest != self.members {
                return Some(Action::Keep(rest));
            }
        }
        let is_paused = self.paused_until.is_some_and(|until| now < until);
        if let Some(name) = self.prepared().filter(|_| now >= self.look && !is_paused) {
            return Some(Action::Look(name.clone()));
        }
        let due = self.checks.iter().find(|(_, at)| **at <= now).map(|(name, _)| name.clone())?;
        Some(Action::Count { name: due, at: now - self.settings.grace })
    }

    fn in_state(&self, state: AuthorityState) -> Option<&IssuerName> {
        self.members.iter().find(|one| one.state == state).map(|one| &one.name)
    }

    fn check(&mut self, name: IssuerName, at: Timestamp) {
        if let Some(check) = self.checks.get_mut(&name) {
            *check = at;
        }
    }

    fn follow(&mut self, members: Vec<LeafIssuer>) {
        let before = std::mem::take(&mut self.checks);
        for one in members.iter().filter(|one| one.state == AuthorityState::Retired) {
            let first = one.since + self.settings.grace;
            let known = before.get(&one.name).copied().unwrap_or(first);
            self.checks.insert(one.name.clone(), known.max(first));
        }
        self.members = members;
    }

    /// As an operator wants it: whoever is wanted and does not sign yet is prepared, and whoever signs goes on until
    /// that one does.
    fn turned_to(&self, wanted: Option<&IssuerName>, now: Timestamp) -> Vec<LeafIssuer> {
        let is_active = wanted.is_some() && self.active() == wanted;
        let mut next = self.members.clone();
        for one in &mut next {
            let is_wanted = Some(&one.name) == wanted;
            let state = match one.state {
                AuthorityState::Prepared if !is_wanted => AuthorityState::Retired,
                AuthorityState::Active if wanted.is_none() => AuthorityState::Retired,
                AuthorityState::Retired if is_wanted => AuthorityState::Prepared,
                other => other,
            };
            if state != one.state {
                (one.state, one.since) = (state, now);
            }
        }
        if let Some(name) = wanted.filter(|name| !is_active && !next.iter().any(|one| one.name == **name)) {
            let state = AuthorityState::Prepared;
            next.push(LeafIssuer { name: name.clone(), state, since: now });
            next.sort_by(|one, other| one.name.cmp(&other.name));
        }
        next
    }

    fn activated(&self, now: Timestamp) -> Vec<LeafIssuer> {
        let mut next = self.members.clone();
        for one in &mut next {
            let state = match one.state {
                AuthorityState::Prepared => AuthorityState::Active,
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

#[cfg(test)]
mod tests;
