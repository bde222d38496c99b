//! Making and opening a store.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use audit::Head;
use certs::{Clock, Timestamp};
use sqlx::{
    ConnectOptions, Connection, Row, Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

use crate::{
    audit_log,
    directory::{self, DATABASE, DirectoryError, DirectoryLock, LOCK, Room},
    gathering::Gathering,
    kek::{KekError, KekSource},
    keyring::{Class, DataKeyRow, Keyring, new_id, new_root},
    ledger::{self, Ledger},
    live::{Live, Written},
    many::AT_ONCE,
    newest::Newest,
    nodes::TOKEN_KEY,
    probe::Probe,
    rollback::{self, AnchorStatus},
    row::{unsigned, uuid},
    schema::{APPLICATION, SCHEMA, Schema},
    seal::{SealError, random},
    sealed,
    slots::{self, NewSlot, OnlyTransit, Slot, SlotSource, UnlockError, are_transit_only},
    writer::{
        Change, Queue, Refusal, SQLITE_CANTOPEN, SQLITE_FULL, SQLITE_IOERR, Topic, Topics, Writer,
        primary_code,
    },
};

/// How long another program that holds the database is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How many connections read at the same time.
const READERS: u32 = 4;

/// How to make a store.
#[derive(Debug)]
pub struct InitOptions {
    /// The data directory; made if it does not exist, else it must be empty.
    pub directory: PathBuf,
    /// What will open the store; at least one.
    pub slots: Vec<NewSlot>,
    /// Whether slots of Vault's Transit engine only are enough.
    pub only_transit: OnlyTransit,
    /// When it is made.
    pub created: Timestamp,
    /// For throwaway stores: the key file may lie in the data directory.
    pub dev: bool,
}

/// How to open a store.
#[derive(Debug)]
pub struct OpenOptions {
    /// The data directory.
    pub directory: PathBuf,
    /// What opens key slots; one that does is enough.
    pub keys: Vec<SlotSource>,
    /// A file on another volume that holds the newest end of the audit chain, so that a rollback of the whole
    /// store shows.
    pub anchor: Option<PathBuf>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// For throwaway stores: the key file may lie in the data directory.
    pub dev: bool,
}

/// Why no store was made.
#[derive(Debug, Error)]
pub enum InitError {
    /// The data directory cannot be used, or holds something already.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The key-encryption key cannot be used.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// Nothing would ever open the store.
    #[error("a store needs at least one key slot")]
    NoSlot,
    /// Two slots of one name.
    #[error("two key slots are called {0}")]
    SameName(String),
    /// A slot that was just made could not be asked.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// What a slot holds did not come out of it again.
    #[error("key slot {0} was made and does not open: nothing was kept")]
    NotProven(String),
    /// Only slots of Transit would open it.
    #[error("only Vault's Transit would open the store: whoever loses that Vault loses everything")]
    OnlyTransit,
    /// The database could not be written.
    #[error("database {} cannot be made", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
    /// A first key could not be sealed.
    #[error("first keys cannot be sealed")]
    Seal(#[from] SealError),
}

impl InitError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Directory(error) => Some(error.hint()),
            Self::Kek(error) => Some(error.hint()),
            Self::Unlock(error) => Some(error.hint()),
            Self::NoSlot => Some("name a key file or give a passphrase".into()),
            Self::SameName(_) => Some("give each a name of its own in secrets.slots".into()),
            Self::NotProven(_) => Some("look at its source and try again".into()),
            Self::OnlyTransit => Some(
                "name a second slot, or --recovery-kek-file for a key that is kept elsewhere; --insecure-single-slot does without"
                    .into(),
            ),
            Self::Database { .. } => {
                Some("look at the free space and the permissions of the directory".into())
            }
            Self::Seal(_) => None,
        }
    }
}

