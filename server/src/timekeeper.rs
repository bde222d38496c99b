//! Watches over the system's clock while the server runs: looks each second, and says in log and audit what became
//! different ([`ca::clock`] decides).

use std::{sync::Arc, time::Duration};

use audit::{Action, Actor, AuditFilter, AuditLog, Event};
use ca::clock::{LIMIT, Reading, State, newest};
use certs::Clock;
use tokio_util::sync::CancellationToken;

use crate::clock::TrustedClock;

/// How often the clocks are compared, whoever asks for the time in between.
const PACE: Duration = Duration::from_secs(1);
/// How many of the last audit rows are asked for their time. They are written in order, so the newest is among them.
const LOOK_BACK: usize = 1000;

/// The task, and what it needs.
pub(crate) struct Timekeeper {
    pub(crate) clock: Arc<TrustedClock>,
    pub(crate) audit: Arc<dyn AuditLog>,
}

impl Timekeeper {
    /// Holds the clock against what is on record, once, at the start. With `accept` the clock is right, whatever the
    /// records say; that leaves an audit row of its own.
    pub(crate) async fn look_back(&self, accept: bool) {
        let filter = AuditFilter { limit: LOOK_BACK, ..AuditFilter::default() };
        let rows = match self.audit.list(&filter).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(%error, "the clock was not held against the records of the store");
                return;
            }
        };
        let Some(newest) = newest(&rows) else { return };
        if !accept {
            self.clock.recorded(newest);
            return;
        }
        let now = self.clock.now();
        if newest <= now + LIMIT {
            tracing::info!("--accept-clock was not needed: no record is newer than the clock");
            return;
        }
        tracing::warn!(%newest, "clock accepted although records are newer");
        let mut event = Event::done(now, Actor::Host, Action::ClockAccept, "clock").with("newest", newest);
        "credence serve --accept-clock".clone_into(&mut event.reason);
        self.note(event).await;
    }

    /// Looks each second until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut reading = self.clock.reading();
        let mut known = State::Good;
        loop {
            let now = *reading.borrow_and_update();
            if std::mem::discriminant(&now.state) != std::mem::discriminant(&known) {
                self.tell(known, now).await;
                known = now.state;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PACE) => self.clock.tick(),
                changed = reading.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn tell(&self, before: State, now: Reading) {
        let skew_millis = now.skew_millis;
        let was_stopped = matches!(before, State::Stopped { .. });
        let event = |action| {
            let mut event = Event::done(self.clock.now(), Actor::System, action, "clock");
            event.reason = now.to_string();
            event.with("skew_millis", skew_millis)
        };
        match now.state {
            State::Stopped { .. } => {
                tracing::error!(skew_millis, why = %now, "CLOCK_STOPPED: signing stops");
                self.note(event(Action::ClockStop)).await;
            }
            State::Drifting if !was_stopped => tracing::warn!(skew_millis, why = %now, "clock is off"),
            State::Good if !was_stopped => tracing::info!(skew_millis, "clock is right again"),
            State::Good | State::Drifting => {
                tracing::info!(skew_millis, "clock is believed again: signing goes on");
                self.note(event(Action::ClockResume)).await;
            }
        }
    }

    async fn note(&self, event: Event) {
        if let Err(error) = self.audit.append(vec![event]).await {
            tracing::warn!(%error, "what became of the clock is not in the audit log");
        }
    }
}
