//! The keys that are in memory while a store is open: the root key and the data keys that it wraps. What opens the
//! root key stands in `slots`, how data keys follow one another in `rotation`.
//!
//! ```text
//! key-encryption key --slot--> root key --> data key per tenant and class --> one-use record key
//! ```

use std::{collections::HashMap, sync::Arc};

use certs::{SecretBytes, SecretKey, Timestamp};
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    row::{decode, number, one_row, unsigned, uuid},
    seal::{self, Place, SealError, SealingKey, random},
};

/// What a data key may seal; one class never opens another's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
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
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ca, Self::Tls, Self::Backend, Self::AuditMac];

    /// Its word, as it is authenticated and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Tls => "tls",
            Self::Backend => "backend",
            Self::AuditMac => "audit-mac",
        }
    }

    /// The class of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.word() == word)
    }
}

/// Where a data key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyState {
    /// Made, and not used yet.
    Pending,
    /// It seals.
    Active,
    /// It only opens; its records are sealed anew by the active one.
    Retiring,
}

impl KeyState {
    /// Its word, as it is kept and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retiring => "retiring",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Active, Self::Retiring].into_iter().find(|state| state.word() == word)
    }
}

/// A data key as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct DataKeyRow {
    pub(crate) id: Uuid,
    tenant: String,
    class: String,
    version: u64,
    wrapped: Vec<u8>,
    state: KeyState,
}

/// A data key in memory.
#[derive(Debug)]
pub(crate) struct DataKey {
    key: SealingKey,
    pub(crate) tenant: String,
    pub(crate) class: Class,
    pub(crate) version: u64,
    pub(crate) state: KeyState,
}

impl DataKey {
    pub(crate) fn id(&self) -> Uuid {
        self.key.id
    }

    fn row(&self, store: Uuid, root: &SealingKey) -> DataKeyRow {
        let mut row = DataKeyRow {
            id: self.key.id,
            tenant: self.tenant.clone(),
            class: self.class.word().into(),
            version: self.version,
            wrapped: Vec::new(),
            state: self.state,
        };
        row.wrapped = self.key.wrap(root, &data_place(store, &row, &row.id.to_string()));
        row
    }
}

/// The keys of an open store. Cheap to clone: a change works on a copy, which replaces the original at its commit.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    store: Uuid,
    root: Arc<SealingKey>,
    data: HashMap<Uuid, Arc<DataKey>>,
}

fn data_place<'a>(store: Uuid, row: &'a DataKeyRow, id: &'a str) -> Place<'a> {
    Place { store, tenant: &row.tenant, class: &row.class, kind: "data-key", id, version: row.version }
}

/// A new root key.
pub(crate) fn new_root() -> SealingKey {
    SealingKey::new(new_id(), Zeroizing::new(random()))
}

impl Keyring {
    /// The keys of a store whose root key is `root`.
    pub(crate) fn new(store: Uuid, root: SealingKey) -> Self {
        Self { store, root: Arc::new(root), data: HashMap::new() }
    }

    /// Unwraps the data keys as well.
    pub(crate) fn unwrap(
        store: Uuid,
        root: SealingKey,
        rows: &[DataKeyRow],
    ) -> Result<Self, (Uuid, SealError)> {
        let mut keyring = Self::new(store, root);
        for row in rows {
            keyring.take(row).map_err(|error| (row.id, error))?;
        }
        Ok(keyring)
    }

    pub(crate) fn root(&self) -> &SealingKey {
        &self.root
    }

    /// Makes the next data key of a tenant and class: active if it is the first, else pending. Answers the row to
    /// be stored; the key must not be used before that is durable.
    pub(crate) fn make_data_key(&mut self, tenant: &str, class: Class) -> DataKeyRow {
        let newest = self.of(tenant, class).map(|data| data.version).max();
        let data = DataKey {
            key: SealingKey::new(new_id(), Zeroizing::new(random())),
            tenant: tenant.into(),
            class,
            version: newest.map_or(1, |version| version + 1),
            state: if newest.is_some() { KeyState::Pending } else { KeyState::Active },
        };
        let row = data.row(self.store, &self.root);
        self.data.insert(row.id, Arc::new(data));
        row
    }

    /// Wraps every data key under another root key.
    pub(crate) fn wrap_anew(&self, root: SealingKey) -> (Self, Vec<DataKeyRow>) {
        let rows = self.data.values().map(|data| data.row(self.store, &root)).collect();
        (Self { root: Arc::new(root), ..self.clone() }, rows)
    }

