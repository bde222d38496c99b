//! A store on a disk, an authority over it, and their parts running: durable issuance without the doors of a server.

use std::sync::Arc;

use anyhow::Context;
use audit::Actor;
use ca::{Deps, Handle, Manager, testing::FakeDependents};
use certs::{Clock, ManualClock};
use store::{Cost, InitOptions, KekSource, NewSlot, OnlyTransit, OpenOptions, Store, initialise};
use tempfile::TempDir;
use tokio::{runtime, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::authority::{Deaf, now, policy};

pub(crate) struct Durable {
    pub(crate) store: Store,
    pub(crate) handle: Handle,
    pub(crate) deps: Deps,
    issuing: JoinSet<()>,
    writing: JoinSet<Result<(), store::WriterError>>,
    ends: [CancellationToken; 2],
    /// Below the current folder: where others keep what is temporary may be no disk.
    _folder: TempDir,
}

impl Durable {
    /// Makes a store in a folder of its own. Time stands still.
    pub(crate) async fn open() -> anyhow::Result<Self> {
        Self::open_by(Arc::new(ManualClock::new(now()))).await
    }

    /// The same by another clock.
    pub(crate) async fn open_by(clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(".").context("cannot make a folder here")?;
        let (directory, key) = (folder.path().join("data"), folder.path().join("credence.kek"));
        let slot =
            NewSlot { name: "primary".into(), source: KekSource::File(key.clone()), cost: Cost::default() };
        let (created, dev) = (clock.now(), false);
        let only_transit = OnlyTransit::Refused;
        initialise(InitOptions {
            directory: directory.clone(),
            slots: vec![slot],
            only_transit,
            created,
            dev,
        })
        .await?;
        let keys = vec![KekSource::File(key).into()];
        let options = OpenOptions { directory, keys, anchor: None, clock: clock.clone(), dev };
        let (store, writer) = store::open(options).await?;
        let ends = [CancellationToken::new(), CancellationToken::new()];
        let mut writing = JoinSet::new();
        writing.spawn(writer.run(ends[1].clone()));
        let kept = Arc::new(store.clone());
        let deps = Deps {
            authorities: kept.clone(),
            journal: kept,
            revocations: Arc::new(store.clone()),
            clock,
            refusals: Arc::new(Deaf),
            policy: policy()?,
            epoch: store.epoch(),
        };
        Manager::initialise(&deps, Actor::Host).await?;
        let manager = Manager::open(deps.clone()).await?;
        let handle = manager.handle();
        let mut issuing = JoinSet::new();
        issuing.spawn(manager.run(Arc::new(FakeDependents::default()), ends[0].clone()));
        Ok(Self { store, handle, deps, issuing, writing, ends, _folder: folder })
    }

    /// Ends everything, the writer last.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        self.ends[0].cancel();
        while self.issuing.join_next().await.is_some() {}
        self.ends[1].cancel();
        while let Some(ended) = self.writing.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Two workers, as on the machine of record.
pub(crate) fn runtime() -> anyhow::Result<runtime::Runtime> {
    Ok(runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}
