//! Imported secrets as they are served: which there are, to whom they are granted, and their encoded form.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use certs::{Imported, Timestamp};
use spiffe::{Binding, BlockList, Namespace, SpiffeId, Tenant};
use thiserror::Error;

use crate::secret::Material;

/// The scheme of their names.
pub const SCHEME: &str = "secret://";
/// The longest name within a namespace.
const MAX_NAME: usize = 128;

/// The name of an imported secret: `NAMESPACE/NAME`, unique within a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    namespace: Namespace,
    name: String,
}

/// Why a text is no name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecretNameError {
    /// The namespace is none.
    #[error("namespace of the secret: {0}")]
    Namespace(String),
    /// The name within it.
    #[error("a secret's name is 1 to {MAX_NAME} of a-z, 0-9, -, _ and .")]
    Name,
}

impl SecretName {
    /// Checks both parts.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, SecretNameError> {
        let namespace =
            Namespace::parse(namespace).map_err(|error| SecretNameError::Namespace(error.to_string()))?;
        let is_name = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
        if is_name { Ok(Self { namespace, name: name.to_owned() }) } else { Err(SecretNameError::Name) }
    }

    /// Reads `NAMESPACE/NAME`.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        let (namespace, name) = path.split_once('/')?;
        Self::parse(namespace, name).ok()
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name within it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for path in ["default/db", "a/b.c_d-1"] {
            assert_eq!(SecretName::from_path(path).unwrap().to_string(), path);
        }
        let long = format!("default/{}", "x".repeat(129));
        for path in [
            "",
            "default",
            "default/",
            "/x",
            "default/X",
            "default/a/b",
            "Default/a",
            "default/ä",
            "default/a?g=1",
            &long,
        ] {
            assert_eq!(SecretName::from_path(path), None, "{path}");
        }
    }
}
