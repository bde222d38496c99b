//! How a token is got and kept (PURE): logging in, renewal at two thirds of its life, once again when Vault no longer
//! knows it, and with pauses when that does not help. What is held is used until something better is in hand.
//!
//! ```text
//! Idle --due--> Unwrapping --> Entering --Entered--> Idle (held) --2/3--> Renewing --Renewed--> Idle
//!   ^             |               |                    |                     '--Failed--> Idle, sooner or later
//!   '---later-----'---------------'                    '--TokenRefused--> Entering, at once, but not again and again
//!                  '--Halted: somebody must bring other credentials
//! ```

use std::{fmt, time::Duration};

use certs::Timestamp;
use thiserror::Error;

/// How often the breadth of the token is looked at.
pub const BREADTH_EVERY: Duration = Duration::from_secs(3600);
/// How soon it is looked at again when that could not be found out.
pub const BREADTH_AGAIN: Duration = Duration::from_secs(60);
/// How soon when nothing is known at all: nobody may use the token meanwhile.
pub const BREADTH_SOON: Duration = Duration::from_secs(5);
/// A token that Vault stops knowing sooner than this after the last such time is replaced with a pause.
pub const CALM: Duration = Duration::from_secs(60);
/// The longest pause while Vault cannot be reached or cannot answer.
pub const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The shortest pause after Vault has refused the credentials: who tries faster is locked out.
pub const MIN_REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause after Vault has refused the credentials.
pub const MAX_REFUSED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// The same while nobody vouches for them: that may be an outage of whom Vault asks, and nobody is locked out for it.
const MAX_VOUCHED_PAUSE: Duration = Duration::from_secs(60);

/// A random part of one, drawn by the shell: spreads what would otherwise happen at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter(u32);

impl Jitter {
    /// Nothing of the whole.
    pub const NONE: Self = Self(0);
    /// Practically the whole.
    pub const FULL: Self = Self(u32::MAX);

    /// From 32 random bits.
    #[must_use]
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    fn of(self, whole: Duration) -> Duration {
        whole.mul_f64(f64::from(self.0) / f64::from(u32::MAX))
    }
}

/// What there is to enter with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Credentials that log in as often as is wanted.
    LogsIn,
    /// A wrapped secret id, which is unwrapped once; with what is in it, as above.
    Wrapped,
    /// A token, given by somebody: it can be renewed, and not replaced.
    Token,
}

/// What Vault says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// How long it lives from now; `None` if it does not end.
    pub ttl: Option<Duration>,
    /// Whether it can be renewed. Batch tokens cannot.
    pub is_renewable: bool,
    /// How often it may be used, if that is limited.
    pub uses: Option<u32>,
}

/// Why something did not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Vault cannot be reached, or cannot answer now; with the pause that it asked for.
    Transient(Option<Duration>),
    /// Vault does not know the token.
    InvalidToken,
    /// Vault forbids it, or refuses the credentials.
    Refused,
    /// Whom Vault asks about the credentials does not vouch for them, or cannot be asked.
    NotVouched,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time passed.
    Tick,
    /// The secret id was unwrapped.
    Unwrapped {
        /// How often it may be used, if that is limited.
        uses: Option<u32>,
        /// When it ends, if it does.
        ends: Option<Timestamp>,
    },
    /// It was not.
    UnwrapFailed {
        /// Why.
        failure: Failure,
        /// Spreads the next try.
        jitter: Jitter,
    },
    /// The login brought a token, or Vault said what the given one is.
    Entered {
        /// What it is.
        grant: Grant,
        /// Spreads its renewal.
        jitter: Jitter,
    },
    /// Neither.
    EnterFailed {
        /// Why.
        failure: Failure,
        /// Spreads the next try.
        jitter: Jitter,
    },
    /// The token was renewed.
    Renewed {
        /// What it is now.
        grant: Grant,
        /// Spreads the next renewal.
        jitter: Jitter,
    },
    /// It was not.
    RenewFailed {
        /// Why.
        failure: Failure,
        /// Spreads the next try.
        jitter: Jitter,
    },
    /// A call was refused because Vault does not know the token of this generation.
    TokenRefused {
        /// Which token that was.
        generation: u64,
        /// Spreads the next login, should there be a pause.
        jitter: Jitter,
    },
    /// Somebody wants to know now what the token may do: it was changed in Vault.
    BreadthWanted,
    /// What the token may do could not be found out.
    BreadthUnknown {
        /// Whether what was found out before stands. Else nobody may use the token, and it is looked at again sooner.
        stands: bool,
    },
    /// Somebody brought other credentials.
    CredentialsChanged(Means),
}

