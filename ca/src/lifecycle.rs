//! The life of issuing authorities under one root: when the next is made, which one signs, when an old one may go.
//!
//! A pure machine. Under an unchanged root the bundle stays the same, so that a prepared authority may sign at once,
//! unless proxies check against revocation lists: then it waits at a barrier until every connected one has its list.
//! The replacement of a root, which always waits for what proxies have acknowledged, is
//! [`rotation`](crate::rotation).
//!
//! ```text
//!            half of life, or asked           barrier: nobody would       nothing depends on it
//!                                             refuse what it signs
//! (absent) ---------------------> Prepared ----------> Active -> Retired ------------> Removed
//! ```
//!
//! Invariants, walked at random in the tests: one authority is active from the first activation on; none is activated
//! past a laggard before the one that signs is about to lose its ability to; a retired one stays while an unexpired
//! leaf depends on it, and two clock allowances longer; what was removed never comes back.

use std::{collections::BTreeMap, time::Duration};

use certs::Timestamp;
use spiffe::AuthorityId;

use crate::ports::{AuthorityRecord, AuthorityState, Leaves, Place};

/// The longest wait between two tries.
const MAX_RETRY: Duration = Duration::from_secs(15 * 60);
/// How often the barrier is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the machine goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How much life an authority must have left to sign.
    pub least_remaining: Duration,
    /// How far clocks may differ (security reference 5.5).
    pub clock_allowance: Duration,
    /// The wait after the first failure; it doubles with each further one, up to 15 minutes.
    pub retry: Duration,
}

impl Settings {
    /// For issuing authorities that live `lifetime` and sign while they have `least_remaining` left: a minute of clock
    /// allowance, and first tries a minute apart, closer together for the short lives of tests.
    #[must_use]
    pub fn new(lifetime: Duration, least_remaining: Duration) -> Self {
        let retry = (lifetime / 100).clamp(Duration::from_secs(1), Duration::from_secs(60));
        Self { least_remaining, clock_allowance: Duration::from_secs(60), retry }
    }

    /// How long after its last leaf, or its retirement, an authority stays.
    #[must_use]
    pub fn grace(&self) -> Duration {
        2 * self.clock_allowance
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The process began, or time has passed.
    Tick,
    /// Replacement at half life is paused until then, or no longer (`None`).
    Paused(Option<Timestamp>),
    /// An operator wants a new issuing authority now.
    RotationRequested,
    /// [`Action::Prepare`] succeeded.
    Prepared {
        /// The new authority.
        id: AuthorityId,
        /// When it was made.
        created: Timestamp,
        /// Its last second.
        not_after: Timestamp,
    },
    /// [`Action::Prepare`] failed; nothing was kept.
    PrepareFailed,
    /// [`Action::Look`]: nobody would refuse what it signs.
    Clear(AuthorityId),
    /// [`Action::Look`]: somebody would, or it is not known.
    Behind(AuthorityId),
    /// [`Action::Activate`] succeeded.
    Activated(AuthorityId),
    /// [`Action::Activate`] failed; nothing changed.
    ActivateFailed,
    /// [`Action::CountLeaves`] was answered.
    Counted(AuthorityId, Leaves),
    /// [`Action::CountLeaves`] failed.
    CountFailed(AuthorityId),
    /// [`Action::Remove`] succeeded.
    Removed(AuthorityId),
    /// [`Action::Remove`] failed; nothing changed.
    RemoveFailed(AuthorityId),
}

/// What to do. Each is answered by one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a new key, have the root sign it, and keep both.
    Prepare,
    /// Look whether anybody who is connected would refuse what a prepared authority signs.
    Look(AuthorityId),
    /// Let `new` sign from now on, and let `old` retire in the same transaction.
    Activate {
        /// The authority that begins to sign.
        new: AuthorityId,
        /// The one that ends.
        old: Option<AuthorityId>,
    },
    /// Count the leaves of an authority that had not expired at a point in time.
    CountLeaves {
        /// Which authority.
        id: AuthorityId,
        /// At which point.
        at: Timestamp,
    },
    /// Let an authority leave and destroy its key.
    Remove {
        /// Which authority.
        id: AuthorityId,
        /// Where it stands: retired, or prepared and never used.
        from: AuthorityState,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    state: AuthorityState,
    created: Timestamp,
    not_after: Timestamp,
    /// When a retired one is looked at again; never while an answer is awaited.
    check: Timestamp,
}

impl Member {
    /// Half of its life.
    fn due(&self) -> Timestamp {
        self.at_part(0.5)
    }

