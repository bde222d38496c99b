//! What proxies answer ACME servers, for as long as those look.

use std::sync::Arc;

use spiffe::{EdgeName, Namespace, Tenant};

use super::{Catalog, staging::Staging};
use crate::{
    Views,
    model::{Document, DocumentKey, Filter, Listener, MtlsMode, Spec},
    translate::{Challenges, listener_mode},
};

/// A listener of an effective document, as far as an edge depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeListener {
    /// Where it stands.
    pub document: DocumentKey,
    /// The edge whose certificate it shows.
    pub edge: Option<EdgeName>,
    /// Whether it takes plain HTTP.
    pub is_plain: bool,
    /// The route tables of its HTTP chains.
    pub tables: Vec<String>,
    /// Its port.
    pub port: u16,
}

impl Catalog {
    /// What proxies answer now.
    #[must_use]
    pub fn challenges(&self) -> &Challenges {
        &self.context.defaults.challenges
    }

    /// Lets proxies answer exactly these. Nothing else about what they hold changes.
    pub fn challenge(&mut self, challenges: Challenges) -> Arc<Views> {
        let before = std::mem::replace(&mut self.context.defaults.challenges, challenges);
        let after = self.context.defaults.challenges.clone();
        let mut staging = Staging::new(&self.context, &self.counters, self.state.clone());
        let touched = staging.translate_again(|document| Challenges::differ(&before, &after, document));
        staging.put_into_views(&touched);
        self.state = staging.state;
        self.state.views.revision += 1;
        self.views()
    }

    /// The listeners of a namespace.
    #[must_use]
    pub fn edge_listeners(
        &self,
        tenant: &Tenant,
        namespace: &Namespace,
        is_wanted: impl Fn(&Listener) -> bool,
    ) -> Vec<EdgeListener> {
        let is_there =
            |document: &&Document| document.key.tenant == *tenant && document.key.namespace == *namespace;
        let mut found = Vec::new();
        for document in self.documents().filter(is_there) {
            let Spec::ProxyConfig(config) = &document.spec else { continue };
            let listeners = config.listeners.iter().filter(|listener| is_wanted(listener));
            found.extend(listeners.map(|listener| self.edge_listener(document, listener)));
        }
        found
    }

    fn edge_listener(&self, document: &Document, listener: &Listener) -> EdgeListener {
        let mode = listener_mode(listener, &self.context.defaults);
        let filters = listener.filter_chains.iter().flat_map(|chain| &chain.filters);
        let mut tables: Vec<String> = filters
            .filter_map(|filter| match filter {
                Filter::Http(http) => Some(http.route_config.clone()),
                Filter::Tcp(_) => None,
            })
            .collect();
        tables.sort();
        tables.dedup();
        EdgeListener {
            document: document.key.clone(),
            edge: listener.tls.as_ref().and_then(|tls| tls.edge.clone()),
            is_plain: listener.tls.is_none() && mode != MtlsMode::Strict,
            tables,
            port: listener.port.get(),
        }
    }
}
