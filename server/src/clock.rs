//! The real clocks: the only place that asks the system for the time.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ca::clock::{Event, Reading, Sample, Timekeeping};
use certs::{Clock, Timestamp};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// However long somebody sleeps, the clock is looked at again after this: it may have been set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Two clocks are read at one moment if no more passes between the readings of one of them.
const ONE_MOMENT: Duration = Duration::from_millis(20);

/// The system clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else is handed")]
        let now = SystemTime::now();
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_unix_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(sleep_until(self, at))
    }
}

/// The clock may be set while we sleep: look again now and then, and never wake early.
async fn sleep_until(clock: &dyn Clock, at: Timestamp) {
    loop {
        let left = at.since(clock.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// The time since the machine started, suspension included. Asked by a system call of our own and not through the C
/// library, so that what is put in front of that (libfaketime) does not move it.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let secs = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0));
    secs + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// Both clocks at one moment: if we were not let run in between, they are read again.
fn sample() -> Sample {
    let mut boot = since_boot();
    for _ in 0..8 {
        let wall = SystemClock.now();
        let after = since_boot();
        if after.saturating_sub(boot) <= ONE_MOMENT {
            return Sample { wall, boot: after };
        }
        boot = after;
    }
    Sample { wall: SystemClock.now(), boot: since_boot() }
}

/// The system's clock as long as it can be believed, and what it should say while it cannot ([`ca::clock`]).
pub(crate) struct TrustedClock {
    machine: Mutex<Timekeeping>,
    reading: watch::Sender<Reading>,
}

impl TrustedClock {
    /// Takes the system's clock to be right as it is.
    pub(crate) fn begin() -> Self {
        Self { machine: Mutex::new(Timekeeping::begin(sample())), reading: watch::Sender::default() }
    }

    /// How the clock stands: whether anything may be signed is up to date with each look at the time, how far it is
    /// off with each [`TrustedClock::tick`].
    pub(crate) fn reading(&self) -> watch::Receiver<Reading> {
        self.reading.subscribe()
    }

    /// Takes note of a record of this time.
    pub(crate) fn recorded(&self, newest: Timestamp) {
        self.hear(Event::Recorded(newest), true);
    }

    /// Compares the clocks.
    pub(crate) fn tick(&self) {
        self.hear(Event::Tick, true);
    }

    fn hear(&self, event: Event, tells: bool) -> Timestamp {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        // Inside, so that nobody's older look comes after a newer one.
        let now = sample();
        let changed = !machine.step(event, now).is_empty();
        if changed || tells {
            self.reading.send_replace(machine.reading(now));
        }
        machine.time(now)
    }
}

impl fmt::Debug for TrustedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustedClock({:?})", self.reading.borrow())
    }
}

impl Clock for TrustedClock {
    fn now(&self) -> Timestamp {
        self.hear(Event::Tick, false)
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(sleep_until(self, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_on_together() {
        let clock = TrustedClock::begin();
        let (wall, boot) = (SystemClock.now(), since_boot());
        while since_boot() < boot + Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        let now = clock.now();
        assert!(now > wall && now <= SystemClock.now());
        clock.tick();
        let reading = *clock.reading().borrow();
        assert!(reading.stopped().is_none() && reading.skew_millis.abs() < 1000, "{reading:?}");
    }

    #[test]
    fn behind_what_is_on_record_it_says_so_at_once() {
        let clock = TrustedClock::begin();
        let newest = SystemClock.now() + Duration::from_secs(3600);
        clock.recorded(newest);
        assert!(clock.reading().borrow().stopped().is_some());
        assert!(clock.now() >= newest);
    }
}
