//! Edges in memory, and whoever obtains their certificates as a test tells it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use audit::Event;
use certs::SecretBytes;
use spiffe::{EdgeName, Tenant};
use zeroize::Zeroizing;

use crate::{
    ports::{Edge, EdgeSettings, EdgeStore, EdgeWork, KeptEdge, MAX_EDGES, StoreError},
    sources::{EdgeStanding, Edges},
    wire,
};

/// An edge with the lengths of its keys: the certificate's, the next one's, the name server's.
#[derive(Debug)]
struct Kept {
    edge: Edge,
    work: EdgeWork,
    keys: [Option<usize>; 3],
}

/// Edges in memory, with versions as the store keeps them; those whose record is damaged apart.
#[derive(Debug, Default)]
pub struct MemoryEdges(Mutex<BTreeMap<(Tenant, EdgeName), Kept>>, Mutex<BTreeSet<(Tenant, EdgeName)>>);

impl MemoryEdges {
    /// One whose record does not open.
    pub fn damage(&self, tenant: &Tenant, name: &EdgeName) {
        let key = (tenant.clone(), name.clone());
        self.lock().remove(&key);
        self.damaged().insert(key);
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<(Tenant, EdgeName)>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Tenant, EdgeName), Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EdgeStore for MemoryEdges {
    async fn edges(&self) -> Result<Vec<KeptEdge>, StoreError> {
        let handed = |kept: &Kept| {
            let key = |length: Option<usize>| {
                length.map(|length| SecretBytes::new(Zeroizing::new(vec![0; length])))
            };
            let [own, next, dns] = kept.keys.map(key);
            let (edge, work) = (kept.edge.clone(), kept.work.clone());
            KeptEdge { edge, key: own, next_key: next, dns_key: dns, work }
        };
        Ok(self.lock().values().map(handed).collect())
    }

    async fn has_edge(&self, tenant: &Tenant, name: &EdgeName) -> Result<bool, StoreError> {
        let key = (tenant.clone(), name.clone());
        Ok(self.lock().contains_key(&key) || self.damaged().contains(&key))
    }

    async fn put_edge(&self, edge: KeptEdge, expected: u64, _: Event) -> Result<u64, StoreError> {
        let mut all = self.lock();
        let (what, name) = ("edge", edge.edge.name.to_string());
        let key = (edge.edge.tenant.clone(), edge.edge.name.clone());
        match (expected, all.get(&key).map(|kept| kept.edge.version)) {
            (0, Some(_)) => return Err(StoreError::Exists { what, name }),
            (1.., None) => return Err(StoreError::NotFound { what, name }),
            (expected, Some(actual)) if expected != actual => {
                return Err(StoreError::Conflict { what, name, expected, actual });
            }
            _ => {}
        }
        if expected == 0 && all.keys().filter(|(tenant, _)| *tenant == key.0).count() >= MAX_EDGES {
            return Err(StoreError::Full(format!("there are {MAX_EDGES} edges, no more are taken")));
        }
        let version = expected + 1;
        let keys = [&edge.key, &edge.next_key, &edge.dns_key].map(|key| key.as_ref().map(SecretBytes::len));
        all.insert(key, Kept { edge: Edge { version, ..edge.edge }, work: edge.work, keys });
        Ok(version)
    }

    async fn remove_edge(&self, tenant: &Tenant, name: &EdgeName, _: Event) -> Result<(), StoreError> {
        let missing = || StoreError::NotFound { what: "edge", name: name.to_string() };
        let key = (tenant.clone(), name.clone());
        let is_gone = self.lock().remove(&key).is_some() || self.damaged().remove(&key);
        is_gone.then_some(()).ok_or_else(missing)
    }
}

/// Whoever obtains certificates: judges as it is told, stands as it is told, and remembers who was hurried.
#[derive(Debug, Clone, Default)]
pub struct StillEdges {
    /// What is wrong with whatever is wanted.
    pub fault: Arc<Mutex<Option<String>>>,
    /// How edges stand, by name; the default for one that is not in it.
    pub standing: Arc<Mutex<BTreeMap<EdgeName, EdgeStanding>>>,
    /// Those that were hurried, in order.
    pub hurried: Arc<Mutex<Vec<EdgeName>>>,
}

#[async_trait]
impl Edges for StillEdges {
    fn standing(&self, _: &Tenant, name: &EdgeName) -> EdgeStanding {
        let all = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name).cloned().unwrap_or_default()
    }

    async fn examine_edge(
        &self,
        _: &Tenant,
        _: &EdgeName,
        settings: &mut EdgeSettings,
        _: Option<&SecretBytes>,
    ) -> Vec<wire::IssuerCheck> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let check = |rule: &str, verdict: &str, found: &str, advice: &str| wire::IssuerCheck {
            rule: rule.into(),
            verdict: verdict.into(),
            found: found.into(),
            advice: advice.into(),
        };
        let names = check("edge-names", "passed", &settings.names.join(" "), "");
        let listener = match fault {
            Some(fault) => check("edge-listener", "failed", &fault, "apply a document that has it"),
            None => check("edge-listener", "passed", &settings.listener, ""),
        };
        vec![names, listener]
    }

    fn hurry(&self, _: &Tenant, name: &EdgeName) {
        self.hurried.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
    }
}
