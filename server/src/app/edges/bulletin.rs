//! What all edges show now, put together: certificates and challenges for `sds`, chains and texts for the catalog.

use std::{collections::BTreeMap, sync::Arc};

use api::{calls::configs, ports::Edge};
use certs::{Chain, SecretBytes, SecretKey, Timestamp};
use sds::{EdgePair, EdgeSecret, EdgeSecrets};
use spiffe::Namespace;
use tokio::sync::{Mutex, watch};
use xds::translate::{ChallengeText, Challenges};

use super::EdgeKey;

/// A certificate with its key, as it is kept here.
pub(super) struct Pair {
    pub(super) chain: Chain,
    pub(super) key: SecretBytes,
}

impl Pair {
    /// `None` for a key that does not read, which nothing that was stored has.
    fn to_secret(&self) -> Option<EdgePair> {
        let key = SecretKey::from_bytes(&self.key).ok()?;
        Some(EdgePair { chain: self.chain.clone(), key })
    }
}

/// What one edge shows.
pub(super) struct Shown {
    /// Removed and added again, it is another.
    created: Timestamp,
    namespace: Namespace,
    pub(super) certificate: Option<Pair>,
    /// By server name.
    pub(super) challenges: BTreeMap<String, Pair>,
    /// With the route table that answers.
    pub(super) texts: Vec<(String, ChallengeText)>,
}

/// The one place from which both are published.
pub(super) struct Bulletin {
    shown: Mutex<BTreeMap<EdgeKey, Shown>>,
    secrets: watch::Sender<Arc<EdgeSecrets>>,
    configs: configs::Handle,
}

impl Bulletin {
    pub(super) fn new(secrets: watch::Sender<Arc<EdgeSecrets>>, configs: configs::Handle) -> Self {
        Self { shown: Mutex::default(), secrets, configs }
    }

    /// An edge is there from now on, and shows nothing yet.
    pub(super) async fn open(&self, key: &EdgeKey, edge: &Edge) {
        let shown = Shown {
            created: edge.created,
            namespace: edge.settings.namespace.clone(),
            certificate: None,
            challenges: BTreeMap::new(),
            texts: Vec::new(),
        };
        self.shown.lock().await.insert(key.clone(), shown);
    }

    /// Changes what an edge shows, and publishes it. Certificates come before the chains that show them, and go after
    /// them.
    ///
    /// # Errors
    /// In words, when the edge is gone or the configuration cannot be changed any more.
    pub(super) async fn update(
        &self,
        key: &EdgeKey,
        created: Timestamp,
        change: impl FnOnce(&mut Shown),
    ) -> Result<(), String> {
        let mut all = self.shown.lock().await;
        let one = all.get_mut(key).filter(|one| one.created == created);
        let one = one.ok_or_else(|| "the edge is gone".to_owned())?;
        let before = one.challenges.len();
        change(one);
        let adds = one.challenges.len() >= before;
        if adds {
            self.secrets.send_replace(Arc::new(secrets(&all)));
        }
        self.configs.challenge(challenges(&all)).await.map_err(|error| error.to_string())?;
        if !adds {
            self.secrets.send_replace(Arc::new(secrets(&all)));
        }
        Ok(())
    }

    /// An edge shows nothing any more.
    pub(super) async fn forget(&self, key: &EdgeKey) {
        let mut all = self.shown.lock().await;
        if all.remove(key).is_none() {
            return;
        }
        if let Err(error) = self.configs.challenge(challenges(&all)).await {
            tracing::debug!(%error, "what an edge showed was not withdrawn: the configuration has ended");
        }
        self.secrets.send_replace(Arc::new(secrets(&all)));
    }
}

fn secrets(all: &BTreeMap<EdgeKey, Shown>) -> EdgeSecrets {
    EdgeSecrets::new(all.iter().map(|((tenant, name), shown)| {
        EdgeSecret {
            tenant: tenant.clone(),
            namespace: shown.namespace.clone(),
            name: name.clone(),
            certificate: shown.certificate.as_ref().and_then(Pair::to_secret),
            challenges: shown
                .challenges
                .iter()
                .filter_map(|(server_name, pair)| Some((server_name.clone(), pair.to_secret()?)))
                .collect(),
        }
    }))
}

fn challenges(all: &BTreeMap<EdgeKey, Shown>) -> Challenges {
    let mut challenges = Challenges::default();
    for ((tenant, name), shown) in all {
        for server_name in shown.challenges.keys() {
            challenges.show_certificate(tenant, &shown.namespace, name, server_name);
        }
        for (table, text) in &shown.texts {
            challenges.show_text(tenant, &shown.namespace, table, text.clone());
        }
    }
    challenges
}
