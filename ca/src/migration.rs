//! The way of leaves whose bindings name no issuer, from one issuer to another.
//!
//! A pure machine. Nothing moves before the other issuer may sign ([`delegation`](crate::delegation) holds that gate).
//! Then all leaves move at once, or stage by stage: a stage is over when every connected node has acknowledged the
//! leaves that are in it and it has stood for a while without trouble; trouble stops the migration and takes the stage
//! back, and then an operator goes on or gives it up.
//!
//! ```text
//!               may sign          acknowledged, and held                the last one held
//! begin -> waits --------> stage -----------------------> next stage ... -----------------> the other is the default
//!                          |  ^ resume
//!                  trouble '->| stopped
//! abort, at any time: all are the first issuer's again
//! ```
//!
//! Invariants, walked at random in the tests: nothing moves to an issuer that may not sign; the part that has moved
//! grows stage by stage, and is taken back only by trouble and by operators; none moves on past a leaf that is not
//! acknowledged.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use certs::Timestamp;
use spiffe::{Division, IssuerName, Share};
use thiserror::Error;

use crate::ports::{DefaultIssuer, Migration};

/// How often is looked how a stage does.
const LOOK: Duration = Duration::from_secs(1);
/// The time that failures are counted in.
const WINDOW: Duration = Duration::from_secs(60);
/// The fewest failures within it that are trouble,
const TROUBLE: u64 = 5;
/// if they are at least one in so many tries.
const ONE_IN: u64 = 50;
/// When a change that was not kept is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// The most stages.
pub const MAX_STAGES: usize = 20;

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationWish {
    /// Leaves are to move.
    Begin(Begin),
    /// They are to go back to where they came from.
    Abort,
    /// What is stopped is to go on.
    Resume,
}

/// Where leaves are to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// From whom; `None` for whoever it is. In a hurry also one of whom leaves are by other ways than by default: that
    /// bindings name, that signs in the place of another, or whose leaves have not ended.
    pub from: Option<IssuerName>,
    /// To whom.
    pub to: IssuerName,
    /// How many of a hundred with each stage, ascending; none for all at once.
    pub stages: Vec<u8>,
    /// How long each stage stands before the next.
    pub hold: Duration,
    /// Nothing is to depend on the issuer that is left, at once.
    pub is_hurried: bool,
}

/// Why a wish cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WishRefusal {
    /// Another than was said signs.
    #[error("{current} signs the leaves of workloads, not {said}")]
    NotFrom {
        /// Who does.
        current: IssuerName,
        /// Who was said to.
        said: IssuerName,
    },
    /// There is nothing to move.
    #[error("{0} signs the leaves of workloads already")]
    Already(IssuerName),
    /// Leaves are on another way.
    #[error("leaves are on their way to {0}: let them arrive, or call that off (issuer migrate --abort)")]
    UnderWay(IssuerName),
    /// They are not on any way.
    #[error("no leaves are on their way from one issuer to another")]
    Nothing,
    /// It goes on by itself.
    #[error("the migration to {0} is not stopped")]
    NotStopped(IssuerName),
    /// Stages that cannot be.
    #[error("stages {0:?} do not ascend from 1 to 100, or are more than {MAX_STAGES}")]
    Stages(Vec<u8>),
    /// Who has moved stays moved.
    #[error("{0} % have moved already: a first stage of less would move some back")]
    Shrinks(u8),
    /// Nodes and this server have certificates of it, too.
    #[error(
        "the built-in authority is left at once by credence ca emergency --authority ID: nobody else vouches for nodes and \
         this server"
    )]
    LeavesBuiltin,
    /// A hurry has no stages.
    #[error("what is hurried goes at once, and not by stages")]
    HurriedStages,
}

