//! Connections that have to end before their time.

use std::sync::Arc;

use audit::Event;
use spiffe::SpiffeId;
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

    /// What a drain of every connection would replace now; or of the TCP sessions of one identity.
    ///
    /// # Errors
    /// When the manager has stopped.
    pub async fn plan_drain(&self, only: Option<SpiffeId>) -> Result<Arc<[PlannedNodes]>, CallError> {
        self.ask(|reply| Command::PlanDrain(only, reply)).await
    }

    /// Ends the TCP sessions of an identity whose block is enforced, with everybody's on the same chains.
    ///
    /// # Errors
    /// When it is not blocked so, or the store does not commit.
    pub async fn evict(&self, id: SpiffeId, event: Event) -> Result<(), CallError> {
        self.ask(|reply| Command::Evict(id, Box::new(event), reply)).await
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

    /// What a drain of everything would replace is asked for at every look at an emergency, and kept until something
    /// is published.
    pub(super) fn plan_drain(&mut self, only: Option<SpiffeId>) -> Arc<[PlannedNodes]> {
        let is_all = only.is_none();
        if let Some(planned) = self.drain_plan.as_ref().filter(|_| is_all) {
            return Arc::clone(planned);
        }
        let now = self.catalog.drains();
        let mut sessions = now.sessions().clone();
        let next = sessions.values().max().copied().unwrap_or_default() + 1;
        let all = now.all() + u64::from(is_all);
        sessions.extend(only.map(|id| (id, next)));
        let planned: Arc<[PlannedNodes]> = self.catalog.plan_drain(Drains::new(all, sessions)).into();
        if is_all {
            self.drain_plan = Some(Arc::clone(&planned));
        }
        planned
    }

    pub(super) async fn evict(&mut self, id: &SpiffeId, event: Event) -> Result<(), CallError> {
        let eviction = self.stores.blocks.evict(id, event).await?;
        self.show_blocks(|blocks| blocks.with_eviction(id.clone(), eviction));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use spiffe::TrustDomain;
    use xds::{catalog::Catalog, validate::Context};

    use super::{super::Stores, *};
    use crate::testing::{MemorySecrets, MemoryStore};

    #[tokio::test]
    async fn a_plan_is_kept_until_something_is_published() {
        let store = Arc::new(MemoryStore::default());
        let stores = Stores {
            documents: store.clone(),
            nodes: store.clone(),
            blocks: store.clone(),
            secrets: Arc::new(MemorySecrets::default()),
        };
        let domain = TrustDomain::parse("td.example").unwrap();
        let catalog = Catalog::new(Context::strict(domain.clone()));
        let (mut manager, handle) =
            Manager::load(stores, catalog, Box::new(|_| BTreeSet::new())).await.unwrap();
        let planned = manager.plan_drain(None);
        assert!(Arc::ptr_eq(&planned, &manager.plan_drain(None)));
        let web = SpiffeId::parse("spiffe://td.example/web").unwrap();
        assert!(!Arc::ptr_eq(&planned, &manager.plan_drain(Some(web))), "that is another plan");
        assert!(Arc::ptr_eq(&planned, &manager.plan_drain(None)));
        manager.drain(1);
        assert!(!Arc::ptr_eq(&planned, &manager.plan_drain(None)));
        assert_eq!(handle.drained(), 1);
    }
}
