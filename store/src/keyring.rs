//! The keys that are in memory while a store is open: root key and data keys, and the slots that open them.
//!
//! ```text
//! key-encryption key --slot--> root key --> data key per tenant and class --> one-use record key
//! ```

use std::{collections::HashMap, path::Path};

use certs::{SecretKey, Timestamp};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    kek::{Cost, KekError, KekSource, SlotKind, create_key_file, read_key_file, stretch},
    row::{decode, number, unsigned, uuid},
    seal::{self, Place, SealError, SealingKey, random},
};

/// What a data key may seal; one class never opens another's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Keys of authorities.
    Ca,
    /// Imported TLS keys and account keys.
    Tls,
    /// Credentials of backends.
    Backend,
    /// Keys of message authentication codes: tokens and audited values.
    AuditMac,
}

impl Class {
    pub(crate) const ALL: [Self; 4] = [Self::Ca, Self::Tls, Self::Backend, Self::AuditMac];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Tls => "tls",
            Self::Backend => "backend",
            Self::AuditMac => "audit-mac",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.word() == word)
    }
}

/// A new key slot of a new store.
#[derive(Debug)]
pub struct NewSlot {
    /// What people call it, such as `primary` or `recovery`.
    pub name: String,
    /// What opens it. A key file is made; it must not exist.
    pub source: KekSource,
    /// What a guess costs, for passphrases.
    pub cost: Cost,
}

/// Why the keys of a store could not be unlocked.
#[derive(Debug, Error)]
pub enum UnlockError {
    /// The key-encryption key itself was not taken.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// No slot is opened by this sort of key.
    #[error("store has no slot for a {given}, it has {slots}")]
    NoSlot {
        /// What was given.
        given: SlotKind,
        /// The slots there are.
        slots: String,
    },
    /// It is not the key of any slot.
    #[error("{given} is not the key of {slots}")]
    Wrong {
        /// What was given.
        given: String,
        /// The slots that it was held against.
        slots: String,
    },
    /// The slot opened; what it or a data key holds is damaged.
    #[error("{what} is damaged")]
    Damaged {
        /// Which slot or data key.
        what: String,
        /// Why.
        source: SealError,
    },
}

impl UnlockError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Kek(error) => error.hint(),
            Self::NoSlot { .. } => "give the sort of key that the store was initialised with".into(),
            Self::Wrong { .. } => {
                "nothing was changed; use the key that was made with this store, or that of its \
                                   recovery slot"
                    .into()
            }
            Self::Damaged { .. } => "nothing was changed; restore the database from a backup".into(),
        }
    }
}

/// A key slot as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    id: Uuid,
    pub(crate) name: String,
    pub(crate) kind: SlotKind,
    stretching: Option<(Cost, [u8; 16])>,
    wrapped: Vec<u8>,
}

/// A data key as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct DataKeyRow {
    id: Uuid,
    tenant: String,
    class: String,
    version: u64,
    wrapped: Vec<u8>,
}

#[derive(Debug)]
struct DataKey {
    key: SealingKey,
    tenant: String,
    class: Class,
    version: u64,
}

/// The keys of an open store.
#[derive(Debug)]
pub(crate) struct Keyring {
    store: Uuid,
    root: SealingKey,
    data: HashMap<Uuid, DataKey>,
}

fn root_place(store: Uuid, slot: &str) -> Place<'_> {
    Place { store, tenant: "", class: "root", kind: "key-slot", id: slot, version: 1 }
}

fn data_place<'a>(store: Uuid, row: &'a DataKeyRow, id: &'a str) -> Place<'a> {
    Place { store, tenant: &row.tenant, class: &row.class, kind: "data-key", id, version: row.version }
}

impl Keyring {
    /// Makes a root key.
    pub(crate) fn generate(store: Uuid) -> Self {
        let root = SealingKey::new(new_id(), Zeroizing::new(random()));
        Self { store, root, data: HashMap::new() }
    }

    pub(crate) fn root_id(&self) -> Uuid {
        self.root.id
    }

    /// Wraps the root key for a new slot, whose key file is made now.
    pub(crate) fn make_slot(&self, slot: &NewSlot, apart_from: Option<&Path>) -> Result<Slot, KekError> {
        let id = new_id();
        let (kek, stretching) = match &slot.source {
            KekSource::File(path) => (create_key_file(path, apart_from)?, None),
            KekSource::Passphrase(text) => {
                let salt = random();
                (stretch(text, &salt, slot.cost)?, Some((slot.cost, salt)))
            }
        };
        let wrapped = self.root.wrap(&SealingKey::new(id, kek), &root_place(self.store, &id.to_string()));
        Ok(Slot { id, name: slot.name.clone(), kind: slot.source.kind(), stretching, wrapped })
    }

