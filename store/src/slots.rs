//! Key slots: each holds the root key, wrapped by one key-encryption key. Any one of them opens the store.
//!
//! A source is asked three things, and may take its time about each: to wrap the root key, to unwrap it, and how it
//! stands. What it wraps with never comes here, but for key files and passphrases, which are forgotten at once. Who is
//! asked over a network is asked last, and when a store is opened only if nothing else opens it.

mod change;

use std::path::{Path, PathBuf};

use certs::Timestamp;
use futures::future::join_all;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

pub(crate) use self::change::are_transit_only;
pub use self::change::{OnlyTransit, RotationError};
use crate::{
    kek::{
        Bytes, Cost, Envelope, KekError, KekSource, KeyFacts, Outlook, RemoteError, RemoteState, SlotKind,
        create_key_file, read_key_file, stretch,
    },
    keyring::new_id,
    row::{decode, one_row, time, uuid},
    seal::{self, Place, SealError, SealingKey, random},
};

/// The most slots of a store.
pub const MAX_SLOTS: usize = 16;

/// A new key slot.
#[derive(Debug)]
pub struct NewSlot {
    /// What people call it, such as `primary` or `recovery`.
    pub name: String,
    /// What opens it. For a new store a key file is made and must not exist.
    pub source: KekSource,
    /// What a guess costs, for passphrases.
    pub cost: Cost,
}

/// Something that opens a slot.
#[derive(Debug)]
pub struct SlotSource {
    /// Which slot; `None` for whichever it fits.
    pub name: Option<String>,
    /// What opens it.
    pub source: KekSource,
}

impl From<KekSource> for SlotSource {
    fn from(source: KekSource) -> Self {
        Self { name: None, source }
    }
}

/// Why the keys of a store could not be unlocked.
#[derive(Debug, Error)]
pub enum UnlockError {
    /// The key-encryption key itself was not taken.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// Nothing was given.
    #[error("no key was given, the store has {slots}")]
    NoKey {
        /// The slots there are.
        slots: String,
    },
    /// No slot is opened by this sort of key.
    #[error("store has no slot for a {given}, it has {slots}")]
    NoSlot {
        /// What was given.
        given: SlotKind,
        /// The slots there are.
        slots: String,
    },
    /// There is no slot of that name.
    #[error("store has no slot {name}, it has {slots}")]
    NoSlotNamed {
        /// The name.
        name: String,
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
    /// Several keys were given, and none opens a slot.
    #[error("none of the keys opens the store: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    None(Vec<Self>),
    /// The slot opened; what it or a data key holds is damaged.
    #[error("{what} is damaged")]
    Damaged {
        /// Which slot or data key.
        what: String,
        /// Why.
        source: SealError,
    },
}

const USE_THE_RIGHT_KEY: &str =
    "nothing was changed; use the key that was made with this store, or that of its recovery slot";

impl UnlockError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Kek(error) => error.hint(),
            Self::NoKey { .. } => "name the key in secrets, or its slot in secrets.slots".into(),
            Self::NoSlot { .. } => "give the sort of key that the store was initialised with".into(),
            Self::NoSlotNamed { .. } => "`credence kek add-slot` makes it, or correct the name".into(),
            Self::Wrong { .. } => USE_THE_RIGHT_KEY.into(),
            // Whoever holds a key says most exactly what to do.
            Self::None(_) => match self.remote().first() {
                Some(remote) => format!("{}; or open it by the recovery slot", remote.hint),
                None => USE_THE_RIGHT_KEY.into(),
            },
            Self::Damaged { .. } => "nothing was changed; restore the database from a backup".into(),
        }
    }

    /// What those said who hold a key elsewhere.
    #[must_use]
    pub fn remote(&self) -> Vec<&RemoteError> {
        match self {
            Self::Kek(KekError::Remote(error)) => vec![error],
            Self::None(all) => all.iter().flat_map(Self::remote).collect(),
            Self::Kek(_)
            | Self::NoKey { .. }
            | Self::NoSlot { .. }
            | Self::NoSlotNamed { .. }
            | Self::Wrong { .. }
            | Self::Damaged { .. } => Vec::new(),
        }
    }

    /// What becomes of it when nobody changes anything here. Whoever tries again asks all of them: a refusal of one is
    /// a reason to be slow, whatever the others hold out.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        let all = self.remote();
        let one_is = |outlook| all.iter().any(|error| error.outlook == outlook);
        if one_is(Outlook::Refused) {
            Outlook::Refused
        } else if one_is(Outlook::Passing) {
            Outlook::Passing
        } else {
            Outlook::Lasting
        }
    }
}

