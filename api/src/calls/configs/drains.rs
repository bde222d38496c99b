//! Connections that have to end before their time.

use xds::{catalog::PlannedNodes, translate::Drains};

use super::{CallError, Command, Handle, Manager};

impl Handle {
    /// The generation that every connection between proxies is in.
    #[must_use]
    pub fn drained(&self) -> u64 {
        *self.drained.borrow()
    }

    /// Lets proxies end every connection between them that was opened before this generation; nothing, if that was
    /// done already.
    ///
    /// # Errors
    /// When the manager has stopped.
    pub async fn drain(&self, generation: u64) -> Result<(), CallError> {
        self.ask(|reply| Command::Drain(generation, reply)).await
    }

    /// What a drain of every connection would replace now.
    ///
    /// # Errors
    /// When the manager has stopped.
    pub async fn plan_drain(&self) -> Result<Vec<PlannedNodes>, CallError> {
        self.ask(Command::PlanDrain).await
    }
}

impl Manager {
    /// What made the generation grow is on record elsewhere, and is read again by the next process.
    pub(super) fn drain(&mut self, generation: u64) {
        let before = self.catalog.drains();
        if generation <= before.all() {
            return;
        }
        let drains = Drains::new(generation, before.sessions().clone());
        let mut next = self.catalog.clone();
        next.drain(drains);
        tracing::warn!(generation, "connections between proxies that were opened before are being ended");
        self.publish(next);
        self.drained.send_replace(generation);
    }

    pub(super) fn plan_drain(&self) -> Vec<PlannedNodes> {
        let now = self.catalog.drains();
        self.catalog.plan_drain(Drains::new(now.all() + 1, now.sessions().clone()))
    }
}
