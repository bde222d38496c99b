//! When somebody outside is asked to sign our next issuing authority (PURE).
//!
//! ```text
//! Idle --the authority that signs is of this upstream--> Following --45 % of its life--> Asked --Obtained--> Following
//!                                                            ^                              '-Failed: again later
//!                                                            '------ a successor is prepared, or a pause: wait ------
//! ```
//! Nothing here touches what signs now: an upstream that is away costs nothing before that authority is near its end.

use std::time::Duration;

use certs::{Certificate, Timestamp};
use spiffe::AuthorityId;

use crate::ports::{AuthorityRecord, AuthorityState, Place};

/// The first pause after a failure; each further one is twice as long.
pub const MIN_RETRY: Duration = Duration::from_secs(60);
/// The longest pause after a failure.
pub const MAX_RETRY: Duration = Duration::from_secs(15 * 60);

/// The pause while another issuer is being asked.
pub const DEFERRAL: Duration = Duration::from_secs(1);

/// The issuing authority that signs now, if this upstream signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// Which.
    pub id: AuthorityId,
    /// When it came here.
    pub since: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Whether its successor is prepared already and waits for its turn.
    pub has_successor: bool,
}

impl Current {
    /// When its successor is asked for: at 45 % of its life, so that it is there before anybody is told at half of it
    /// that an operator is waited for.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.since + self.until.since(self.since).mul_f64(0.45)
    }

    /// When being without a successor is somebody's problem: at 70 % of its life.
    #[must_use]
    pub fn at_risk(&self) -> Timestamp {
        self.since + self.until.since(self.since).mul_f64(0.7)
    }
}

/// Who signed `record` directly: the lowest of those between it and its root, or that root.
#[must_use]
pub fn signer_of<'a>(record: &'a AuthorityRecord, all: &'a [AuthorityRecord]) -> Option<&'a Certificate> {
    let root = || all.iter().find(|other| Some(other.id) == record.parent).map(|root| &root.certificate);
    record.between.first().or_else(root)
}

/// The issuing authority that signs now, if the key of one of `signers` signed it. What is prepared under another root
/// is no successor of it: that root may never sign.
#[must_use]
pub fn current<'a>(
    records: &[AuthorityRecord],
    signers: impl IntoIterator<Item = &'a Certificate>,
) -> Option<Current> {
    let issuing =
        |state| move |record: &&AuthorityRecord| record.place == Place::Issuing && record.state == state;
    let active = records.iter().find(issuing(AuthorityState::Active))?;
    let signed = signer_of(active, records)?;
    signers.into_iter().any(|signer| signed.spki_hash() == signer.spki_hash()).then(|| Current {
        id: active.id,
        since: active.created,
        until: active.certificate.not_after(),
        has_successor: records
            .iter()
            .any(|record| issuing(AuthorityState::Prepared)(&record) && record.parent == active.parent),
    })
}

/// What happens to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// This signs now; `None` when what signs is not of this upstream.
    Signs(Option<Current>),
    /// What was asked for came, and is installed or waits for its turn: this signs now.
    Obtained(Option<Current>),
    /// It did not come.
    Failed,
    /// It could not be asked for: another issuer is being asked.
    Deferred,
    /// Operators want nothing replaced by itself until then, or no longer.
    Paused(Option<Timestamp>),
    /// Nothing but time passed.
    Tick,
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask the upstream for the next issuing authority, and answer with [`Event::Obtained`], [`Event::Failed`] or
    /// [`Event::Deferred`].
    Obtain,
    /// Say once that the authority is at risk: the upstream has not signed its successor by 70 % of its life.
    AtRisk,
}

/// The machine of one upstream.
#[derive(Debug, Clone, Default)]
pub struct Upstream {
    current: Option<Current>,
    paused_until: Option<Timestamp>,
    retry_at: Option<Timestamp>,
    failures: u32,
    is_asked: bool,
    is_at_risk: bool,
}

impl Upstream {
    /// Takes one event; answers what to do.
    #[must_use]
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        match event {
            Event::Signs(current) => self.follow(current),
            Event::Obtained(current) => {
                let is_same =
                    |before: &Current| current.is_some_and(|now| now.id == before.id && !now.has_successor);
                // Whatever became of it, it is not there: nobody is asked again and again.
                let is_lost = self.is_asked && self.current.as_ref().is_some_and(is_same);
                self.is_asked = false;
                self.failures = 0;
                self.retry_at = is_lost.then(|| now + MIN_RETRY);
                self.follow(current);
            }
            Event::Failed if self.is_asked => {
                self.is_asked = false;
                self.failures = self.failures.saturating_add(1);
                self.retry_at = Some(now + self.retry_in(now));
            }
            Event::Deferred if self.is_asked => {
                self.is_asked = false;
                self.retry_at = Some(now + DEFERRAL);
            }
            Event::Paused(until) => self.paused_until = until,
            Event::Failed | Event::Deferred | Event::Tick => {}
        }
        self.act(now)
    }

    /// When [`Event::Tick`] is needed at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let risk = self.current.filter(|current| !self.is_at_risk && !current.has_successor);
        let risk = risk.map(|current| current.at_risk());
        [self.next(), risk].into_iter().flatten().min()
    }

    /// When the upstream is asked next, if nothing else happens before.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let current = self.current.filter(|_| !self.is_asked)?;
        if current.has_successor {
            return None;
        }
        [Some(current.due()), self.retry_at, self.paused_until].into_iter().flatten().max()
    }

    /// What signs now, if it is of this upstream.
    #[must_use]
    pub fn current(&self) -> Option<Current> {
        self.current
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the authority has passed 70 % of its life without a successor.
    #[must_use]
    pub fn is_at_risk(&self) -> bool {
        self.is_at_risk
    }

    fn follow(&mut self, current: Option<Current>) {
        if current.map(|current| current.id) != self.current.map(|current| current.id) {
            self.is_at_risk = false;
            self.failures = 0;
            self.retry_at = None;
        }
        self.current = current;
    }

    /// 1, 2, 4, 8, 15 minutes, never more than a tenth of what is left while something is, never less than a second.
    fn retry_in(&self, now: Timestamp) -> Duration {
        let doubled = (MIN_RETRY * (1 << self.failures.saturating_sub(1).min(8))).min(MAX_RETRY);
        match self.current.map(|current| current.until.since(now)) {
            Some(left) if !left.is_zero() => doubled.min(left / 10).max(Duration::from_secs(1)),
            _ => doubled,
        }
    }

    fn act(&mut self, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        let is_late = self.current.is_some_and(|current| current.at_risk() <= now && !current.has_successor);
        if is_late && !self.is_at_risk {
            self.is_at_risk = true;
            actions.push(Action::AtRisk);
        }
        if self.next().is_some_and(|at| at <= now) {
            self.is_asked = true;
            actions.push(Action::Obtain);
        }
        actions
    }
}

#[cfg(test)]
mod tests;