/// How a stage does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followers {
    /// Leaves that connected nodes want of the issuer.
    pub total: usize,
    /// Those of them that their nodes have not acknowledged yet.
    pub behind: usize,
    /// Some of their names, for operators.
    pub waits_for: Vec<String>,
    /// Leaves that it gave, since the process began.
    pub issued: u64,
    /// Requests that brought none, and leaves that a proxy refused.
    pub failed: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The process began, or time has passed.
    Tick,
    /// This is what an operator wants ([`Migrations::judge`] made it).
    Wanted(DefaultIssuer),
    /// These may sign, besides the built-in one.
    MaySign(BTreeSet<IssuerName>),
    /// Operators want nothing replaced by itself until then, or no longer.
    Paused(Option<Timestamp>),
    /// [`Action::Look`] was answered.
    Seen(Followers),
    /// [`Action::Keep`] succeeded.
    Kept(DefaultIssuer),
    /// [`Action::Keep`] failed; nothing changed.
    KeepFailed,
}

/// What to do. Each is answered by one event before the next is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Look how leaves do that are to be of this issuer.
    Look(IssuerName),
    /// Keep this, and go by it.
    Keep(DefaultIssuer),
}

/// The machine. Feed it every event; carry out every action.
#[derive(Debug)]
pub struct Migrations {
    state: DefaultIssuer,
    may_sign: BTreeSet<IssuerName>,
    is_running: bool,
    /// What is to be kept next.
    next: Option<DefaultIssuer>,
    /// What is being kept.
    written: Option<DefaultIssuer>,
    /// Tried again then.
    retry: Option<Timestamp>,
    look: Timestamp,
    /// What had been given and had failed by then, oldest first; the first is older than the window, or as old as the
    /// stage.
    window: VecDeque<(Timestamp, u64, u64)>,
    paused_until: Option<Timestamp>,
}

impl Migrations {
    /// Takes up where the last process ended, with whoever may sign besides the built-in one; step [`Event::Tick`] next.
    #[must_use]
    pub fn resume(state: DefaultIssuer, may_sign: BTreeSet<IssuerName>) -> Self {
        Self {
            state,
            may_sign,
            is_running: false,
            next: None,
            written: None,
            retry: None,
            look: Timestamp::EPOCH,
            window: VecDeque::new(),
            paused_until: None,
        }
    }

    /// Who signs, as it is kept.
    #[must_use]
    pub fn state(&self) -> &DefaultIssuer {
        &self.state
    }

    /// Who signs which part.
    #[must_use]
    pub fn division(&self) -> Division {
        let from = self.state.current.clone();
        let moved = self.state.migration.as_ref().filter(|migration| self.is_signing(&migration.to));
        let share = moved.map(|migration| Share {
            to: migration.to.clone(),
            percent: percent(migration),
            is_lenient: migration.stopped.is_some(),
        });
        Division { from, share }
    }