    fn take(&mut self, row: &DataKeyRow) -> Result<(), SealError> {
        let class = Class::parse(&row.class).ok_or(SealError::UnknownKey(row.id))?;
        let plaintext =
            seal::open(&self.root, &data_place(self.store, row, &row.id.to_string()), &row.wrapped)?;
        let key = SealingKey::from_plaintext(row.id, &plaintext)?;
        let data = DataKey { key, tenant: row.tenant.clone(), class, version: row.version, state: row.state };
        self.data.insert(row.id, Arc::new(data));
        Ok(())
    }

    /// All data keys, by tenant, class and version.
    pub(crate) fn data_keys(&self) -> Vec<Arc<DataKey>> {
        let mut all: Vec<_> = self.data.values().cloned().collect();
        all.sort_by(|a, b| (&a.tenant, a.class, a.version).cmp(&(&b.tenant, b.class, b.version)));
        all
    }

    /// Puts a data key into another state.
    pub(crate) fn set_state(&mut self, id: Uuid, state: KeyState) {
        let Some(data) = self.data.get(&id) else { return };
        let Ok(key) = SealingKey::from_plaintext(id, data.key.expose()) else { return };
        let data =
            DataKey { key, tenant: data.tenant.clone(), class: data.class, version: data.version, state };
        self.data.insert(id, Arc::new(data));
    }

    /// Forgets a data key.
    pub(crate) fn forget(&mut self, id: Uuid) {
        self.data.remove(&id);
    }

    fn of<'a, 't>(
        &'a self,
        tenant: &'t str,
        class: Class,
    ) -> impl Iterator<Item = &'a DataKey> + use<'a, 't> {
        self.data.values().map(Arc::as_ref).filter(move |data| data.tenant == tenant && data.class == class)
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

    /// The data key that seals for a tenant and class.
    fn active(&self, tenant: &str, class: Class) -> Result<&SealingKey, SealError> {
        self.of(tenant, class)
            .filter(|data| data.state == KeyState::Active)
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

    /// Seals secret bytes for a row, behind what is said of them.
    pub(crate) fn seal_secret_bytes(
        &self,
        class: Class,
        row: &RowName<'_>,
        header: &[u8],
        secret: &SecretBytes,
    ) -> Result<Vec<u8>, SealError> {
        let key = self.active(row.tenant, class)?;
        Ok(seal::seal_secret_bytes(key, &self.place(class, row), header, secret))
    }

    /// Opens what [`Keyring::seal_secret_bytes`] sealed.
    pub(crate) fn open_secret_bytes(
        &self,
        class: Class,
        row: &RowName<'_>,
        record: &[u8],
    ) -> Result<(Vec<u8>, SecretBytes), SealError> {
        seal::open_secret_bytes(self.named(row.tenant, class, record)?, &self.place(class, row), record)
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

/// A random id. These name keys and say nothing of when they were made.
pub(crate) fn new_id() -> Uuid {
    uuid::Builder::from_random_bytes(random()).into_uuid()
}

impl DataKeyRow {
    pub(crate) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        at: Timestamp,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO data_keys (id, tenant, class, version, wrapped, created, state)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(&self.tenant)
        .bind(&self.class)
        .bind(number(self.version))
        .bind(&self.wrapped)
        .bind(at.unix_millis())
        .bind(self.state.word())
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Writes the wrapping, which another root key made. A key that is gone is an error.
    pub(crate) async fn update(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let written = sqlx::query("UPDATE data_keys SET wrapped = ? WHERE id = ?")
            .bind(&self.wrapped)
            .bind(self.id.as_bytes().as_slice())
            .execute(connection)
            .await?;
        one_row(&written)
    }

    /// Rows of a database that has not seen the step which brought states count as active.
    pub(crate) async fn load(connection: &mut SqliteConnection) -> Result<Vec<Self>, sqlx::Error> {
        let rows = sqlx::query("SELECT * FROM data_keys").fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                let state = match row.try_get::<&str, _>("state") {
                    Ok(word) => KeyState::parse(word).ok_or_else(|| decode("state", "unknown state"))?,
                    Err(sqlx::Error::ColumnNotFound(_)) => KeyState::Active,
                    Err(error) => return Err(error),
                };
                Ok(Self {
                    id: uuid(row, "id")?,
                    tenant: row.try_get("tenant")?,
                    class: row.try_get("class")?,
                    version: unsigned(row, "version")?,
                    wrapped: row.try_get("wrapped")?,
                    state,
                })
            })
            .collect()
    }
}
