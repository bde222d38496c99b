//! Certificates for public names as they are served, and what shows an ACME server that such a name is ours. A node gets
//! those that its own listeners show, and no other.

use std::{collections::BTreeMap, fmt, sync::Arc};

use certs::{Chain, SecretKey};
use spiffe::{Binding, EdgeName, Namespace, NodeId, Tenant};
use xds::{TypeUrl, Views};

use crate::secret::Material;

/// A certificate with its key.
#[derive(Debug)]
pub struct EdgePair {
    /// The leaf and those above it.
    pub chain: Chain,
    /// Its key.
    pub key: SecretKey,
}

/// An edge, as it is now.
#[derive(Debug)]
pub struct EdgeSecret {
    /// Whose.
    pub tenant: Tenant,
    /// Whose proxies show it.
    pub namespace: Namespace,
    /// Its name.
    pub name: EdgeName,
    /// What it shows, if it has been obtained.
    pub certificate: Option<EdgePair>,
    /// What it shows to who asks for `acme-tls/1` (RFC 8737), by server name.
    pub challenges: Vec<(String, EdgePair)>,
}

/// Which secret of an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EdgePart {
    /// Its certificate.
    Certificate,
    /// What is shown to an ACME server that asks for this server name.
    Challenge(String),
}

/// All edges, as they are at one moment. Keys are in memory only, and zeroed when dropped.
#[derive(Default)]
pub struct EdgeSecrets(BTreeMap<(Tenant, EdgeName), Served>);

/// One of [`EdgeSecrets`]: encoded, ready to be sent.
struct Served {
    namespace: Namespace,
    certificate: Option<Material>,
    challenges: BTreeMap<String, Material>,
}

impl EdgeSecrets {
    /// Encodes them; the keys themselves are dropped here.
    #[must_use]
    pub fn new(edges: impl IntoIterator<Item = EdgeSecret>) -> Self {
        let encode = |pair: EdgePair| Material::encode(&pair.chain, pair.key);
        let encoded = edges.into_iter().map(|edge| {
            let challenges = edge.challenges.into_iter().map(|(name, pair)| (name, encode(pair))).collect();
            let certificate = edge.certificate.map(encode);
            ((edge.tenant, edge.name), Served { namespace: edge.namespace, certificate, challenges })
        });
        Self(encoded.collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a node with this binding may have `uri`, which is this part of an edge: a listener that it has now, by
    /// the documents of its namespace, names it.
    pub(crate) fn grants(
        &self,
        (binding, uri): (&Binding, &str),
        (name, part): (&EdgeName, &EdgePart),
        views: &Views,
    ) -> bool {
        let Some(served) = self.0.get(&(binding.tenant.clone(), name.clone())) else { return false };
        let is_there = match part {
            EdgePart::Certificate => true,
            EdgePart::Challenge(server_name) => served.challenges.contains_key(server_name),
        };
        is_there && served.namespace == binding.namespace && is_shown(&binding.node, uri, views)
    }

    /// `None` where there is none yet.
    pub(crate) fn get(&self, tenant: &Tenant, name: &EdgeName, part: &EdgePart) -> Option<&Material> {
        let served = self.0.get(&(tenant.clone(), name.clone()))?;
        match part {
            EdgePart::Certificate => served.certificate.as_ref(),
            EdgePart::Challenge(server_name) => served.challenges.get(server_name),
        }
    }
}

/// Whether a listener of the node shows a secret of that name.
fn is_shown(node: &NodeId, uri: &str, views: &Views) -> bool {
    let listeners = views.get(node).into_iter().flat_map(|snapshot| snapshot.of(TypeUrl::Listener).values());
    let mut named = listeners.flat_map(|listener| listener.references());
    named.any(|(type_url, name)| *type_url == TypeUrl::Secret && **name == *uri)
}

/// `edge://NAME` and `edge://NAME/SERVER-NAME`, behind the scheme.
pub(crate) fn parse(path: &str) -> Option<(EdgeName, EdgePart)> {
    let (name, part) = match path.split_once('/') {
        None => (path, EdgePart::Certificate),
        Some((name, server_name)) if !server_name.is_empty() => {
            (name, EdgePart::Challenge(server_name.to_owned()))
        }
        Some(_) => return None,
    };
    Some((EdgeName::parse(name).ok()?, part))
}

impl fmt::Debug for EdgeSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeSecrets({})", self.0.len())
    }
}

/// What [`EdgeSecrets`] and listeners say at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct EdgeWorld {
    pub(crate) edges: Arc<EdgeSecrets>,
    pub(crate) views: Arc<Views>,
}

#[cfg(test)]
pub(crate) mod testing {
    use certs::{KeyKind, ServerName, SoftwareSigner, Timestamp, challenge_certificate};
    use xds::{Resource, Snapshot, ViewId};

    use super::*;

    pub(crate) fn pair(now: Timestamp) -> EdgePair {
        let key = SecretKey::generate(KeyKind::P256);
        let signer = SoftwareSigner::try_new(&key).unwrap();
        let leaf = challenge_certificate(&ServerName::Dns("shop.example"), [7; 32], &signer, now).unwrap();
        EdgePair { chain: Chain::new(leaf, Vec::new()), key }
    }

    /// `node` has a listener that names these secrets, and nobody else has one.
    pub(crate) fn views(node: &str, secrets: &[&str]) -> Views {
        let references = secrets.iter().map(|name| (TypeUrl::Secret, Arc::from(*name))).collect();
        let mut snapshot = Snapshot::default();
        snapshot.insert(Arc::new(Resource::new(TypeUrl::Listener, "https", Vec::new(), references)));
        let mut views = Views::default();
        views.view_of.insert(NodeId::parse(node).unwrap(), ViewId(1));
        views.snapshots.insert(ViewId(1), Arc::new(snapshot));
        views
    }
}