/// Why a slot that unwraps does not open the store.
const ANOTHER_ROOT: &str =
    "it holds another root key than the store's: replace it by another slot, or leave it behind";

/// How a slot stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotHealth {
    /// Its source was asked and opened it, and it holds the root key of the store.
    Opens,
    /// Its source was asked and did not open it.
    Fails(String),
    /// Nothing that was given opens it: its key is kept elsewhere.
    Offline,
}

/// A slot, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// What opens it.
    pub kind: SlotKind,
    /// The key that wraps it, as its source names it; may be empty.
    pub key_id: String,
    /// When it was made.
    pub created: Timestamp,
    /// How it stands.
    pub health: SlotHealth,
    /// Whether its source has another key by now: it should be made anew.
    pub stale: bool,
    /// When its key ends, as its source says; most keys have no end.
    pub ends: Option<Timestamp>,
    /// The version of the key that wraps it, where keys have versions.
    pub version: Option<u32>,
    /// What whoever holds the key says of it.
    pub key: Option<RemoteState>,
    /// What somebody should hear of, although it opens.
    pub warnings: Vec<String>,
}

impl SlotStatus {
    fn asked(self, answered: &Answered) -> Self {
        let named = answered.token.as_ref().map(|now| now.id.as_str());
        let is_other = named.is_some_and(|id| id != self.key_id)
            || answered.key.as_ref().is_some_and(|now| {
                now.key_id != self.key_id || self.version.is_some_and(|version| version < now.latest)
            });
        Self {
            health: SlotHealth::Opens,
            stale: is_other,
            ends: answered.token.as_ref().and_then(|now| now.ends),
            key: answered.key.clone(),
            warnings: answered.warnings.clone(),
            ..self
        }
    }
}

/// What a source answered that opens a slot.
#[derive(Debug)]
struct Answered {
    root: SealingKey,
    token: Option<KeyFacts>,
    key: Option<RemoteState>,
    warnings: Vec<String>,
}

/// A key slot as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) kind: SlotKind,
    stretching: Option<(Cost, [u8; 16])>,
    pub(crate) key_id: String,
    wrapped: Vec<u8>,
    pub(crate) created: Timestamp,
}

fn place(store: Uuid, slot: &str) -> Place<'_> {
    Place { store, tenant: "", class: "root", kind: "key-slot", id: slot, version: 1 }
}

/// Runs what blocks where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The key of a file or passphrase, with `stretching` for the latter.
async fn local_key(
    source: &KekSource,
    stretching: Option<(Cost, [u8; 16])>,
    apart_from: Option<&Path>,
) -> Result<Bytes, KekError> {
    match source {
        KekSource::File(path) => read_key_file(path, apart_from),
        KekSource::Passphrase(text) => {
            let text = Zeroizing::new(text.to_vec());
            let (cost, salt) = stretching.ok_or(KekError::EmptyPassphrase)?;
            blocking(move || stretch(&text, &salt, cost)).await
        }
        // Neither gives its key away: they are asked in `Slot::wrap` and `Slot::ask`.
        KekSource::Token(_) | KekSource::Transit(_) => Err(KekError::EmptyPassphrase),
    }
}

impl Slot {
    /// Wraps `root` for a new slot. A key file is made; with `existing` one that is there is used, and so is a key
    /// on a token.
    pub(crate) async fn make(
        root: &SealingKey,
        store: Uuid,
        new: &NewSlot,
        apart_from: Option<&Path>,
        existing: bool,
        created: Timestamp,
    ) -> Result<Self, KekError> {
        let stretching = match &new.source {
            KekSource::File(path) => {
                if !existing || path.symlink_metadata().is_err() {
                    create_key_file(path, apart_from)?;
                }
                None
            }
            KekSource::Passphrase(_) => Some((new.cost, random())),
            KekSource::Token(key) => {
                let key = key.clone();
                blocking(move || key.ensure()).await?;
                None
            }
            // It is made where it is held, and by whoever looks after it there.
            KekSource::Transit(_) => None,
        };
        let mut slot = Self {
            id: new_id(),
            name: new.name.clone(),
            kind: new.source.kind(),
            stretching,
            key_id: String::new(),
            wrapped: Vec::new(),
            created,
        };
        slot.wrap(root, store, &new.source, apart_from).await?;
        Ok(slot)
    }