    /// Makes a data key, keeps it and answers the row to be stored. Only for stores that are being made: a key must
    /// not be used before its row is durable.
    pub(crate) fn make_data_key(&mut self, tenant: &str, class: Class) -> DataKeyRow {
        let key = SealingKey::new(new_id(), Zeroizing::new(random()));
        let id = key.id;
        let mut row = DataKeyRow {
            id,
            tenant: tenant.into(),
            class: class.word().into(),
            version: 1,
            wrapped: Vec::new(),
        };
        row.wrapped = key.wrap(&self.root, &data_place(self.store, &row, &id.to_string()));
        self.data.insert(id, DataKey { key, tenant: tenant.into(), class, version: 1 });
        row
    }

    /// Opens a slot with `source`, and with it all data keys. Reads the key file or stretches the passphrase; slots
    /// of the same kind are told apart by their commitments, nothing is decrypted on trial.
    pub(crate) fn unlock(
        store: Uuid,
        root_id: Uuid,
        slots: &[Slot],
        rows: &[DataKeyRow],
        source: &KekSource,
        apart_from: Option<&Path>,
    ) -> Result<Self, UnlockError> {
        let fitting: Vec<&Slot> = slots.iter().filter(|slot| slot.kind == source.kind()).collect();
        let root = match source {
            KekSource::File(path) => {
                let bytes = read_key_file(path, apart_from)?;
                open_slots(store, root_id, &fitting, |_| Ok(bytes.clone()))?
            }
            KekSource::Passphrase(text) => open_slots(store, root_id, &fitting, |slot| {
                let (cost, salt) = slot.stretching.ok_or(KekError::EmptyPassphrase)?;
                stretch(text, &salt, cost)
            })?,
        };
        if fitting.is_empty() {
            let slots = describe(&slots.iter().collect::<Vec<_>>());
            return Err(UnlockError::NoSlot { given: source.kind(), slots });
        }
        let Some(root) = root else {
            return Err(UnlockError::Wrong { given: source.to_string(), slots: describe(&fitting) });
        };
        let mut keyring = Self { store, root, data: HashMap::new() };
        for row in rows {
            keyring
                .take(row)
                .map_err(|source| UnlockError::Damaged { what: format!("data key {}", row.id), source })?;
        }
        Ok(keyring)
    }

    fn take(&mut self, row: &DataKeyRow) -> Result<(), SealError> {
        let class = Class::parse(&row.class).ok_or(SealError::UnknownKey(row.id))?;
        let plaintext =
            seal::open(&self.root, &data_place(self.store, row, &row.id.to_string()), &row.wrapped)?;
        let key = SealingKey::from_plaintext(row.id, &plaintext)?;
        self.data.insert(row.id, DataKey { key, tenant: row.tenant.clone(), class, version: row.version });
        Ok(())
    }

    fn place<'a>(&self, class: Class, row: &RowName<'a>) -> Place<'a> {
        Place {
            store: self.store,
            tenant: row.tenant,
            class: class.word(),
            kind: row.kind,
            id: row.id,
            version: row.version,
        }
    }

    /// The newest data key of a tenant and class.
    fn active(&self, tenant: &str, class: Class) -> Result<&SealingKey, SealError> {
        self.data
            .values()
            .filter(|data| data.tenant == tenant && data.class == class)
            .max_by_key(|data| data.version)
            .map(|data| &data.key)
            .ok_or_else(|| SealError::NoKey { tenant: tenant.into(), class: class.word() })
    }

    /// The data key that a record names, if it is one for this tenant and class.
    fn named(&self, tenant: &str, class: Class, record: &[u8]) -> Result<&SealingKey, SealError> {
        let id = seal::key_id(record)?;
        self.data
            .get(&id)
            .filter(|data| data.tenant == tenant && data.class == class)
            .map(|data| &data.key)
            .ok_or(SealError::UnknownKey(id))
    }

    /// Seals bytes for a row.
    pub(crate) fn seal(
        &self,
        class: Class,
        row: &RowName<'_>,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        Ok(seal::seal(self.active(row.tenant, class)?, &self.place(class, row), plaintext, &random()))
    }

    /// Opens the bytes of a row.
    pub(crate) fn open(
        &self,
        class: Class,
        row: &RowName<'_>,
        record: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        seal::open(self.named(row.tenant, class, record)?, &self.place(class, row), record)
    }

    /// Seals a private key for a row.
    pub(crate) fn seal_secret_key(
        &self,
        class: Class,
        row: &RowName<'_>,
        secret: &SecretKey,
    ) -> Result<Vec<u8>, SealError> {
        Ok(seal::seal_secret_key(self.active(row.tenant, class)?, &self.place(class, row), secret))
    }

    /// Opens the private key of a row.
    pub(crate) fn open_secret_key(
        &self,
        class: Class,
        row: &RowName<'_>,
        record: &[u8],
    ) -> Result<SecretKey, SealError> {
        seal::open_secret_key(self.named(row.tenant, class, record)?, &self.place(class, row), record)
    }
}

