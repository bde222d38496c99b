//! Processor time: of this thread, and of this process.

use std::{ops::Sub, time::Duration};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A reading of a processor clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading(Duration);

impl Sub for Reading {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What this thread has used so far.
pub(crate) fn thread() -> Reading {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(tv_sec.unsigned_abs());
    Reading(seconds + Duration::from_nanos(tv_nsec.unsigned_abs()))
}

/// What this process has used so far, in all its threads.
pub(crate) fn process() -> Reading {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = Duration::from_secs(tv_sec.unsigned_abs());
    Reading(seconds + Duration::from_nanos(tv_nsec.unsigned_abs()))
}

/// What `work` costs this thread, in microseconds for each of `count`.
pub(crate) fn micros_each(count: usize, work: impl FnOnce()) -> f64 {
    let start = thread();
    work();
    (thread() - start).as_secs_f64() * 1e6 / count as f64
}
