//! An edge as its duty holds it: what is stored, and what each next step is stored as.

use acme::{Presented, Renewal, Saved};
use api::ports::{Edge, EdgeCertificate, EdgeStore, EdgeWork, KeptEdge, StoreError};
use audit::Event;
use certs::{Chain, SecretBytes, Timestamp};

/// See [`KeptEdge`].
pub(super) struct Record(KeptEdge);

/// A change of a record: it is there only when it is stored.
#[derive(Default)]
pub(super) struct Next {
    /// The key of the order under way.
    pub(super) next_key: Option<SecretBytes>,
    /// The certificate that came, which has the key of the order.
    pub(super) certificate: Option<(Chain, Timestamp)>,
    /// What takes the place of [`EdgeWork`].
    pub(super) work: EdgeWork,
}

impl Record {
    pub(super) fn new(kept: KeptEdge) -> Self {
        Self(kept)
    }

    pub(super) fn edge(&self) -> &Edge {
        &self.0.edge
    }

    pub(super) fn work(&self) -> &EdgeWork {
        &self.0.work
    }

    pub(super) fn key(&self) -> Option<&SecretBytes> {
        self.0.key.as_ref()
    }

    pub(super) fn next_key(&self) -> Option<&SecretBytes> {
        self.0.next_key.as_ref()
    }

    pub(super) fn dns_key(&self) -> Option<&SecretBytes> {
        self.0.dns_key.as_ref()
    }

    /// The order under way, if what is stored of one reads.
    pub(super) fn saved(&self) -> Option<Saved> {
        read(self.0.work.order.as_deref())
    }

    /// When the certificate is renewed, as it was stored.
    pub(super) fn renewal(&self) -> Option<Renewal> {
        read(self.0.work.renewal.as_deref())
    }

    /// What of an order that is over may still be published.
    pub(super) fn leftover(&self) -> Vec<Presented> {
        read(self.0.work.leftover.as_deref()).unwrap_or_default()
    }

    /// Stores it, and takes it over.
    ///
    /// # Errors
    /// When it is not stored; then nothing changed here either.
    pub(super) async fn put(
        &mut self,
        store: &dyn EdgeStore,
        next: Next,
        event: Event,
    ) -> Result<(), StoreError> {
        let copy = |key: &Option<SecretBytes>| key.as_ref().map(SecretBytes::duplicate);
        let make = || {
            let mut edge = self.0.edge.clone();
            let key = match &next.certificate {
                Some((chain, obtained)) => {
                    edge.certificate = Some(EdgeCertificate { chain: chain.clone(), obtained: *obtained });
                    copy(&self.0.next_key)
                }
                None => copy(&self.0.key),
            };
            let dns_key = copy(&self.0.dns_key);
            KeptEdge { edge, key, next_key: copy(&next.next_key), dns_key, work: next.work.clone() }
        };
        let expected = self.0.edge.version;
        let version = store.put_edge(make(), expected, event).await?;
        self.0 = make();
        self.0.edge.version = version;
        Ok(())
    }
}

fn read<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Option<T> {
    serde_json::from_str(text?).ok()
}

/// As it is stored.
pub(super) fn write<T: serde::Serialize>(value: &T) -> Option<String> {
    serde_json::to_string(value).ok()
}
