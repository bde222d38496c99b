//! The words that the replacement of a root is told in.

use std::{collections::BTreeSet, time::Duration};

use certs::Timestamp;
use serde::{Deserialize, Serialize};
use spiffe::AuthorityId;
use thiserror::Error;

use crate::{
    dependents::{Dependent, Laggard},
    ports::{AuthorityRecord, AuthorityState, Place},
};

/// What the machine goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The greatest age of a connection between proxies: what our listeners set (the xDS field
    /// `max_connection_duration`).
    pub max_connection: Duration,
    /// The wait after the first failure; it doubles with each further one, up to 15 minutes.
    pub retry: Duration,
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Make the next root; it stands in the bundle and signs nothing.
    Prepare,
    /// Let it sign; the old one only verifies from then on.
    Activate,
    /// Replace at once what the old one signed, instead of spread over time.
    Taint,
    /// Take the old one out of the bundle and destroy its key.
    Finish,
    /// Go back: drop the prepared root, or let the old one sign again.
    Rollback,
}

impl Step {
    /// The word that commands use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Taint => "taint",
            Self::Finish => "finish",
            Self::Rollback => "rollback",
        }
    }

    /// Whether it waits for a clock that can be believed.
    pub(crate) fn needs_time(self) -> bool {
        matches!(self, Self::Prepare | Self::Activate | Self::Finish)
    }
}

/// Where a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// One root, and none beside it.
    Steady,
    /// The next one is in the bundle.
    Prepared {
        /// Which.
        new: AuthorityId,
    },
    /// The new one signs; the old one still verifies.
    Active {
        /// The one that goes.
        old: AuthorityId,
    },
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Which step.
    pub step: Step,
    /// Whose being left behind is accepted.
    pub leave_behind: BTreeSet<String>,
    /// With [`Step::Prepare`]: whether the further steps follow by themselves as their gates open.
    pub automatic: bool,
    /// With [`Step::Prepare`]: the next root does without the key of the one that signs. It comes from elsewhere, with an
    /// issuing authority under it; or it is made here although nobody may be able to vouch for it.
    pub alone: bool,
}

/// Why a step was not taken. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Refusal {
    /// Another step is due.
    #[error("{} is not due now: {standing}; due is {}", step.word(), words(due))]
    OutOfOrder {
        /// What was asked for.
        step: Step,
        /// Where the rotation stands.
        standing: String,
        /// What may be asked for.
        due: Vec<Step>,
    },
    /// Somebody would break.
    #[error("{} waits for {} that would break{}", step.word(), laggards.len(), not_among(needless))]
    Laggards {
        /// What was asked for.
        step: Step,
        /// Who, and why.
        laggards: Vec<Laggard>,
        /// Names that were to be left behind, and are in nobody's way: misspelled, or not waited for any more.
        needless: Vec<String>,
    },
    /// Connections that were opened under the old root may still be open.
    #[error(
        "finish waits until {until}, when the last connection opened under the old root has ended by its age"
    )]
    Settling {
        /// Until when.
        until: Timestamp,
    },
    /// Nothing was signed by the old root any more.
    #[error(
        "nothing depends on the old root any more: finish, and begin another rotation if you want another root"
    )]
    Drained,
    /// An emergency replaces the root.
    #[error("the root's key is tainted, its replacement is under way and cannot be rolled back")]
    Emergency,
    /// The key of the root is not here.
    #[error(
        "the key of the root is kept elsewhere: `credence ca csr` makes a request for an issuing authority, and `credence \
         ca install FILE` takes what was signed"
    )]
    NoRootKey,
    /// In an emergency: no other root can take over by itself.
    #[error(
        "the key of the root is kept elsewhere, so no other root can take over by itself: `credence ca csr`, have it \
         signed by another root, `credence ca install FILE`, and ask again; until then block who is concerned by \
         `credence identity block ID --now`"
    )]
    NoSuccessor,
    /// What was prepared waited too long.
    #[error(
        "the issuing authority under the prepared root has too little life left to sign: roll back, and prepare or \
         install another"
    )]
    TooOld,
    /// A step is being carried out.
    #[error("another step is being carried out, ask again")]
    Busy,
}

