//! Imported secrets: everything about one stands sealed in its record, grants included, so that whoever can write
//! the database can neither read one nor grant it.

use api::ports::{NewSecret, SecretStore, StoreError};
use async_trait::async_trait;
use audit::Event;
use certs::{Certificate, Chain, Imported, KeyForm, SecretBytes, Timestamp, certificates_from_pem};
use sds::{ImportedSecret, SecretFacts};
use serde::{Deserialize, Serialize};
use spiffe::{SecretName, SpiffeId, Tenant};
use sqlx::Row;

use crate::{
    Store, Topic,
    keyring::{Class, RowName},
    row::number,
    seal::SealError,
    sealed::{Cause, Content, SealedError, ensure_data_key},
    writer::{Change, Fault, Refusal, Tx},
};

/// The most secrets of a tenant.
pub const MAX_SECRETS: u64 = 2000;
const KIND: &str = "secret";

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

fn row<'a>(tenant: &'a str, id: &'a str) -> RowName<'a> {
    RowName { tenant, kind: KIND, id, version: 0 }
}

struct Put(NewSecret, Option<u64>, Event);

#[async_trait]
impl Change for Put {
    type Answer = u64;
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<u64, Fault<StoreError>> {
        let Self(new, expected, event) = self;
        let (tenant, id) = (new.tenant.to_string(), new.name.to_string());
        let found =
            sqlx::query("SELECT version FROM sealed WHERE tenant = ? AND class = ? AND kind = ? AND id = ?")
                .bind(&tenant)
                .bind(Class::Tls.word())
                .bind(KIND)
                .bind(&id)
                .fetch_optional(tx.sql())
                .await?;
        let actual = found.map(|row| crate::row::unsigned(&row, "version")).transpose()?;
        match (expected, actual) {
            (Some(0), Some(_)) => {
                return Err(Fault::Refused(StoreError::Exists { what: "secret", name: id }));
            }
            (Some(expected), Some(actual)) if expected != actual => {
                return Err(Fault::Refused(StoreError::Conflict {
                    what: "secret",
                    name: id,
                    expected,
                    actual,
                }));
            }
            (Some(1..), None) => {
                return Err(Fault::Refused(StoreError::NotFound { what: "secret", name: id }));
            }
            _ => {}
        }
        if actual.is_none() && count(tx, &tenant).await? >= MAX_SECRETS {
            let why = format!("tenant {tenant} has {MAX_SECRETS} secrets, no more are taken");
            return Err(Fault::Refused(StoreError::Full(why)));
        }
        ensure_data_key(tx, &tenant, Class::Tls, event.at).await?;
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
        let text = crate::row::json(&header)?;
        let content = Content::Secret { header: text.as_bytes(), secret: &secret };
        let version = tx.put_sealed(Class::Tls, row(&tenant, &id), content, &Cause::from(&event)).await?;
        tx.record(event.with("version", version));
        tx.touch(Topic::Secrets);
        Ok(version)
    }
}

async fn count(tx: &mut Tx<'_>, tenant: &str) -> Result<u64, sqlx::Error> {
    let row = sqlx::query("SELECT count(*) AS count FROM sealed WHERE tenant = ? AND class = ? AND kind = ?")
        .bind(tenant)
        .bind(Class::Tls.word())
        .bind(KIND)
        .fetch_one(tx.sql())
        .await?;
    crate::row::unsigned(&row, "count")
}

struct Remove(Tenant, SecretName, Event);

#[async_trait]
impl Change for Remove {
    type Answer = ();
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<(), Fault<StoreError>> {
        let Self(tenant, name, event) = self;
        let (tenant, id) = (tenant.to_string(), name.to_string());
        if !tx.destroy_sealed(Class::Tls, row(&tenant, &id), &Cause::from(&event)).await? {
            return Err(Fault::Refused(StoreError::NotFound { what: "secret", name: id }));
        }
        tx.record(event);
        tx.touch(Topic::Secrets);
        Ok(())
    }
}

/// What [`Put`] sealed, read back.
fn read(tenant: &str, id: &str, version: u64, header: &[u8], bytes: SecretBytes) -> Option<ImportedSecret> {
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
        tenant: Tenant::parse(tenant).ok()?,
        name: SecretName::from_path(id)?,
        version,
        grants: header.grants.into_iter().collect(),
        created: Timestamp::from_unix_millis(header.created),
        updated: Timestamp::from_unix_millis(header.updated),
    };
    Some(ImportedSecret { facts, value })
}

#[async_trait]
impl SecretStore for Store {
    async fn secrets(&self) -> Result<Vec<ImportedSecret>, StoreError> {
        let unavailable = |error: sqlx::Error| StoreError::unavailable(error.to_string());
        let rows = sqlx::query(
            "SELECT tenant, id FROM sealed WHERE class = ? AND kind = ? ORDER BY tenant, id LIMIT ?",
        )
        .bind(Class::Tls.word())
        .bind(KIND)
        .bind(number(100 * MAX_SECRETS))
        .fetch_all(&mut *self.read().await.map_err(unavailable)?)
        .await
        .map_err(unavailable)?;
        let mut secrets = Vec::with_capacity(rows.len());
        for found in &rows {
            let (tenant, id): (String, String) =
                (found.try_get("tenant").map_err(unavailable)?, found.try_get("id").map_err(unavailable)?);
            let opened = self.open_sealed(Class::Tls, row(&tenant, &id), |keyring, row, record| {
                let (header, bytes) = keyring.open_secret_bytes(Class::Tls, row, record)?;
                read(row.tenant, row.id, row.version, &header, bytes).ok_or(SealError::Malformed)
            });
            match opened.await {
                Ok(Some(secret)) => secrets.push(secret),
                Ok(None) => {}
                // One that is damaged is not served; the others are.
                Err(SealedError::Seal(error)) => {
                    tracing::error!(%error, secret = id, "imported secret does not open")
                }
                Err(error @ SealedError::Rollback(..)) => {
                    tracing::error!(%error, secret = id, "imported secret is not what was committed");
                }
                Err(error) => return Err(error.into_store_error()),
            }
        }
        Ok(secrets)
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