    /// The end of a pause, and three fifths of its life at the latest: of six lives of a leaf 2.4 are left then, and
    /// two are what it needs to sign ([`crate::ISSUING_FACTOR`]).
    fn due_after(&self, pause: Timestamp) -> Timestamp {
        self.due().max(pause.min(self.at_part(0.6)))
    }

    /// When its successor signs whoever lags: at nine tenths of its life, and before it has too little left to sign.
    fn must_go(&self, settings: &Settings) -> Timestamp {
        self.at_part(0.9).min(self.not_after - settings.least_remaining.mul_f64(1.2))
    }

    /// When a successor that still waits is worth a word.
    fn at_risk(&self, settings: &Settings) -> Timestamp {
        let (due, must_go) = (self.due(), self.must_go(settings));
        due + must_go.since(due).mul_f64(0.625)
    }

    fn at_part(&self, part: f64) -> Timestamp {
        self.created + self.not_after.since(self.created).mul_f64(part)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rotation {
    /// Nothing to do before the active authority is due.
    Idle,
    /// An action is being carried out.
    Running,
    /// Nobody would refuse what this one signs.
    Cleared(AuthorityId),
    /// Somebody would refuse what the prepared one signs.
    Barred { look: Timestamp },
    /// The last try failed.
    Waiting { until: Timestamp },
}

/// The machine. Feed it every event; carry out every action.
#[derive(Debug)]
pub struct Lifecycle {
    settings: Settings,
    members: BTreeMap<AuthorityId, Member>,
    rotation: Rotation,
    failures: u32,
    requested: bool,
    paused_until: Option<Timestamp>,
    /// Whether another can be made here: not without the root's key.
    can_make: bool,
}

impl Lifecycle {
    /// Takes up where `records` say that the last process ended; step [`Event::Tick`] next.
    #[must_use]
    pub fn resume(settings: Settings, records: &[AuthorityRecord]) -> Self {
        let mut roots = records.iter().filter(|record| record.place == Place::Root);
        let active = roots.find(|root| root.state == AuthorityState::Active);
        let (root, can_make) = (active.map(|root| root.id), active.is_none_or(|root| root.offline.is_none()));
        // What stands prepared under another root waits for that root.
        let is_ours = |record: &AuthorityRecord| {
            record.state != AuthorityState::Prepared || record.parent == root || root.is_none()
        };
        let members = records
            .iter()
            .filter(|record| record.place == Place::Issuing && record.state != AuthorityState::Removed)
            .filter(|record| is_ours(record))
            .map(|record| {
                let check = record.retired.map_or(Timestamp::MAX, |retired| retired + settings.grace());
                let member = Member {
                    state: record.state,
                    created: record.created,
                    not_after: record.certificate.not_after(),
                    check,
                };
                (record.id, member)
            })
            .collect();
        Self {
            settings,
            members,
            rotation: Rotation::Idle,
            failures: 0,
            requested: false,
            paused_until: None,
            can_make,
        }
    }

    /// The same, with replacement at half life paused until then, or not.
    #[must_use]
    pub fn pausing(self, until: Option<Timestamp>) -> Self {
        Self { paused_until: until, ..self }
    }

    /// The same, in the pause after the failed try of `before` that it follows, or before laggards as that was, where the
    /// authorities are the same.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        let standing = |machine: &Self| -> Vec<_> {
            machine.members.iter().map(|(id, member)| (*id, member.state)).collect()
        };
        match before.rotation {
            rotation @ (Rotation::Waiting { .. } | Rotation::Barred { .. })
                if standing(&self) == standing(before) =>
            {
                Self { rotation, failures: before.failures, requested: before.requested, ..self }
            }
            Rotation::Waiting { .. }
            | Rotation::Barred { .. }
            | Rotation::Idle
            | Rotation::Running
            | Rotation::Cleared(_) => self,
        }
    }

