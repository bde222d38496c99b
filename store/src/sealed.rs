//! Rows of `sealed`: written with their entry in the audit chain, and never read without being held against it.

use async_trait::async_trait;
use audit::Actor;
use certs::{SecretBytes, SecretKey, Timestamp};
use sqlx::{Row, SqliteConnection};

use crate::{
    Store,
    keyring::{Class, Keyring, RowName},
    ledger::{Entry, Print, RowFault, RowKey},
    rollback::Finding,
    row::{number, unsigned},
    seal::SealError,
    writer::{Change, Fault, Refusal, Tx},
};
use api::ports::StoreError;

/// What is to be sealed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'a> {
    /// A private key.
    Key(&'a SecretKey),
    /// Secret bytes of any meaning, behind what is said of them.
    Secret {
        /// What is said of them.
        header: &'a [u8],
        /// The bytes.
        secret: &'a SecretBytes,
    },
}

/// On whose account a record is written.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    pub(crate) at: Timestamp,
    pub(crate) actor: Actor,
}

impl From<&audit::Event> for Cause {
    fn from(event: &audit::Event) -> Self {
        Self { at: event.at, actor: event.actor.clone() }
    }
}

impl Tx<'_> {
    /// Seals `content` as the next version of a row and answers which that is; `row.version` is not looked at.
    pub(crate) async fn put_sealed(
        &mut self,
        class: Class,
        row: RowName<'_>,
        content: Content<'_>,
        cause: &Cause,
    ) -> Result<u64, sqlx::Error> {
        let key = RowKey::of(class, &row);
        let row = RowName { version: self.next_version(&key), ..row };
        let keyring = self.keyring();
        let sealed = match content {
            Content::Key(secret) => keyring.seal_secret_key(class, &row, secret),
            Content::Secret { header, secret } => keyring.seal_secret_bytes(class, &row, header, secret),
        };
        let record = sealed.map_err(|error| sqlx::Error::Encode(error.into()))?;
        write(self.sql(), class, &row, &record).await?;
        self.enter(Entry::Sealed(key, Print::of(row.version, &record)), cause.at, cause.actor.clone());
        Ok(row.version)
    }

    /// Deletes a row, if it is there. `secure_delete` overwrites its bytes, and the log is emptied.
    pub(crate) async fn destroy_sealed(
        &mut self,
        class: Class,
        row: RowName<'_>,
        cause: &Cause,
    ) -> Result<bool, sqlx::Error> {
        let gone = sqlx::query("DELETE FROM sealed WHERE tenant = ? AND class = ? AND kind = ? AND id = ?")
            .bind(row.tenant)
            .bind(class.word())
            .bind(row.kind)
            .bind(row.id)
            .execute(self.sql())
            .await?;
        if gone.rows_affected() == 0 {
            return Ok(false);
        }
        let key = RowKey::of(class, &row);
        let version = self.next_version(&key) - 1;
        self.enter(Entry::Destroyed(key, version), cause.at, cause.actor.clone());
        self.key_destroyed();
        Ok(true)
    }

    fn next_version(&self, key: &RowKey) -> u64 {
        let written = self.entries().iter().rev().find_map(|entry| match entry {
            Entry::Sealed(other, print) if other == key => Some(print.version + 1),
            Entry::Destroyed(other, version) if other == key => Some(version + 1),
            _ => None,
        });
        written.unwrap_or_else(|| self.live().ledger(|ledger| ledger.next_version(key)))
    }
}

pub(crate) async fn write(
    connection: &mut SqliteConnection,
    class: Class,
    row: &RowName<'_>,
    record: &[u8],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO sealed (tenant, class, kind, id, version, record) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET version = excluded.version, record = excluded.record",
    )
    .bind(row.tenant)
    .bind(class.word())
    .bind(row.kind)
    .bind(row.id)
    .bind(number(row.version))
    .bind(record)
    .execute(connection)
    .await?;
    Ok(())
}

/// A row as it stands in the database.
#[derive(Debug)]
struct Found {
    version: u64,
    record: Vec<u8>,
}

impl Found {
    fn print(&self) -> Print {
        Print::of(self.version, &self.record)
    }
}

async fn find(connection: &mut SqliteConnection, key: &RowKey) -> Result<Option<Found>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT version, record FROM sealed WHERE tenant = ? AND class = ? AND kind = ? AND id = ?",
    )
    .bind(&key.tenant)
    .bind(&key.class)
    .bind(&key.kind)
    .bind(&key.id)
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok(Found { version: unsigned(&row, "version")?, record: row.try_get("record")? }))
        .transpose()
}

/// Looks at a row in a transaction, where store, keys and ledger are of one moment.
struct Look(RowKey);

#[async_trait]
impl Change for Look {
    type Answer = (Option<Found>, std::sync::Arc<Keyring>, Result<(), RowFault>);
    type Refusal = StoreError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Self::Answer, Fault<StoreError>> {
        let found = find(tx.sql(), &self.0).await?;
        let judged = tx.judge(&self.0, found.as_ref().map(Found::print));
        Ok((found, tx.keyring(), judged))
    }
}

/// Why a sealed record was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealedError {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("sealed {0} {1}")]
    Rollback(RowKey, RowFault),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Opens the record of a row, if there is one. A row that is not what was committed last is not opened: it
    /// raises a finding.
    pub(crate) async fn open_sealed<T>(
        &self,
        class: Class,
        row: RowName<'_>,
        open: impl Fn(&Keyring, &RowName<'_>, &[u8]) -> Result<T, SealError>,
    ) -> Result<Option<T>, SealedError> {
        let key = RowKey::of(class, &row);
        let found = find(&mut *self.read().await?, &key).await?;
        let judged = self.live().judge(&key, found.as_ref().map(Found::print));
        if let (Ok(()), Some(found)) = (&judged, &found)
            && let Ok(value) =
                open(&self.keyring(), &RowName { version: found.version, ..row }, &found.record)
        {
            return Ok(Some(value));
        }
        // A commit may have come between row and keys: look again where none can.
        let (found, keyring, judged) = self.write(Look(key.clone())).await?;
        if let Err(fault) = judged {
            self.raise(vec![Finding::Row { row: key.to_string(), fault: fault.clone() }]).await?;
            return Err(SealedError::Rollback(key, fault));
        }
        let Some(found) = found else { return Ok(None) };
        Ok(Some(open(&keyring, &RowName { version: found.version, ..row }, &found.record)?))
    }
}

impl SealedError {
    pub(crate) fn into_store_error(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            other => StoreError::unavailable(other.to_string()),
        }
    }
}

/// The first record of a class that a tenant has brings the data key of both.
pub(crate) async fn ensure_data_key(
    tx: &mut Tx<'_>,
    tenant: &str,
    class: Class,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    let mut keyring = Keyring::clone(&tx.keyring());
    let mut keys = keyring.data_keys().into_iter();
    if keys.any(|key| key.tenant == tenant && key.class == class) {
        return Ok(());
    }
    keyring.make_data_key(tenant, class).insert(tx.sql(), at).await?;
    tx.set_keyring(keyring);
    Ok(())
}