/// What somebody should hear of, although all works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Warning {
    /// The secret id is used up after so many logins.
    #[error("the secret id can be used {0} times only: logins fail after that")]
    SecretIdUses(u32),
    /// The secret id ends.
    #[error("the secret id ends at {0}: logins fail after that")]
    SecretIdEnds(Timestamp),
    /// The token is used up after so many calls.
    #[error("the token can be used {0} times only")]
    TokenUses(u32),
    /// The token was given, and cannot be renewed beyond this point.
    #[error("the token ends at {0}, and cannot be renewed beyond")]
    TokenEnds(Timestamp),
    /// The token may not ask what it is, so that its end is not known.
    #[error("the token may not look itself up: when it ends is not known")]
    TokenUnknown,
}

impl Warning {
    /// Whether it is about the secret id, and not about the token.
    #[must_use]
    pub fn is_about_secret_id(&self) -> bool {
        match self {
            Self::SecretIdUses(_) | Self::SecretIdEnds(_) => true,
            Self::TokenUses(_) | Self::TokenEnds(_) | Self::TokenUnknown => false,
        }
    }
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotLoggedIn {
    /// Not yet; it is being tried.
    #[error("no login has succeeded yet")]
    NotYet,
    /// Vault refuses the credentials; it is tried again.
    #[error("Vault refuses the credentials")]
    CredentialsRefused,
    /// Kubernetes does not vouch for the token, or Vault cannot ask it; it is tried again.
    #[error("Kubernetes does not vouch for the token, or Vault cannot ask it")]
    NotVouched,
    /// The wrapping token is spent: whoever opened it has the secret id.
    #[error("the wrapped secret id was opened before, or has ended")]
    WrappedSpent,
    /// The given token is not known to Vault any more.
    #[error("the token was revoked, or Vault never knew it")]
    TokenRevoked,
    /// The given token has ended.
    #[error("the token has ended")]
    TokenEnded,
}

impl NotLoggedIn {
    /// What to do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::NotYet => "wait, or look at what the last try says",
            Self::CredentialsRefused => "give other credentials, or correct the login's role in Vault",
            Self::NotVouched => {
                "nothing while its API server is away; else look whether Vault's reviewer may review tokens, whether the \
                 role binds this service account and audience, and whether the token's file is kept fresh"
            }
            Self::WrappedSpent => {
                "if it was not you who opened it, destroy that secret id in Vault; then give a new one"
            }
            Self::TokenRevoked | Self::TokenEnded => {
                "give another token; AppRole, a certificate, JWT or Kubernetes would have logged in again by itself"
            }
        }
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LogsIn => "login",
            Self::Wrapped => "wrapped secret id",
            Self::Token => "token",
        })
    }
}

/// What the shell must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Open the wrapped secret id.
    Unwrap,
    /// Log in, or ask what the given token is.
    Enter,
    /// Use the token that came with [`Event::Entered`], as this generation.
    Adopt {
        /// Its number.
        generation: u64,
    },
    /// Renew the token in use.
    Renew,
    /// Use the token no more: it has ended, or Vault does not know it.
    Forget,
    /// Look at what the token may do.
    CheckBreadth,
    /// Say it once.
    Warn(Warning),
    /// Say it: there is no token, or soon there is none. Said once until it has changed.
    Alarm(NotLoggedIn),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Idle {
        next: Option<Timestamp>,
    },
    Unwrapping,
    Entering,
    Renewing,
    /// Nothing is tried before somebody brings other credentials.
    Halted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    since: Timestamp,
    ends: Option<Timestamp>,
    /// How long it lived when it was new.
    full: Duration,
    is_renewable: bool,
}

