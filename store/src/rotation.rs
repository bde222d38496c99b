//! Data keys follow one another in small transactions, each of which is a sound place to stop at.
//!
//! ```text
//! pending --activate--> active --(a newer one)--> retiring --no record is left--> destroyed
//!                                                    \-- 200 records at a time sealed anew
//! ```

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use audit::{Action, Actor, Event};
use certs::Timestamp;
use sqlx::Row;
use uuid::Uuid;

use crate::{
    Store,
    keyring::{Class, DataKey, KeyState, Keyring, RowName},
    ledger::{Entry, Print, RowKey},
    row::{number, unsigned},
    seal::SealError,
    slots::{RotationError, SlotSource, SlotStatus},
    writer::{Change, Fault, Tx},
};

/// How many records one transaction seals anew.
pub const BATCH: u64 = 200;

/// One data key, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKeyStatus {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub tenant: String,
    /// What it seals.
    pub class: Class,
    /// The how-manieth it is.
    pub version: u64,
    /// Where it stands.
    pub state: KeyState,
    /// How many records it seals.
    pub records: u64,
}

/// How sealing stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealingStatus {
    /// The slots, asked anew.
    pub slots: Vec<SlotStatus>,
    /// The root key's id.
    pub root: Uuid,
    /// The data keys.
    pub data_keys: Vec<DataKeyStatus>,
    /// How many records are sealed by a key that is no longer the active one.
    pub rows_on_old_key: u64,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A pending data key became active.
    Activated,
    /// So many records were sealed anew.
    Sealed(u64),
    /// A data key that seals nothing any more was destroyed.
    Destroyed,
    /// Nothing is left to do.
    Done,
}

/// Makes the next data key of each class.
struct PrepareKeys(Option<Class>, Event);

#[async_trait]
impl Change for PrepareKeys {
    type Answer = Vec<Class>;
    type Refusal = RotationError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Vec<Class>, Fault<RotationError>> {
        let mut keyring = Keyring::clone(&tx.keyring());
        let mut made = Vec::new();
        for data in keyring.data_keys() {
            let is_asked = self.0.is_none_or(|class| class == data.class);
            if data.state != KeyState::Active || !is_asked || is_pending(&keyring, &data.tenant, data.class) {
                continue;
            }
            let row = keyring.make_data_key(&data.tenant, data.class);
            row.insert(tx.sql(), self.1.at).await?;
            let mut event = self.1.clone();
            event.object = data.class.word().into();
            tx.record(event.with("data_key_id", row.id));
            made.push(data.class);
        }
        tx.set_keyring(keyring);
        Ok(made)
    }
}

fn is_pending(keyring: &Keyring, tenant: &str, class: Class) -> bool {
    keyring
        .data_keys()
        .iter()
        .any(|data| data.tenant == tenant && data.class == class && data.state == KeyState::Pending)
}

/// The next step of whatever is under way.
struct Advance(Timestamp);

#[async_trait]
impl Change for Advance {
    type Answer = Progress;
    type Refusal = RotationError;

    async fn carry_out(self, tx: &mut Tx<'_>) -> Result<Progress, Fault<RotationError>> {
        let keyring = tx.keyring();
        let keys = keyring.data_keys();
        if let Some(next) = keys.iter().find(|data| data.state == KeyState::Pending) {
            let mut after = Keyring::clone(&keyring);
            for data in keys.iter().filter(|data| data.tenant == next.tenant && data.class == next.class) {
                let state = if data.id() == next.id() { KeyState::Active } else { KeyState::Retiring };
                after.set_state(data.id(), state);
                sqlx::query("UPDATE data_keys SET state = ? WHERE id = ?")
                    .bind(state.word())
                    .bind(data.id().as_bytes().as_slice())
                    .execute(tx.sql())
                    .await?;
            }
            let event = Event::done(self.0, Actor::System, Action::DataKeyActivate, next.class.word());
            tx.set_keyring(after);
            tx.record(event.with("data_key_id", next.id()).with("version", next.version));
            return Ok(Progress::Activated);
        }
        let mut blocked = None;
        for old in keys.iter().filter(|data| data.state == KeyState::Retiring) {
            match seal_anew(tx, &keyring, old.id(), self.0).await? {
                (0, None) => {
                    sqlx::query("DELETE FROM data_keys WHERE id = ?")
                        .bind(old.id().as_bytes().as_slice())
                        .execute(tx.sql())
                        .await?;
                    let mut after = Keyring::clone(&keyring);
                    after.forget(old.id());
                    let event = Event::done(self.0, Actor::System, Action::DataKeyDestroy, old.class.word());
                    tx.set_keyring(after);
                    tx.key_destroyed();
                    tx.record(event.with("data_key_id", old.id()).with("version", old.version));
                    return Ok(Progress::Destroyed);
                }
                (0, failed) => blocked = failed,
                (count, _) => return Ok(Progress::Sealed(count)),
            }
        }
        blocked.map_or(Ok(Progress::Done), |error| Err(Fault::Refused(error)))
    }
}

