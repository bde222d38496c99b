//! Points in time and the clock port.
//!
//! Everything in the workspace that needs to know the time is handed a [`Timestamp`] or a [`Clock`];
//! only `server` owns a real one.

use std::{
    fmt,
    future::Future,
    ops::{Add, Sub},
    pin::Pin,
    time::Duration,
};

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};
use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);
    /// A point later than any that X.509 can express.
    pub const MAX: Self = Self(i64::MAX);

    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch, saturating.
    #[must_use]
    pub const fn from_unix_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn unix_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The same point with the fraction of a second cut off: X.509 validity knows whole seconds only
    /// (RFC 5280 4.1.2.5).
    #[must_use]
    pub const fn floor_secs(self) -> Self {
        Self::from_unix_secs(self.unix_secs())
    }

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Milliseconds from `earlier` to this, negative when this is before it.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads RFC 3339 text.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok().map(Self)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with milliseconds only where there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok());
        match text {
            Some(text) => f.write_str(&text),
            None => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the time comes from. `server` has the only real one; tests move theirs by hand.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Completes once [`Clock::now`] is at or past `at`.
    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Reads a duration as people write it: a number and one of `ms`, `s`, `m`, `h`, `d`, also in sequence
/// (`1h30m`). `None` for anything else, including an empty text.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: u64 = match &rest[..unit_len] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        millis = millis.checked_add(count.checked_mul(unit)?)?;
        rest = &rest[unit_len..];
    }
    Some(Duration::from_millis(millis))
}

/// Writes a duration with at most its two largest units, as [`parse_duration`] reads them.
#[must_use]
pub fn format_duration(length: Duration) -> String {
    let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let secs = millis / 1000;
    let parts = [(secs / 86_400, "d"), (secs / 3600 % 24, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    parts[first..]
        .iter()
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect()
}

#[cfg(any(test, feature = "testing"))]
pub use self::manual::ManualClock;

#[cfg(any(test, feature = "testing"))]
mod manual {
    use std::{
        sync::{Arc, Mutex, PoisonError},
        task::{Poll, Waker},
        time::Duration,
    };

    use super::{Clock, Future, Pin, Timestamp};

    /// A clock that stands still until a test moves it.
    #[derive(Clone, Debug)]
    pub struct ManualClock(Arc<Mutex<State>>);

    #[derive(Debug)]
    struct State {
        now: Timestamp,
        sleepers: Vec<(Timestamp, Waker)>,
    }

    impl ManualClock {
        /// A clock that shows `now`.
        #[must_use]
        pub fn new(now: Timestamp) -> Self {
            Self(Arc::new(Mutex::new(State { now, sleepers: Vec::new() })))
        }

        /// Moves the clock forward and wakes whoever slept until a point now past.
        pub fn advance(&self, by: Duration) {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.now = state.now + by;
            let now = state.now;
            state.sleepers.retain(|(at, waker)| {
                if *at <= now {
                    waker.wake_by_ref();
                }
                *at > now
            });
        }
    }

    impl Clock for ManualClock {
        fn now(&self) -> Timestamp {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).now
        }

        fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(std::future::poll_fn(move |context| {
                let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if state.now >= at {
                    return Poll::Ready(());
                }
                state.sleepers.push((at, context.waker().clone()));
                Poll::Pending
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_written() {
        for text in ["15s", "12h", "1d12h", "90ms", "30d", "1h30m"] {
            let length = parse_duration(text).unwrap();
            assert_eq!(format_duration(length), text);
        }
        for bad in ["", "5", "h", "1x", "-1s", "1h 5", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn timestamps_print_rfc3339_and_read_back() {
        let at = Timestamp::from_unix_millis(1_700_000_000_250);
        assert_eq!(at.to_string(), "2023-11-14T22:13:20.25Z");
        assert_eq!(Timestamp::parse_rfc3339(&at.to_string()), Some(at));
    }
}