fn words(due: &[Step]) -> String {
    due.iter().map(|step| step.word()).collect::<Vec<_>>().join(" or ")
}

/// A step that cannot be taken because somebody would break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// Which step.
    pub step: Step,
    /// Since when somebody has been in its way without a break, as far as this process has seen.
    pub since: Timestamp,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// An operator wants a step.
    Wanted(Wish),
    /// The last action succeeded, and these are the authorities now.
    Kept(Vec<Root>),
    /// The last action failed; nothing changed.
    Failed,
    /// Who depends on authorities could not be observed.
    Blind,
}

/// What to do. Every action but [`Action::Refuse`] and [`Action::AtRisk`] is answered by one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a root, and an issuing authority under it.
    Prepare {
        /// Whether it was by itself, and goes on by itself.
        automatic: bool,
        /// Whether it does without the key of the root that signs.
        alone: bool,
    },
    /// Let `new` sign instead of `old`.
    Activate {
        /// The prepared root.
        new: AuthorityId,
        /// The active one.
        old: AuthorityId,
        /// Who was not waited for.
        left_behind: Vec<Laggard>,
    },
    /// Mark the old root.
    Taint(AuthorityId),
    /// Take `old` out of the bundle.
    Finish {
        /// The retired root.
        old: AuthorityId,
        /// Who was not waited for.
        left_behind: Vec<Laggard>,
    },
    /// Drop the prepared root.
    Withdraw(AuthorityId),
    /// Let `old` sign again instead of `new`.
    Return {
        /// The retired root.
        old: AuthorityId,
        /// The active one.
        new: AuthorityId,
    },
    /// Answer the last wish: no.
    Refuse(Refusal),
    /// Say once that the root passed three quarters of its life and its replacement is stuck.
    AtRisk,
}

/// A root as far as this machine goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Which.
    pub id: AuthorityId,
    /// Where it stands.
    pub state: AuthorityState,
    /// When it was made.
    pub created: Timestamp,
    /// Its last second.
    pub not_after: Timestamp,
    /// When it retired.
    pub retired: Option<Timestamp>,
    /// Since when it is tainted.
    pub tainted: Option<Timestamp>,
    /// Since when its key is believed to be stolen.
    pub stolen: Option<Timestamp>,
    /// Whether its rotation goes on by itself.
    pub automatic: bool,
}

impl Root {
    /// The roots among `records` that are not removed.
    #[must_use]
    pub fn all(records: &[AuthorityRecord]) -> Vec<Self> {
        records
            .iter()
            .filter(|record| record.place == Place::Root && record.state != AuthorityState::Removed)
            .map(|record| Self {
                id: record.id,
                state: record.state,
                created: record.created,
                not_after: record.certificate.not_after(),
                retired: record.retired,
                tainted: record.tainted,
                stolen: record.stolen,
                automatic: record.automatic,
            })
            .collect()
    }

    /// The moment at which this part of its life has passed.
    pub(super) fn at_part(&self, part: f64) -> Timestamp {
        self.created + self.not_after.since(self.created).mul_f64(part)
    }
}

/// What the shell observed before a step.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// Who depends on authorities.
    pub dependents: &'a [Dependent],
    /// The authorities that lead to the root that is being replaced, itself included.
    pub of_old: &'a BTreeSet<AuthorityId>,
    /// Whether the key of the active root is here, and whether Credence may make roots.
    pub has_root_key: bool,
    /// Whether the issuing authority under the prepared root has the life left that signing needs.
    pub can_sign: bool,
    /// Whether an authority under the root that goes may sign again, or can be made.
    pub can_return: bool,
    /// Whether the root before vouches for what the prepared one will sign with, so that who does not know that one can
    /// still know us.
    pub has_way_back: bool,
    /// Whether operators have paused what goes on by itself.
    pub is_paused: bool,
    /// Whether the clock cannot be believed, so that nobody is issued anything and no time has come.
    pub is_clock_stopped: bool,
}

fn not_among(needless: &[String]) -> String {
    match needless {
        [] => String::new(),
        [one] => format!("; {one} is not among them"),
        more => format!("; {} are not among them", more.join(", ")),
    }
}