/// Seals a batch of the records of `old` by the active key. One that does not open stays as it is and is answered;
/// the others go on.
async fn seal_anew(
    tx: &mut Tx<'_>,
    keyring: &Keyring,
    old: Uuid,
    at: Timestamp,
) -> Result<(u64, Option<RotationError>), Fault<RotationError>> {
    let mut failed = None;
    // Behind which row the next are: a batch of which none opens is passed over.
    let mut last = [String::new(), String::new(), String::new(), String::new()];
    loop {
        let mut batch = sqlx::query(
            "SELECT * FROM sealed WHERE substr(record, 7, 16) = ? AND (tenant, class, kind, id) > (?, ?, ?, ?)
              ORDER BY tenant, class, kind, id LIMIT ?",
        )
        .bind(old.as_bytes().as_slice());
        for part in &last {
            batch = batch.bind(part);
        }
        let rows = batch.bind(number(BATCH)).fetch_all(tx.sql()).await?;
        let mut count = 0;
        for row in &rows {
            let key = RowKey::read(row)?;
            let version = unsigned(row, "version")?;
            let (record, class): (&[u8], _) = (row.try_get("record")?, Class::parse(&key.class));
            let before = RowName { tenant: &key.tenant, kind: &key.kind, id: &key.id, version };
            let after = RowName { version: version + 1, ..before };
            let judged = tx.judge(&key, Some(Print::of(version, record)));
            let sealed = match (class, judged) {
                (Some(class), Ok(())) => keyring
                    .open(class, &before, record)
                    .and_then(|plaintext| keyring.seal(class, &after, &plaintext)),
                // Sealing anew what was put back would make it right.
                _ => Err(SealError::Altered),
            };
            let sealed = match sealed {
                Ok(sealed) => sealed,
                Err(source) => {
                    failed = failed.or(Some(RotationError::Record { row: key.to_string(), source }));
                    continue;
                }
            };
            let swapped = sqlx::query(
                "UPDATE sealed SET version = ?, record = ?
                  WHERE tenant = ? AND class = ? AND kind = ? AND id = ? AND version = ?",
            )
            .bind(number(after.version))
            .bind(&sealed)
            .bind(&key.tenant)
            .bind(&key.class)
            .bind(&key.kind)
            .bind(&key.id)
            .bind(number(version))
            .execute(tx.sql())
            .await?;
            if swapped.rows_affected() == 1 {
                let print = Print::of(after.version, &sealed);
                tx.enter(Entry::Sealed(key, print), at, Actor::System);
                count += 1;
            }
        }
        if count > 0 || (rows.len() as u64) < BATCH {
            return Ok((count, failed));
        }
        if let Some(row) = rows.last() {
            let RowKey { tenant, class, kind, id } = RowKey::read(row)?;
            last = [tenant, class, kind, id];
        }
    }
}

impl Store {
    /// Makes the next data key of `class`, or of every class. [`Store::advance`] carries on from there. Answers
    /// the classes; a class whose last rotation has not begun yet is not among them.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn prepare_data_keys(
        &self,
        class: Option<Class>,
        event: Event,
    ) -> Result<Vec<Class>, RotationError> {
        self.write(PrepareKeys(class, event)).await
    }

    /// Carries out the next step of whatever rotation of data keys is under way, in one transaction.
    ///
    /// # Errors
    /// When the store cannot write, or a record does not open: then its old key stays, too.
    pub async fn advance(&self) -> Result<Progress, RotationError> {
        self.write(Advance(self.now())).await
    }

    /// How sealing stands; asks every source anew.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn sealing(&self, sources: &[SlotSource]) -> Result<SealingStatus, RotationError> {
        let slots = self.slot_status(sources).await?;
        let keyring = self.keyring();
        let data_keys = self.data_key_status(&keyring).await.map_err(unavailable)?;
        let rows_on_old_key = old(&data_keys);
        Ok(SealingStatus { slots, root: keyring.root().id, data_keys, rows_on_old_key })
    }

    /// How many records are sealed by a key that is no longer the active one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rows_on_old_key(&self) -> Result<u64, RotationError> {
        Ok(old(&self.data_key_status(&self.keyring()).await.map_err(unavailable)?))
    }

    async fn data_key_status(&self, keyring: &Keyring) -> Result<Vec<DataKeyStatus>, sqlx::Error> {
        let rows =
            sqlx::query("SELECT substr(record, 7, 16) AS key, count(*) AS records FROM sealed GROUP BY 1")
                .fetch_all(&mut *self.read().await?)
                .await?;
        let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
        for row in &rows {
            counts.insert(row.try_get("key")?, unsigned(row, "records")?);
        }
        let status = |data: Arc<DataKey>| DataKeyStatus {
            id: data.id(),
            tenant: data.tenant.clone(),
            class: data.class,
            version: data.version,
            state: data.state,
            records: counts.get(data.id().as_bytes().as_slice()).copied().unwrap_or(0),
        };
        Ok(keyring.data_keys().into_iter().map(status).collect())
    }
}

fn old(keys: &[DataKeyStatus]) -> u64 {
    keys.iter().filter(|key| key.state != KeyState::Active).map(|key| key.records).sum()
}

fn unavailable(error: sqlx::Error) -> RotationError {
    RotationError::Unavailable(error.to_string())
}
