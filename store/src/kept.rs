//! What is kept one by one, each by its name in a sealed record of its own: written as of a version, counted, listed.

use api::ports::StoreError;
use audit::Event;
use certs::SecretBytes;
use serde::Serialize;
use sqlx::Row;

use crate::{
    Store, Topic,
    keyring::{Class, RowName},
    row::{json, number, unsigned},
    seal::SealError,
    sealed::{Cause, Content, SealedError, ensure_data_key},
    writer::{Fault, Refusal, Tx},
};

/// The records of one class and kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shelf {
    pub(crate) class: Class,
    pub(crate) kind: &'static str,
    /// What one of them is called, in words.
    pub(crate) what: &'static str,
    /// Who follows them is told of each change.
    pub(crate) topic: Topic,
    /// The most of a tenant.
    pub(crate) most: u64,
}

/// One of them, as it is found in a transaction or opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) id: &'a str,
    pub(crate) version: u64,
}

impl Shelf {
    fn row<'a>(&self, tenant: &'a str, id: &'a str) -> RowName<'a> {
        RowName { tenant, kind: self.kind, id, version: 0 }
    }

    /// The version of one, if it is there.
    pub(crate) async fn version(
        &self,
        tx: &mut Tx<'_>,
        tenant: &str,
        id: &str,
    ) -> Result<Option<u64>, sqlx::Error> {
        let found =
            sqlx::query("SELECT version FROM sealed WHERE tenant = ? AND class = ? AND kind = ? AND id = ?")
                .bind(tenant)
                .bind(self.class.word())
                .bind(self.kind)
                .bind(id)
                .fetch_optional(tx.sql())
                .await?;
        found.map(|row| unsigned(&row, "version")).transpose()
    }

    /// Whoever has any.
    pub(crate) async fn tenants(&self, tx: &mut Tx<'_>) -> Result<Vec<String>, sqlx::Error> {
        let rows =
            sqlx::query("SELECT DISTINCT tenant FROM sealed WHERE class = ? AND kind = ? ORDER BY tenant")
                .bind(self.class.word())
                .bind(self.kind)
                .fetch_all(tx.sql())
                .await?;
        rows.iter().map(|row| row.try_get("tenant")).collect()
    }

    /// What stands in each of a tenant's before its secret, by name. One that does not open is left out.
    pub(crate) async fn headers(
        &self,
        tx: &mut Tx<'_>,
        tenant: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT id, version, record FROM sealed WHERE tenant = ? AND class = ? AND kind = ? ORDER BY id",
        )
        .bind(tenant)
        .bind(self.class.word())
        .bind(self.kind)
        .fetch_all(tx.sql())
        .await?;
        let keyring = tx.keyring();
        let mut headers = Vec::with_capacity(rows.len());
        for row in &rows {
            let (id, record): (String, Vec<u8>) = (row.try_get("id")?, row.try_get("record")?);
            let name = RowName { version: unsigned(row, "version")?, ..self.row(tenant, &id) };
            if let Ok((header, _)) = keyring.open_secret_bytes(self.class, &name, &record) {
                headers.push((id, header.to_vec()));
            }
        }
        Ok(headers)
    }

    /// Insists on the version that the author had seen, 0 for "must not exist", none for "whatever there is"; and that
    /// there is room for one more.
    pub(crate) async fn expect(
        &self,
        tx: &mut Tx<'_>,
        tenant: &str,
        id: &str,
        expected: Option<u64>,
    ) -> Result<(), Fault<StoreError>> {
        let (what, name) = (self.what, || id.to_owned());
        let actual = self.version(tx, tenant, id).await?;
        match (expected, actual) {
            (Some(0), Some(_)) => return Err(Fault::Refused(StoreError::Exists { what, name: name() })),
            (Some(1..), None) => return Err(Fault::Refused(StoreError::NotFound { what, name: name() })),
            (Some(expected), Some(actual)) if expected != actual => {
                let conflict = StoreError::Conflict { what, name: name(), expected, actual };
                return Err(Fault::Refused(conflict));
            }
            _ => {}
        }
        if actual.is_none() && self.count(tx, tenant).await? >= self.most {
            let why = format!("there are {} {}s of tenant {tenant}, no more are taken", self.most, self.what);
            return Err(Fault::Refused(StoreError::Full(why)));
        }
        Ok(())
    }

    async fn count(&self, tx: &mut Tx<'_>, tenant: &str) -> Result<u64, sqlx::Error> {
        let row =
            sqlx::query("SELECT count(*) AS count FROM sealed WHERE tenant = ? AND class = ? AND kind = ?")
                .bind(tenant)
                .bind(self.class.word())
                .bind(self.kind)
                .fetch_one(tx.sql())
                .await?;
        unsigned(&row, "count")
    }

    /// Seals it as the next version, and answers which that is. Whoever may not is to be refused before, by
    /// [`Shelf::expect`].
    pub(crate) async fn put(
        &self,
        tx: &mut Tx<'_>,
        tenant: &str,
        id: &str,
        header: &impl Serialize,
        secret: &SecretBytes,
        event: Event,
    ) -> Result<u64, sqlx::Error> {
        ensure_data_key(tx, tenant, self.class, event.at).await?;
        let text = json(header)?;
        let content = Content::Secret { header: text.as_bytes(), secret };
        let version = tx.put_sealed(self.class, self.row(tenant, id), content, &Cause::from(&event)).await?;
        tx.record(event.with("version", version));
        tx.touch(self.topic);
        Ok(version)
    }

    /// Destroys its record.
    pub(crate) async fn remove(
        &self,
        tx: &mut Tx<'_>,
        tenant: &str,
        id: &str,
        event: Event,
    ) -> Result<(), Fault<StoreError>> {
        if !tx.destroy_sealed(self.class, self.row(tenant, id), &Cause::from(&event)).await? {
            return Err(Fault::Refused(StoreError::NotFound { what: self.what, name: id.to_owned() }));
        }
        tx.record(event);
        tx.touch(self.topic);
        Ok(())
    }
}

