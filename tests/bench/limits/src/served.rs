//! A control plane as a process of its own, with doors and disk, and what it costs the processor.

use std::{collections::BTreeMap, ffi::OsString, fs, time::Duration};

use anyhow::{Context, ensure};
use kit::{TestWorld, WorldOptions};
use tokio::runtime;

/// Hundredths of a second: the unit in which Linux counts a process's time for others (proc(5), `USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

pub(crate) struct Served {
    pub(crate) world: TestWorld,
}

impl Served {
    /// One of its own, in a temporary folder: `TMPDIR` must be on a disk for its commits to cost what they do.
    pub(crate) async fn boot(name: &'static str) -> Self {
        Self::boot_with(name, WorldOptions::default()).await
    }

    /// The same, with another configuration.
    pub(crate) async fn boot_with(name: &'static str, options: WorldOptions) -> Self {
        Self { world: TestWorld::boot(name, options).await }
    }

    /// The processor time that the process has used so far, in all its threads, those that have ended included.
    pub(crate) fn used(&self) -> anyhow::Result<Duration> {
        used_by(self.world.sandbox().control_plane().context("the control plane does not run")?)
    }

    /// The same in nanoseconds, for each thread that is alive: for moments that are shorter than many hundredths.
    pub(crate) fn threads(&self) -> anyhow::Result<Threads> {
        let process = self.world.sandbox().control_plane().context("the control plane does not run")?;
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{process}/task")).context("no /proc")? {
            let thread = thread?;
            // It may end while it is looked at.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let first = text.split(' ').next().and_then(|one| one.parse::<u64>().ok());
            let nanoseconds = first.context("a line of /proc without a time")?;
            threads.insert(thread.file_name(), Duration::from_nanos(nanoseconds));
        }
        Ok(Threads(threads))
    }

    /// A metric of the process now.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.world.metric(name).await
    }
}

/// The processor time that a process has used so far, in all its threads, those that have ended included.
pub(crate) fn used_by(process: u32) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).context("no /proc")?;
    // Behind the name, which may hold anything, stand the 3rd field and all that follow; user and system time are the
    // 14th and the 15th.
    let (_, fields) = text.rsplit_once(") ").context("a line of /proc without a name")?;
    let ticks: Vec<u32> = fields.split(' ').skip(11).take(2).filter_map(|one| one.parse().ok()).collect();
    ensure!(ticks.len() == 2, "a line of /proc without times");
    Ok(TICK * ticks.iter().sum())
}

/// The processor time of each thread.
#[derive(Debug, Default)]
pub(crate) struct Threads(BTreeMap<OsString, Duration>);

impl Threads {
    /// What was used since `before`. Of a thread that has ended since, its last moments are lost.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let grown = |(thread, now): (&OsString, &Duration)| {
            now.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        self.0.iter().map(grown).sum()
    }
}

/// For the clients: one thread, so that a server has a processor to itself.
pub(crate) fn runtime() -> anyhow::Result<runtime::Runtime> {
    Ok(runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_ends_takes_nothing_back() {
        let threads = |times: &[(&str, u64)]| {
            Threads(times.iter().map(|(id, ms)| ((*id).into(), Duration::from_millis(*ms))).collect())
        };
        let before = threads(&[("1", 100), ("2", 5000)]);
        let after = threads(&[("1", 130), ("3", 7)]);
        assert_eq!(after.since(&before), Duration::from_millis(37));
        assert_eq!(before.since(&Threads::default()), Duration::from_millis(5100));
    }
}
