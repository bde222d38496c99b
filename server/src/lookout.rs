//! Looks out for what ends: reads every source again and again, and publishes what it saw, for metrics and hooks.

use std::{sync::Arc, time::Duration};

use api::{
    calls::CallError,
    expiry::{Ending, Expiries, LeafFacts, Survival, holds, survivals},
};
use ca::ports::Journal;
use certs::{Clock, Timestamp};
use spiffe::Bindings;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Lifetimes;

/// How often it looks, at most and at least.
const PERIOD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What was seen at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// When; `None` before the first look.
    pub(crate) at: Option<Timestamp>,
    /// Everything that ends, soonest first.
    pub(crate) endings: Vec<Ending>,
    /// Until when each identity survives without its issuer, soonest first.
    pub(crate) survivals: Vec<Survival>,
}

/// The part that looks.
pub(crate) struct Lookout {
    pub(crate) expiries: Expiries,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) bindings: watch::Receiver<Arc<Bindings>>,
    pub(crate) leaves: Arc<dyn LeafFacts>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) period: Duration,
    pub(crate) seen: watch::Sender<Arc<Seen>>,
}

/// A twentieth of the shortest life, so that nothing gets from 70 % to 80 % unseen.
pub(crate) fn period(lifetimes: &Lifetimes) -> Duration {
    let shortest = lifetimes.leaf.min(lifetimes.node).min(lifetimes.server);
    (shortest / 20).clamp(PERIOD.0, PERIOD.1)
}

impl Lookout {
    /// Looks until `shutdown`. When a source cannot be read, what was seen last stands, with its age.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        loop {
            let now = self.clock.now();
            match self.look(now).await {
                Ok(seen) => drop(self.seen.send_replace(Arc::new(seen))),
                Err(error) => {
                    tracing::warn!(%error, "what expires could not be read, metrics show what was seen last")
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.clock.sleep_until(now + self.period) => {}
            }
        }
    }

    async fn look(&self, now: Timestamp) -> Result<Seen, CallError> {
        let endings = self.expiries.collect(now).await?;
        let bindings = self.bindings.borrow().clone();
        let held = holds(&*self.journal, &bindings, &*self.leaves, now).await?;
        Ok(Seen { at: Some(now), endings, survivals: survivals(&held) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_more_often_where_lives_are_short() {
        let of = |leaf: u64| Lifetimes {
            root: Duration::MAX,
            issuing: Duration::MAX,
            leaf: Duration::from_secs(leaf),
            node: Duration::from_secs(86_400),
            operator: Duration::MAX,
            server: Duration::from_secs(86_400),
        };
        for (leaf, secs) in [(43_200, 30), (300, 15), (60, 3), (5, 1)] {
            assert_eq!(period(&of(leaf)), Duration::from_secs(secs), "{leaf}");
        }
    }
}