    /// Wraps another root key, for a slot that is there.
    pub(crate) async fn wrap(
        &mut self,
        root: &SealingKey,
        store: Uuid,
        source: &KekSource,
        apart_from: Option<&Path>,
    ) -> Result<(), KekError> {
        let name = self.id.to_string();
        let place = place(store, &name);
        if let KekSource::Token(key) = source {
            let (key, id, place) = (key.clone(), self.id, place.authenticated(self.id));
            let root = Zeroizing::new(root.expose().to_vec());
            let (key_id, wrapped) =
                blocking(move || Ok::<_, KekError>((key.facts()?.id, key.wrap(id, &place, &root)?))).await?;
            (self.key_id, self.wrapped) = (key_id, wrapped);
            return Ok(());
        }
        if let KekSource::Transit(key) = source {
            let wrapped = key.wrap(&root.to_secret(), &place.authenticated(self.id)).await?;
            self.wrapped = Envelope { version: wrapped.version, bytes: &wrapped.bytes }.write(self.id);
            self.key_id = wrapped.key_id;
            return Ok(());
        }
        let kek = local_key(source, self.stretching, apart_from).await?;
        self.wrapped = root.wrap(&SealingKey::new(self.id, kek), &place);
        Ok(())
    }

    /// Asks `source` for the root key. `None` if it holds another key than the slot's.
    pub(crate) async fn open(
        &self,
        store: Uuid,
        root_id: Uuid,
        source: &KekSource,
        apart_from: Option<&Path>,
    ) -> Result<Option<SealingKey>, UnlockError> {
        Ok(self.ask(store, root_id, source, apart_from).await?.map(|answered| answered.root))
    }

    /// As [`Slot::open`], with what the source says of its key.
    async fn ask(
        &self,
        store: Uuid,
        root_id: Uuid,
        source: &KekSource,
        apart_from: Option<&Path>,
    ) -> Result<Option<Answered>, UnlockError> {
        let name = self.id.to_string();
        let place = place(store, &name);
        let damaged = |source| UnlockError::Damaged { what: format!("key slot {}", self.name), source };
        let (root, token) = match source {
            KekSource::Transit(key) => {
                let Some(envelope) = Envelope::read(self.id, &self.wrapped) else { return Ok(None) };
                let unwrapped = key.unwrap(envelope.bytes, &place.authenticated(self.id)).await;
                let unwrapped = unwrapped.map_err(KekError::from)?;
                let Some(root) = unwrapped.root else { return Ok(None) };
                let root = SealingKey::from_secret(root_id, &root).map_err(damaged)?;
                let (key, warnings) = (unwrapped.key, unwrapped.warnings);
                return Ok(Some(Answered { root, token: None, key, warnings }));
            }
            KekSource::Token(key) => {
                let (held, id, place) = (key.clone(), self.id, place.authenticated(self.id));
                let wrapped = self.wrapped.clone();
                let root =
                    blocking(move || held.unwrap(id, &place, &wrapped)).await.map_err(KekError::from)?;
                let held = key.clone();
                // What it says beside is worth no failure.
                let facts = if root.is_some() { blocking(move || held.facts()).await.ok() } else { None };
                (root, facts)
            }
            KekSource::File(_) | KekSource::Passphrase(_) => {
                let kek = SealingKey::new(self.id, local_key(source, self.stretching, apart_from).await?);
                match seal::open(&kek, &place, &self.wrapped) {
                    Ok(plaintext) => (Some(plaintext), None),
                    Err(SealError::WrongKey(_)) => (None, None),
                    Err(error) => return Err(damaged(error)),
                }
            }
        };
        let Some(plaintext) = root else { return Ok(None) };
        let root = SealingKey::from_plaintext(root_id, &plaintext).map_err(damaged)?;
        Ok(Some(Answered { root, token, key: None, warnings: Vec::new() }))
    }

    fn status(&self, health: SlotHealth) -> SlotStatus {
        SlotStatus {
            name: self.name.clone(),
            kind: self.kind,
            key_id: self.key_id.clone(),
            created: self.created,
            health,
            stale: false,
            ends: None,
            version: self.version(),
            key: None,
            warnings: Vec::new(),
        }
    }

    /// The version of the key that wraps it, where keys have versions.
    pub(crate) fn version(&self) -> Option<u32> {
        match self.kind {
            SlotKind::Transit => Envelope::read(self.id, &self.wrapped).map(|envelope| envelope.version),
            SlotKind::KeyFile | SlotKind::Passphrase | SlotKind::Token => None,
        }
    }
}

