//! Takes note of refusals without ever making the one who refuses wait, and writes them as few rows.

use std::sync::Arc;

use audit::{AuditLog, CounterEvent, Event, RefusalCounter, Refusals};
use certs::Clock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many refusals may wait to be counted; beyond that they are only logged.
const WAITING: usize = 4_096;

/// The way in.
#[derive(Debug, Clone)]
pub(crate) struct RefusalSink(mpsc::Sender<Event>);

impl Refusals for RefusalSink {
    fn refuse(&self, event: Event) {
        if let Err(lost) = self.0.try_send(event) {
            let event = lost.into_inner();
            tracing::warn!(actor = %event.actor, object = event.object, reason = event.reason, "refusal is not in audit");
        }
    }
}

/// Counts refusals and writes them.
pub(crate) struct RefusalWriter {
    events: mpsc::Receiver<Event>,
    log: Arc<dyn AuditLog>,
    clock: Arc<dyn Clock>,
}

impl RefusalWriter {
    /// A writer and the way in to it.
    pub(crate) fn new(log: Arc<dyn AuditLog>, clock: Arc<dyn Clock>) -> (RefusalSink, Self) {
        let (sender, events) = mpsc::channel(WAITING);
        (RefusalSink(sender), Self { events, log, clock })
    }

    /// Runs until `shutdown`, and then writes what was counted.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut counter = RefusalCounter::new();
        loop {
            let deadline = counter.deadline();
            let rows = tokio::select! {
                () = shutdown.cancelled() => break,
                event = self.events.recv() => match event {
                    Some(event) => counter.step(CounterEvent::Refused(event), self.clock.now()),
                    None => break,
                },
                () = async {
                    match deadline {
                        Some(at) => self.clock.sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => counter.step(CounterEvent::Tick, self.clock.now()),
            };
            self.write(rows).await;
        }
        while let Ok(event) = self.events.try_recv() {
            let rows = counter.step(CounterEvent::Refused(event), self.clock.now());
            self.write(rows).await;
        }
        self.write(counter.finish()).await;
        Ok(())
    }

    async fn write(&self, rows: Vec<Event>) {
        if rows.is_empty() {
            return;
        }
        if let Err(error) = self.log.append(rows).await {
            tracing::error!(%error, "refusals were not written to audit");
        }
    }
}