impl Store {
    /// Whether there is one of that name, be it that it does not open.
    pub(crate) async fn has(&self, shelf: &Shelf, tenant: &str, id: &str) -> Result<bool, StoreError> {
        let unavailable = |error: sqlx::Error| StoreError::unavailable(error.to_string());
        let found =
            sqlx::query("SELECT 1 FROM sealed WHERE tenant = ? AND class = ? AND kind = ? AND id = ?")
                .bind(tenant)
                .bind(shelf.class.word())
                .bind(shelf.kind)
                .bind(id)
                .fetch_optional(&mut *self.read().await.map_err(unavailable)?)
                .await
                .map_err(unavailable)?;
        Ok(found.is_some())
    }

    /// All of them that open, by tenant and name, at most `most` of all tenants. One that is damaged is left out and
    /// logged; the others are read.
    pub(crate) async fn kept<T>(
        &self,
        shelf: &Shelf,
        most: u64,
        read: impl Fn(Found<'_>, &[u8], SecretBytes) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        let unavailable = |error: sqlx::Error| StoreError::unavailable(error.to_string());
        let rows = sqlx::query(
            "SELECT tenant, id FROM sealed WHERE class = ? AND kind = ? ORDER BY tenant, id LIMIT ?",
        )
        .bind(shelf.class.word())
        .bind(shelf.kind)
        .bind(number(most))
        .fetch_all(&mut *self.read().await.map_err(unavailable)?)
        .await
        .map_err(unavailable)?;
        let mut all = Vec::with_capacity(rows.len());
        for found in &rows {
            let (tenant, id): (String, String) =
                (found.try_get("tenant").map_err(unavailable)?, found.try_get("id").map_err(unavailable)?);
            let opened = self.open_sealed(shelf.class, shelf.row(&tenant, &id), |keyring, row, record| {
                let (header, bytes) = keyring.open_secret_bytes(shelf.class, row, record)?;
                let found = Found { tenant: row.tenant, id: row.id, version: row.version };
                read(found, &header, bytes).ok_or(SealError::Malformed)
            });
            let kind = shelf.what;
            match opened.await {
                Ok(Some(one)) => all.push(one),
                Ok(None) => {}
                Err(SealedError::Seal(error)) => {
                    tracing::error!(%error, kind, name = id, "record does not open")
                }
                Err(error @ SealedError::Rollback(..)) => {
                    tracing::error!(%error, kind, name = id, "record is not what was committed");
                }
                Err(error) => return Err(error.into_store_error()),
            }
        }
        Ok(all)
    }
}
