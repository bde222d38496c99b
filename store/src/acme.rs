//! ACME servers: everything about one stands sealed in its record, addresses included, so that whoever can write the
//! database can neither read the key of an account nor have it used elsewhere.

use api::ports::{AcmeIssuer, AcmeSettings, AcmeStore, KeptAcme, MAX_ISSUERS, StoreError};
use async_trait::async_trait;
use audit::Event;
use certs::{SecretBytes, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::{IssuerName, Tenant};

use crate::{
    Store, Topic, edges,
    issuers::VAULTS,
    kept::{Found, Shelf},
    keyring::Class,
    writer::{Change, Fault, Tx},
};

pub(crate) const ACME: Shelf = Shelf {
    class: Class::Backend,
    kind: "acme",
    what: "issuer",
    topic: Topic::Issuers,
    most: MAX_ISSUERS as u64,
};

/// What stands before the keys in a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    acme: AcmeSettings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    created: i64,
    updated: i64,
}

fn tenant() -> String {
    Tenant::default().to_string()
}

struct Put {
    kept: KeptAcme,
    expected: u64,
    event: Event,
}

#[async_trait]
impl Change for Put {
    type Answer = u64;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u64, Fault<StoreError>> {
        let Self { kept: KeptAcme { issuer, key, next_key, external_key }, expected, event } = self;
        let (tenant, id) = (tenant(), issuer.name.to_string());
        ACME.expect(tx, &tenant, &id, Some(expected)).await?;
        if VAULTS.version(tx, &tenant, &id).await?.is_some() {
            return Err(Fault::Refused(StoreError::Exists { what: ACME.what, name: id }));
        }
        let header = Header {
            acme: issuer.acme,
            account: issuer.account,
            created: issuer.created.unix_millis(),
            updated: event.at.unix_millis(),
        };
        let keys = SecretBytes::join([Some(&key), next_key.as_ref(), external_key.as_ref()]);
        Ok(ACME.put(tx, &tenant, &id, &header, &keys, event).await?)
    }
}

struct Remove(IssuerName, Option<u64>, Event);

#[async_trait]
impl Change for Remove {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let (tenant, id) = (tenant(), self.0.to_string());
        ACME.expect(tx, &tenant, &id, self.1).await?;
        // One may have been added since somebody looked.
        if let Some(edge) = edges::first_of(tx, &self.0).await? {
            let why = format!("it is asked for the certificate of edge {edge}");
            return Err(Fault::Refused(StoreError::InUse { what: ACME.what, name: id, why }));
        }
        ACME.remove(tx, &tenant, &id, self.2).await
    }
}

/// What [`Put`] sealed, read back.
fn read(found: Found<'_>, header: &[u8], keys: SecretBytes) -> Option<KeptAcme> {
    let header: Header = serde_json::from_slice(header).ok()?;
    let [key, next_key, external_key] = keys.split()?;
    let issuer = AcmeIssuer {
        name: IssuerName::parse(found.id).ok()?,
        acme: header.acme,
        account: header.account,
        is_changing_key: next_key.is_some(),
        created: Timestamp::from_unix_millis(header.created),
        updated: Timestamp::from_unix_millis(header.updated),
        version: found.version,
    };
    Some(KeptAcme { issuer, key: key?, next_key, external_key })
}

#[async_trait]
impl AcmeStore for Store {
    async fn acme_issuers(&self) -> Result<Vec<KeptAcme>, StoreError> {
        self.kept(&ACME, ACME.most, read).await
    }

    async fn has_acme_issuer(&self, name: &IssuerName) -> Result<bool, StoreError> {
        self.has(&ACME, &tenant(), name.as_str()).await
    }

    async fn put_acme_issuer(&self, kept: KeptAcme, expected: u64, event: Event) -> Result<u64, StoreError> {
        self.write(Put { kept, expected, event }).await
    }

    async fn remove_acme_issuer(
        &self,
        name: &IssuerName,
        expected: Option<u64>,
        event: Event,
    ) -> Result<(), StoreError> {
        self.write(Remove(name.clone(), expected, event)).await
    }
}
