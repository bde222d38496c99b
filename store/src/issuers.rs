//! Issuers beside the built-in one: everything about one stands sealed in its record, addresses included, so that
//! whoever can write the database can neither read a credential nor have it sent elsewhere.

use api::ports::{Issuer, IssuerStore, KeptIssuer, MAX_ISSUERS, StoreError, VaultSettings};
use async_trait::async_trait;
use audit::Event;
use certs::{Certificate, SecretBytes, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::{IssuerName, Tenant};
use sqlx::Row;

use crate::{
    Store, Topic,
    acme::ACME,
    kept::{Found, Shelf},
    keyring::Class,
    writer::{Change, Fault, Refusal, Tx},
};

pub(crate) const VAULTS: Shelf = Shelf {
    class: Class::Backend,
    kind: "issuer",
    what: "issuer",
    topic: Topic::Issuers,
    most: MAX_ISSUERS as u64,
};

/// What stands before the credential in a record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    vault: VaultSettings,
    /// The root, DER in hexadecimal digits.
    anchor: String,
    /// The certificate of the authority that signs, the same.
    signer: String,
    /// Of those before, the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<String>,
    created: i64,
    updated: i64,
}

fn tenant() -> String {
    Tenant::default().to_string()
}

struct Put {
    kept: KeptIssuer,
    expected: u64,
    is_moved: bool,
    event: Event,
}

#[async_trait]
impl Change for Put {
    type Answer = u64;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u64, Fault<StoreError>> {
        let Self { kept: KeptIssuer { issuer, credential }, expected, is_moved, event } = self;
        let (tenant, id) = (tenant(), issuer.name.to_string());
        VAULTS.expect(tx, &tenant, &id, Some(expected)).await?;
        if ACME.version(tx, &tenant, &id).await?.is_some() {
            return Err(Fault::Refused(StoreError::Exists { what: VAULTS.what, name: id }));
        }
        if is_moved && crate::leaves::is_in_use(tx, &id).await? {
            let why =
                "its root stands in the bundle of workloads, and what another signs is not believed yet";
            return Err(Fault::Refused(StoreError::InUse { what: "issuer", name: id, why: why.to_owned() }));
        }
        let header = Header {
            vault: issuer.vault,
            anchor: hex::encode(issuer.anchor.der()),
            signer: hex::encode(issuer.signer.der()),
            earlier: issuer.earlier.iter().map(|one| hex::encode(one.der())).collect(),
            created: issuer.created.unix_millis(),
            updated: event.at.unix_millis(),
        };
        Ok(VAULTS.put(tx, &tenant, &id, &header, &credential, event).await?)
    }
}

struct Remove(IssuerName, Event);

#[async_trait]
impl Change for Remove {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let (tenant, id) = (tenant(), self.0.to_string());
        if crate::leaves::is_in_use(tx, &id).await? {
            let why = "its root stands in the bundle of workloads".to_owned();
            return Err(Fault::Refused(StoreError::InUse { what: "issuer", name: id, why }));
        }
        VAULTS.remove(tx, &tenant, &id, self.1).await
    }
}

/// What [`Put`] sealed, read back.
fn read(found: Found<'_>, header: &[u8], credential: SecretBytes) -> Option<KeptIssuer> {
    let header: Header = serde_json::from_slice(header).ok()?;
    let certificate = |text: &str| Certificate::from_der(&hex::decode(text).ok()?).ok();
    let issuer = Issuer {
        name: IssuerName::parse(found.id).ok()?,
        vault: header.vault,
        anchor: certificate(&header.anchor)?,
        signer: certificate(&header.signer)?,
        earlier: header.earlier.iter().map(|one| certificate(one)).collect::<Option<_>>()?,
        created: Timestamp::from_unix_millis(header.created),
        updated: Timestamp::from_unix_millis(header.updated),
        version: found.version,
    };
    Some(KeptIssuer { issuer, credential })
}

#[async_trait]
impl IssuerStore for Store {
    async fn issuers(&self) -> Result<Vec<KeptIssuer>, StoreError> {
        self.kept(&VAULTS, VAULTS.most, read).await
    }

    async fn put_issuer(
        &self,
        kept: KeptIssuer,
        expected: u64,
        is_moved: bool,
        event: Event,
    ) -> Result<u64, StoreError> {
        self.write(Put { kept, expected, is_moved, event }).await
    }

    async fn remove_issuer(&self, name: &IssuerName, event: Event) -> Result<(), StoreError> {
        self.write(Remove(name.clone(), event)).await
    }
}

impl Store {
    /// The names of all records of issuers beside the built-in one, of whatever kind, whether they open or not.
    ///
    /// # Errors
    /// When the store cannot read.
    pub async fn issuer_names(&self) -> Result<Vec<String>, StoreError> {
        let unavailable = |error: sqlx::Error| StoreError::unavailable(error.to_string());
        let mut names = Vec::new();
        for shelf in [VAULTS, ACME] {
            let rows =
                sqlx::query("SELECT id FROM sealed WHERE tenant = ? AND class = ? AND kind = ? ORDER BY id")
                    .bind(tenant())
                    .bind(shelf.class.word())
                    .bind(shelf.kind)
                    .fetch_all(&mut *self.read().await.map_err(unavailable)?)
                    .await
                    .map_err(unavailable)?;
            for row in &rows {
                names.push(row.try_get("id").map_err(unavailable)?);
            }
        }
        Ok(names)
    }
}
