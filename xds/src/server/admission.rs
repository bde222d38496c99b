//! How many new streams are let in at a time (R11, PURE): a fleet that comes back at once is taken in at a pace, so
//! that the streams which are open already are served on.

use std::time::Duration;

use spiffe::Timestamp;

use crate::Limits;

/// What becomes of a new stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It is served after this wait, which is mostly none.
    After(Duration),
    /// There is no place in the queue; it may come again after this time.
    Refused(Duration),
}

/// A bucket of places that fills again at a steady rate, with a short queue behind it.
#[derive(Debug)]
pub(super) struct Admission {
    /// Between two places that fall free.
    interval: Duration,
    /// How long it takes to fill the whole bucket.
    full: Duration,
    queue: Duration,
    /// When the bucket will be full again.
    full_at: Timestamp,
}

impl Admission {
    /// An empty queue and a full bucket.
    pub(super) fn new(limits: &Limits) -> Self {
        let interval = Duration::from_secs(1) / limits.new_streams_per_second.max(1);
        Self {
            interval,
            full: interval * limits.new_streams_at_once,
            queue: limits.admission_queue,
            full_at: Timestamp::EPOCH,
        }
    }

    /// Takes a place at `now`, or finds none.
    pub(super) fn admit(&mut self, now: Timestamp) -> Admitted {
        let full_at = self.full_at.max(now);
        let missing = full_at.since(now) + self.interval;
        let wait = missing.saturating_sub(self.full);
        if wait > self.queue {
            return Admitted::Refused(wait);
        }
        self.full_at = full_at + self.interval;
        Admitted::After(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        let limits = Limits {
            new_streams_per_second: 100,
            new_streams_at_once: 5,
            admission_queue: Duration::from_millis(30),
            ..Limits::default()
        };
        Admission::new(&limits)
    }

    #[test]
    fn lets_a_burst_in_queues_a_few_and_refuses_the_rest() {
        let (mut admission, now) = (admission(), Timestamp::from_unix_secs(1));
        let millis = |wait| Admitted::After(Duration::from_millis(wait));
        let got: Vec<_> = (0..9).map(|_| admission.admit(now)).collect();
        let refused = Admitted::Refused(Duration::from_millis(40));
        assert_eq!(
            got,
            [
                millis(0),
                millis(0),
                millis(0),
                millis(0),
                millis(0),
                millis(10),
                millis(20),
                millis(30),
                refused
            ]
        );
    }

    #[test]
    fn places_fall_free_at_the_rate_and_never_pile_up() {
        let (mut admission, mut now) = (admission(), Timestamp::from_unix_secs(1));
        let mut let_in = 0;
        for _ in 0..1000 {
            now = now + Duration::from_millis(1);
            let_in += usize::from(admission.admit(now) == Admitted::After(Duration::ZERO));
            assert!(admission.full_at.since(now) <= admission.full + admission.queue);
        }
        assert!((5..=105).contains(&let_in), "{let_in} within a second");
        now = now + Duration::from_secs(3600);
        let burst = (0..9).filter(|_| admission.admit(now) == Admitted::After(Duration::ZERO)).count();
        assert_eq!(burst, 5, "an idle hour fills the bucket and no more");
    }
}
