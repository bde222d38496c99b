//! Imported secrets in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use audit::Event;
use spiffe::{SecretName, Tenant};

use crate::ports::{NewSecret, SecretStore, StoreError};

/// Imported secrets in memory; as in the store, values are kept and handed out anew.
#[derive(Default)]
pub struct MemorySecrets(Mutex<Vec<(sds::SecretFacts, Kept)>>);

/// A value from which [`certs::Imported`] is made anew, for it cannot be copied.
enum Kept {
    Tls { chain: certs::Chain, form: certs::KeyForm, key: Vec<u8> },
    Generic(Vec<u8>),
}

impl Kept {
    fn of(value: certs::Imported) -> Self {
        match value {
            certs::Imported::Tls { chain, form, key } => Self::Tls { chain, form, key: vec![0; key.len()] },
            certs::Imported::Generic(bytes) => Self::Generic(vec![0; bytes.len()]),
        }
    }

    fn value(&self) -> certs::Imported {
        let secret = |bytes: &[u8]| certs::SecretBytes::new(zeroize::Zeroizing::new(bytes.to_vec()));
        match self {
            Self::Tls { chain, form, key } => {
                certs::Imported::Tls { chain: chain.clone(), form: *form, key: secret(key) }
            }
            Self::Generic(bytes) => certs::Imported::Generic(secret(bytes)),
        }
    }
}

impl MemorySecrets {
    fn lock(&self) -> MutexGuard<'_, Vec<(sds::SecretFacts, Kept)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SecretStore for MemorySecrets {
    async fn secrets(&self) -> Result<Vec<sds::ImportedSecret>, StoreError> {
        let all = self.lock();
        let handed = |(facts, kept): &(sds::SecretFacts, Kept)| sds::ImportedSecret {
            facts: facts.clone(),
            value: kept.value(),
        };
        Ok(all.iter().map(handed).collect())
    }

    async fn put_secret(&self, secret: NewSecret, _: Option<u64>, event: Event) -> Result<u64, StoreError> {
        let mut all = self.lock();
        let found =
            all.iter().position(|(facts, _)| facts.tenant == secret.tenant && facts.name == secret.name);
        let version = found.map_or(1, |index| all[index].0.version + 1);
        found.map(|index| all.remove(index));
        let facts = sds::SecretFacts {
            tenant: secret.tenant,
            name: secret.name,
            version,
            grants: secret.grants,
            created: secret.created,
            updated: event.at,
        };
        all.push((facts, Kept::of(secret.value)));
        Ok(version)
    }

    async fn remove_secret(&self, tenant: &Tenant, name: &SecretName, _: Event) -> Result<(), StoreError> {
        self.lock().retain(|(facts, _)| facts.tenant != *tenant || facts.name != *name);
        Ok(())
    }
}
