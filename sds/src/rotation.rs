//! The life of one leaf for one (node, identity) (PURE).
//!
//! ```text
//! Absent --Wanted--> Requested --Issued--> Held --due--> Renewing --Issued--> Held ...
//!    ^                   ^ '--Failed: again later           '--Failed: Held, again later
//!    |                   '------------------ expired -------'
//!    '-- Barred; or unwanted for longer than the grace
//! ```
//! The shell asks access before it says `Wanted`, and says `Barred` when access changes its mind.

use std::{collections::BTreeSet, time::Duration};

use certs::{Serial, Timestamp};
use spiffe::{AuthorityId, Purpose};

use crate::schedule::{Jitter, Life, retry_in};

/// The facts of a leaf that decide its future.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its serial number.
    pub serial: Serial,
    /// Who signed it.
    pub authority: AuthorityId,
    /// From when to when it lives.
    pub life: Life,
}

/// What happens to a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Access said yes, and a stream waits for it.
    Wanted,
    /// The last stream that wanted it is gone.
    Unwanted,
    /// The request in flight brought this leaf.
    Issued(Leaf),
    /// The request in flight brought nothing.
    Failed,
    /// Another authority signs now: what others than these signed is replaced, spread over this long.
    SignerChanged {
        /// Whose leaves stay until their renewal.
        accepted: BTreeSet<AuthorityId>,
        /// Over how long to spread the requests.
        spread: Duration,
    },
    /// An operator has revoked the leaf of this number: another is asked for at once, and the node keeps it until then.
    Revoked(Serial),
    /// The node took, or refused, the leaf on offer.
    Settled {
        /// Whether it took it.
        accepted: bool,
    },
    /// Access says no: blocked, unbound, or no longer among the node's identities.
    Barred,
    /// Nothing but time passed.
    Tick,
}

/// What the shell must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the issuer, and answer with [`Event::Issued`] or [`Event::Failed`].
    Request {
        /// Why.
        purpose: Purpose,
        /// When the leaf in hand ends; `None` if there is none.
        replaces: Option<Timestamp>,
    },
    /// Offer the leaf just issued, instead of the one before.
    Offer,
    /// The leaf has ended: stop offering it, and stay silent about its name.
    Expire,
    /// Drop the leaf and its key from memory.
    Forget,
    /// Say once that the leaf that the node uses has passed 70 % of its life, and it took no newer one.
    AtRisk,
    /// The leaf that the node uses has ended, and it did not take the newer one that is on offer.
    Outlived,
}

/// A leaf in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its facts.
    pub leaf: Leaf,
    /// Whether the node took it; `None` while it has not answered.
    pub accepted: Option<bool>,
    /// What the node uses.
    pub used: Used,
    /// Whether that has passed 70 % of its life without a successor that the node took.
    pub at_risk: bool,
}

/// Which leaf a node uses while one is on offer: the last that it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// It has taken none so far.
    None,
    /// The one on offer.
    Offered,
    /// One before it, which lives so long.
    Earlier(Life),
    /// One before it, which has ended.
    Ended,
}

impl Held {
    /// A leaf that was just issued, in the place of `before`.
    fn after(before: Option<&Self>, leaf: Leaf) -> Self {
        let used = match before.map(|before| (before.used, before.leaf.life)) {
            None => Used::None,
            Some((Used::Offered, life)) => Used::Earlier(life),
            Some((used, _)) => used,
        };
        let at_risk = used != Used::None && before.is_some_and(|before| before.at_risk);
        Self { leaf, accepted: None, used, at_risk }
    }

    /// Whether what the node uses is past 70 % of its life by then.
    fn is_at_risk_at(&self, now: Timestamp) -> bool {
        self.at_risk_at().is_none_or(|at| at <= now)
    }

