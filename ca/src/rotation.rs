//! The replacement of a root: each step waits for what nodes have acknowledged, never for a timer alone (security
//! reference 5.6).
//!
//! A pure machine. Where a rotation stands is read from the roots themselves, so that it goes on after a crash.
//!
//! ```text
//!            prepare            activate                     finish
//! (Steady) ----------> Prepared ----------> Active (new) ---------------> (Steady)
//!     ^                   |  barrier: every    |  ^   nobody depends on the old one, and connections
//!     '---- rollback -----'  connected node    |  |   opened under it have reached their greatest age
//!                            has the new root  '--'
//!                                            rollback: the old one signs again, unless it was tainted
//! ```
//!
//! Invariants, walked at random in the tests: one root is active; nothing is activated past a connected laggard and
//! nothing finished past any, unless an operator named it, the old root is about to end, or its key is stolen; a
//! finished rotation waited out the greatest age of connections; what was removed never comes back.

mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use certs::Timestamp;
use spiffe::AuthorityId;

pub use self::words::{Action, Barrier, Event, Observed, Phase, Refusal, Root, Settings, Step, Wish};
use crate::{
    dependents::{Dependent, Laggard, behind_activation, behind_finish, holds_any},
    ports::AuthorityState,
};

/// The longest wait between two tries.
const MAX_RETRY: Duration = Duration::from_secs(15 * 60);
/// How often a gate is looked at while a rotation is under way.
pub const LOOK: Duration = Duration::from_secs(1);
/// How often at least, once it has waited for long.
const MAX_LOOK: Duration = Duration::from_secs(30);
/// In an emergency: how long the new root waits for acknowledgements at most before it signs.
pub const EMERGENCY_ACTIVATE: Duration = Duration::from_secs(15);
/// In an emergency: how long the old root stays in the bundle at most once it signs no more and nodes can come for
/// other certificates; a minute after the taint, with what goes before.
pub const EMERGENCY_FINISH: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    /// An action is being carried out.
    Running,
    /// The last try failed.
    Waiting {
        until: Timestamp,
    },
}

/// The machine. Feed it every event; carry out every action.
#[derive(Debug, Clone)]
pub struct Rotation {
    settings: Settings,
    roots: Vec<Root>,
    doing: Doing,
    failures: u32,
    look: Timestamp,
    /// Since when this process has watched the retired root, by a clock that it believes.
    watched: Option<Timestamp>,
    /// When each dependent was last seen with a certificate of the retired root.
    held: BTreeMap<String, Timestamp>,
    /// Since when somebody has been seen in the way of the next step without a break.
    waits: Option<Timestamp>,
    is_at_risk: bool,
}

