//! What proxies answer ACME servers, and the listeners at which they do.

use spiffe::{EdgeName, Namespace, Tenant};
use xds::{catalog::EdgeListener, translate::Challenges};

use super::{CallError, Command, Handle, Manager};

/// Which listeners are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those of this name.
    Named(String),
    /// Those that show this edge.
    Showing(EdgeName),
}

impl Handle {
    /// Lets proxies answer exactly these from now on; forgotten when the process ends.
    ///
    /// # Errors
    /// When the manager has stopped.
    pub async fn challenge(&self, challenges: Challenges) -> Result<(), CallError> {
        self.ask(|reply| Command::Challenge(Box::new(challenges), reply)).await
    }

    /// Listeners of the effective documents of a namespace.
    ///
    /// # Errors
    /// When the manager has stopped.
    pub async fn edge_listeners(
        &self,
        tenant: Tenant,
        namespace: Namespace,
        which: Which,
    ) -> Result<Vec<EdgeListener>, CallError> {
        self.ask(|reply| Command::EdgeListeners { tenant, namespace, which, reply }).await
    }
}

impl Manager {
    pub(super) fn challenge(&mut self, challenges: Challenges) {
        if challenges == *self.catalog.challenges() {
            return;
        }
        let mut next = self.catalog.clone();
        next.challenge(challenges);
        self.publish(next);
    }

    pub(super) fn edge_listeners(
        &self,
        tenant: &Tenant,
        namespace: &Namespace,
        which: &Which,
    ) -> Vec<EdgeListener> {
        self.catalog.edge_listeners(tenant, namespace, |listener| match which {
            Which::Named(name) => listener.name == *name,
            Which::Showing(edge) => listener.tls.as_ref().is_some_and(|tls| tls.edge.as_ref() == Some(edge)),
        })
    }
}
