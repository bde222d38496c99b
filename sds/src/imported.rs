//! Imported secrets as they are served: which there are, to whom they are granted, and their encoded form.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use certs::{Imported, Timestamp};
use spiffe::{Binding, BlockList, SecretName, SpiffeId, Tenant};

use crate::secret::Material;

/// Everything about an imported secret but its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFacts {
    /// Whose.
    pub tenant: Tenant,
    /// Its name.
    pub name: SecretName,
    /// The version of its record; grows with each write.
    pub version: u64,
    /// The identities that may have it: a node gets it that is bound to one of them.
    pub grants: BTreeSet<SpiffeId>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was written last.
    pub updated: Timestamp,
}

/// An imported secret with its value.
#[derive(Debug)]
pub struct ImportedSecret {
    /// What is known of it.
    pub facts: SecretFacts,
    /// Its value.
    pub value: Imported,
}

/// One of [`ImportedSecrets`]: the value is encoded, ready to be sent.
pub(crate) struct Served {
    facts: SecretFacts,
    pub(crate) material: Material,
}

/// All imported secrets, as the store has them at one moment. Values are in memory only, and zeroed when dropped.
#[derive(Default)]
pub struct ImportedSecrets(BTreeMap<(Tenant, SecretName), Arc<Served>>);

impl ImportedSecrets {
    /// Encodes the values; the keys themselves are dropped here.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = ImportedSecret>) -> Self {
        let encoded = secrets.into_iter().map(|one| {
            let key = (one.facts.tenant.clone(), one.facts.name.clone());
            (key, Arc::new(Served { facts: one.facts, material: Material::of_imported(one.value) }))
        });
        Self(encoded.collect())
    }

    /// Whether a node with this binding may have the secret. An identity that is blocked grants nothing.
    pub(crate) fn grants(&self, binding: &Binding, name: &SecretName, blocks: &BlockList) -> bool {
        self.get(&binding.tenant, name).is_some_and(|secret| {
            let mut own = binding.identities.iter();
            own.any(|id| secret.facts.grants.contains(id) && !blocks.contains(id))
        })
    }

    pub(crate) fn get(&self, tenant: &Tenant, name: &SecretName) -> Option<&Arc<Served>> {
        self.0.get(&(tenant.clone(), name.clone()))
    }
}

impl fmt::Debug for ImportedSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImportedSecrets({})", self.0.len())
    }
}