/// Why a store was not opened. Whichever it is, nothing was written.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The data directory cannot be used, or another process uses it.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The key-encryption key was not taken or is the wrong one.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// The file is another program's database.
    #[error("{} is not a database of Credence", .0.display())]
    Foreign(PathBuf),
    /// A newer version has written it.
    #[error("database {} has schema {found}, this version knows up to {known}", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The schema it has.
        found: u32,
        /// The newest that this version knows.
        known: u32,
    },
    /// It is older, and the copy that precedes its migration could not be made.
    #[error("database {} could not be copied to {} before its migration", path.display(), copy.display())]
    Copy {
        /// Which file.
        path: PathBuf,
        /// Where to.
        copy: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk has no room for what a start writes.
    #[error("disk has no room to open database {}", path.display())]
    Full {
        /// Which file.
        path: PathBuf,
        /// What failed by it.
        source: Box<Self>,
    },
    /// It could not be read or written.
    #[error("database {} cannot be opened", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
}

impl OpenError {
    /// The same, as what it is where there is no room.
    pub(crate) fn for_want_of(self, room: &Room) -> Self {
        let may_be_full = match &self {
            Self::Directory(DirectoryError::Io { .. }) | Self::Copy { .. } => true,
            Self::Database { source, .. } => match primary_code(source) {
                Some(SQLITE_FULL) => return self.full_disk(room),
                // Files beside it that cannot be made or grow.
                code => matches!(code, Some(SQLITE_IOERR | SQLITE_CANTOPEN)),
            },
            _ => false,
        };
        let is_full = may_be_full && room.is_there().is_ok_and(|is_there| !is_there);
        if is_full { self.full_disk(room) } else { self }
    }

    fn full_disk(self, room: &Room) -> Self {
        Self::Full { path: room.database(), source: Box::new(self) }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Directory(error) => Some(error.hint()),
            Self::Unlock(error) => Some(error.hint()),
            Self::Foreign(_) => Some("name the data directory that `credence init` made".into()),
            Self::Newer { .. } => {
                Some("run the newer version, or restore the copy it made before migrating".into())
            }
            Self::Copy { .. } => Some("look at the free space of the data directory".into()),
            Self::Full { .. } => Some(
                "make room on the disk of the data directory, and start again: nothing was damaged".into(),
            ),
            Self::Database { .. } => Some("restore the database from a backup if it is damaged".into()),
        }
    }
}

/// Who uses a data directory, if another process does, as opening it would say. Where none does it is held for the moment
/// of looking.
#[must_use]
pub fn in_use(directory: &Path) -> Option<OpenError> {
    directory::in_use(directory).map(OpenError::Directory)
}

/// The schema of a database, beside that of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaFound {
    /// What the database has.
    pub found: u32,
    /// What this version has; [`open`] migrates an older database to it, and older versions refuse it from then on.
    pub known: u32,
}

impl SchemaFound {
    /// Whether [`open`] would migrate it.
    #[must_use]
    pub fn is_older(self) -> bool {
        self.found < self.known
    }
}

/// Looks at a database that nobody has open, and leaves it as it is. The directory is held for that moment.
///
/// # Errors
/// As [`open`], as far as keys have no part in it.
pub async fn schema_of(directory: &Path) -> Result<SchemaFound, OpenError> {
    schema_of_as(directory, SCHEMA).await
}

pub(crate) async fn schema_of_as(directory: &Path, schema: Schema) -> Result<SchemaFound, OpenError> {
    directory::check(directory)?;
    let _lock = DirectoryLock::acquire(directory)?;
    let facts = Facts::read(&directory.join(DATABASE), schema).await?;
    Ok(SchemaFound { found: facts.version, known: schema.version() })
}

/// An open store: implements the ports. Cheap to clone; changes go to its one [`Writer`].
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: Uuid,
    epoch: u64,
    path: PathBuf,
    queue: Queue,
    readers: SqlitePool,
    live: Arc<Live>,
    /// Where key files must not lie.
    apart: Option<PathBuf>,
    anchor: Option<PathBuf>,
    anchor_state: Mutex<AnchorStatus>,
    /// How far the audit chain was followed.
    followed: Mutex<Head>,
    /// Held by whoever changes key slots or the root key that they hold, from looking at them until the change stands:
    /// wrapping takes seconds.
    changing_slots: tokio::sync::Mutex<()>,
    /// Never held across an await.
    newest: Mutex<Newest>,
    topics: Arc<Topics>,
    broken: watch::Receiver<Option<String>>,
    full: watch::Receiver<bool>,
    clock: Arc<dyn Clock>,
    _lock: Arc<DirectoryLock>,
}