impl Rotation {
    /// Takes up where `roots` say that the last process ended; step [`Event::Tick`] next.
    #[must_use]
    pub fn resume(settings: Settings, roots: Vec<Root>) -> Self {
        Self {
            settings,
            roots,
            doing: Doing::Nothing,
            failures: 0,
            look: Timestamp::EPOCH,
            watched: None,
            held: BTreeMap::new(),
            waits: None,
            is_at_risk: false,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let in_state = |state| self.roots.iter().find(|root| root.state == state).map(|root| root.id);
        match (in_state(AuthorityState::Prepared), in_state(AuthorityState::Retired)) {
            // A retired root is dealt with before another is looked at: the bundle holds two at most.
            (_, Some(old)) => Phase::Active { old },
            (Some(new), None) => Phase::Prepared { new },
            (None, None) => Phase::Steady,
        }
    }

    /// The root that signs.
    #[must_use]
    pub fn active(&self) -> Option<&Root> {
        self.roots.iter().find(|root| root.state == AuthorityState::Active)
    }

    fn root(&self, id: AuthorityId) -> Option<&Root> {
        self.roots.iter().find(|root| root.id == id)
    }

    /// The root that is replaced: the active one until it retires.
    #[must_use]
    pub fn outgoing(&self) -> Option<&Root> {
        match self.phase() {
            Phase::Active { old } => self.root(old),
            Phase::Steady | Phase::Prepared { .. } => self.active(),
        }
    }

    /// Since when the key of a root that signs, or has signed, is believed to be stolen.
    #[must_use]
    pub fn emergency(&self) -> Option<Timestamp> {
        [self.outgoing(), self.active()].into_iter().flatten().filter_map(|root| root.stolen).min()
    }

    /// Whether the retired root may sign again.
    #[must_use]
    pub fn may_return(&self, old: AuthorityId) -> bool {
        self.root(old).is_some_and(|root| root.tainted.is_none())
    }

    /// Whether the steps follow by themselves.
    #[must_use]
    pub fn is_automatic(&self) -> bool {
        self.emergency().is_some()
            || match self.phase() {
                Phase::Steady => true,
                Phase::Prepared { new } => self.root(new).is_none_or(|root| root.automatic),
                Phase::Active { .. } => self.active().is_none_or(|root| root.automatic),
            }
    }

    /// Whether the root has passed three quarters of its life, and its replacement waits.
    #[must_use]
    pub fn is_at_risk(&self) -> bool {
        self.is_at_risk
    }

    /// The step that waits for laggards, if one does.
    #[must_use]
    pub fn barrier(&self) -> Option<Barrier> {
        let step = match self.phase() {
            Phase::Steady => return None,
            Phase::Prepared { .. } => Step::Activate,
            Phase::Active { .. } => Step::Finish,
        };
        self.waits.map(|since| Barrier { step, since })
    }

    /// When the machine wants an [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.doing {
            Doing::Running => None,
            // What is not read now is not read sooner by asking without a pause.
            Doing::Waiting { until } => Some(until.max(self.look)),
            Doing::Nothing => match self.phase() {
                Phase::Steady if self.emergency().is_none() => {
                    Some(self.active()?.at_part(0.5).max(self.look))
                }
                Phase::Steady | Phase::Prepared { .. } | Phase::Active { .. } => Some(self.look),
            },
        }
    }

    /// How often the gate is looked at: at once in an emergency and when it was just closed, then ever less, because
    /// a rotation may wait for weeks and each look asks the whole fleet.
    fn pace(&self, now: Timestamp) -> Duration {
        let since = match self.phase() {
            Phase::Steady => return LOOK,
            Phase::Prepared { new } => self.root(new).map(|root| root.created),
            Phase::Active { old } => self.root(old).and_then(|root| root.retired),
        };
        match since {
            Some(since) if self.emergency().is_none() => (now.since(since) / 20).clamp(LOOK, MAX_LOOK),
            _ => LOOK,
        }
    }

    /// Takes one event and answers what to do now.
    ///
    /// Nothing is begun by [`Event::Kept`], [`Event::Failed`] and [`Event::Blind`], so what was observed does not
    /// count for them: the next look must be a fresh one.
    pub fn step(&mut self, event: Event, observed: Observed<'_>, now: Timestamp) -> Vec<Action> {
        self.look = now + self.pace(now);
        match event {
            Event::Tick => self.watch(observed, now),
            // What was read again after a failed try, and stands as it stood: neither its pause nor what waits ends.
            Event::Kept(roots) if matches!(self.doing, Doing::Waiting { .. }) && roots == self.roots => {
                return Vec::new();
            }
            Event::Kept(roots) => {
                self.roots = roots;
                self.doing = Doing::Nothing;
                self.failures = 0;
                if !matches!(self.phase(), Phase::Active { .. }) {
                    (self.watched, self.held) = (None, BTreeMap::new());
                }
                self.waits = None;
                self.look = now;
                self.is_at_risk = false;
                return Vec::new();
            }
            Event::Failed => {
                // While nobody signs, each moment counts.
                let (first, most) = match self.emergency() {
                    Some(_) => (LOOK, MAX_LOOK),
                    None => (self.settings.retry, MAX_RETRY),
                };
                let wait = first.saturating_mul(1 << self.failures.min(10)).min(most);
                self.failures += 1;
                self.doing = Doing::Waiting { until: now + wait };
                return Vec::new();
            }
            Event::Blind => return Vec::new(),
            Event::Wanted(wish) => {
                self.watch(observed, now);
                let action = self.judge(&wish, observed, now).unwrap_or_else(Action::Refuse);
                if !matches!(action, Action::Refuse(_)) {
                    self.doing = Doing::Running;
                }
                return vec![action];
            }
        }
        let mut actions = Vec::new();
        if self.doing == Doing::Running || matches!(self.doing, Doing::Waiting { until } if now < until) {
            return actions;
        }
        self.doing = Doing::Nothing;
        if let Some(action) = self.by_itself(observed, now) {
            self.doing = Doing::Running;
            actions.push(action);
        } else if !self.is_at_risk && self.is_stuck(now) {
            self.is_at_risk = true;
            actions.push(Action::AtRisk);
        }
        actions
    }

    /// What `wish` would lead to, without doing it.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn judge(&self, wish: &Wish, observed: Observed<'_>, now: Timestamp) -> Result<Action, Refusal> {
        let due = self.due();
        if self.doing == Doing::Running {
            return Err(Refusal::Busy);
        }
        // One that cannot sign is no way out of an emergency, so it may go.
        let is_useless = matches!(self.phase(), Phase::Prepared { .. }) && !observed.can_sign;
        if self.emergency().is_some() && wish.step == Step::Rollback && !is_useless {
            return Err(Refusal::Emergency);
        }
        if !due.contains(&wish.step) {
            return Err(Refusal::OutOfOrder { step: wish.step, standing: self.standing(), due });
        }
        match (wish.step, self.phase()) {
            (Step::Prepare, _) if !observed.has_root_key && !wish.alone => Err(Refusal::NoRootKey),
            (Step::Prepare, _) => Ok(Action::Prepare { automatic: wish.automatic, alone: wish.alone }),
            (Step::Activate, Phase::Prepared { .. }) if !observed.can_sign => Err(Refusal::TooOld),
            (Step::Activate, Phase::Prepared { new }) => {
                let left_behind = self.leave(wish, self.behind(observed, now))?;
                let old = self.active().map_or(new, |root| root.id);
                Ok(Action::Activate { new, old, left_behind })
            }
            (Step::Rollback, Phase::Prepared { new }) => Ok(Action::Withdraw(new)),
            (Step::Taint, Phase::Active { old }) => Ok(Action::Taint(old)),
            (Step::Finish, Phase::Active { old }) => {
                let left_behind = self.leave(wish, self.behind(observed, now))?;
                // Whoever is named and is in nobody's way is waited for: its connections of before may be open still.
                let left = left_behind.iter().map(|laggard| laggard.name.clone()).collect();
                match self.settles(observed, &left, now) {
                    Some(until) if until > now && self.emergency().is_none() => {
                        Err(Refusal::Settling { until })
                    }
                    _ => Ok(Action::Finish { old, left_behind }),
                }
            }
            (Step::Rollback, Phase::Active { old }) => {
                if !observed.can_return {
                    return Err(Refusal::NoRootKey);
                }
                let depends = |dependent: &Dependent| {
                    dependent.holds.iter().any(|held| observed.of_old.contains(&held.authority))
                };
                if !observed.dependents.is_empty() && !observed.dependents.iter().any(depends) {
                    return Err(Refusal::Drained);
                }
                let new = self.active().map_or(old, |root| root.id);
                Ok(Action::Return { old, new })
            }
            (step, _) => Err(Refusal::OutOfOrder { step, standing: self.standing(), due }),
        }
    }

    /// The steps that may be asked for.
    #[must_use]
    pub fn due(&self) -> Vec<Step> {
        match self.phase() {
            Phase::Steady => vec![Step::Prepare],
            Phase::Prepared { .. } => vec![Step::Activate, Step::Rollback],
            Phase::Active { old } => {
                let is_tainted = self.root(old).is_some_and(|root| root.tainted.is_some());
                match (is_tainted, self.is_rolled_back(old)) {
                    // A tainted root never signs again.
                    (true, _) => vec![Step::Finish],
                    // Who asks once more, after a lost answer, must not get the root back that he left.
                    (false, true) => vec![Step::Taint, Step::Finish],
                    (false, false) => vec![Step::Taint, Step::Finish, Step::Rollback],
                }
            }
        }
    }

    /// Where it stands, for people.
    #[must_use]
    pub fn standing(&self) -> String {
        let active = self.active().map_or_else(|| "none".to_owned(), |root| root.id.to_string());
        match self.phase() {
            Phase::Steady => format!("root {active} signs, and no other is prepared"),
            Phase::Prepared { new } => format!("root {active} signs, {new} is prepared"),
            Phase::Active { old } if self.is_rolled_back(old) => {
                format!(
                    "root {active} signs again, {old} was rolled back and still verifies{}",
                    self.taint(old)
                )
            }
            Phase::Active { old } => format!("root {active} signs, {old} still verifies{}", self.taint(old)),
        }
    }

    /// Whether the root that signed until now came after the one that signs.
    fn is_rolled_back(&self, old: AuthorityId) -> bool {
        let old = self.root(old).map(|root| root.created);
        self.active().is_some_and(|active| Some(active.created) < old)
    }

    fn taint(&self, id: AuthorityId) -> &'static str {
        match self.root(id).is_some_and(|root| root.tainted.is_some()) {
            true => " (tainted)",
            false => "",
        }
    }

    /// Who would break by the next step.
    #[must_use]
    pub fn behind(&self, observed: Observed<'_>, now: Timestamp) -> Vec<Laggard> {
        match self.phase() {
            Phase::Steady => Vec::new(),
            Phase::Prepared { new } => {
                behind_activation(observed.dependents, new, observed.has_way_back, now)
            }
            Phase::Active { .. } => {
                let Some(new) = self.active() else { return Vec::new() };
                behind_finish(observed.dependents, observed.of_old, new.id, now)
            }
        }
    }

    /// When the last connection that was opened under the old root has ended by its age, as far as nobody depends
    /// on that root any more.
    #[must_use]
    pub fn settles(
        &self,
        observed: Observed<'_>,
        left_behind: &BTreeSet<String>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let Phase::Active { old } = self.phase() else { return None };
        let retired = self.root(old)?.retired.unwrap_or(now);
        let holds = |one: &&Dependent| holds_any(one, observed.of_old, now);
        let is_held = observed.dependents.iter().filter(holds).any(|one| !left_behind.contains(&one.name));
        let held = self.held.iter().filter(|(name, _)| !left_behind.contains(*name)).map(|(_, at)| *at);
        let last = held.chain(is_held.then_some(now)).chain(self.watched).fold(retired, Timestamp::max);
        Some(last + self.settings.max_connection)
    }

    /// Remembers since when somebody is in the way, and when each dependent was last seen with a certificate of the
    /// retired root. Who has never been seen with one cannot have opened a connection with it since.
    fn watch(&mut self, observed: Observed<'_>, now: Timestamp) {
        let is_waiting = !self.behind(observed, now).is_empty();
        self.waits = if is_waiting { self.waits.or(Some(now)) } else { None };
        let Phase::Active { .. } = self.phase() else { return };
        if observed.is_clock_stopped {
            // Nobody could come for another certificate, and how long that lasted is not known.
            self.watched = None;
            return;
        }
        self.watched.get_or_insert(now);
        for dependent in observed.dependents.iter().filter(|one| holds_any(one, observed.of_old, now)) {
            self.held.insert(dependent.name.clone(), now);
        }
    }

    /// Those of `laggards` whom the wish leaves behind, if that are all.
    fn leave(&self, wish: &Wish, laggards: Vec<Laggard>) -> Result<Vec<Laggard>, Refusal> {
        let needless = in_nobodys_way(wish, &laggards);
        let (left, rest): (Vec<_>, Vec<_>) =
            laggards.into_iter().partition(|laggard| wish.leave_behind.contains(&laggard.name));
        match rest.is_empty() {
            true => Ok(left),
            false => Err(Refusal::Laggards { step: wish.step, laggards: rest, needless }),
        }
    }

    /// Names that the wish leaves behind and that its step does not wait for: it would be taken without them too.
    #[must_use]
    pub fn needless(&self, wish: &Wish, observed: Observed<'_>, now: Timestamp) -> Vec<String> {
        let waits_for = match wish.step {
            Step::Activate | Step::Finish => self.behind(observed, now),
            Step::Prepare | Step::Taint | Step::Rollback => Vec::new(),
        };
        in_nobodys_way(wish, &waits_for)
    }

    fn by_itself(&self, observed: Observed<'_>, now: Timestamp) -> Option<Action> {
        if observed.is_clock_stopped {
            return None;
        }
        let outgoing = self.outgoing()?;
        let emergency = self.emergency();
        let is_old = |root: &Root, part| now >= root.at_part(part);
        // The old root is about to end: whoever began the rotation, it does not wait for commands any more.
        let is_ending = is_old(outgoing, 0.9);
        match self.phase() {
            Phase::Steady => {
                let is_due = emergency.is_some() || (now >= outgoing.at_part(0.5) && !observed.is_paused);
                let prepare = Action::Prepare { automatic: true, alone: false };
                (is_due && observed.has_root_key).then_some(prepare)
            }
            // Its key is stolen before it signed anything.
            Phase::Prepared { new } if self.root(new).is_some_and(|root| root.stolen.is_some()) => {
                Some(Action::Withdraw(new))
            }
            Phase::Prepared { new } => {
                let laggards = self.behind(observed, now);
                let may = emergency.is_some() || is_ending || (self.is_automatic() && !observed.is_paused);
                if !observed.can_sign {
                    // It waited so long that its issuing authority is too old: it makes room for another.
                    return (may && observed.has_root_key).then_some(Action::Withdraw(new));
                }
                // Counted from the step before, which may have come late: nodes need the time, not the clock.
                let made = self.root(new).map(|root| root.created);
                let must = is_ending
                    || emergency.is_some_and(|since| {
                        now >= made.map_or(since, |made| made.max(since)) + EMERGENCY_ACTIVATE
                    });
                let goes = may && (laggards.is_empty() || must);
                goes.then_some(Action::Activate { new, old: outgoing.id, left_behind: laggards })
            }
            // What signs is stolen, so nothing is signed: the root before takes over again, or makes room for another.
            Phase::Active { old } if self.active().is_some_and(|root| root.stolen.is_some()) => {
                let new = self.active()?.id;
                if self.may_return(old) && observed.can_return {
                    return Some(Action::Return { old, new });
                }
                Some(Action::Finish { old, left_behind: self.behind(observed, now) })
            }
            Phase::Active { old } => {
                let laggards = self.behind(observed, now);
                if let Some(since) = emergency {
                    let retired = self.root(old).and_then(|root| root.retired);
                    let began = [retired, self.watched].into_iter().flatten().fold(since, Timestamp::max);
                    let goes = laggards.is_empty() || now >= began + EMERGENCY_FINISH;
                    return goes.then_some(Action::Finish { old, left_behind: laggards });
                }
                let is_settled =
                    self.settles(observed, &BTreeSet::new(), now).is_some_and(|until| until <= now);
                // A rotation that was forgotten must not carry the new root to its end.
                let may = self.is_automatic() || self.active().is_some_and(|active| is_old(active, 0.5));
                let goes = may && !observed.is_paused && laggards.is_empty() && is_settled;
                goes.then(|| Action::Finish { old, left_behind: Vec::new() })
            }
        }
    }

    /// Whether the active root should have been replaced long ago; what stands in the way of that may be the rotation
    /// before, which has not been finished.
    fn is_stuck(&self, now: Timestamp) -> bool {
        self.active().is_some_and(|root| now >= root.at_part(0.75))
    }
}

/// Who is to be left behind and is none of those who are waited for.
fn in_nobodys_way(wish: &Wish, waits_for: &[Laggard]) -> Vec<String> {
    let is_needless = |name: &&String| !waits_for.iter().any(|laggard| laggard.name == **name);
    wish.leave_behind.iter().filter(is_needless).cloned().collect()
}

#[cfg(test)]
mod tests;
