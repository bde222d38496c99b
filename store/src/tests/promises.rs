//! What the store promises about files, keys and commits.

use std::{
    borrow::Cow,
    os::unix::fs::PermissionsExt,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use api::ports::{BlockStore, StoreError};
use audit::{AuditFilter, AuditLog};
use ca::ports::{Intent, IssueOutcome, Journal, JournalError, ResultRecord};
use certs::{Profile, Serial, SpkiHash};
use rustix::io::Errno;
use spiffe::{AuthorityId, Purpose, RequestId, SpiffeId, Tenant};
use sqlx::{
    ConnectOptions, Connection, Executor, SqliteConnection,
    error::{DatabaseError, ErrorKind},
    sqlite::SqliteConnectOptions,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use super::*;
use crate::directory::{DirectoryLock, Room};

fn id(number: usize) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://td/w{number}")).unwrap()
}

async fn block(store: &Store, number: usize) -> Result<(), StoreError> {
    store.block(&id(number), "test", false, event(Action::IdentityBlock, "w")).await.map(drop)
}

pub(crate) async fn meddle(place: &Place) -> SqliteConnection {
    SqliteConnectOptions::new().filename(place.database()).foreign_keys(false).connect().await.unwrap()
}

#[tokio::test]
async fn fresh_store_is_private_synchronous_and_sound() {
    let world = World::new().await;
    block(&world.store, 1).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&world.place.data()), 0o700);
    for entry in fs::read_dir(world.place.data()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(&world.place.kek()), 0o400);
    let integrity = world.store.integrity().await.unwrap();
    assert_eq!(integrity.problems(), Vec::<String>::new());
    assert_eq!((integrity.synchronous, integrity.journal_mode.as_str()), (2, "wal"));
    assert!(integrity.foreign_keys);
    assert_eq!((integrity.schema, integrity.audit_rows, integrity.sealed), (schema::SCHEMA.version(), 2, 1));
}

#[tokio::test]
async fn second_opening_is_refused_by_process_number() {
    let world = World::new().await;
    let error = open(world.place.open_options()).await.unwrap_err();
    assert!(error.to_string().ends_with(&format!("in use by process {}", std::process::id())), "{error}");
    assert!(error.hint().unwrap().contains(&format!("stop process {}", std::process::id())));
}

#[tokio::test]
async fn init_names_what_exists_and_overwrites_nothing() {
    let place = Place::made().await;
    let before = (place.bytes(), fs::read(place.kek()).unwrap());
    let error = initialise(place.init_options()).await.unwrap_err();
    assert!(error.to_string().ends_with("credence.kek exists already and is never overwritten"), "{error}");
    fs::rename(place.kek(), place.folder.path().join("old.kek")).unwrap();
    let error = initialise(place.init_options()).await.unwrap_err();
    assert!(error.to_string().ends_with("exists already"), "{error}");
    assert!(!place.kek().exists());
    assert!(place.bytes() == before.0);
    let nothing = InitOptions { slots: Vec::new(), ..place.init_options() };
    assert!(matches!(initialise(nothing).await, Err(InitError::NoSlot)));
}

#[tokio::test]
async fn failed_init_leaves_nothing() {
    let place = Place::empty();
    let inside = KekSource::File(place.data().join("credence.kek"));
    let slots = vec![
        NewSlot { name: "primary".into(), source: KekSource::File(place.kek()), cost: Cost::default() },
        NewSlot { name: "other".into(), source: inside, cost: Cost::default() },
    ];
    let error = initialise(InitOptions { slots, ..place.init_options() }).await.unwrap_err();
    assert!(matches!(error, InitError::Kek(KekError::BesideDatabase { .. })), "{error}");
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 0);
    initialise(place.init_options()).await.unwrap();
}