/// One token over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    means: Means,
    work: Work,
    lease: Option<Lease>,
    generation: u64,
    failures: u32,
    last_refusal: Option<Timestamp>,
    /// Other credentials came while something was in flight, whose result is of no use any more.
    is_stale: bool,
    /// Other credentials came, and have brought nothing yet: the token in use was not got by them.
    is_untried: bool,
    alarm: Option<NotLoggedIn>,
    breadth_due: Option<Timestamp>,
}

impl Session {
    /// Begins without a token; the first [`Event::Tick`] is due at once.
    #[must_use]
    pub fn new(means: Means, now: Timestamp) -> Self {
        Self {
            means,
            work: Work::Idle { next: Some(now) },
            lease: None,
            generation: 0,
            failures: 0,
            last_refusal: None,
            is_stale: false,
            is_untried: false,
            alarm: None,
            breadth_due: None,
        }
    }

    /// Whether a token is in use.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lease.is_some()
    }

    /// The number of the last token that was taken into use.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When the token in use ends, if it does.
    #[must_use]
    pub fn ends(&self) -> Option<Timestamp> {
        self.lease.and_then(|lease| lease.ends)
    }

    /// Why there is no token, while there is none.
    #[must_use]
    pub fn reason(&self) -> Option<NotLoggedIn> {
        if self.is_held() { None } else { Some(self.alarm.unwrap_or(NotLoggedIn::NotYet)) }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let next = match self.work {
            Work::Idle { next } => next,
            Work::Unwrapping | Work::Entering | Work::Renewing | Work::Halted => None,
        };
        [next, self.ends(), self.breadth_due].into_iter().flatten().min()
    }

    /// Takes one event.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        let mut actions = Vec::new();
        if !matches!(event, Event::CredentialsChanged(_)) {
            self.expire(now, &mut actions);
        }
        match event {
            Event::Tick => {}
            Event::BreadthWanted => self.breadth_due = self.breadth_due.map(|_| now),
            Event::BreadthUnknown { stands } => {
                let pause = if stands { BREADTH_AGAIN } else { BREADTH_SOON };
                self.breadth_due = self.breadth_due.map(|due| due.min(now + pause));
            }
            Event::CredentialsChanged(means) => self.change(means, now),
            Event::TokenRefused { generation, jitter } => {
                if generation == self.generation && self.is_held() {
                    self.lose(now, jitter, &mut actions);
                }
            }
            Event::Unwrapped { .. } | Event::UnwrapFailed { .. } if self.work == Work::Unwrapping => {
                self.unwrapped(event, now, &mut actions);
            }
            Event::Entered { .. } | Event::EnterFailed { .. } if self.work == Work::Entering => {
                self.entered(event, now, &mut actions);
            }
            Event::Renewed { .. } | Event::RenewFailed { .. } if self.work == Work::Renewing => {
                self.renewed(event, now, &mut actions);
            }
            // Nobody asked for it.
            Event::Unwrapped { .. }
            | Event::UnwrapFailed { .. }
            | Event::Entered { .. }
            | Event::EnterFailed { .. }
            | Event::Renewed { .. }
            | Event::RenewFailed { .. } => {}
        }
        self.expire(now, &mut actions);
        self.due(now, &mut actions);
        actions
    }

    /// What is over is not used any more.
    fn expire(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.ends().is_none_or(|ends| now < ends) {
            return;
        }
        self.forget(actions);
        if let Work::Idle { .. } = self.work {
            if self.means == Means::Token && !self.is_untried {
                self.halt(NotLoggedIn::TokenEnded, actions);
            } else if self.failures == 0 {
                self.work = Work::Idle { next: Some(now) };
            }
        }
    }

    fn forget(&mut self, actions: &mut Vec<Action>) {
        if self.lease.take().is_some() {
            self.breadth_due = None;
            actions.push(Action::Forget);
        }
    }

    /// Vault does not know the token any more, as one of its nodes says. A given one is looked up once more: it is the
    /// only one.
    fn lose(&mut self, now: Timestamp, jitter: Jitter, actions: &mut Vec<Action>) {
        self.forget(actions);
        let was_calm = self.last_refusal.is_none_or(|at| now.since(at) >= CALM);
        self.last_refusal = Some(now);
        match self.work {
            Work::Idle { .. } if was_calm => self.work = Work::Idle { next: Some(now) },
            Work::Idle { .. } => {
                self.work = Work::Idle { next: Some(now + (MAX_PAUSE - jitter.of(MAX_PAUSE / 4))) };
            }
            // Whatever is in flight goes on from there.
            Work::Unwrapping | Work::Entering | Work::Renewing | Work::Halted => {}
        }
    }

    fn change(&mut self, means: Means, now: Timestamp) {
        self.means = means;
        self.is_untried = true;
        self.failures = 0;
        self.last_refusal = None;
        self.alarm = None;
        match self.work {
            Work::Idle { .. } | Work::Halted => self.work = Work::Idle { next: Some(now) },
            Work::Unwrapping | Work::Entering | Work::Renewing => self.is_stale = true,
        }
        if let Some(lease) = &mut self.lease {
            // It is not renewed any more, but replaced.
            lease.is_renewable = false;
        }
    }

    fn unwrapped(&mut self, event: Event, now: Timestamp, actions: &mut Vec<Action>) {
        self.work = Work::Idle { next: Some(now) };
        if std::mem::take(&mut self.is_stale) {
            return;
        }
        match event {
            Event::Unwrapped { uses, ends } => {
                self.means = Means::LogsIn;
                actions.extend(uses.map(|uses| Action::Warn(Warning::SecretIdUses(uses))));
                actions.extend(ends.map(|ends| Action::Warn(Warning::SecretIdEnds(ends))));
            }
            Event::UnwrapFailed { failure: Failure::Transient(pause), jitter } => {
                self.later(now, pause, jitter);
            }
            _ => self.halt(NotLoggedIn::WrappedSpent, actions),
        }
    }

    fn entered(&mut self, event: Event, now: Timestamp, actions: &mut Vec<Action>) {
        self.work = Work::Idle { next: Some(now) };
        if std::mem::take(&mut self.is_stale) {
            return;
        }
        match event {
            Event::Entered { grant, jitter } => self.adopt(grant, now, jitter, actions),
            Event::EnterFailed { failure: Failure::Transient(pause), jitter } => {
                self.later(now, pause, jitter);
            }
            // Known, but without the right to look itself up.
            Event::EnterFailed { failure: Failure::Refused, jitter } if self.means == Means::Token => {
                self.adopt(Grant { ttl: None, is_renewable: false, uses: None }, now, jitter, actions);
                actions.push(Action::Warn(Warning::TokenUnknown));
            }
            Event::EnterFailed { .. } if self.means == Means::Token => {
                // One that was to replace another says nothing about that.
                if !self.is_untried {
                    self.forget(actions);
                }
                self.halt(NotLoggedIn::TokenRevoked, actions);
            }
            Event::EnterFailed { failure, jitter } => {
                let (reason, longest) = match failure {
                    Failure::NotVouched => (NotLoggedIn::NotVouched, MAX_VOUCHED_PAUSE),
                    Failure::Refused | Failure::InvalidToken | Failure::Transient(_) => {
                        (NotLoggedIn::CredentialsRefused, MAX_REFUSED_PAUSE)
                    }
                };
                self.say(reason, actions);
                let pause = self.pause(MIN_REFUSED_PAUSE, longest, jitter);
                self.work = Work::Idle { next: Some(now + pause) };
            }
            _ => {}
        }
    }

    fn adopt(&mut self, grant: Grant, now: Timestamp, jitter: Jitter, actions: &mut Vec<Action>) {
        self.generation += 1;
        self.is_untried = false;
        self.failures = 0;
        self.alarm = None;
        self.lease = Some(Lease {
            since: now,
            ends: grant.ttl.map(|ttl| now + ttl),
            full: grant.ttl.unwrap_or_default(),
            is_renewable: grant.is_renewable && grant.ttl.is_some(),
        });
        self.breadth_due = Some(now);
        actions.push(Action::Adopt { generation: self.generation });
        actions.extend(grant.uses.map(|uses| Action::Warn(Warning::TokenUses(uses))));
        self.plan(jitter, actions);
    }

    /// When the token in use is renewed or replaced: at two thirds of its life, a little sooner by jitter.
    fn plan(&mut self, jitter: Jitter, actions: &mut Vec<Action>) {
        let Some(lease) = self.lease else { return };
        let Some(ends) = lease.ends else {
            self.work = Work::Idle { next: None };
            return;
        };
        if self.means == Means::Token && !lease.is_renewable {
            actions.push(Action::Warn(Warning::TokenEnds(ends)));
            self.work = Work::Idle { next: None };
            return;
        }
        let ttl = ends.since(lease.since);
        let age = ttl.mul_f64(2.0 / 3.0).saturating_sub(jitter.of(ttl.mul_f64(0.05)));
        self.work = Work::Idle { next: Some(lease.since + age.max(Duration::from_secs(1))) };
    }

    fn renewed(&mut self, event: Event, now: Timestamp, actions: &mut Vec<Action>) {
        self.work = Work::Idle { next: Some(now) };
        if std::mem::take(&mut self.is_stale) || self.lease.is_none() {
            // It has ended or was lost meanwhile, or is to be replaced: the next step enters.
            return;
        }
        match event {
            Event::Renewed { grant, jitter } => {
                self.failures = 0;
                if let Some(lease) = &mut self.lease {
                    lease.since = now;
                    lease.ends = grant.ttl.map(|ttl| now + ttl);
                    // Shorter than it was: its longest life is near, and no renewal goes beyond.
                    let is_capped = grant.ttl.is_some_and(|ttl| ttl < lease.full.mul_f64(0.9));
                    lease.is_renewable = grant.is_renewable && !is_capped;
                }
                self.plan(jitter, actions);
            }
            Event::RenewFailed { failure: Failure::Transient(pause), jitter } => {
                self.later(now, pause, jitter);
            }
            Event::RenewFailed { failure: Failure::InvalidToken, jitter } => self.lose(now, jitter, actions),
            Event::RenewFailed { failure: Failure::Refused | Failure::NotVouched, jitter } => {
                if let Some(lease) = &mut self.lease {
                    lease.is_renewable = false;
                }
                if self.means == Means::Token {
                    self.plan(jitter, actions);
                }
            }
            _ => {}
        }
    }

    /// Begins what is due now, one thing at a time.
    fn due(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        if self.breadth_due.is_some_and(|due| due <= now) {
            self.breadth_due = Some(now + BREADTH_EVERY);
            actions.push(Action::CheckBreadth);
        }
        let Work::Idle { next: Some(next) } = self.work else { return };
        if next > now {
            return;
        }
        let is_renewable = self.lease.is_some_and(|lease| lease.is_renewable);
        let (work, action) = match self.means {
            _ if is_renewable => (Work::Renewing, Action::Renew),
            Means::Wrapped => (Work::Unwrapping, Action::Unwrap),
            Means::LogsIn | Means::Token => (Work::Entering, Action::Enter),
        };
        self.work = work;
        actions.push(action);
    }

    /// Vault cannot answer: 1, 2, 4 ... 30 seconds, or as long as it asks for.
    fn later(&mut self, now: Timestamp, asked: Option<Duration>, jitter: Jitter) {
        let pause = self.pause(Duration::from_secs(1), MAX_PAUSE, jitter);
        self.work =
            Work::Idle { next: Some(now + pause.max(asked.unwrap_or_default().min(MAX_REFUSED_PAUSE))) };
    }

    /// One more failure, and the pause after it: it doubles, and jitter takes off up to a quarter.
    fn pause(&mut self, first: Duration, longest: Duration, jitter: Jitter) -> Duration {
        let doubled = first.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(longest);
        self.failures = self.failures.saturating_add(1);
        doubled - jitter.of(doubled / 4)
    }

    fn halt(&mut self, reason: NotLoggedIn, actions: &mut Vec<Action>) {
        self.work = Work::Halted;
        self.say(reason, actions);
    }

    fn say(&mut self, reason: NotLoggedIn, actions: &mut Vec<Action>) {
        if self.alarm != Some(reason) {
            self.alarm = Some(reason);
            actions.push(Action::Alarm(reason));
        }
    }
}

#[cfg(test)]
mod tests;
