//! Whether the time can be believed (PURE): the system's clock is held against the time since the machine started,
//! which nobody sets, and, when the server starts, against the newest record of the store.
//!
//! A clock that is wrong mints certificates that live too long or began too early, and revives those that have
//! ended; one that stands still or goes back also holds up whatever counts time. Off by more than [`ALARM`], it raises
//! an alarm, and everything goes on by the time that it should be; past [`LIMIT`] nothing is signed. It heals by
//! itself.
//!
//! ```text
//!               off by more than 2 s            off by more than 30 s
//!   Good <-------------------------> Drifting -----------------------+
//!    |                                   |                           v
//!    +-----------------------------------+-------------------> Stopped (Stepped)
//!    |  at the start: more than 30 s before the newest record        |  back within 30 s
//!    +-------> Stopped (Behind) --past the newest record--> Good     +-----------------> Good, Drifting
//! ```

use std::{fmt, time::Duration};

use audit::{Action as Audited, AuditRow};
use certs::{Profile, Timestamp, format_duration};

/// Off by more than this, somebody should look (security reference 5.5).
pub const ALARM: Duration = Duration::from_secs(2);
/// Off by more than this, nothing is signed (security reference 5.5).
pub const LIMIT: Duration = Duration::from_secs(30);

/// Whether one certificate of a server, asked for with `lifetime`, can be good by the time to go by and by a clock that is
/// `behind`: half of that life at least is left, and it lives for no longer than any may.
#[must_use]
pub fn is_bridged(behind: Duration, lifetime: Duration) -> bool {
    behind + lifetime / 2 <= Profile::Server.max_lifetime()
}

/// What two clocks say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The system's clock, which people and programs set.
    pub wall: Timestamp,
    /// The time since the machine started, suspension included, which nobody sets.
    pub boot: Duration,
}

/// What the machine hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Time went on.
    Tick,
    /// The store holds a record of this time.
    Recorded(Timestamp),
}

/// What became different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The clock is off by more than [`ALARM`].
    Alarm,
    /// It is right again.
    Calm,
    /// Signing stops.
    Stop,
    /// Signing goes on.
    Resume,
}

/// Why nothing is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The clock was set, or stood still, while the server ran.
    Stepped,
    /// The server started with a clock that is behind what is on record.
    Behind {
        /// The newest record.
        newest: Timestamp,
    },
}

/// How far the clock is to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// It is right.
    #[default]
    Good,
    /// It is off, and not by so much that signing must stop: certificates are dated by the time that it should be.
    Drifting,
    /// Nothing is signed.
    Stopped {
        /// Why.
        why: Why,
        /// Since when, by the time that it should have been.
        since: Timestamp,
    },
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Timekeeping {
    /// A moment at which the clock is taken to have been right.
    anchor: Sample,
    state: State,
}

impl Timekeeping {
    /// Takes the clock to be right as it is.
    #[must_use]
    pub fn begin(now: Sample) -> Self {
        Self { anchor: now, state: State::Good }
    }

    /// Hears `event` while the clocks say `now`.
    pub fn step(&mut self, event: Event, now: Sample) -> Vec<Action> {
        let off = self.skew_millis(now).unsigned_abs();
        let within = |bound: Duration| u128::from(off) <= bound.as_millis();
        let (next, action) = match (self.state, event) {
            (State::Good | State::Drifting, Event::Recorded(newest)) if newest > now.wall + LIMIT => {
                self.anchor = Sample { wall: newest, boot: now.boot };
                (State::Stopped { why: Why::Behind { newest }, since: newest }, Action::Stop)
            }
            (State::Stopped { why: Why::Behind { newest }, .. }, _)
                if now.wall >= newest || within(LIMIT) =>
            {
                // What was said since the start was a guess.
                self.anchor = now;
                (State::Good, Action::Resume)
            }
            (State::Stopped { why: Why::Stepped, .. }, _) if within(ALARM) => (State::Good, Action::Resume),
            (State::Stopped { why: Why::Stepped, .. }, _) if within(LIMIT) => {
                (State::Drifting, Action::Resume)
            }
            (State::Good | State::Drifting, _) if !within(LIMIT) => {
                (State::Stopped { why: Why::Stepped, since: self.should_be(now.boot) }, Action::Stop)
            }
            (State::Good, _) if !within(ALARM) => (State::Drifting, Action::Alarm),
            (State::Drifting, _) if within(ALARM) => (State::Good, Action::Calm),
            (State::Good | State::Drifting | State::Stopped { .. }, _) => return Vec::new(),
        };
        self.state = next;
        vec![action]
    }

