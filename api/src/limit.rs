//! How often one caller may call: a bucket of tokens per principal. Pure; the time is passed in.

use std::{collections::HashMap, hash::Hash, time::Duration};

use certs::Timestamp;

/// Requests per second that a principal may send for ever.
pub const RATE_PER_SECOND: u64 = 50;
/// Requests that a principal may send at once.
pub const BURST: u64 = 100;
/// The most principals that are remembered; past it, those whose bucket is full are forgotten.
pub const MAX_PRINCIPALS: usize = 10_000;

const THOUSANDTHS: u64 = 1000;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Thousandths of a request: a millisecond adds as many as the rate.
    level: u64,
    at: Timestamp,
}

impl Bucket {
    fn refill(&mut self, now: Timestamp, rate: u64, burst: u64) {
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.level = self.level.saturating_add(passed.saturating_mul(rate)).min(burst * THOUSANDTHS);
        self.at = self.at.max(now);
    }
}

/// The buckets of all principals.
#[derive(Debug)]
pub struct RateLimit<K> {
    buckets: HashMap<K, Bucket>,
    rate: u64,
    burst: u64,
}

impl<K> Default for RateLimit<K> {
    fn default() -> Self {
        Self::new(RATE_PER_SECOND, BURST)
    }
}

impl<K> RateLimit<K> {
    /// Buckets of `burst` requests that fill by `rate` (at least one) per second.
    #[must_use]
    pub fn new(rate: u64, burst: u64) -> Self {
        Self { buckets: HashMap::new(), rate: rate.max(1), burst }
    }
}

impl<K: Eq + Hash + Clone> RateLimit<K> {
    /// Takes one request out of the bucket of `principal`, or says how long to wait for one.
    ///
    /// # Errors
    /// When the bucket is empty, or when too many principals are active to remember one more.
    pub fn take(&mut self, principal: &K, now: Timestamp) -> Result<(), Duration> {
        if !self.buckets.contains_key(principal) && self.buckets.len() >= MAX_PRINCIPALS {
            self.forget_idle(now);
            if self.buckets.len() >= MAX_PRINCIPALS {
                return Err(Duration::from_secs(1));
            }
        }
        let full = Bucket { level: self.burst * THOUSANDTHS, at: now };
        let bucket = self.buckets.entry(principal.clone()).or_insert(full);
        bucket.refill(now, self.rate, self.burst);
        match bucket.level.checked_sub(THOUSANDTHS) {
            Some(rest) => {
                bucket.level = rest;
                Ok(())
            }
            None => Err(Duration::from_millis((THOUSANDTHS - bucket.level).div_ceil(self.rate))),
        }
    }

    fn forget_idle(&mut self, now: Timestamp) {
        let (rate, burst) = (self.rate, self.burst);
        self.buckets.retain(|_, bucket| {
            bucket.refill(now, rate, burst);
            bucket.level < burst * THOUSANDTHS
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_a_burst_pass_then_the_rate() {
        let mut limit = RateLimit::default();
        let mut now = Timestamp::EPOCH;
        for _ in 0..BURST {
            assert_eq!(limit.take(&"ann", now), Ok(()));
        }
        assert_eq!(limit.take(&"ann", now), Err(Duration::from_millis(20)));
        assert_eq!(limit.take(&"bob", now), Ok(()), "principals do not share a bucket");
        now = now + Duration::from_secs(1);
        let passed = (0..BURST).filter(|_| limit.take(&"ann", now).is_ok()).count();
        assert_eq!(passed as u64, RATE_PER_SECOND);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut limit = RateLimit::default();
        let now = Timestamp::from_unix_secs(100);
        (0..BURST).for_each(|_| limit.take(&1, now).unwrap());
        assert!(limit.take(&1, Timestamp::EPOCH).is_err());
        assert!(limit.take(&1, now).is_err());
    }

    #[test]
    fn remembers_a_bounded_number_of_principals() {
        let mut limit = RateLimit::default();
        for principal in 0..MAX_PRINCIPALS {
            limit.take(&principal, Timestamp::EPOCH).unwrap();
        }
        assert!(limit.take(&MAX_PRINCIPALS, Timestamp::EPOCH).is_err());
        assert!(limit.take(&MAX_PRINCIPALS, Timestamp::from_unix_secs(10)).is_ok());
        assert_eq!(limit.buckets.len(), 1);
    }
}