impl Store {
    /// The name of this store, made with it and kept through backups.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// How often this store has been opened: each opening has a number of its own.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// The database file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A counter that changes after each commit that touched `topic`.
    #[must_use]
    pub fn changes(&self, topic: Topic) -> watch::Receiver<u64> {
        self.0.topics.subscribe(topic)
    }

    /// What was written since it was opened.
    #[must_use]
    pub fn written(&self) -> Written {
        self.0.live.written()
    }

    /// Why nothing can be written any more, once that is so.
    #[must_use]
    pub fn broken(&self) -> watch::Receiver<Option<String>> {
        self.0.broken.clone()
    }

    /// Whether the disk had no room for what was written last. It is asked every two seconds whether it has.
    #[must_use]
    pub fn full(&self) -> watch::Receiver<bool> {
        self.0.full.clone()
    }

    pub(crate) async fn write<C: Change>(&self, change: C) -> Result<C::Answer, C::Refusal> {
        self.0.queue.write(change).await
    }

    pub(crate) async fn read(&self) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
        self.0.readers.acquire().await
    }

    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.0.live.keyring()
    }

    pub(crate) fn live(&self) -> &Live {
        &self.0.live
    }

    /// Waits until nobody else changes key slots.
    pub(crate) async fn changing_slots(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.changing_slots.lock().await
    }

    pub(crate) fn apart(&self) -> Option<&Path> {
        self.0.apart.as_deref()
    }

    pub(crate) fn anchor_path(&self) -> Option<&Path> {
        self.0.anchor.as_deref()
    }

    pub(crate) fn anchor_state(&self) -> &Mutex<AnchorStatus> {
        &self.0.anchor_state
    }

    pub(crate) fn newest_certificates(&self) -> MutexGuard<'_, Newest> {
        self.0.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn followed(&self) -> &Mutex<Head> {
        &self.0.followed
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.0.clock.as_ref()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

impl Refusal for api::ports::StoreError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }
}

/// Makes a data directory with an empty store in it, and the key files of its slots. Refuses, by name, whatever
/// exists already. When it fails half-way it removes what it made.
///
/// # Errors
/// See [`InitError`].
pub async fn initialise(options: InitOptions) -> Result<Uuid, InitError> {
    initialise_as(options, SCHEMA).await
}

pub(crate) async fn initialise_as(options: InitOptions, schema: Schema) -> Result<Uuid, InitError> {
    if options.slots.is_empty() {
        return Err(InitError::NoSlot);
    }
    let is_twice = |(place, slot): &(usize, &NewSlot)| {
        options.slots[..*place].iter().any(|other| other.name == slot.name)
    };
    if let Some((_, slot)) = options.slots.iter().enumerate().find(is_twice) {
        return Err(InitError::SameName(slot.name.clone()));
    }
    let kinds = options.slots.iter().map(|slot| slot.source.kind());
    if options.only_transit == OnlyTransit::Refused && are_transit_only(kinds) {
        return Err(InitError::OnlyTransit);
    }
    for slot in &options.slots {
        if let KekSource::File(path) = &slot.source
            && path.symlink_metadata().is_ok()
        {
            return Err(KekError::Exists(path.clone()).into());
        }
    }
    let made_directory = !options.directory.exists();
    directory::create(&options.directory)?;
    let store = fill_or_remove(&options, schema).await;
    if store.is_err() && made_directory {
        let _ = fs::remove_dir(&options.directory);
    }
    store
}

async fn fill_or_remove(options: &InitOptions, schema: Schema) -> Result<Uuid, InitError> {
    let _lock = DirectoryLock::acquire(&options.directory)?;
    let mut made = Vec::new();
    let store = fill(options, schema, &mut made).await;
    if store.is_err() {
        // Best effort: what stays is named by the next attempt. While the lock is held: what comes after it is another's.
        for path in &made {
            let _ = fs::remove_file(path);
        }
    }
    store
}