fn describe<'a>(slots: impl IntoIterator<Item = &'a Slot>) -> String {
    let names: Vec<String> =
        slots.into_iter().map(|slot| format!("slot {} ({})", slot.name, slot.kind)).collect();
    if names.is_empty() { "no slot".into() } else { names.join(", ") }
}

/// What asking the sources brought.
#[derive(Debug)]
struct Asked {
    root: Option<SealingKey>,
    slots: Vec<SlotStatus>,
    /// By the place of the source.
    problems: Vec<(usize, UnlockError)>,
}

/// How many of the sources are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All of them, each for its own sake; those over a network at the same time.
    All,
    /// Nobody is asked over a network once the root key is in hand: one after the other.
    Enough,
}

impl Asked {
    /// Takes what the source at a place answered.
    fn take(
        &mut self,
        slots: &[Slot],
        sources: &[SlotSource],
        in_memory: Option<&SealingKey>,
        (place, answer): (usize, Result<(usize, Answered), UnlockError>),
    ) {
        match answer {
            // Something of 32 bytes came out of it: a slot that was written beside a new root key, or put back.
            Ok((index, answered)) if in_memory.is_some_and(|root| !root.is(answered.root.expose())) => {
                self.slots[index] = slots[index].status(SlotHealth::Fails(ANOTHER_ROOT.into()));
            }
            Ok((index, answered)) => {
                self.slots[index] = slots[index].status(SlotHealth::Opens).asked(&answered);
                self.root.get_or_insert(answered.root);
            }
            Err(error) => {
                let name = sources[place].name.as_ref();
                let named = name.and_then(|name| slots.iter().position(|slot| slot.name == *name));
                if let Some(index) = named {
                    self.slots[index] = slots[index].status(SlotHealth::Fails(words(&error)));
                }
                self.problems.push((place, error));
            }
        }
    }
}

/// With the root key `in_memory`, where there is one, a slot opens only if it holds that.
async fn ask(
    (store, root_id, in_memory): (Uuid, Uuid, Option<&SealingKey>),
    slots: &[Slot],
    sources: &[SlotSource],
    apart_from: Option<&Path>,
    extent: Extent,
) -> Asked {
    let mut asked = Asked {
        root: None,
        slots: slots.iter().map(|slot| slot.status(SlotHealth::Offline)).collect(),
        problems: Vec::new(),
    };
    let is_remote = |index: &usize| matches!(sources[*index].source, KekSource::Transit(_));
    let (far, near): (Vec<_>, Vec<_>) = (0..sources.len()).partition(is_remote);
    let one = |place: usize| async move {
        (place, ask_one(store, root_id, slots, &sources[place], apart_from).await)
    };
    for place in near {
        asked.take(slots, sources, in_memory, one(place).await);
    }
    match extent {
        // One that says nothing must not cost the others their time.
        Extent::All => {
            for answer in join_all(far.into_iter().map(one)).await {
                asked.take(slots, sources, in_memory, answer);
            }
        }
        Extent::Enough => {
            for place in far {
                if asked.root.is_none() {
                    asked.take(slots, sources, in_memory, one(place).await);
                }
            }
        }
    }
    asked.problems.sort_by_key(|(place, _)| *place);
    asked
}

/// Why, and of a key that is held elsewhere also what to do about it.
fn words(error: &UnlockError) -> String {
    if error.remote().is_empty() { error.to_string() } else { format!("{error}; {}", error.hint()) }
}

/// Asks the sources for the root key. One that opens its slot is enough; of the others it is said why they did
/// not. Which slot a key opens shows by its name or by the commitment; a key elsewhere that no slot is named for is
/// asked for one slot after the other, and its holder unwraps only what was wrapped for that very slot.
pub(crate) async fn open(
    store: Uuid,
    root_id: Uuid,
    slots: &[Slot],
    sources: &[SlotSource],
    apart_from: Option<&Path>,
) -> Result<SealingKey, UnlockError> {
    let asked = ask((store, root_id, None), slots, sources, apart_from, Extent::Enough).await;
    let mut problems: Vec<UnlockError> = asked.problems.into_iter().map(|(_, problem)| problem).collect();
    match asked.root {
        Some(root) => {
            for problem in &problems {
                tracing::warn!(%problem, "a key does not open its slot; another one opened the store");
            }
            Ok(root)
        }
        None if problems.len() > 1 => Err(UnlockError::None(problems)),
        None => Err(problems.pop().unwrap_or_else(|| UnlockError::NoKey { slots: describe(slots) })),
    }
}

