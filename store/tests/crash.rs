//! What is acknowledged survives `kill -9`, stands behind a synchronised log, and is the last thing written once
//! the disk has failed. Each test runs this program again as a child that writes.

#![expect(clippy::unwrap_used, reason = "a test ends where anything is not as it should be")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use api::ports::{DocumentChange, DocumentFilter, DocumentStore, StoreError};
use audit::{Action, Actor, AuditFilter, AuditLog, Event};
use certs::{ManualClock, Timestamp};
use credence_store::{
    Cost, InitOptions, KekSource, NewSlot, OnlyTransit, OpenOptions, Store, Writer, initialise, open,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const FOLDER: &str = "CREDENCE_STORE_TEST_FOLDER";
const COMMITS: &str = "CREDENCE_STORE_TEST_COMMITS";
const WRITERS: &str = "CREDENCE_STORE_TEST_WRITERS";

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

fn make(folder: &Path) {
    let source = KekSource::File(folder.join("kek"));
    let slots = vec![NewSlot { name: "primary".into(), source, cost: Cost::default() }];
    let options = InitOptions {
        directory: folder.join("data"),
        slots,
        only_transit: OnlyTransit::Refused,
        created: now(),
        dev: false,
    };
    Runtime::new().unwrap().block_on(initialise(options)).unwrap();
}

async fn opened(folder: &Path) -> (Store, Writer) {
    let options = OpenOptions {
        directory: folder.join("data"),
        keys: vec![KekSource::File(folder.join("kek")).into()],
        anchor: None,
        clock: Arc::new(ManualClock::new(now())),
        dev: false,
    };
    open(options).await.unwrap()
}

/// Two documents in one commit, with the same text: half of it would show.
async fn commit(store: &Store, writer: u64, number: u64) -> Result<(), StoreError> {
    let put = |half: &str| DocumentChange::Put {
        tenant: Default::default(),
        namespace: Default::default(),
        kind: "Pair".into(),
        name: format!("w{writer}-{half}"),
        text: number.to_string(),
        expected: None,
        apply: true,
    };
    let event = Event::done(now(), Actor::Host, Action::DocumentApply, format!("w{writer}"));
    store.commit(vec![put("a"), put("b")], "test", "", event).await.map(drop)
}

/// Past the test harness, which would hold the line back.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.into_string().unwrap())
}

/// Not a test of its own: what the others run as a child. Without the variables it has nothing to do.
#[test]
fn child() {
    let Some(folder) = variable(FOLDER) else { return };
    let commits: u64 = variable(COMMITS).unwrap().parse().unwrap();
    let writers: u64 = variable(WRITERS).unwrap().parse().unwrap();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let (store, writer) = opened(Path::new(&folder)).await;
        let shutdown = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..writers {
            let store = store.clone();
            tasks.spawn(async move { write(&store, number, commits).await });
        }
        let end = shutdown.clone();
        let _ = tokio::join!(writer.run(shutdown), async {
            tasks.join_all().await;
            end.cancel();
        });
    });
}

async fn write(store: &Store, writer: u64, commits: u64) {
    let begun = last_written(store, writer).await;
    for number in begun + 1..=begun + commits {
        match commit(store, writer, number).await {
            Ok(()) => say(&format!("ack {writer} {number}")),
            Err(error) => say(&format!("fail {writer} {error}")),
        }
    }
}

async fn last_written(store: &Store, writer: u64) -> u64 {
    let filter = DocumentFilter { name: Some(format!("w{writer}-a")), ..Default::default() };
    let found = store.newest(&filter).await.unwrap();
    found.first().map_or(0, |document| document.text.parse().unwrap())
}

