//! Starting, being ready, and ending.
//!
//! Readiness is a guard: each part holds one and drops it when it has served its first truth. The first
//! unexpected end of a part ends the process.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Which parts are not ready yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// A guard for `part`, which is not ready until the guard is dropped.
    pub(crate) fn guard(&self, part: &'static str) -> Guard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(part);
        Guard { readiness: self.clone(), part }
    }

    /// The parts that are not ready.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Keeps one part not ready.
#[must_use]
pub(crate) struct Guard {
    readiness: Readiness,
    part: &'static str,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.part);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({})", self.part)
    }
}

/// The parts that run, each by name.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    running: Vec<&'static str>,
    failed: Option<anyhow::Error>,
}

impl Parts {
    /// Starts a part.
    pub(crate) fn spawn<E>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: Into<anyhow::Error> + Send + 'static,
    {
        self.running.push(name);
        self.tasks.spawn(async move { (name, part.await.map_err(Into::into)) });
    }

    /// Waits until `shutdown`, or until a part ends by itself, which is an error whatever it answered.
    pub(crate) async fn watch(&mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = self.tasks.join_next() => {
                let (name, result) = ended.context("a part of the server panicked")?;
                self.running.retain(|other| *other != name);
                result.with_context(|| format!("{name} failed"))?;
                if shutdown.is_cancelled() { Ok(()) } else { Err(anyhow!("{name} ended although nobody asked it to")) }
            }
        }
    }

    /// Waits until the parts with these names have ended.
    pub(crate) async fn finish_named(&mut self, names: &[&'static str]) {
        while self.running.iter().any(|running| names.contains(running)) {
            let Some(ended) = self.tasks.join_next().await else { return };
            match ended {
                Ok((name, result)) => {
                    self.running.retain(|other| *other != name);
                    if let Err(error) = result {
                        self.failed.get_or_insert(error.context(format!("{name} failed while ending")));
                    }
                }
                Err(error) => {
                    self.failed.get_or_insert(anyhow!(error));
                    return;
                }
            }
        }
    }

    /// Lets every part end.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        let mut first = self.failed.take().map_or(Ok(()), Err);
        while let Some(ended) = self.tasks.join_next().await {
            let result = match ended {
                Ok((name, result)) => result.with_context(|| format!("{name} failed while ending")),
                Err(error) => Err(anyhow!(error)),
            };
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}

/// Cancels `shutdown` at SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// When the process may not listen to signals.
pub(crate) async fn watch_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("terminating: draining"),
        _ = interrupt.recv() => tracing::info!("interrupted: draining"),
        _ = hangup.recv() => tracing::info!("terminal is gone: draining"),
        () = shutdown.cancelled() => {}
    }
    shutdown.cancel();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ended_while_watched_is_not_waited_for() {
        let shutdown = CancellationToken::new();
        let mut parts = Parts::default();
        shutdown.cancel();
        for name in ["door", "other door"] {
            parts.spawn(name, async { anyhow::Ok(()) });
        }
        let stop = CancellationToken::new();
        let until = stop.clone();
        parts.spawn("inner", async move {
            until.cancelled().await;
            anyhow::Ok(())
        });
        // Whichever of shutdown and an ended part the watch sees first, the end is found.
        tokio::task::yield_now().await;
        parts.watch(&shutdown).await.unwrap();
        parts.watch(&shutdown).await.unwrap();
        parts.finish_named(&["door", "other door"]).await;
        stop.cancel();
        parts.finish().await.unwrap();
    }

    #[test]
    fn readiness_names_what_is_missing() {
        let readiness = Readiness::default();
        let guard = readiness.guard("own certificate");
        assert_eq!(readiness.missing(), ["own certificate"]);
        drop(guard);
        assert!(readiness.missing().is_empty());
    }
}
