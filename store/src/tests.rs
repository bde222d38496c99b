//! A store in a directory of its own, with its writer running.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use audit::{Action, Actor, Event};
use certs::{ManualClock, Timestamp};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{schema::Schema, sqlite::*, *};

mod acme;
mod documents;
mod edges;
mod hooks;
mod issuers;
mod nodes;
mod promises;
mod recovery;
mod remaining;
mod rollback;
mod rotation;
mod secrets;
mod tamper;
mod together;
mod transit;

pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

pub(crate) fn event(action: Action, object: &str) -> Event {
    Event::done(now(), Actor::Host, action, object)
}

/// A folder with a data directory and a key file.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn made() -> Self {
        let place = Self::empty();
        initialise(place.init_options()).await.unwrap();
        place
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.data().join("credence.db")
    }

    pub(crate) fn kek(&self) -> PathBuf {
        self.folder.path().join("credence.kek")
    }

    pub(crate) fn init_options(&self) -> InitOptions {
        let source = KekSource::File(self.kek());
        InitOptions {
            directory: self.data(),
            slots: vec![NewSlot { name: "primary".into(), source, cost: Cost::default() }],
            only_transit: OnlyTransit::Refused,
            created: now(),
            dev: false,
        }
    }

    pub(crate) fn open_options(&self) -> OpenOptions {
        self.open_options_with(KekSource::File(self.kek()))
    }

    pub(crate) fn open_options_with(&self, kek: KekSource) -> OpenOptions {
        OpenOptions {
            directory: self.data(),
            keys: vec![kek.into()],
            anchor: None,
            clock: Arc::new(ManualClock::new(now())),
            dev: false,
        }
    }

    /// Every file's bytes by name, but for SQLite's index of the log, which holds nothing durable.
    pub(crate) fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.data()).unwrap().map(|entry| entry.unwrap().path());
        let durable = entries.filter(|path| !path.to_str().unwrap().ends_with("-shm"));
        durable.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }
}

/// An open store.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) store: Store,
    running: Option<JoinHandle<Result<(), WriterError>>>,
    shutdown: CancellationToken,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::open(Place::made().await).await
    }

    pub(crate) async fn open(place: Place) -> Self {
        let opened = open(place.open_options()).await.unwrap();
        Self::run(place, opened)
    }

    pub(crate) fn run(place: Place, (store, writer): (Store, Writer)) -> Self {
        let shutdown = CancellationToken::new();
        let running = Some(spawn(writer, shutdown.clone()));
        Self { place, store, running, shutdown }
    }

    /// Ends the writer and lets go of the directory.
    pub(crate) async fn close(mut self) -> Place {
        self.shutdown.cancel();
        self.running.take().unwrap().await.unwrap().unwrap();
        self.place
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is its own composition root")]
pub(crate) fn spawn(writer: Writer, shutdown: CancellationToken) -> JoinHandle<Result<(), WriterError>> {
    tokio::spawn(writer.run(shutdown))
}

pub(crate) fn passphrase(text: &str) -> KekSource {
    KekSource::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
}

pub(crate) fn without_shm(path: &Path) -> bool {
    !path.to_str().unwrap().ends_with("-shm")
}

/// This version's schema and one more step.
pub(crate) fn next_schema() -> Schema {
    let step = "ALTER TABLE blocks ADD COLUMN later INTEGER; \
                INSERT INTO blocks (id, tenant, at, reason) VALUES ('spiffe://td/x', 'default', 0, '')";
    Schema(Vec::leak(schema::SCHEMA.0.iter().copied().chain([step]).collect()))
}
