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
    keyring::{Class, RowName},
    row::number,
    seal::SealError,
    sealed::{Cause, Content, SealedError, ensure_data_key},
    writer::{Change, Fault, Refusal, Tx},
};

const KIND: &str = "issuer";

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

fn row<'a>(tenant: &'a str, id: &'a str) -> RowName<'a> {
    RowName { tenant, kind: KIND, id, version: 0 }
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
        let found = sqlx::query("SELECT id, version FROM sealed WHERE tenant = ? AND class = ? AND kind = ?")
            .bind(&tenant)
            .bind(Class::Backend.word())
            .bind(KIND)
            .fetch_all(tx.sql())
            .await?;
        let mut actual = None;
        for one in &found {
            if one.try_get::<String, _>("id")? == id {
                actual = Some(crate::row::unsigned(one, "version")?);
            }
        }
        match (expected, actual) {
            (0, Some(_)) => return Err(Fault::Refused(StoreError::Exists { what: "issuer", name: id })),
            (1.., None) => return Err(Fault::Refused(StoreError::NotFound { what: "issuer", name: id })),
            (expected, Some(actual)) if expected != actual => {
                let conflict = StoreError::Conflict { what: "issuer", name: id, expected, actual };
                return Err(Fault::Refused(conflict));
            }
            _ => {}
        }
        if is_moved && crate::leaves::is_in_use(tx, &id).await? {
            let why =
                "its root stands in the bundle of workloads, and what another signs is not believed yet";
            return Err(Fault::Refused(StoreError::InUse { what: "issuer", name: id, why: why.to_owned() }));
        }
        if actual.is_none() && found.len() >= MAX_ISSUERS {
            let why = format!("there are {MAX_ISSUERS} issuers, no more are taken");
            return Err(Fault::Refused(StoreError::Full(why)));
        }
        ensure_data_key(tx, &tenant, Class::Backend, event.at).await?;
        let header = Header {
            vault: issuer.vault,
            anchor: hex::encode(issuer.anchor.der()),
            signer: hex::encode(issuer.signer.der()),
            earlier: issuer.earlier.iter().map(|one| hex::encode(one.der())).collect(),
            created: issuer.created.unix_millis(),
            updated: event.at.unix_millis(),
        };
        let text = crate::row::json(&header)?;
        let content = Content::Secret { header: text.as_bytes(), secret: &credential };
        let cause = Cause::from(&event);
        let version = tx.put_sealed(Class::Backend, row(&tenant, &id), content, &cause).await?;
        tx.record(event.with("version", version));
        tx.touch(Topic::Issuers);
        Ok(version)
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
        if !tx.destroy_sealed(Class::Backend, row(&tenant, &id), &Cause::from(&self.1)).await? {
            return Err(Fault::Refused(StoreError::NotFound { what: "issuer", name: id }));
        }
        tx.record(self.1);
        tx.touch(Topic::Issuers);
        Ok(())
    }
}

/// What [`Put`] sealed, read back.
fn read(id: &str, version: u64, header: &[u8], credential: SecretBytes) -> Option<KeptIssuer> {
    let header: Header = serde_json::from_slice(header).ok()?;
    let certificate = |text: &str| Certificate::from_der(&hex::decode(text).ok()?).ok();
    let issuer = Issuer {
        name: IssuerName::parse(id).ok()?,
        vault: header.vault,
        anchor: certificate(&header.anchor)?,
        signer: certificate(&header.signer)?,
        earlier: header.earlier.iter().map(|one| certificate(one)).collect::<Option<_>>()?,
        created: Timestamp::from_unix_millis(header.created),
        updated: Timestamp::from_unix_millis(header.updated),
        version,
    };
    Some(KeptIssuer { issuer, credential })
}

#[async_trait]
impl IssuerStore for Store {
    async fn issuers(&self) -> Result<Vec<KeptIssuer>, StoreError> {
        let unavailable = |error: sqlx::Error| StoreError::unavailable(error.to_string());
        let tenant = tenant();
        let rows = sqlx::query(
            "SELECT id FROM sealed WHERE tenant = ? AND class = ? AND kind = ? ORDER BY id LIMIT ?",
        )
        .bind(&tenant)
        .bind(Class::Backend.word())
        .bind(KIND)
        .bind(number(MAX_ISSUERS as u64))
        .fetch_all(&mut *self.read().await.map_err(unavailable)?)
        .await
        .map_err(unavailable)?;
        let mut issuers = Vec::with_capacity(rows.len());
        for found in &rows {
            let id: String = found.try_get("id").map_err(unavailable)?;
            let opened = self.open_sealed(Class::Backend, row(&tenant, &id), |keyring, row, record| {
                let (header, bytes) = keyring.open_secret_bytes(Class::Backend, row, record)?;
                read(row.id, row.version, &header, bytes).ok_or(SealError::Malformed)
            });
            match opened.await {
                Ok(Some(issuer)) => issuers.push(issuer),
                Ok(None) => {}
                // One that is damaged is not asked; the others are.
                Err(SealedError::Seal(error)) => tracing::error!(%error, issuer = id, "issuer does not open"),
                Err(error @ SealedError::Rollback(..)) => {
                    tracing::error!(%error, issuer = id, "issuer is not what was committed");
                }
                Err(error) => return Err(error.into_store_error()),
            }
        }
        Ok(issuers)
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