/// Which row of `sealed` a record stands in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowName<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) id: &'a str,
    pub(crate) version: u64,
}

fn open_slots(
    store: Uuid,
    root_id: Uuid,
    slots: &[&Slot],
    kek: impl Fn(&Slot) -> Result<crate::kek::Bytes, KekError>,
) -> Result<Option<SealingKey>, UnlockError> {
    for slot in slots {
        let damaged = |source| UnlockError::Damaged { what: format!("key slot {}", slot.name), source };
        let key = SealingKey::new(slot.id, kek(slot)?);
        match seal::open(&key, &root_place(store, &slot.id.to_string()), &slot.wrapped) {
            Ok(plaintext) => {
                return SealingKey::from_plaintext(root_id, &plaintext).map(Some).map_err(damaged);
            }
            Err(SealError::WrongKey(_)) => {}
            Err(error) => return Err(damaged(error)),
        }
    }
    Ok(None)
}

fn describe(slots: &[&Slot]) -> String {
    let names: Vec<String> = slots.iter().map(|slot| format!("slot {} ({})", slot.name, slot.kind)).collect();
    if names.is_empty() { "no slot".into() } else { names.join(", ") }
}

/// A random id. These name keys and say nothing of when they were made.
pub(crate) fn new_id() -> Uuid {
    uuid::Builder::from_random_bytes(random()).into_uuid()
}

impl Slot {
    pub(crate) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        at: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let cost = self.stretching.map(|(cost, _)| cost);
        sqlx::query(
            "INSERT INTO key_slots (id, name, kind, memory_kib, passes, lanes, salt, wrapped, created)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(&self.name)
        .bind(self.kind.word())
        .bind(cost.map(|cost| cost.memory_kib))
        .bind(cost.map(|cost| cost.passes))
        .bind(cost.map(|cost| cost.lanes))
        .bind(self.stretching.as_ref().map(|(_, salt)| salt.as_slice()))
        .bind(&self.wrapped)
        .bind(at.unix_millis())
        .execute(connection)
        .await?;
        Ok(())
    }

    pub(crate) async fn load(connection: &mut SqliteConnection) -> Result<Vec<Self>, sqlx::Error> {
        let rows = sqlx::query("SELECT * FROM key_slots ORDER BY created, name LIMIT 16")
            .fetch_all(connection)
            .await?;
        rows.iter().map(Self::read).collect()
    }

    fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let kind = SlotKind::parse(row.try_get("kind")?)
            .ok_or_else(|| decode("kind", "unknown kind of key slot"))?;
        let stretching = match kind {
            SlotKind::KeyFile => None,
            SlotKind::Passphrase => {
                let salt: &[u8] = row.try_get("salt")?;
                let cost = Cost {
                    memory_kib: row.try_get("memory_kib")?,
                    passes: row.try_get("passes")?,
                    lanes: row.try_get("lanes")?,
                };
                Some((cost, salt.try_into().map_err(|error| decode("salt", error))?))
            }
        };
        Ok(Self {
            id: uuid(row, "id")?,
            name: row.try_get("name")?,
            kind,
            stretching,
            wrapped: row.try_get("wrapped")?,
        })
    }
}

impl DataKeyRow {
    pub(crate) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        at: Timestamp,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO data_keys (id, tenant, class, version, wrapped, created) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(&self.tenant)
        .bind(&self.class)
        .bind(number(self.version))
        .bind(&self.wrapped)
        .bind(at.unix_millis())
        .execute(connection)
        .await?;
        Ok(())
    }

    pub(crate) async fn load(connection: &mut SqliteConnection) -> Result<Vec<Self>, sqlx::Error> {
        let rows = sqlx::query("SELECT * FROM data_keys").fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                Ok(Self {
                    id: uuid(row, "id")?,
                    tenant: row.try_get("tenant")?,
                    class: row.try_get("class")?,
                    version: unsigned(row, "version")?,
                    wrapped: row.try_get("wrapped")?,
                })
            })
            .collect()
    }
}