    /// The time to go by: the system's clock, or, while it is off by more than [`ALARM`], what it should say. So time
    /// never stands still, and is never more than that off what it was taken for at the start.
    #[must_use]
    pub fn time(&self, now: Sample) -> Timestamp {
        match self.state {
            State::Good => now.wall,
            State::Drifting | State::Stopped { .. } => self.should_be(now.boot),
        }
    }

    /// How it stands.
    #[must_use]
    pub fn reading(&self, now: Sample) -> Reading {
        Reading { state: self.state, skew_millis: self.skew_millis(now) }
    }

    fn should_be(&self, boot: Duration) -> Timestamp {
        self.anchor.wall + boot.saturating_sub(self.anchor.boot)
    }

    fn skew_millis(&self, now: Sample) -> i64 {
        now.wall.millis_since(self.should_be(now.boot))
    }
}

/// How the clock stands, for whoever must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// How far it is to be believed.
    pub state: State,
    /// How many milliseconds it is ahead of what it should say; negative when it is behind.
    pub skew_millis: i64,
}

impl Reading {
    /// Whether nothing is signed.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Stopped { .. })
    }

    /// By how much the system's clock is behind, while it is not believed.
    #[must_use]
    pub fn behind(&self) -> Option<Duration> {
        let is_behind = self.is_stopped() && self.skew_millis < 0;
        is_behind.then(|| Duration::from_millis(self.skew_millis.unsigned_abs()))
    }

    /// Why nothing is signed and what to do about it, in words; `None` while signing is allowed.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.is_stopped().then(|| self.to_string())
    }

    /// The word for the state.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.state {
            State::Good => "good",
            State::Drifting => "drifting",
            State::Stopped { .. } => "stopped",
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let off = format_duration(Duration::from_millis(self.skew_millis.unsigned_abs()));
        let side = if self.skew_millis < 0 { "behind" } else { "ahead of" };
        match self.state {
            State::Good => f.write_str("the system's clock is right"),
            State::Drifting => write!(
                f,
                "the system's clock is {off} {side} what it should say by the time since the machine started: set it \
                 right (NTP); if it is right now, restart the server"
            ),
            State::Stopped { why: Why::Stepped, .. } => write!(
                f,
                "the system's clock is {off} {side} what it should say by the time since the machine started, so \
                 nothing is signed: set it right (NTP) and signing goes on by itself; if it is right now and was \
                 wrong before, restart the server"
            ),
            State::Stopped { why: Why::Behind { newest }, .. } => write!(
                f,
                "the system's clock is behind the newest record of the store ({newest}), so nothing is signed: set \
                 it right (NTP) and signing goes on by itself; if the clock is right and the record is wrong, \
                 restart with credence serve --accept-clock"
            ),
        }
    }
}

/// The newest time in `rows`, the end of an audit log with the last row first. Rows from before the clock was
/// believed anew do not count: their times are those of a clock that was wrong.
#[must_use]
pub fn newest(rows: &[AuditRow]) -> Option<Timestamp> {
    let begins_anew =
        |row: &AuditRow| matches!(row.event.action, Audited::ClockResume | Audited::ClockAccept);
    let count = rows.iter().position(begins_anew).map_or(rows.len(), |last| last + 1);
    rows[..count].iter().map(|row| row.event.at).max()
}

#[cfg(test)]
mod tests;
