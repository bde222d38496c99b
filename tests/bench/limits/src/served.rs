//! A control plane as a process of its own, with doors and disk, and what it costs the processor.

use std::{fs, time::Duration};

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
        let process = self.world.sandbox().control_plane().context("the control plane does not run")?;
        let text = fs::read_to_string(format!("/proc/{process}/stat")).context("no /proc")?;
        // Behind the name, which may hold anything, stand the 3rd field and all that follow; user and system time are
        // the 14th and the 15th.
        let (_, fields) = text.rsplit_once(") ").context("a line of /proc without a name")?;
        let ticks: Vec<u32> = fields.split(' ').skip(11).take(2).filter_map(|one| one.parse().ok()).collect();
        ensure!(ticks.len() == 2, "a line of /proc without times");
        Ok(TICK * ticks.iter().sum())
    }

    /// The same in nanoseconds, of the threads that are alive: for moments that are shorter than many hundredths.
    pub(crate) fn used_finely(&self) -> anyhow::Result<Duration> {
        let process = self.world.sandbox().control_plane().context("the control plane does not run")?;
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{process}/task")).context("no /proc")? {
            // A thread may end while it is looked at.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            let first = text.split(' ').next().and_then(|one| one.parse::<u64>().ok());
            nanoseconds += first.context("a line of /proc without a time")?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// A metric of the process now.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.world.metric(name).await
    }
}

/// For the clients: one thread, so that a server has a processor to itself.
pub(crate) fn runtime() -> anyhow::Result<runtime::Runtime> {
    Ok(runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}