    /// From when on what the node uses is at risk; `None` where it has ended.
    fn at_risk_at(&self) -> Option<Timestamp> {
        match self.used {
            Used::None | Used::Offered => Some(self.leaf.life.at_risk_at()),
            Used::Earlier(life) => Some(life.at_risk_at()),
            Used::Ended => None,
        }
    }

    fn settled(&mut self, accepted: bool, now: Timestamp) {
        self.accepted = Some(accepted);
        if accepted {
            self.used = Used::Offered;
            self.at_risk &= self.is_at_risk_at(now);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody may ask, or nobody does.
    Idle,
    Wanted,
    /// Nobody asks for the moment; kept until then.
    Grace(Timestamp),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct InFlight {
    purpose: Purpose,
    /// Access was withdrawn meanwhile: the result is thrown away.
    discard: bool,
    /// The signer was replaced meanwhile.
    changed: Option<(BTreeSet<AuthorityId>, Duration)>,
}

/// The machine of one (node, identity).
#[derive(Debug, Clone)]
pub struct Rotation {
    grace: Duration,
    standing: Standing,
    held: Option<Held>,
    in_flight: Option<InFlight>,
    due: Timestamp,
    forced: bool,
    failures: u32,
}

impl Rotation {
    /// A rotation that nobody asked for yet. `grace` is how long a leaf outlives its last stream.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            standing: Standing::Idle,
            held: None,
            in_flight: None,
            due: Timestamp::EPOCH,
            forced: false,
            failures: 0,
        }
    }

    /// Takes one event; answers what to do.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Timestamp, jitter: Jitter) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Wanted => self.standing = Standing::Wanted,
            Event::Unwanted if self.standing == Standing::Wanted => {
                self.standing = Standing::Grace(now + self.grace);
            }
            Event::Issued(leaf) => self.issued(leaf, now, jitter, &mut actions),
            Event::Failed => self.failed(now, jitter),
            Event::SignerChanged { accepted, spread } => match &mut self.in_flight {
                Some(flight) => flight.changed = Some((accepted, spread)),
                None => self.force_unless_signed_by(&accepted, spread, now, jitter),
            },
            Event::Settled { accepted } => {
                if let Some(held) = &mut self.held {
                    held.settled(accepted, now);
                }
            }
            Event::Revoked(serial) => self.revoked(&serial, now, &mut actions),
            Event::Barred => self.forget(&mut actions),
            Event::Unwanted | Event::Tick => {}
        }
        self.follow_time(now, &mut actions);
        actions
    }

    /// When [`Event::Tick`] is needed at the latest; always after the `now` of the last step.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let due = (self.standing == Standing::Wanted && self.in_flight.is_none()).then_some(self.due);
        let ends = self.held.as_ref().map(|held| held.leaf.life.expires);
        let earlier = self.held.as_ref().and_then(|held| match held.used {
            Used::Earlier(life) => Some(life.expires),
            Used::None | Used::Offered | Used::Ended => None,
        });
        let watched = self.held.as_ref().filter(|held| !held.at_risk && self.is_wanted());
        let risk = watched.and_then(Held::at_risk_at);
        let grace = match self.standing {
            Standing::Grace(until) => Some(until),
            Standing::Idle | Standing::Wanted => None,
        };
        [due, ends, earlier, risk, grace].into_iter().flatten().min()
    }

    /// The leaf in hand.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Why a request is in flight, if one is whose result is still wanted.
    #[must_use]
    pub fn requested(&self) -> Option<Purpose> {
        self.in_flight.as_ref().filter(|flight| !flight.discard).map(|flight| flight.purpose)
    }

    /// Whether a stream waits for it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.standing == Standing::Wanted
    }

    /// When the next request is due, if one is planned.
    #[must_use]
    pub fn next_request(&self) -> Option<Timestamp> {
        (self.standing == Standing::Wanted && self.in_flight.is_none()).then_some(self.due)
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether nothing is left that anybody could ask about.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.standing == Standing::Idle && self.held.is_none() && self.in_flight.is_none()
    }

    fn issued(&mut self, leaf: Leaf, now: Timestamp, jitter: Jitter, actions: &mut Vec<Action>) {
        let Some(flight) = self.in_flight.take() else { return };
        if flight.discard {
            return;
        }
        if leaf.life.is_over(now) {
            self.in_flight = Some(flight);
            return self.failed(now, jitter);
        }
        self.due = leaf.life.renew_at(jitter);
        self.held = Some(Held::after(self.held.as_ref(), leaf));
        self.forced = false;
        self.failures = 0;
        actions.push(Action::Offer);
        if let Some((accepted, spread)) = flight.changed {
            self.force_unless_signed_by(&accepted, spread, now, jitter);
        }
    }

    fn failed(&mut self, now: Timestamp, jitter: Jitter) {
        let Some(flight) = self.in_flight.take() else { return };
        if flight.discard {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let remaining = self.held.as_ref().map(|held| held.leaf.life.remaining(now));
        self.due = now + retry_in(self.failures, remaining, jitter);
        if let (Some((accepted, _)), Some(held)) = (flight.changed, &self.held) {
            self.forced |= !accepted.contains(&held.leaf.authority);
        }
    }

    fn force_unless_signed_by(
        &mut self,
        accepted: &BTreeSet<AuthorityId>,
        spread: Duration,
        now: Timestamp,
        jitter: Jitter,
    ) {
        if self.held.as_ref().is_some_and(|held| !accepted.contains(&held.leaf.authority)) {
            self.forced = true;
            self.due = self.due.min(now + jitter.of(spread));
        }
    }

    fn revoked(&mut self, serial: &Serial, now: Timestamp, actions: &mut Vec<Action>) {
        if self.held.as_ref().is_none_or(|held| held.leaf.serial != *serial) {
            return;
        }
        if self.standing != Standing::Wanted {
            // Nobody shows it, and nobody is to be handed it again.
            return self.forget(actions);
        }
        self.forced = true;
        self.due = now;
    }

    fn forget(&mut self, actions: &mut Vec<Action>) {
        self.standing = Standing::Idle;
        self.due = Timestamp::EPOCH;
        self.forced = false;
        self.failures = 0;
        if let Some(flight) = &mut self.in_flight {
            flight.discard = true;
        }
        if self.held.take().is_some() {
            actions.push(Action::Forget);
        }
    }

    fn follow_time(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if matches!(self.standing, Standing::Grace(until) if until <= now) {
            self.forget(actions);
        }
        if self.held.as_ref().is_some_and(|held| held.leaf.life.is_over(now)) {
            self.held = None;
            self.forced = false;
            // Nobody misses a leaf that no stream wants.
            actions.push(if self.is_wanted() { Action::Expire } else { Action::Forget });
        }
        let is_wanted = self.is_wanted();
        if let Some(held) = &mut self.held {
            if is_wanted && !held.at_risk && held.is_at_risk_at(now) {
                held.at_risk = true;
                actions.push(Action::AtRisk);
            }
            if matches!(held.used, Used::Earlier(life) if life.is_over(now)) {
                held.used = Used::Ended;
                // Nobody misses a leaf of a node that is away.
                actions.extend(is_wanted.then_some(Action::Outlived));
            }
        }
        if self.standing == Standing::Wanted && self.in_flight.is_none() && self.due <= now {
            let purpose = match (&self.held, self.forced) {
                (None, _) => Purpose::Delivery,
                (Some(_), false) => Purpose::Renewal,
                (Some(_), true) => Purpose::ForcedRenewal,
            };
            let replaces = self.held.as_ref().map(|held| held.leaf.life.expires);
            self.in_flight = Some(InFlight { purpose, discard: false, changed: None });
            actions.push(Action::Request { purpose, replaces });
        }
    }
}

#[cfg(test)]
mod tests;