/// Notes in `made` each file before or as soon as it is there.
async fn fill(options: &InitOptions, schema: Schema, made: &mut Vec<PathBuf>) -> Result<Uuid, InitError> {
    let directory = &options.directory;
    let path = directory.join(DATABASE);
    let fresh = directory.join(format!("{DATABASE}.new"));
    let io = |source| DirectoryError::Io { path: path.clone(), source };
    // Somebody else may have been faster.
    directory::create(directory)?;
    // The directory was empty and is ours: whatever is in it now, we have made.
    made.extend(
        ["", ".new", ".new-wal", ".new-shm"].map(|suffix| directory.join(format!("{DATABASE}{suffix}"))),
    );
    made.push(directory.join(LOCK));
    let id = new_id();
    let mut keyring = Keyring::new(id, new_root());
    let apart = slots::apart(options.dev, directory);
    let mut slots = Vec::with_capacity(options.slots.len());
    for slot in &options.slots {
        let new = Slot::make(keyring.root(), id, slot, apart.as_deref(), false, options.created).await;
        // One that came in between is somebody else's.
        if let KekSource::File(path) = &slot.source
            && !matches!(new, Err(KekError::Exists(_)))
        {
            made.push(path.clone());
        }
        let new = new?;
        // Asked anew, as at the next start: a slot that would not open is noticed while nothing depends on it.
        let proof = new.open(id, keyring.root().id, &slot.source, apart.as_deref()).await?;
        if !proof.is_some_and(|root| keyring.root().is(root.expose())) {
            return Err(InitError::NotProven(slot.name.clone()));
        }
        slots.push(new);
    }
    let data_keys: Vec<DataKeyRow> =
        Class::ALL.iter().map(|class| keyring.make_data_key(TOKEN_KEY.tenant, *class)).collect();
    let token_key =
        keyring.seal(Class::AuditMac, &TOKEN_KEY, &zeroize::Zeroizing::new(random::<32>())[..])?;
    directory::create_private(&fresh)?;
    let first = FirstRows { id, root: keyring.root().id, slots, data_keys, token_key };
    let written = first.write(&fresh, schema, options.created).await;
    written.map_err(|source| InitError::Database { path: path.clone(), source })?;
    // The database appears under its name only when it is whole.
    fs::rename(&fresh, &path).map_err(io)?;
    directory::sync(directory).map_err(io)?;
    Ok(id)
}

struct FirstRows {
    id: Uuid,
    root: Uuid,
    slots: Vec<Slot>,
    data_keys: Vec<DataKeyRow>,
    token_key: Vec<u8>,
}

impl FirstRows {
    async fn write(&self, path: &Path, schema: Schema, at: Timestamp) -> Result<(), sqlx::Error> {
        let mut connection = writing(path).connect().await?;
        schema.migrate(&mut connection, 0, at).await?;
        let mut transaction = connection.begin().await?;
        sqlx::query("INSERT INTO store (one, id, created, epoch, root_key) VALUES (1, ?, ?, 0, ?)")
            .bind(self.id.as_bytes().as_slice())
            .bind(at.unix_millis())
            .bind(self.root.as_bytes().as_slice())
            .execute(&mut *transaction)
            .await?;
        for slot in &self.slots {
            slot.insert(&mut transaction).await?;
        }
        for key in &self.data_keys {
            key.insert(&mut transaction, at).await?;
        }
        sealed::write(&mut transaction, Class::AuditMac, &TOKEN_KEY, &self.token_key).await?;
        ledger::adopt(&mut transaction, at).await?;
        transaction.commit().await?;
        connection.close().await
    }
}

/// Opens a store: takes the directory's lock, unlocks the keys, and only then writes anything: first the copy and
/// the migration of an older database.
///
/// Answers the handle and the writer; without the writer [running](Writer::run), no change is ever answered.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(options: OpenOptions) -> Result<(Store, Writer), OpenError> {
    open_as(options, SCHEMA).await
}

pub(crate) async fn open_as(options: OpenOptions, schema: Schema) -> Result<(Store, Writer), OpenError> {
    let room = Room::of(&options.directory);
    open_within(&room, options, schema).await
}