fn spawn_child(program: &mut Command, folder: &Path, writers: u64, commits: u64) -> Child {
    program
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(COMMITS, commits.to_string())
        .env(WRITERS, writers.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What a line acknowledges: (writer, number). The harness puts its own words before the first one.
fn acknowledged(line: &str) -> Option<(u64, u64)> {
    let (_, ack) = line.split_once("ack ")?;
    let (writer, number) = ack.split_once(' ')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

/// Whole transactions, all that was acknowledged, and a chain that holds.
fn check(folder: &Path, acks: &BTreeMap<u64, u64>) {
    Runtime::new().unwrap().block_on(async {
        let (store, writer) = opened(folder).await;
        let shutdown = CancellationToken::new();
        let look = async {
            let documents = store.effective(&DocumentFilter::default()).await.unwrap();
            let texts: BTreeMap<&str, u64> =
                documents.iter().map(|one| (one.name.as_str(), one.text.parse().unwrap())).collect();
            for writer in 0..4 {
                let half = |half: &str| texts.get(format!("w{writer}-{half}").as_str()).copied().unwrap_or(0);
                assert_eq!(half("a"), half("b"), "half a transaction");
                assert!(
                    half("a") >= acks.get(&writer).copied().unwrap_or(0),
                    "an acknowledged commit is gone"
                );
            }
            let integrity = store.integrity().await.unwrap();
            assert_eq!(integrity.problems(), Vec::<String>::new());
            let commits: u64 = texts.values().sum::<u64>() / 2;
            assert_eq!(integrity.audit_rows, commits + 1, "one audit row for each commit, none without");
            shutdown.cancel();
        };
        let (ended, ()) = tokio::join!(writer.run(shutdown.clone()), look);
        ended.unwrap();
    });
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn kill_at_a_hundred_moments_leaves_whole_transactions() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut acks = BTreeMap::new();
    for _ in 0..100 {
        let mut child =
            spawn_child(&mut Command::new(std::env::current_exe().unwrap()), folder.path(), 4, 1_000_000);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = dice.roll(12);
        // A moment is after some acknowledgement and some instructions, so that all parts of a commit are hit.
        for line in lines.by_ref() {
            if let Some((writer, number)) = acknowledged(&line.unwrap()) {
                acks.insert(writer, number);
                if left == 0 {
                    break;
                }
                left -= 1;
            }
        }
        for _ in 0..dice.roll(400_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            // The last line may be cut; a whole one was acknowledged before the end.
            if let Some((writer, number)) = acknowledged(&line)
                .filter(|(writer, number)| acks.get(writer).is_none_or(|last| number == &(last + 1)))
            {
                acks.insert(writer, number);
            }
        }
        check(folder.path(), &acks);
    }
    assert!(acks.values().sum::<u64>() > 100, "{acks:?}");
}

fn strace() -> Option<Command> {
    let works = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if works.is_ok_and(|status| status.success()) {
        Some(Command::new("strace"))
    } else {
        say("\nnot run: strace is missing, or may not trace here");
        None
    }
}

#[test]
fn each_acknowledgement_follows_a_synchronised_log() {
    let Some(mut strace) = strace() else { return };
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let trace = folder.path().join("trace");
    strace.args(["-f", "-y", "-e", "trace=fsync,fdatasync,write", "-o"]).arg(&trace);
    strace.arg(std::env::current_exe().unwrap());
    assert!(spawn_child(&mut strace, folder.path(), 1, 30).wait().unwrap().success());
    let text = std::fs::read_to_string(&trace).unwrap();
    let (mut synchronised, mut acknowledged) = (0, 0);
    for line in text.lines() {
        let is_sync = line.contains("fsync") || line.contains("fdatasync");
        if is_sync
            && line.ends_with("= 0")
            && (line.contains("credence.db-wal>") || line.contains("resumed>"))
        {
            synchronised += 1;
        }
        if line.contains("\"ack 0 ") {
            acknowledged += 1;
            assert!(synchronised > 0, "acknowledged before it was synchronised: {line}\n{text}");
            synchronised = 0;
        }
    }
    assert_eq!(acknowledged, 30, "{text}");
}

#[test]
fn failed_synchronisation_ends_all_writing() {
    let Some(mut strace) = strace() else { return };
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    // One failure only: the disk seems well again afterwards, and must not be believed.
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]);
    strace.args(["-e", "inject=fsync,fdatasync:error=EIO:when=10"]);
    strace.arg(std::env::current_exe().unwrap());
    let child = spawn_child(&mut strace, folder.path(), 1, 30).wait_with_output().unwrap();
    let text = String::from_utf8(child.stdout).unwrap();
    let lines: Vec<&str> =
        text.lines().filter(|line| line.contains("ack ") || line.contains("fail ")).collect();
    let acks = lines.iter().take_while(|line| line.contains("ack ")).count();
    assert!((1..30).contains(&acks), "{text}");
    assert!(lines[acks..].iter().all(|line| line.contains("fail 0 store is unavailable: ")), "{text}");
    assert_eq!(lines.len(), 30, "{text}");
    check(folder.path(), &BTreeMap::from([(0, acks as u64)]));
}

#[test]
fn second_process_is_refused_by_the_number_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let mut child =
        spawn_child(&mut Command::new(std::env::current_exe().unwrap()), folder.path(), 1, 1_000_000);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| acknowledged(&line.unwrap()).is_some()));
    let options = OpenOptions {
        directory: folder.path().join("data"),
        keys: vec![KekSource::File(folder.path().join("kek")).into()],
        anchor: None,
        clock: Arc::new(ManualClock::new(now())),
        dev: false,
    };
    let error = Runtime::new().unwrap().block_on(open(options)).unwrap_err();
    assert!(error.to_string().ends_with(&format!("is in use by process {}", child.id())), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lines);
    let rows = Runtime::new().unwrap().block_on(async {
        let (store, _writer) = opened(folder.path()).await;
        store.list(&AuditFilter { limit: 1, ..Default::default() }).await.unwrap()
    });
    assert_eq!(rows.len(), 1, "its lock ended with it");
}