#[tokio::test]
async fn dev_store_may_keep_its_key_beside_it() {
    let place = Place::empty();
    let source = || KekSource::File(place.data().join("dev.kek"));
    let slots = vec![NewSlot { name: "dev".into(), source: source(), cost: Cost::default() }];
    initialise(InitOptions { slots, dev: true, ..place.init_options() }).await.unwrap();
    assert!(open(place.open_options_with(source())).await.is_err());
    open(OpenOptions { dev: true, ..place.open_options_with(source()) }).await.unwrap();
}

/// Crashed or not, refusals leave every byte as it was.
#[tokio::test]
async fn wrong_and_missing_keys_are_refused_and_nothing_is_written() {
    for crashed in [false, true] {
        let world = World::new().await;
        block(&world.store, 1).await.unwrap();
        let place = if crashed { crash(&world).await } else { world.close().await };
        let good = fs::read(place.kek()).unwrap();
        let before = place.bytes();
        let check = async |key: Option<&[u8]>, mode: u32, expected: &str| {
            fs::remove_file(place.kek()).unwrap();
            if let Some(key) = key {
                fs::write(place.kek(), key).unwrap();
                fs::set_permissions(place.kek(), fs::Permissions::from_mode(mode)).unwrap();
            }
            let error = open(place.open_options()).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.hint().unwrap().is_empty());
            assert!(place.bytes() == before, "crashed: {crashed}, {expected}");
            fs::write(place.kek(), &good).unwrap();
        };
        check(Some(&[1; 32]), 0o400, "is not the key of slot primary (key-file)").await;
        check(Some(&good), 0o440, "has mode 0440, it must be 0400").await;
        check(Some(&good[..31]), 0o400, "has 31 bytes").await;
        check(None, 0, "does not exist").await;
        let error = open(place.open_options_with(passphrase("x"))).await.unwrap_err();
        assert!(
            error.to_string().contains("no slot for a passphrase, it has slot primary (key-file)"),
            "{error}"
        );
        assert!(place.bytes() == before);
        fs::set_permissions(place.kek(), fs::Permissions::from_mode(0o400)).unwrap();
        let world = World::open(place).await;
        assert!(world.store.blocks().await.unwrap().contains(&id(1)));
    }
}

/// The files of a running store as a crash leaves them: database, log, no goodbye.
pub(crate) async fn crash(world: &World) -> Place {
    let place = files(world);
    assert!(fs::metadata(place.data().join("credence.db-wal")).unwrap().len() > 0);
    place
}

