//! Imported secrets: everything about one stands sealed in its record, grants included, so that whoever can write
//! the database can neither read one nor grant it.

use api::ports::{NewSecret, SecretStore, StoreError};
use async_trait::async_trait;
use audit::Event;
use certs::{Certificate, Chain, Imported, KeyForm, SecretBytes, Timestamp, certificates_from_pem};
use sds::{ImportedSecret, SecretFacts};
use serde::{Deserialize, Serialize};
use spiffe::{SecretName, SpiffeId, Tenant};

use crate::{
    Store, Topic,
    kept::{Found, Shelf},
    keyring::Class,
    writer::{Change, Fault, Tx},
};

/// The most secrets of a tenant.
pub const MAX_SECRETS: u64 = 2000;

const SHELF: Shelf =
    Shelf { class: Class::Tls, kind: "secret", what: "secret", topic: Topic::Secrets, most: MAX_SECRETS };

/// What stands before the secret bytes in a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// `tls` or `generic`.
    kind: String,
    /// The label of the key's PEM block; for `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The chain as PEM; for `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chain: Option<String>,
    grants: Vec<SpiffeId>,
    created: i64,
    updated: i64,
}

struct Put(NewSecret, Option<u64>, Event);

#[async_trait]
impl Change for Put {
    type Answer = u64;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u64, Fault<StoreError>> {
        let Self(new, expected, event) = self;
        let (tenant, id) = (new.tenant.to_string(), new.name.to_string());
        SHELF.expect(tx, &tenant, &id, expected).await?;
        let created = new.created.unix_millis();
        let mut header = Header {
            kind: new.value.word().to_owned(),
            key: None,
            chain: None,
            grants: new.grants.into_iter().collect(),
            created,
            updated: event.at.unix_millis(),
        };
        let secret = match new.value {
            Imported::Tls { chain, form, key } => {
                header.key = Some(form.label().to_owned());
                header.chain = Some(chain.to_pem());
                key
            }
            Imported::Generic(bytes) => bytes,
        };
        Ok(SHELF.put(tx, &tenant, &id, &header, &secret, event).await?)
    }
}

struct Remove(Tenant, SecretName, Event);

#[async_trait]
impl Change for Remove {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let Self(tenant, name, event) = self;
        SHELF.remove(tx, tenant.as_str(), &name.to_string(), event).await
    }
}

/// What [`Put`] sealed, read back.
fn read(found: Found<'_>, header: &[u8], bytes: SecretBytes) -> Option<ImportedSecret> {
    let header: Header = serde_json::from_slice(header).ok()?;
    let value = match (header.kind.as_str(), header.chain, header.key) {
        ("tls", Some(chain), Some(label)) => {
            let ders = certificates_from_pem(chain.as_bytes()).ok()?;
            let mut chain = ders.iter().map(|der| Certificate::from_der(der).ok());
            let leaf = chain.next()??;
            let chain = Chain::new(leaf, chain.collect::<Option<_>>()?);
            Imported::Tls { chain, form: KeyForm::parse(&label)?, key: bytes }
        }
        ("generic", None, None) => Imported::Generic(bytes),
        _ => return None,
    };
    let facts = SecretFacts {
        tenant: Tenant::parse(found.tenant).ok()?,
        name: SecretName::from_path(found.id)?,
        version: found.version,
        grants: header.grants.into_iter().collect(),
        created: Timestamp::from_unix_millis(header.created),
        updated: Timestamp::from_unix_millis(header.updated),
    };
    Some(ImportedSecret { facts, value })
}

#[async_trait]
impl SecretStore for Store {
    async fn secrets(&self) -> Result<Vec<ImportedSecret>, StoreError> {
        self.kept(&SHELF, 100 * MAX_SECRETS, read).await
    }

    async fn put_secret(
        &self,
        secret: NewSecret,
        expected: Option<u64>,
        event: Event,
    ) -> Result<u64, StoreError> {
        self.write(Put(secret, expected, event)).await
    }

    async fn remove_secret(
        &self,
        tenant: &Tenant,
        name: &SecretName,
        event: Event,
    ) -> Result<(), StoreError> {
        self.write(Remove(tenant.clone(), name.clone(), event)).await
    }
}