pub(crate) async fn open_within(
    room: &Room,
    options: OpenOptions,
    schema: Schema,
) -> Result<(Store, Writer), OpenError> {
    directory::check(&options.directory)?;
    let lock = DirectoryLock::acquire(&options.directory)?;
    Box::pin(open_alone(lock, room, options, schema)).await.map_err(|error| error.for_want_of(room))
}

async fn open_alone(
    mut lock: DirectoryLock,
    room: &Room,
    options: OpenOptions,
    schema: Schema,
) -> Result<(Store, Writer), OpenError> {
    let path = options.directory.join(DATABASE);
    // Judged before anything is closed or removed that took the room.
    let failed = |source| OpenError::Database { path: path.clone(), source }.for_want_of(room);
    let facts = Facts::read(&path, schema).await?;
    let apart = slots::apart(options.dev, &options.directory);
    let root = slots::open(facts.id, facts.root, &facts.slots, &options.keys, apart.as_deref()).await?;
    let keyring = Keyring::unwrap(facts.id, root, &facts.data_keys)
        .map_err(|(key, source)| UnlockError::Damaged { what: format!("data key {key}"), source })?;
    lock.sign().map_err(|source| DirectoryError::Io { path: path.clone(), source })?;

    let mut connection = writing(&path).connect().await.map_err(failed)?;
    if facts.version < schema.version() {
        copy(&mut connection, room, &path, facts.version).await?;
        schema.migrate(&mut connection, facts.version, options.clock.now()).await.map_err(failed)?;
    }
    let epoch = next_epoch(&mut connection).await.map_err(failed)?;
    let head = audit_log::head(&mut connection).await.map_err(failed)?;
    let ledger = Ledger::load(&mut connection).await.map_err(failed)?;
    let found = rollback::at_opening(&mut connection, facts.id, &ledger, options.anchor.as_deref());
    let found = found.await.map_err(failed)?;
    let readers = reading(&path);
    let live = Arc::new(Live::new(keyring, ledger, head, found));
    let (lock, topics) = (Arc::new(lock), Arc::new(Topics::new()));
    let (queue, receiver) = Queue::new();
    let (broken, is_broken) = watch::channel(None);
    let (full, is_full) = watch::channel(false);
    let mut writer = Writer {
        connection,
        queue: receiver,
        live: live.clone(),
        head,
        topics: topics.clone(),
        broken,
        full,
        empty_log_at: None,
        room: room.clone(),
        probe: Probe::new(Instant::now()),
        readers: readers.clone(),
        lock: lock.clone(),
        gathering: Gathering::default(),
    };
    // Who was ended after a key was destroyed may have left it in the log.
    writer.empty_log().await;
    let inner = Inner {
        id: facts.id,
        epoch,
        path,
        queue,
        readers,
        live,
        apart,
        anchor: options.anchor,
        anchor_state: Mutex::default(),
        followed: Mutex::new(Head::GENESIS),
        changing_slots: tokio::sync::Mutex::default(),
        newest: Mutex::default(),
        topics,
        broken: is_broken,
        full: is_full,
        clock: options.clock,
        _lock: lock,
    };
    Ok((Store(Arc::new(inner)), writer))
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(true)
        .busy_timeout(PATIENCE)
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

/// `synchronous=FULL`: with NORMAL a power cut may take acknowledged commits with it.
fn writing(path: &Path) -> SqliteConnectOptions {
    options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // Each time the log is folded into the database the disk is synchronised twice more. After 16 MB is often
        // enough.
        .pragma("wal_autocheckpoint", "4000")
        // What a statement answers over many rows, without a wait between them.
        .row_buffer_size(AT_ONCE)
        // Indexes over what is random, such as serial numbers, are written all over: their pages stay at hand (16 MB).
        .pragma("cache_size", "-16384")
        // What a statement would undo stands in memory, and in no temporary file.
        .pragma("temp_store", "MEMORY")
        .pragma("secure_delete", "ON")
        .pragma("cell_size_check", "ON")
}

fn reading(path: &Path) -> SqlitePool {
    SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(options(path).read_only(true))
}

async fn next_epoch(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let row = sqlx::query("UPDATE store SET epoch = epoch + 1 RETURNING epoch").fetch_one(connection).await?;
    unsigned(&row, "epoch")
}

/// What must be known of a database before anything is written to it.
#[derive(Debug)]
struct Facts {
    version: u32,
    id: Uuid,
    root: Uuid,
    slots: Vec<Slot>,
    data_keys: Vec<DataKeyRow>,
}

impl Facts {
    async fn read(path: &Path, schema: Schema) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Database { path: path.into(), source };
        let mut connection = peeking(path).connect().await.map_err(failed)?;
        let facts = Self::read_from(&mut connection, path, schema).await;
        // Closing a connection that only reads cannot lose anything.
        let _ = connection.close().await;
        facts
    }

    async fn read_from(
        connection: &mut SqliteConnection,
        path: &Path,
        schema: Schema,
    ) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Database { path: path.into(), source };
        if pragma(connection, "PRAGMA application_id").await.map_err(failed)? != APPLICATION {
            return Err(OpenError::Foreign(path.into()));
        }
        let found = pragma(connection, "PRAGMA user_version").await.map_err(failed)?;
        let known = schema.version();
        let version = match u32::try_from(found) {
            Ok(version @ 1..) if version <= known => version,
            Ok(found @ 1..) => return Err(OpenError::Newer { path: path.into(), found, known }),
            _ => return Err(OpenError::Foreign(path.into())),
        };
        let rows = async {
            let row = sqlx::query("SELECT id, root_key FROM store").fetch_one(&mut *connection).await?;
            Ok(Self {
                version,
                id: uuid(&row, "id")?,
                root: uuid(&row, "root_key")?,
                slots: Slot::load(connection).await?,
                data_keys: DataKeyRow::load(connection).await?,
            })
        };
        rows.await.map_err(failed)
    }
}