    /// When the machine wants an [`Event::Tick`].
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        if self.is_running {
            return None;
        }
        let is_due = self.next.is_some() || self.arrives();
        let due = if is_due { Some(Timestamp::EPOCH) } else { self.watched().map(|_| self.look) };
        due.map(|at| self.retry.map_or(at, |retry| retry.max(at)))
    }

    /// What would be after a wish.
    ///
    /// # Errors
    /// See [`WishRefusal`].
    pub fn judge(&self, wish: &MigrationWish, now: Timestamp) -> Result<DefaultIssuer, WishRefusal> {
        let DefaultIssuer { current, migration, left } = self.next.as_ref().unwrap_or(&self.state).clone();
        let set = |migration| DefaultIssuer { current: current.clone(), migration, left: left.clone() };
        let begin = match (wish, &migration) {
            (MigrationWish::Begin(begin), _) => begin,
            (MigrationWish::Abort | MigrationWish::Resume, None) => return Err(WishRefusal::Nothing),
            (MigrationWish::Abort, Some(_)) => return Ok(set(None)),
            (MigrationWish::Resume, Some(migration)) if migration.stopped.is_none() => {
                return Err(WishRefusal::NotStopped(migration.to.clone()));
            }
            (MigrationWish::Resume, Some(migration)) => {
                return Ok(set(Some(Migration { stopped: None, since: now, ..migration.clone() })));
            }
        };
        if let Some(next) = self.abandon(begin)? {
            return Ok(next);
        }
        if let Some(said) = begin.from.as_ref().filter(|from| **from != current) {
            return Err(WishRefusal::NotFrom { current, said: said.clone() });
        }
        let mut above = 0;
        let ascends = |stage: &u8| std::mem::replace(&mut above, *stage) < *stage && *stage <= 100;
        if begin.stages.len() > MAX_STAGES || !begin.stages.iter().all(ascends) {
            return Err(WishRefusal::Stages(begin.stages.clone()));
        }
        if begin.is_hurried && !begin.stages.is_empty() {
            return Err(WishRefusal::HurriedStages);
        }
        match &migration {
            None if begin.to == current => return Err(WishRefusal::Already(current)),
            // Whoever signs is wanted again where another was to follow it.
            Some(_) if begin.to == current => return Ok(set(None)),
            Some(known) if known.to == begin.to => {
                let moved = self.moved(known);
                if begin.stages.first().is_some_and(|first| *first < moved) {
                    return Err(WishRefusal::Shrinks(moved));
                }
            }
            Some(known) if self.moved(known) > 0 => return Err(WishRefusal::UnderWay(known.to.clone())),
            Some(_) | None => {}
        }
        let migration = Migration {
            to: begin.to.clone(),
            stages: begin.stages.clone(),
            stage: 0,
            since: now,
            hold: begin.hold,
            stopped: None,
            is_hurried: begin.is_hurried,
        };
        // Whoever is to sign again is trusted again.
        let left = left.into_iter().filter(|name| *name != begin.to).collect();
        Ok(DefaultIssuer { current, migration: Some(migration), left })
    }

    /// Leaves one in a hurry whose leaves nobody has by default, or not yet; `None` where the default moves.
    fn abandon(&self, begin: &Begin) -> Result<Option<DefaultIssuer>, WishRefusal> {
        if !begin.is_hurried {
            return Ok(None);
        }
        let mut next = self.next.as_ref().unwrap_or(&self.state).clone();
        let back_from = next.migration.as_ref().map(|migration| migration.to.clone());
        let back_from = back_from.filter(|_| begin.to == next.current);
        let left = begin.from.clone().or(back_from).unwrap_or_else(|| next.current.clone());
        if left == begin.to {
            return Err(WishRefusal::Already(left));
        }
        if left.is_builtin() {
            return Err(WishRefusal::LeavesBuiltin);
        }
        if left == next.current {
            return Ok(None);
        }
        if begin.to != next.current {
            return Err(WishRefusal::NotFrom { current: next.current, said: left });
        }
        if next.migration.as_ref().is_some_and(|migration| migration.to == left) {
            next.migration = None;
        }
        next.left.insert(left);
        Ok(Some(next))
    }

    /// Takes one event and answers what to do now.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Option<Action> {
        match event {
            Event::Tick => {}
            Event::Paused(until) => self.paused_until = until,
            Event::Wanted(next) => (self.next, self.retry) = (Some(next), None),
            Event::MaySign(names) => self.may_sign = names,
            Event::Seen(followers) => {
                self.is_running = false;
                self.look = now + LOOK;
                // What an operator has said meanwhile wins.
                if self.next.is_none() {
                    self.next = self.seen(&followers, now);
                }
            }
            Event::Kept(state) => {
                self.is_running = false;
                if self.next.as_ref() == Some(&state) {
                    self.next = None;
                }
                self.retry = None;
                self.window.clear();
                self.look = now;
                self.state = state;
            }
            Event::KeepFailed => {
                self.is_running = false;
                // Whoever wanted it was told, and what comes by itself comes again. What was said meanwhile is another.
                if self.next == self.written.take() {
                    (self.next, self.retry) = (None, Some(now + RETRY));
                }
            }
        }
        let action = self.act(now);
        self.is_running |= action.is_some();
        if let Some(Action::Keep(next)) = &action {
            self.written = Some(next.clone());
        }
        action
    }

    fn act(&mut self, now: Timestamp) -> Option<Action> {
        if self.is_running || self.retry.is_some_and(|at| now < at) {
            return None;
        }
        self.retry = None;
        if let Some(next) = self.next.clone().filter(|next| *next != self.state) {
            return Some(Action::Keep(next));
        }
        self.next = None;
        let migration = self.state.migration.as_ref()?;
        if self.arrives() {
            let next = self.arrived(migration);
            self.next = Some(next.clone());
            return Some(Action::Keep(next));
        }
        self.watched().filter(|_| self.look <= now).map(|to| Action::Look(to.clone()))
    }

    /// Whether all leaves are to move now, at once.
    fn arrives(&self) -> bool {
        let migration = self.state.migration.as_ref();
        migration.is_some_and(|migration| migration.stages.is_empty() && self.is_signing(&migration.to))
    }

    /// The issuer that leaves move to by stages, if it is to be looked at.
    fn watched(&self) -> Option<&IssuerName> {
        let migration = self.state.migration.as_ref()?;
        let is_moving = migration.stopped.is_none() && !migration.stages.is_empty();
        (is_moving && self.is_signing(&migration.to)).then_some(&migration.to)
    }

    fn seen(&mut self, followers: &Followers, now: Timestamp) -> Option<DefaultIssuer> {
        self.watched()?;
        let mut migration = self.state.migration.clone()?;
        if self.window.is_empty() && migration.stage == 0 {
            // It may have waited for its gate until now, and is held from here on.
            migration.since = migration.since.max(now);
            if let Some(known) = &mut self.state.migration {
                known.since = migration.since;
            }
        }
        self.window.push_back((now, followers.issued, followers.failed));
        while self.window.get(1).is_some_and(|(at, ..)| *at + WINDOW <= now) {
            self.window.pop_front();
        }
        let (_, issued, failed) = self.window.front().copied()?;
        let failures = followers.failed.saturating_sub(failed);
        let tries = followers.issued.saturating_sub(issued) + failures;
        if failures >= TROUBLE && failures.saturating_mul(ONE_IN) >= tries {
            let seconds = WINDOW.as_secs();
            migration.stopped =
                Some(format!("{failures} of {tries} leaves within {seconds} s failed or were refused"));
            return Some(DefaultIssuer { migration: Some(migration), ..self.state.clone() });
        }
        let is_paused = self.paused_until.is_some_and(|until| now < until);
        if followers.behind > 0 || now < migration.since + migration.hold || is_paused {
            return None;
        }
        if migration.stage + 1 < migration.stages.len() {
            (migration.stage, migration.since) = (migration.stage + 1, now);
            return Some(DefaultIssuer { migration: Some(migration), ..self.state.clone() });
        }
        // A last stage of less than all stays, until somebody says more.
        (percent(&migration) == 100).then(|| self.arrived(&migration))
    }

    fn arrived(&self, migration: &Migration) -> DefaultIssuer {
        let mut left = self.state.left.clone();
        left.extend(migration.is_hurried.then(|| self.state.current.clone()));
        DefaultIssuer { current: migration.to.clone(), migration: None, left }
    }

    fn is_signing(&self, name: &IssuerName) -> bool {
        name.is_builtin() || self.may_sign.contains(name)
    }

    /// How many of a hundred have moved.
    fn moved(&self, migration: &Migration) -> u8 {
        if self.is_signing(&migration.to) { percent(migration) } else { 0 }
    }
}

/// How many of a hundred the stage has that is under way. One that is stopped is taken back.
fn percent(migration: &Migration) -> u8 {
    let of = |stage: usize| migration.stages.get(stage).copied();
    match (&migration.stopped, migration.stage) {
        (Some(_), 0) => 0,
        (Some(_), stage) => of(stage - 1).unwrap_or(0),
        (None, stage) => of(stage).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