/// How every slot stands, each source asked anew, and what it holds held against the root key in memory.
pub(crate) async fn status(
    store: Uuid,
    root: &SealingKey,
    slots: &[Slot],
    sources: &[SlotSource],
    apart_from: Option<&Path>,
) -> Vec<SlotStatus> {
    let mut asked = ask((store, root.id, Some(root)), slots, sources, apart_from, Extent::All).await;
    if asked.root.is_some() {
        return asked.slots;
    }
    // Nothing opens: what names no slot is to blame for whichever it could have opened.
    for (place, error) in &asked.problems {
        let one = &sources[*place];
        let could = |slot: &&mut SlotStatus| {
            one.name.is_none() && slot.kind == one.source.kind() && slot.health == SlotHealth::Offline
        };
        for slot in asked.slots.iter_mut().filter(could) {
            slot.health = SlotHealth::Fails(words(error));
        }
    }
    asked.slots
}

async fn ask_one(
    store: Uuid,
    root_id: Uuid,
    slots: &[Slot],
    one: &SlotSource,
    apart_from: Option<&Path>,
) -> Result<(usize, Answered), UnlockError> {
    let given = one.source.kind();
    if let Some(name) = &one.name
        && !slots.iter().any(|slot| slot.name == *name)
    {
        return Err(UnlockError::NoSlotNamed { name: name.clone(), slots: describe(slots) });
    }
    let fits = |slot: &Slot| slot.kind == given && one.name.as_ref().is_none_or(|name| slot.name == *name);
    let fitting: Vec<usize> = (0..slots.len()).filter(|index| fits(&slots[*index])).collect();
    let mut first = None;
    for index in &fitting {
        match slots[*index].ask(store, root_id, &one.source, apart_from).await {
            Ok(Some(answered)) => return Ok((*index, answered)),
            Ok(None) => {}
            // Another slot may be of a version that it still unwraps. Anything else, such as a login or a PIN that is
            // refused, would be so of the next slot too, and must not be tried again.
            Err(UnlockError::Kek(KekError::Remote(error))) if error.is_of_wrapped => {
                first.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = first {
        return Err(KekError::Remote(error).into());
    }
    if fitting.is_empty() {
        // What is wrong with the key itself is said first.
        if let KekSource::File(path) = &one.source {
            read_key_file(path, apart_from)?;
        }
        return Err(UnlockError::NoSlot { given, slots: describe(slots) });
    }
    let slots = describe(fitting.iter().map(|index| &slots[*index]));
    Err(UnlockError::Wrong { given: one.source.to_string(), slots })
}

/// The directory that key files must not lie in.
pub(crate) fn apart(dev: bool, directory: &Path) -> Option<PathBuf> {
    (!dev).then(|| directory.to_owned())
}

impl Slot {
    pub(crate) async fn insert(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let cost = self.stretching.map(|(cost, _)| cost);
        sqlx::query(
            "INSERT INTO key_slots (id, name, kind, memory_kib, passes, lanes, salt, wrapped, created, key_id)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(self.id.as_bytes().as_slice())
        .bind(&self.name)
        .bind(self.kind.word())
        .bind(cost.map(|cost| cost.memory_kib))
        .bind(cost.map(|cost| cost.passes))
        .bind(cost.map(|cost| cost.lanes))
        .bind(self.stretching.as_ref().map(|(_, salt)| salt.as_slice()))
        .bind(&self.wrapped)
        .bind(self.created.unix_millis())
        .bind(&self.key_id)
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Writes what [`Slot::wrap`] made. A slot that is gone is an error.
    pub(crate) async fn update(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let written = sqlx::query("UPDATE key_slots SET wrapped = ?, key_id = ? WHERE id = ?")
            .bind(&self.wrapped)
            .bind(&self.key_id)
            .bind(self.id.as_bytes().as_slice())
            .execute(connection)
            .await?;
        one_row(&written)
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
            SlotKind::KeyFile | SlotKind::Token | SlotKind::Transit => None,
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
        let key_id = match row.try_get("key_id") {
            Ok(key_id) => key_id,
            // Before the step that brought it.
            Err(sqlx::Error::ColumnNotFound(_)) => String::new(),
            Err(error) => return Err(error),
        };
        Ok(Self {
            id: uuid(row, "id")?,
            name: row.try_get("name")?,
            kind,
            stretching,
            key_id,
            wrapped: row.try_get("wrapped")?,
            created: time(row, "created")?,
        })
    }
}
