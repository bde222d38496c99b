//! When a leaf is due (PURE). Life is counted from issue and not from the backdated notBefore (DESIGN section 4).

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use certs::Timestamp;

/// A renewal is never due sooner than this after issue.
pub const MIN_AGE: Duration = Duration::from_secs(1);
/// A retry never follows a failure sooner than this.
pub const MIN_RETRY: Duration = Duration::from_millis(250);
/// The longest pause between retries while a valid leaf is in hand.
pub const MAX_RETRY: Duration = Duration::from_secs(15 * 60);
/// The longest pause between retries while there is none: a proxy waits.
pub const MAX_RETRY_WITHOUT_LEAF: Duration = Duration::from_secs(30);

/// The golden section of 2^32: multiples of no other number are spread as evenly (Knuth, TAOCP 3, 6.4).
const GOLDEN_SECTION: u32 = 0x9E37_79B9;

/// A part of one, drawn by the shell: spreads what would otherwise happen at once.
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

    /// Draws one.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Draws one of a sequence that begins anywhere. However many are drawn one after another, they lie evenly between
    /// nothing and the whole (each is a golden section further than the one before), where as many at random would come
    /// in clusters: a thousand leaves that begin together are renewed without a rush.
    #[must_use]
    pub fn spread() -> Self {
        static DRAWN: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(rand::random()));
        Self(DRAWN.fetch_add(GOLDEN_SECTION, Ordering::Relaxed))
    }

    /// This part of `whole`.
    #[must_use]
    pub fn of(self, whole: Duration) -> Duration {
        whole.mul_f64(f64::from(self.0) / f64::from(u32::MAX))
    }
}

/// From when to when a leaf lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it was issued.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

impl Life {
    /// How long it is in all.
    #[must_use]
    pub fn length(self) -> Duration {
        self.expires.since(self.issued)
    }

    /// How much of it is left at `now`.
    #[must_use]
    pub fn remaining(self, now: Timestamp) -> Duration {
        self.expires.since(now)
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(self, now: Timestamp) -> bool {
        now >= self.expires
    }

    /// When to renew: at 40 % of life and up to 50 %, by jitter; never within [`MIN_AGE`] of issue.
    #[must_use]
    pub fn renew_at(self, jitter: Jitter) -> Timestamp {
        let age = self.length().mul_f64(0.4) + jitter.of(self.length().mul_f64(0.1));
        self.issued + age.max(MIN_AGE)
    }

    /// When an unrenewed leaf becomes somebody's problem: at 70 % of life.
    #[must_use]
    pub fn at_risk_at(self) -> Timestamp {
        self.issued + self.length().mul_f64(0.7)
    }
}

/// How long to wait after the `failures`-th failure in a row: 1, 2, 4, 8, 15 minutes, never more than a tenth of
/// the `remaining` life; without a leaf 1, 2, 4 ... 30 seconds. Jitter takes off up to a quarter.
#[must_use]
pub fn retry_in(failures: u32, remaining: Option<Duration>, jitter: Jitter) -> Duration {
    let doubled = |first: u64| Duration::from_secs(first << failures.saturating_sub(1).min(10));
    let pause = match remaining {
        Some(left) => doubled(60).min(MAX_RETRY).min(left / 10),
        None => doubled(1).min(MAX_RETRY_WITHOUT_LEAF),
    };
    (pause - jitter.of(pause / 4)).max(MIN_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn life(secs: u64) -> Life {
        let issued = Timestamp::from_unix_secs(1_000_000);
        Life { issued, expires: issued + Duration::from_secs(secs) }
    }

    #[test]
    fn renews_between_40_and_50_percent_of_life() {
        let check = |secs: u64, jitter, expected: Duration| {
            let life = life(secs);
            assert_eq!(life.renew_at(jitter).since(life.issued), expected, "{secs} s");
        };
        check(12 * HOUR, Jitter::NONE, Duration::from_secs(17_280));
        check(12 * HOUR, Jitter::FULL, Duration::from_secs(21_600));
        check(12, Jitter::NONE, Duration::from_millis(4800));
        check(15, Jitter::FULL, Duration::from_millis(7500));
        check(2, Jitter::NONE, MIN_AGE);
        check(0, Jitter::FULL, MIN_AGE);
    }

    #[test]
    fn those_that_are_drawn_together_lie_evenly() {
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            tenths[(Jitter::spread().of(Duration::from_secs(10)).as_secs() as usize).min(9)] += 1;
        }
        // Others may draw in between, in other tests of this process.
        assert!(tenths.iter().all(|count| (90..=110).contains(count)), "{tenths:?}");
    }

    #[test]
    fn is_at_risk_from_70_percent_on() {
        assert_eq!(life(100).at_risk_at().since(life(100).issued), Duration::from_secs(70));
    }

    #[test]
    fn retries_back_off_and_shrink_with_what_is_left() {
        let check = |failures, remaining: Option<u64>, expected_ms: u64| {
            let pause = retry_in(failures, remaining.map(Duration::from_secs), Jitter::NONE);
            assert_eq!(pause, Duration::from_millis(expected_ms), "{failures} {remaining:?}");
        };
        for (failures, minutes) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 15), (6, 15), (u32::MAX, 15)] {
            check(failures, Some(6 * HOUR), minutes * 60_000);
        }
        check(1, Some(300), 30_000);
        check(1, Some(7), 700);
        check(9, Some(0), 250);
        for (failures, secs) in [(1, 1), (2, 2), (5, 16), (6, 30), (40, 30)] {
            check(failures, None, secs * 1000);
        }
    }

    #[test]
    fn jitter_never_lengthens_a_retry() {
        for failures in 1..9 {
            for left in [1, 10, 600, 50_000] {
                let left = Some(Duration::from_secs(left));
                assert!(retry_in(failures, left, Jitter::FULL) <= retry_in(failures, left, Jitter::NONE));
            }
        }
    }
}