    /// The authority that signs.
    #[must_use]
    pub fn active(&self) -> Option<AuthorityId> {
        self.in_state(AuthorityState::Active).map(|(id, _)| id)
    }

    /// When the active authority is replaced by itself; a pause puts it off. Never without the root's key.
    #[must_use]
    pub fn next_rotation(&self) -> Option<Timestamp> {
        let (_, member) = self.in_state(AuthorityState::Active).filter(|_| self.can_make)?;
        Some(self.paused_until.map_or_else(|| member.due(), |until| member.due_after(until)))
    }

    /// From when on an operator should see to a successor of the active authority: the key of its root is kept
    /// elsewhere, and nothing replaces it by itself.
    #[must_use]
    pub fn due_by_hand(&self) -> Option<Timestamp> {
        let (_, member) = self.in_state(AuthorityState::Active).filter(|_| !self.can_make)?;
        Some(member.due())
    }

    /// Whether a prepared authority waits for laggards.
    #[must_use]
    pub fn is_barred(&self) -> bool {
        matches!(self.rotation, Rotation::Barred { .. })
    }

    /// Whether the one that signs should have been replaced by now, and laggards hold it up.
    #[must_use]
    pub fn is_at_risk(&self, now: Timestamp) -> bool {
        let active = self.in_state(AuthorityState::Active);
        self.is_barred() && active.is_some_and(|(_, member)| now >= member.at_risk(&self.settings))
    }

