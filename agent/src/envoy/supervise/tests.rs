use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicU32, Ordering},
};

use certs::ManualClock;

use super::*;
use crate::testing::{LeapingClock, Logged, NOW};

struct Script {
    folder: tempfile::TempDir,
}

impl Script {
    fn new(body: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn supervisor(&self, clock: Arc<dyn Clock>) -> Supervisor {
        let path = self.folder.path();
        Supervisor::new(&path.join("program"), [path], &self.log(), clock)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn starts_again_what_ends_and_stops_when_told() {
    // The third start stays.
    let script = Script::new(
        "cd \"$1\"; echo run >> runs; [ $(wc -l < runs) -ge 3 ] || { echo ends; exit 7; }; trap 'echo term; exit 0' TERM; \
         echo ready > ready; while :; do read -r line < /dev/null; sleep 0.01; done",
    );
    let logged = Logged::default();
    let _guard = logged.listen();
    let clock = ManualClock::new(NOW);
    let prepared = Arc::new(AtomicU32::new(0));
    let count = prepared.clone();
    let supervisor = script.supervisor(Arc::new(clock.clone())).with_preparation(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut phase = supervisor.phase();
    let shutdown = CancellationToken::new();
    let ready = script.folder.path().join("ready");
    let watcher = async {
        for secs in [1, 2] {
            let again = clock.now() + Duration::from_secs(secs);
            let waiting = Phase::Waiting { until: again, ended: "exit status: 7".to_owned() };
            phase.wait_for(|phase| *phase == waiting).await.unwrap();
            clock.advance(Duration::from_secs(secs));
        }
        while !ready.exists() {
            tokio::task::yield_now().await;
        }
        let running = phase.wait_for(|phase| matches!(phase, Phase::Running { .. })).await.unwrap().clone();
        let Phase::Running { pid, .. } = running else { unreachable!() };
        assert!(is_alive(pid));
        shutdown.cancel();
        phase.wait_for(|phase| *phase == Phase::Stopped).await.unwrap();
        assert!(!is_alive(pid));
    };
    let (ran, ()) = tokio::join!(supervisor.run(shutdown.clone()), watcher);
    ran.unwrap();
    assert_eq!(fs::read_to_string(script.log()).unwrap(), "ends\nends\nterm\n");
    assert_eq!(prepared.load(Ordering::Relaxed), 3, "before each start");
    let said = logged.with("ended by itself");
    let names_log = |line: &String| line.contains(&script.log().display().to_string());
    assert!(said.len() == 2 && said.iter().all(names_log), "{said:?}");
}

/// As when the clock is put back while it waits.
#[tokio::test]
async fn starts_again_also_on_a_clock_that_does_not_get_there() {
    let script = Script::new("exit 7");
    let clock = ManualClock::new(NOW);
    let count = Arc::new(AtomicU32::new(0));
    let starts = count.clone();
    let supervisor = script.supervisor(Arc::new(clock)).with_preparation(move || {
        starts.fetch_add(1, Ordering::Relaxed);
    });
    let again = async {
        while count.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = supervisor.run(CancellationToken::new()) => panic!("{ended:?}"),
        ended = timeout(Duration::from_secs(20), again) => ended.expect("it does not wait for the clock"),
    }
}

#[test]
fn the_reason_of_an_envoy_is_its_last_critical_line() {
    let line = "[2026-11-27 13:04:45.155][2126][critical][assert] [source/common/filesystem/inotify/watcher_impl.cc:25] \
                assert failure: inotify_fd_ >= 0. Details: Consider increasing value of fs.inotify.max_user_instances";
    let log = format!(
        "[2026-11-27 13:04:45.100][2126][info][main] [source/server/server.cc:463] initializing\n{line}\n\
         [2026-11-27 13:04:45.170][2126][error][envoy_bug] [./source/common/common/assert.h:66] #0 UNKNOWN [0x55]\n\
         [2026-11-27 13:04:45.170][2126][critical][backtrace] [./source/server/backtrace.h:173] Caught Aborted\n"
    );
    let told = "assert failure: inotify_fd_ >= 0. Details: Consider increasing value of fs.inotify.max_user_instances";
    assert_eq!(critical(&log).as_deref(), Some(told));
    for (log, told) in [
        ("", None),
        ("[2026][1][info][main] [a.cc:1] exiting\n", None),
        ("[2026][1][critical][main] odd", Some("[2026][1][critical][main] odd")),
        (
            "[2026][1][critical][main] [a.cc:1] first\n[2026][1][critical][main] [a.cc:2] last [x] y\n",
            Some("last [x] y"),
        ),
    ] {
        assert_eq!(critical(log).as_deref(), told, "{log}");
    }
    let long = format!("[2026][1][critical][main] [a.cc:1] {}", "é".repeat(5000));
    assert_eq!(critical(&long).map(|told| told.chars().count()), Some(TOLD));
}

#[tokio::test]
async fn says_why_the_last_run_ended_and_not_the_one_before() {
    let script = Script::new(
        "cd \"$1\"; echo run >> runs; [ $(wc -l < runs) -ge 2 ] || { echo '[1][2][critical][main] [a.cc:1] no such port'; exit 1; }; exit 2",
    );
    let logged = Logged::default();
    let _guard = logged.listen();
    let clock = ManualClock::new(NOW);
    let supervisor = script.supervisor(Arc::new(clock.clone()));
    let mut phase = supervisor.phase();
    let shutdown = CancellationToken::new();
    let watcher = async {
        for status in [1, 2] {
            let ends = format!("exit status: {status}");
            let waits = |phase: &Phase| matches!(phase, Phase::Waiting { ended, .. } if *ended == ends);
            phase.wait_for(waits).await.unwrap();
            clock.advance(Duration::from_secs(1));
        }
        shutdown.cancel();
    };
    let (ran, ()) = tokio::join!(supervisor.run(shutdown.clone()), watcher);
    ran.unwrap();
    let said = logged.with("ended by itself");
    assert!(said[0].contains("no such port") && !said[0].contains("its log says why"), "{said:?}");
    assert!(said[1].contains("its log says why") && !said[1].contains("no such port"), "{said:?}");
}

#[tokio::test]
async fn a_dropped_supervisor_leaves_no_process() {
    let script = Script::new("exec sleep 1000");
    let supervisor = script.supervisor(LeapingClock::start(NOW));
    let mut phase = supervisor.phase();
    let pid = tokio::select! {
        ended = supervisor.run(CancellationToken::new()) => panic!("{ended:?}"),
        running = phase.wait_for(|phase| matches!(phase, Phase::Running { .. })) => {
            let Phase::Running { pid, .. } = *running.unwrap() else { unreachable!() };
            pid
        }
    };
    // Killed at once; the runtime collects it when it gets around to it.
    let killed = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(" Z "));
    while killed() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn says_what_cannot_be_started() {
    let folder = tempfile::tempdir().unwrap();
    let clock = LeapingClock::start(NOW);
    let supervisor = Supervisor::new(Path::new("/no/such"), ["x"], &folder.path().join("log"), clock);
    let error = supervisor.run(CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot start /no/such");
}

#[test]
fn pauses_grow_to_half_a_minute() {
    let secs: Vec<u64> = (1..8).map(|runs| pause(runs).as_secs()).collect();
    assert_eq!(secs, [1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
}
