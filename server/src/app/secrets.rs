//! Imported secrets on their way from the store to those that serve them.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use api::{
    calls::CallError,
    expiry::{Ending, ExpiryKind, ExpirySource},
    ports::SecretStore,
};
use async_trait::async_trait;
use certs::{Clock, Timestamp};
use sds::{ImportedSecret, ImportedSecrets};
use store::{Store, Topic};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// When a store that could not be read is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// When the certificates among the imported secrets end: nobody renews them but whoever imported them.
pub(super) struct SecretEndings(pub(super) watch::Receiver<Vec<Ending>>);

#[async_trait]
impl ExpirySource for SecretEndings {
    async fn endings(&self, _: Timestamp) -> Result<Vec<Ending>, CallError> {
        Ok(self.0.borrow().clone())
    }
}

/// Reads the imported secrets whenever one was written, and hands them on.
pub(super) struct SecretFeed {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) imported: watch::Sender<Arc<ImportedSecrets>>,
    pub(super) expiries: watch::Sender<Vec<Ending>>,
}

impl SecretFeed {
    /// Reads what is there, before anybody can ask: a name that is not read yet would look removed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn first(&self) -> anyhow::Result<()> {
        let secrets = self.store.secrets().await.context("cannot read the imported secrets")?;
        self.hand_on(secrets);
        Ok(())
    }

    fn hand_on(&self, secrets: Vec<ImportedSecret>) {
        let ends = secrets.iter().filter_map(|one| {
            let certs::Imported::Tls { chain, .. } = &one.value else { return None };
            Some(Ending {
                advice: None,
                kind: ExpiryKind::Secret,
                name: one.facts.name.to_string(),
                node: None,
                state: None,
                tenant: Some(one.facts.tenant.clone()),
                began: chain.leaf().not_before(),
                ends: chain.leaf().not_after(),
            })
        });
        self.expiries.send_replace(ends.collect());
        self.imported.send_replace(Arc::new(ImportedSecrets::new(secrets)));
    }

    /// Until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut changes = self.store.changes(Topic::Secrets);
        loop {
            changes.mark_unchanged();
            let again = match self.store.secrets().await {
                Ok(secrets) => {
                    self.hand_on(secrets);
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "imported secrets were not read, those in hand are served");
                    Some(self.clock.now() + RETRY)
                }
            };
            let retry = async {
                match again {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                () = retry => {}
            }
        }
    }
}