    /// When the machine wants an [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let rotation = match self.rotation {
            Rotation::Idle => self.next_rotation(),
            Rotation::Running | Rotation::Cleared(_) => None,
            Rotation::Barred { look } => Some(look),
            Rotation::Waiting { until } => Some(until),
        };
        let checks = self.members.values().map(|member| member.check).filter(|at| *at < Timestamp::MAX);
        checks.chain(rotation).min()
    }

    /// Takes one event and answers what to do now.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Paused(until) => self.paused_until = until,
            Event::RotationRequested => {
                self.requested = self.can_make;
                if let Rotation::Waiting { .. } = self.rotation {
                    self.rotation = Rotation::Idle;
                }
            }
            Event::Prepared { id, created, not_after } => {
                let state = AuthorityState::Prepared;
                self.members.insert(id, Member { state, created, not_after, check: Timestamp::MAX });
                self.rotation = Rotation::Idle;
            }
            Event::Activated(id) => self.activated(id, now),
            Event::PrepareFailed | Event::ActivateFailed => self.failed(now),
            Event::Clear(id) => self.rotation = Rotation::Cleared(id),
            // Whatever holds it up, the ability to sign is worth more.
            Event::Behind(id) if self.must_go(now) => self.rotation = Rotation::Cleared(id),
            Event::Behind(_) => self.rotation = Rotation::Barred { look: now + LOOK },
            Event::Counted(id, leaves) => actions.extend(self.counted(id, leaves, now)),
            Event::Removed(id) => {
                self.members.remove(&id);
            }
            Event::CountFailed(id) | Event::RemoveFailed(id) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.check = now + self.settings.retry;
                }
            }
        }
        actions.extend(self.rotate(now));
        actions.extend(self.look_after_old_ones(now));
        actions
    }

    fn in_state(&self, state: AuthorityState) -> Option<(AuthorityId, &Member)> {
        let matching = self.members.iter().filter(|(_, member)| member.state == state);
        matching.max_by_key(|(_, member)| member.created).map(|(id, member)| (*id, member))
    }

    /// Whether a new authority is wanted: there is none, its half life has come, or somebody asked.
    fn rotation_is_due(&self, now: Timestamp) -> bool {
        self.can_make && (self.requested || self.next_rotation().is_none_or(|due| due <= now))
    }

    /// Whether the one that signs, if any does, cannot wait for laggards any more.
    fn must_go(&self, now: Timestamp) -> bool {
        let active = self.in_state(AuthorityState::Active);
        let prepared = self.in_state(AuthorityState::Prepared).filter(|_| !self.can_make);
        // One that cannot be made again must not grow too old in the queue either.
        active.is_none_or(|(_, member)| now >= member.must_go(&self.settings))
            || prepared.is_some_and(|(_, member)| now >= member.due())
    }

    fn rotate(&mut self, now: Timestamp) -> Option<Action> {
        let cleared = match self.rotation {
            Rotation::Running => return None,
            Rotation::Waiting { until: later } | Rotation::Barred { look: later } if now < later => {
                return None;
            }
            Rotation::Cleared(id) => Some(id),
            Rotation::Waiting { .. } | Rotation::Barred { .. } | Rotation::Idle => None,
        };
        // One that was prepared before a crash, or before its activation failed, is used and not made again.
        // Where no other can be made, it is used as long as it can sign.
        let until = |member: &Member| match self.can_make {
            true => member.due(),
            false => member.must_go(&self.settings),
        };
        let prepared = self.in_state(AuthorityState::Prepared).filter(|(_, member)| now < until(member));
        let action = match prepared {
            Some((new, _)) if cleared == Some(new) => Action::Activate { new, old: self.active() },
            Some((new, _)) => Action::Look(new),
            None if self.rotation_is_due(now) => Action::Prepare,
            None => {
                self.rotation = Rotation::Idle;
                return None;
            }
        };
        self.rotation = Rotation::Running;
        Some(action)
    }

    fn activated(&mut self, new: AuthorityId, now: Timestamp) {
        for (id, member) in &mut self.members {
            if *id == new {
                member.state = AuthorityState::Active;
            } else if member.state == AuthorityState::Active {
                member.state = AuthorityState::Retired;
                member.check = now + self.settings.grace();
            } else if member.state == AuthorityState::Prepared {
                // It was made for nothing: too old when its turn came.
                member.check = now;
            }
        }
        self.rotation = Rotation::Idle;
        self.failures = 0;
        self.requested = false;
    }

    fn failed(&mut self, now: Timestamp) {
        let wait = self.settings.retry.saturating_mul(1 << self.failures.min(10)).min(MAX_RETRY);
        self.failures += 1;
        self.rotation = Rotation::Waiting { until: now + wait };
        // Whoever asked was told; the schedule goes on by itself if the authority is due.
        self.requested = false;
    }

    fn look_after_old_ones(&mut self, now: Timestamp) -> Vec<Action> {
        let grace = self.settings.grace();
        let due = self.members.iter_mut().filter(|(_, member)| member.check <= now);
        due.map(|(id, member)| {
            member.check = Timestamp::MAX;
            match member.state {
                AuthorityState::Prepared => Action::Remove { id: *id, from: AuthorityState::Prepared },
                AuthorityState::Active | AuthorityState::Retired | AuthorityState::Removed => {
                    Action::CountLeaves { id: *id, at: now - grace }
                }
            }
        })
        .collect()
    }

    /// A leaf that was valid a grace ago keeps its authority until a grace after its own end.
    fn counted(&mut self, id: AuthorityId, leaves: Leaves, now: Timestamp) -> Option<Action> {
        let grace = self.settings.grace();
        let member = self.members.get_mut(&id).filter(|member| member.state == AuthorityState::Retired)?;
        if leaves.count == 0 {
            return Some(Action::Remove { id, from: AuthorityState::Retired });
        }
        let next = leaves.last.map_or(now, |last| last + grace);
        member.check = next.max(now) + Duration::from_secs(1);
        None
    }
}

#[cfg(test)]
mod tests;