/// The files of a running store as they are, the log empty or not.
pub(crate) fn files(world: &World) -> Place {
    let place = Place::empty();
    fs::create_dir(place.data()).unwrap();
    fs::set_permissions(place.data(), fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(world.place.data()).unwrap() {
        let path = entry.unwrap().path();
        if without_shm(&path) {
            fs::copy(&path, place.data().join(path.file_name().unwrap())).unwrap();
        }
    }
    if world.place.kek().exists() {
        fs::copy(world.place.kek(), place.kek()).unwrap();
    }
    place
}

#[tokio::test]
async fn passphrase_opens_its_own_slot() {
    let place = Place::empty();
    let slots = vec![
        NewSlot { name: "primary".into(), source: KekSource::File(place.kek()), cost: Cost::FLOOR },
        NewSlot { name: "recovery".into(), source: passphrase("correct horse"), cost: Cost::FLOOR },
    ];
    initialise(InitOptions { slots, ..place.init_options() }).await.unwrap();
    let before = place.bytes();
    let error = open(place.open_options_with(passphrase("wrong horse"))).await.unwrap_err();
    assert_eq!(error.to_string(), "passphrase is not the key of slot recovery (passphrase)");
    assert!(place.bytes() == before);
    fs::remove_file(place.kek()).unwrap();
    drop(open(place.open_options_with(passphrase("correct horse"))).await.unwrap());

    let mut connection = meddle(&place).await;
    connection.execute("UPDATE key_slots SET memory_kib = 1024 WHERE name = 'recovery'").await.unwrap();
    connection.close().await.unwrap();
    let error = open(place.open_options_with(passphrase("correct horse"))).await.unwrap_err();
    assert!(
        error.to_string().contains("stretched with 1 MiB, 3 passes, 4 lanes, at least 64 MiB"),
        "{error}"
    );
}

#[tokio::test]
async fn newer_schema_is_refused_by_both_numbers() {
    let place = Place::made().await;
    let mut connection = meddle(&place).await;
    connection.execute("PRAGMA user_version = 70").await.unwrap();
    connection.close().await.unwrap();
    let before = place.bytes();
    let error = open(place.open_options()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(&format!("has schema 70, this version knows up to {}", schema::SCHEMA.version())),
        "{error}"
    );
    assert!(place.bytes() == before);
    let mut connection = meddle(&place).await;
    connection.execute("PRAGMA application_id = 1").await.unwrap();
    connection.close().await.unwrap();
    assert!(matches!(open(place.open_options()).await, Err(OpenError::Foreign(_))));
    fs::write(place.database(), b"not a database, just some text that is long enough").unwrap();
    assert!(matches!(open(place.open_options()).await, Err(OpenError::Database { .. })));
}

#[tokio::test]
async fn older_schema_migrates_after_a_copy() {
    let world = World::new().await;
    block(&world.store, 1).await.unwrap();
    let place = world.close().await;
    let before = place.bytes();
    let wrong = place.folder.path().join("wrong");
    fs::write(&wrong, [1; 32]).unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o400)).unwrap();
    open_as(place.open_options_with(KekSource::File(wrong)), next_schema()).await.unwrap_err();
    assert!(place.bytes() == before, "a key that does not fit migrates nothing");
    let known = schema::SCHEMA.version();
    let schema = schema_of_as(&place.data(), next_schema()).await.unwrap();
    assert_eq!(schema, SchemaFound { found: known, known: known + 1 });
    assert!(schema.is_older() && !schema_of(&place.data()).await.unwrap().is_older());
    assert!(place.bytes() == before, "who only looks migrates nothing");

    let opened = open_as(place.open_options(), next_schema()).await.unwrap();
    let world = World::run(place, opened);
    let integrity = world.store.integrity().await.unwrap();
    assert_eq!((integrity.schema, integrity.problems()), (known + 1, vec![]));
    assert_eq!(world.store.blocks().await.unwrap().iter().count(), 2);
    let place = world.close().await;
    let backup = place.data().join(format!("credence.db.v{known}.bak"));
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(matches!(open(place.open_options()).await, Err(OpenError::Newer { .. })));
    fs::rename(&backup, place.database()).unwrap();
    let world = World::open(place).await;
    assert_eq!(world.store.blocks().await.unwrap().iter().count(), 1);
    assert!(world.store.integrity().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_start_on_a_full_disk_says_that_it_needs_room_and_nothing_of_backups() {
    let place = Place::made().await;
    let room = Room::of(&place.data());
    let failed = |source| OpenError::Database { path: place.database(), source }.for_want_of(&room);
    let mut connection = meddle(&place).await;
    // Never below what it has.
    connection.execute("PRAGMA max_page_count = 1").await.unwrap();
    let full = connection.execute("CREATE TABLE more (x)").await.unwrap_err();
    connection.close().await.unwrap();
    let error = failed(full);
    assert!(matches!(error, OpenError::Full { .. }), "{error:?}");
    assert!(error.hint().unwrap().starts_with("make room on the disk"), "{error:?}");
    // What may come from a full disk, where there is room.
    let gone = SqliteConnectOptions::new().filename(place.data().join("gone")).connect().await.unwrap_err();
    assert!(matches!(failed(gone), OpenError::Database { .. }));
}

#[tokio::test]
async fn what_a_start_fails_at_is_a_full_disk_where_there_is_no_room_and_itself_where_there_is() {
    let place = Place::made().await;
    // In the place of the copy: it cannot be made.
    let copy = format!("credence.db.v{}.bak.new", schema::SCHEMA.version());
    fs::create_dir(place.data().join(copy)).unwrap();
    let start = async |taken: Result<(), Errno>| {
        let room = Room::told(&place.data(), move || taken);
        open_within(&room, place.open_options(), next_schema()).await.unwrap_err()
    };
    let error = start(Ok(())).await;
    assert!(matches!(error, OpenError::Copy { .. }), "{error:?}");
    let error = start(Err(Errno::NOSPC)).await;
    let OpenError::Full { path, source } = error else { panic!("{error:?}") };
    assert_eq!(path, place.database());
    assert!(matches!(*source, OpenError::Copy { .. }), "{source:?}");
    let error = start(Err(Errno::DQUOT)).await;
    assert!(matches!(error, OpenError::Full { .. }), "{error:?}");
    let error = start(Err(Errno::IO)).await;
    assert!(matches!(error, OpenError::Copy { .. }), "what is not known is not said: {error:?}");
}

#[tokio::test]
async fn a_copy_that_has_taken_the_room_itself_is_a_full_disk() {
    let place = Place::made().await;
    let version = schema::SCHEMA.version();
    let half = place.data().join(format!("credence.db.v{version}.bak.new"));
    // In its place when it is whole.
    fs::create_dir_all(place.data().join(format!("credence.db.v{version}.bak/taken"))).unwrap();
    let copy = half.clone();
    let room = Room::told(&place.data(), move || if copy.exists() { Err(Errno::DQUOT) } else { Ok(()) });
    let error = open_within(&room, place.open_options(), next_schema()).await.unwrap_err();
    assert!(matches!(error, OpenError::Full { .. }), "{error:?}");
    assert!(!half.exists());
}

#[tokio::test]
async fn a_copy_that_cannot_be_finished_leaves_nothing_behind() {
    let place = Place::made().await;
    let mut bytes = fs::read(place.database()).unwrap();
    let last = bytes.len() - 4096;
    bytes[last..].fill(0xff);
    fs::write(place.database(), bytes).unwrap();
    let left =
        || fs::read_dir(place.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let error = open_as(place.open_options(), next_schema()).await.unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
    assert!(!left().iter().any(|name| name.to_string_lossy().contains("bak")), "{:?}", left());
}

/// Whoever holds the lock meanwhile finds it in its place: else a third could hold another.
#[tokio::test]
async fn an_init_that_failed_removes_the_lock_of_nobody_else() {
    let place = Place::empty();
    fs::create_dir(place.data()).unwrap();
    let (held, is_over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (data, counts, ends) = (place.data(), held.clone(), is_over.clone());
    let other = std::thread::spawn(move || {
        let mut lost = 0_u32;
        while !ends.load(Ordering::Relaxed) {
            let Ok(_lock) = DirectoryLock::acquire(&data) else { continue };
            counts.fetch_add(1, Ordering::Relaxed);
            lost += u32::from((0..100).any(|_| !data.join("credence.lock").exists()));
        }
        lost
    });
    let source = KekSource::File(place.folder.path().join("no/such/directory/kek"));
    while held.load(Ordering::Relaxed) < 30 {
        let mut options = place.init_options();
        options.slots[0].source = source.clone();
        initialise(options).await.unwrap_err();
    }
    is_over.store(true, Ordering::Relaxed);
    assert_eq!(other.join().unwrap(), 0);
}

#[tokio::test]
async fn failed_migration_leaves_the_older_schema() {
    let step = "CREATE TABLE half (x) STRICT; nonsense";
    let broken = Schema(Vec::leak(schema::SCHEMA.0.iter().copied().chain([step]).collect()));
    let place = Place::made().await;
    open_as(place.open_options(), broken).await.unwrap_err();
    let world = World::open(place).await;
    assert!(world.store.integrity().await.unwrap().is_sound());
}

#[tokio::test]
async fn directories_that_others_may_enter_are_refused() {
    let place = Place::made().await;
    fs::set_permissions(place.data(), fs::Permissions::from_mode(0o755)).unwrap();
    let error = open(place.open_options()).await.unwrap_err();
    assert!(error.to_string().contains("has mode 0755"), "{error}");
    fs::set_permissions(place.data(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(place.database(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        open(place.open_options()).await,
        Err(OpenError::Directory(DirectoryError::Mode { .. }))
    ));
}

#[tokio::test]
async fn refused_change_does_not_touch_the_others_of_its_group() {
    let place = Place::made().await;
    let (store, writer) = open(place.open_options()).await.unwrap();
    let mut events = store.changes(Topic::Blocks);
    events.mark_unchanged();
    // All of these wait before the writer begins, so they share one transaction.
    let waiting: Vec<_> = [1, 2, 1, 3, 2, 4]
        .map(|number| {
            let store = store.clone();
            Box::pin(async move { block(&store, number).await })
        })
        .into();
    let mut all = Box::pin(async {
        let mut answers = Vec::new();
        for one in join(waiting).await {
            answers.push(one.is_ok());
        }
        answers
    });
    assert!(poll_once(&mut all).is_none());
    let world = World::run(place, (store, writer));
    assert_eq!(all.await, [true, true, false, true, false, true]);
    let rows = world.store.list(&AuditFilter::default()).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
    assert_eq!(*world.store.changes(Topic::Blocks).borrow(), 1, "one commit, one notice");
    assert!(world.store.integrity().await.unwrap().is_sound());
}

/// Changes of one statement and of several take turns in one transaction, and some of each are refused.
#[tokio::test]
async fn whatever_shares_a_transaction_each_change_has_its_audit_row_and_a_refused_one_none() {
    let place = Place::made().await;
    let (store, writer) = open(place.open_options()).await.unwrap();
    let serial = Serial::random();
    let one = |number: usize| {
        let (store, serial) = (store.clone(), serial.clone());
        let change: Pin<Box<dyn Future<Output = bool>>> = match number % 4 {
            0 => Box::pin(async move { record(&store, serial).await.is_ok() }),
            1 => Box::pin(async move { block(&store, number / 8).await.is_ok() }),
            2 => Box::pin(async move { block(&store, 100 + number).await.is_ok() }),
            _ => {
                let event = event(Action::StreamRefuse, &number.to_string());
                Box::pin(async move { store.append(vec![event.clone(), event]).await.is_ok() })
            }
        };
        change
    };
    let mut all = Box::pin(join((0..16).map(one).collect()));
    assert!(poll_once(&mut all).is_none());
    let world = World::run(place, (store, writer));
    let answers = all.await;
    let kept = |kind: usize| (0..16).filter(|number| number % 4 == kind && answers[*number]).count();
    assert_eq!([kept(0), kept(1), kept(2), kept(3)], [1, 2, 4, 4], "{answers:?}");
    assert_eq!(world.store.written().commits, 1);
    let rows = world.store.list(&AuditFilter::default()).await.unwrap();
    let sequences: Vec<u64> = rows.iter().rev().map(|row| row.sequence).collect();
    assert_eq!(
        sequences,
        (1..=16).collect::<Vec<_>>(),
        "one of the start, 1 + 2 + 4, and two for each of the last 4"
    );
    assert!(world.store.integrity().await.unwrap().is_sound());
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
}

/// All futures at once, each polled until done.
async fn join<T, F: Future<Output = T> + Unpin>(mut futures: Vec<F>) -> Vec<T> {
    let mut answers: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(value) = Pin::new(future).poll(context)
            {
                *answer = Some(value);
            }
        }
        if answers.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn full_queue_and_closed_store_are_answers() {
    let place = Place::made().await;
    let (store, writer) = open(place.open_options()).await.unwrap();
    let mut waiting: Vec<_> = (0..writer::QUEUE)
        .map(|number| {
            let store = store.clone();
            Box::pin(async move { block(&store, number).await })
        })
        .collect();
    for one in &mut waiting {
        assert!(poll_once(one).is_none());
    }
    let refused = block(&store, 5000).await.unwrap_err();
    assert_eq!(refused.to_string(), "store is unavailable: 1024 changes are waiting to be written");
    let world = World::run(place, (store.clone(), writer));
    assert!(join(waiting).await.iter().all(Result::is_ok), "what was queued is written");
    world.close().await;
    let closed = block(&store, 5001).await.unwrap_err();
    assert_eq!(closed.to_string(), "store is unavailable: store is closed");
}

#[tokio::test]
async fn long_texts_of_strangers_are_cut() {
    let world = World::new().await;
    let mut long = event(Action::CallRefuse, &"ä".repeat(5000)).with("path", "x".repeat(9000));
    for number in 0..100 {
        long = long.with(&format!("z{number}"), number);
    }
    world.store.append(vec![long]).await.unwrap();
    let row = world.store.list(&AuditFilter::default()).await.unwrap().remove(0);
    assert!(row.event.object.len() < 1100 && row.event.details["path"].len() < 1100);
    assert_eq!(row.event.details.len(), 32);
    assert!(world.store.integrity().await.unwrap().is_sound());
}

#[tokio::test]
async fn audit_lists_filter_and_continue() {
    let world = World::new().await;
    let events = (0..5).map(|number| event(Action::CallRefuse, &format!("o{number}"))).collect();
    world.store.append(events).await.unwrap();
    let list = async |filter: AuditFilter| -> Vec<u64> {
        world.store.list(&filter).await.unwrap().iter().map(|row| row.sequence).collect()
    };
    assert_eq!(list(AuditFilter { limit: 2, ..Default::default() }).await, [6, 5]);
    assert_eq!(list(AuditFilter { limit: 2, before_sequence: Some(4), ..Default::default() }).await, [3, 2]);
    assert_eq!(list(AuditFilter { object: Some("o1".into()), ..Default::default() }).await, [3]);
    assert_eq!(list(AuditFilter { text: Some("O3".into()), ..Default::default() }).await, [5]);
    assert_eq!(
        list(AuditFilter {
            text: Some("o".into()),
            limit: 1,
            before_sequence: Some(3),
            ..Default::default()
        })
        .await,
        [2]
    );
    assert_eq!(
        list(AuditFilter { action: Some(Action::Init), ..Default::default() }).await,
        Vec::<u64>::new()
    );
    assert_eq!(
        list(AuditFilter { since: Some(now()), actor: Some("host".into()), ..Default::default() })
            .await
            .len(),
        6
    );
    assert_eq!(list(AuditFilter { until: Some(now()), ..Default::default() }).await, Vec::<u64>::new());
}

#[tokio::test]
async fn full_disk_is_an_answer_and_not_the_end() {
    let place = Place::made().await;
    let (store, mut writer) = open(place.open_options()).await.unwrap();
    writer.connection.execute("PRAGMA max_page_count = 80").await.unwrap();
    let world = World::run(place, (store, writer));
    let reason = "x".repeat(500_000);
    let error =
        world.store.block(&id(1), &reason, false, event(Action::IdentityBlock, "w")).await.unwrap_err();
    assert_eq!(error.to_string(), "store is unavailable: disk is full");
    let mut full = world.store.full();
    assert!(*full.borrow(), "a full disk is told");
    // Nobody has to write for it to be known that there is room.
    timeout(Duration::from_secs(30), full.wait_for(|full| !full)).await.unwrap().unwrap();
    world.store.block(&id(1), &reason, false, event(Action::IdentityBlock, "w")).await.unwrap_err();
    assert!(*full.borrow());
    world.store.unblock(&id(7), event(Action::IdentityUnblock, "w")).await.unwrap_err();
    assert!(*full.borrow(), "a refusal writes nothing, and tells nothing of room");
    block(&world.store, 2).await.unwrap();
    assert!(!*full.borrow(), "what was written since tells that there is room");
    assert_eq!(world.store.blocks().await.unwrap().iter().count(), 1);
    assert_eq!(*world.store.broken().borrow(), None);
    assert!(world.store.integrity().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_full_disk_stays_one_until_it_has_room_or_something_was_written() {
    let place = Place::made().await;
    let told = Arc::new(Mutex::new(Err(Errno::NOSPC)));
    let taken = told.clone();
    let room = Room::told(&place.data(), move || *taken.lock().unwrap());
    let (store, mut writer) = open_within(&room, place.open_options(), schema::SCHEMA).await.unwrap();
    writer.full.send_replace(true);
    let full = store.full();
    writer.look_for_room().await;
    assert!(*full.borrow(), "there is none");
    *told.lock().unwrap() = Err(Errno::MFILE);
    writer.look_for_room().await;
    assert!(*full.borrow(), "who cannot ask does not know");
    assert!(!writer.probe.is_news(&std::io::Error::from(Errno::MFILE).to_string()), "and has said so");
    *told.lock().unwrap() = Ok(());
    writer.look_for_room().await;
    assert!(!*full.borrow());

    *told.lock().unwrap() = Err(Errno::NOSPC);
    writer.full.send_replace(true);
    let world = World::run(place, (store, writer));
    world.store.check_rollback().await.unwrap();
    assert!(*full.borrow(), "what was only read tells nothing of room");
    assert_eq!(world.store.advance().await.unwrap(), Progress::Done);
    assert!(*full.borrow(), "nor does a step that had nothing to do");
    block(&world.store, 1).await.unwrap();
    assert!(!*full.borrow());
}

#[tokio::test]
async fn a_full_disk_is_asked_for_room_however_often_somebody_is_refused_meanwhile() {
    let place = Place::made().await;
    let (store, mut writer) = open(place.open_options()).await.unwrap();
    writer.full.send_replace(true);
    writer.probe.put_off(Instant::now());
    let world = World::run(place, (store, writer));
    let full = world.store.full();
    let refused = async {
        while *full.borrow() {
            world.store.unblock(&id(7), event(Action::IdentityUnblock, "w")).await.unwrap_err();
        }
    };
    timeout(Duration::from_secs(30), refused).await.unwrap();
}

/// An error of SQLite by its extended code.
#[derive(Debug)]
struct Failed(i32);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("disk I/O error")
    }
}

impl std::error::Error for Failed {}

impl DatabaseError for Failed {
    fn message(&self) -> &str {
        "disk I/O error"
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.0.to_string().into())
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }
}

#[tokio::test]
async fn an_exhausted_quota_is_a_full_disk_and_a_failed_synchronisation_is_the_end() {
    let (write, synchronise, index) = (778, 1034, 4874);
    let check = async |code, taken: Result<(), Errno>, is_full: bool| {
        let place = Place::made().await;
        let room = Room::told(&place.data(), move || taken);
        let (store, mut writer) = open_within(&room, place.open_options(), schema::SCHEMA).await.unwrap();
        let reason = writer.abort(&sqlx::Error::Database(Box::new(Failed(code)))).await;
        assert_eq!(reason.contains("disk is full"), is_full, "{code}: {reason}");
        assert_eq!(*store.full().borrow(), is_full, "{code}");
        assert_eq!(store.broken().borrow().is_none(), is_full, "{code}");
        let world = World::run(place, (store, writer));
        assert_eq!(block(&world.store, 1).await.is_ok(), is_full, "{code}");
    };
    check(write, Err(Errno::DQUOT), true).await;
    check(write, Ok(()), false).await;
    check(write, Err(Errno::IO), false).await;
    check(index, Err(Errno::NOSPC), true).await;
    check(synchronise, Err(Errno::DQUOT), false).await;
}

#[tokio::test]
async fn a_database_that_failed_stays_so_for_its_first_reason_and_is_no_full_disk_any_more() {
    let place = Place::made().await;
    let (store, writer) = open(place.open_options()).await.unwrap();
    writer.full.send_replace(true);
    writer.write_no_more("disk I/O error");
    writer.write_no_more("cannot start a transaction");
    let world = World::run(place, (store, writer));
    assert!(!*world.store.full().borrow());
    let error = block(&world.store, 1).await.unwrap_err();
    assert_eq!(error.to_string(), "store is unavailable: disk I/O error");
    assert_eq!(world.store.broken().borrow().as_deref(), Some("disk I/O error"));
}

#[tokio::test]
async fn database_held_by_another_program_is_an_answer_and_not_the_end() {
    let place = Place::made().await;
    let (store, mut writer) = open(place.open_options()).await.unwrap();
    writer.connection.execute("PRAGMA busy_timeout = 1").await.unwrap();
    let world = World::run(place, (store, writer));
    let mut other = meddle(&world.place).await;
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = block(&world.store, 1).await.unwrap_err();
    assert!(error.to_string().contains("database is locked"), "{error}");
    other.execute("ROLLBACK").await.unwrap();
    block(&world.store, 1).await.unwrap();

    // Whoever waits behind the first hears it with the first, and does not wait as long again, one after the other.
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let mut waiting = JoinSet::new();
    for number in 2..12 {
        let store = world.store.clone();
        waiting.spawn(async move { block(&store, number).await });
    }
    assert!(waiting.join_next().await.unwrap().unwrap().is_err());
    other.execute("ROLLBACK").await.unwrap();
    let rest = waiting.join_all().await;
    assert!(rest.len() == 9 && rest.iter().all(Result::is_err), "{rest:?}");
}

#[tokio::test]
async fn certificates_under_way_together_share_the_synchronisations_of_both_their_records() {
    let world = World::new().await;
    let before = world.store.written();
    let issuers = (0..64).map(|_| {
        let store = world.store.clone();
        Box::pin(async move {
            for _ in 0..10 {
                let serial = intend(&store).await;
                let outcome = IssueOutcome::Failed("none".to_owned());
                let result = ResultRecord { serial, authority: authority(), outcome, at: now() };
                store.record_result(result, event(Action::CertificateFail, "w")).await.unwrap();
            }
        })
    });
    join(issuers.collect()).await;
    let written = world.store.written();
    assert_eq!(written.changes - before.changes, 2 * 640);
    let commits = written.commits - before.commits;
    assert!(commits * 25 <= 640, "{commits} commits for 640 certificates, 64 under way at once");
}

#[tokio::test]
async fn a_result_that_never_comes_holds_up_nobody() {
    let world = World::new().await;
    intend(&world.store).await;
    let before = world.store.written().commits;
    // The first is held for a moment, the second not at all; both are answered.
    block(&world.store, 1).await.unwrap();
    block(&world.store, 2).await.unwrap();
    assert_eq!(world.store.written().commits, before + 2);
    // Nor does the end of the process wait.
    intend(&world.store).await;
    world.close().await;
}

fn authority() -> AuthorityId {
    "00112233445566aa".parse().unwrap()
}

async fn intend(store: &Store) -> Serial {
    let serial = Serial::random();
    record(store, serial.clone()).await.unwrap();
    serial
}

async fn record(store: &Store, serial: Serial) -> Result<(), JournalError> {
    let intent = Intent {
        serial,
        authority: authority(),
        epoch: 1,
        tbs_sha256: [0; 32],
        id: id(1),
        profile: Profile::Workload,
        tenant: Tenant::default(),
        node: None,
        purpose: Purpose::Delivery,
        spki: SpkiHash([0; 32]),
        not_before: now(),
        not_after: now(),
        at: now(),
        request_id: RequestId::random(),
    };
    store.record_intent(intent, None, event(Action::CertificateIntent, "w")).await
}

#[tokio::test]
async fn changes_that_wait_together_share_a_synchronisation() {
    let world = World::new().await;
    let writers = (0..64).map(|writer| {
        let store = world.store.clone();
        Box::pin(async move {
            for number in 0..10 {
                block(&store, writer * 10 + number).await.unwrap();
            }
        })
    });
    join(writers.collect()).await;
    let commits = *world.store.changes(Topic::Blocks).borrow();
    assert!(commits * 25 <= 640, "{commits} commits for 640 changes of 64 writers");
    assert_eq!(world.store.integrity().await.unwrap().audit_rows, 641);
}