/// Reads a database that nobody has open, and leaves its bytes alone. After a clean end there is no log, and the
/// file is all there is. After a crash the log must be read too; that rebuilds the index beside it (`-shm`, which
/// holds nothing durable) and leaves database and log as they are.
fn peeking(path: &Path) -> SqliteConnectOptions {
    let log = path.with_file_name(format!("{DATABASE}-wal"));
    let is_clean = fs::metadata(log).map_or(true, |facts| facts.len() == 0);
    options(path).read_only(true).immutable(is_clean)
}

pub(crate) async fn pragma(
    connection: &mut SqliteConnection,
    query: &'static str,
) -> Result<i64, sqlx::Error> {
    sqlx::query(query).fetch_one(connection).await?.try_get(0)
}

/// Copies the database beside itself, as `credence.db.v1.bak`, whole and synchronised, before it is migrated.
async fn copy(
    connection: &mut SqliteConnection,
    room: &Room,
    path: &Path,
    version: u32,
) -> Result<(), OpenError> {
    let copy = path.with_file_name(format!("{DATABASE}.v{version}.bak"));
    let fresh = path.with_file_name(format!("{DATABASE}.v{version}.bak.new"));
    let failed = |source| OpenError::Copy { path: path.into(), copy: copy.clone(), source };
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Into a file that only we may read: SQLite would make it with wider permissions.
    directory::create_private(&fresh)?;
    let target = fresh.to_str().ok_or_else(|| failed(io::Error::other("path is not UTF-8")))?;
    let copied = sqlx::query("VACUUM INTO ?").bind(target).execute(connection).await;
    let copied = copied.map_err(|source| OpenError::Database { path: path.into(), source }).and_then(|_| {
        fs::File::open(&fresh).and_then(|file| file.sync_all()).map_err(failed)?;
        fs::rename(&fresh, &copy).map_err(failed)
    });
    copied.map_err(|error| {
        let judged = error.for_want_of(room);
        // Half a copy is none, and takes the room that the next one needs.
        let _ = fs::remove_file(&fresh);
        judged
    })?;
    path.parent().map_or(Ok(()), directory::sync).map_err(failed)
}
