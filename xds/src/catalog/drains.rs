//! Connections that have to end before their time: listeners and clusters become others, in name only.

use std::sync::Arc;

use super::{Catalog, PlannedNodes, plan, staging::Staging};
use crate::{
    Views,
    translate::{Drains, is_drained},
};

impl Catalog {
    /// The drain generations that nodes are in now.
    #[must_use]
    pub fn drains(&self) -> &Drains {
        &self.context.defaults.drains
    }

    /// Lets proxies end what was opened before these generations.
    pub fn drain(&mut self, drains: Drains) -> Arc<Views> {
        let before = self.context.defaults.clone();
        self.context.defaults.drains = drains;
        let after = self.context.defaults.clone();
        let mut staging = Staging::new(&self.context, &self.counters, self.state.clone());
        let touched = staging.translate_again(|document| is_drained(document, &before, &after));
        staging.put_into_views(&touched);
        self.state = staging.state;
        self.state.views.drained = self.context.defaults.drains.all();
        self.state.views.revision += 1;
        self.views()
    }

    /// Whose listeners and clusters [`Catalog::drain`] would replace.
    #[must_use]
    pub fn plan_drain(&self, drains: Drains) -> Vec<PlannedNodes> {
        let mut next = self.clone();
        plan::diff(&self.state.views, &next.drain(drains))
    }
}
