//! A node whose certificate has ended comes back with it.

use std::sync::Arc;

use agent::recovery::{Event, Recovery};
use certs::{KeyKind, SecretKey};
use sds::schedule::Jitter;
use tokio::sync::watch;

use super::{Node, Orders, until};
use crate::{
    certify::{self, Certified, Uncertified},
    connection::Connection,
};

impl Node {
    /// Asks to come back with the certificate that has ended, at the agent's times, until that works or is frozen.
    pub(super) async fn come_back(&self, orders: &mut watch::Receiver<Orders>) {
        let key = Arc::new(SecretKey::generate(KeyKind::P256));
        let mut machine = Recovery::new(self.now(), Jitter::random());
        loop {
            tokio::select! {
                () = until(&self.place.clock, machine.deadline()) => {}
                changed = orders.changed() => {
                    let frozen = { let orders = orders.borrow_and_update(); orders.renewal || orders.stopped };
                    if changed.is_err() || frozen {
                        return;
                    }
                }
            }
            if machine.step(Event::Tick, self.now()).is_empty() {
                continue;
            }
            match Box::pin(self.try_come_back(&key)).await {
                Ok(certified) => {
                    let with_bundle = !orders.borrow().bundle;
                    self.install(certified, with_bundle);
                    self.state().counters.recoveries += 1;
                    return;
                }
                Err(error) => {
                    self.state().counters.recoveries_failed += 1;
                    self.failed(&error.error.context("coming back"));
                    machine.step(Event::Failed { jitter: Jitter::random() }, self.now());
                }
            }
        }
    }

    async fn try_come_back(&self, key: &Arc<SecretKey>) -> Result<Certified, Uncertified> {
        let (bundle, held) = {
            let state = self.state();
            (state.bundle.clone(), state.identity.clone())
        };
        let held = held.ok_or_else(|| anyhow::anyhow!("there is no certificate to come back with"))?;
        let to = self.place.enrolment.ok_or_else(|| anyhow::anyhow!("start names no enrolment address"))?;
        let (from, clock) = (self.place.recover_from.unwrap_or(self.from), &self.place.clock);
        let _permit = self.place.handshakes.acquire().await.map_err(anyhow::Error::from)?;
        let connection = Connection::open(from, to, &bundle, None, clock).await?;
        certify::come_back(&connection, &held, key, &bundle, clock).await
    }
}
