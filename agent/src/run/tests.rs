use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use certs::ManualClock;
use spiffe::TrustBundle;
use tonic::Status;

use super::*;
use crate::{
    EnvoyOptions,
    testing::{DAY, FakeServer, Logged, NOW, TestAuthority, Turn, reopen},
};

const SECOND: Duration = Duration::from_secs(1);

fn joined(server: &FakeServer, folder: &tempfile::TempDir) -> Agent {
    let state = StateDir::open(folder.path()).unwrap();
    let membership = server.authority.membership("web-1", &server.address().to_string());
    let credentials = server.authority.credentials("/credence/node/web-1", NOW, DAY);
    state.join(&membership, &credentials, EnvoyOptions::default()).unwrap();
    Agent::open(state, server.clock.clone()).unwrap()
}

#[tokio::test]
async fn renews_at_half_of_life_each_time_with_a_new_key() {
    let server = Arc::new(FakeServer::start(NOW).await);
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let mut status = agent.status();
    let first = status.borrow().serial.clone();
    let shutdown = CancellationToken::new();
    let watcher = async {
        status.wait_for(|status| status.renewals >= 3).await.unwrap();
        shutdown.cancel();
        std::future::pending::<()>().await;
    };
    server
        .during(async {
            tokio::select! {
                ended = agent.run(shutdown.clone()) => ended.unwrap(),
                () = watcher => {}
            }
        })
        .await;
    let (_, credentials) = reopen(folder.path()).load().unwrap();
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.client_serials[0], first);
    let mut shown = seen.client_serials.clone();
    shown.dedup();
    let distinct = shown.iter().enumerate().all(|(at, serial)| !shown[..at].contains(serial));
    assert!(distinct && shown.len() >= seen.renewals.len(), "each renewal shows the newest: {shown:?}");
    assert!(seen.renewals.windows(2).all(|pair| pair[0] != pair[1]), "each renewal has a new key");
    // The last one may have been answered just when the agent was told to stop.
    assert!(seen.renewals.iter().rev().take(2).any(|key| *key == credentials.key.public().hash()));
    let elapsed = server.clock.now().since(NOW).div_duration_f64(DAY);
    let count = seen.renewals.len() as f64;
    assert!(elapsed >= 0.39 * count && elapsed <= 0.51 * (count + 1.0), "{elapsed} days, {count} renewals");
}

#[tokio::test]
async fn keeps_a_valid_certificate_through_an_outage() {
    let server = Arc::new(FakeServer::start(NOW).await);
    server.script([
        Turn::Refuse(Status::unavailable("leader election")),
        Turn::LoseAnswer,
        Turn::Refuse(Status::permission_denied("id 0123456789abcdef")),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let mut status = agent.status();
    let first = status.borrow().serial.clone();
    let watcher = async {
        let failing = status.wait_for(|status| status.failures == 3).await.unwrap().clone();
        assert_eq!(failing.serial, first);
        assert_eq!(failing.last_error.as_deref(), Some("server refused: id 0123456789abcdef"));
        let well = status.wait_for(|status| status.renewals == 1).await.unwrap().clone();
        assert_eq!((well.failures, well.last_error.as_ref()), (0, None));
    };
    server
        .during(async {
            tokio::select! {
                ended = agent.run(CancellationToken::new()) => panic!("{ended:?}"),
                () = watcher => {}
            }
        })
        .await;
}

#[tokio::test]
async fn an_outage_is_said_once_with_its_end_and_so_is_its_end() {
    let logged = Logged::default();
    let _guard = logged.listen();
    let (server, tick) = ticking(SECOND).await;
    server.news.send_replace(Some((server.authority.bundle(), false)));
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let expires = agent.status().borrow().expires;
    let (shutdown, stop) = (CancellationToken::new(), CancellationToken::new());
    let (clock, log) = (server.clock.clone(), logged.clone());
    let run = async {
        tokio::select! {
            ended = agent.run(shutdown) => panic!("{ended:?}"),
            () = tick => unreachable!("time goes on"),
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{logged:?}"),
        }
    };
    // Nobody accepts what is dialled; after a minute the server is there.
    let serve = async {
        while clock.now().since(NOW) < SECOND * 60 {
            server.refuse_one().await;
        }
        let back = async {
            while log.with("answers again").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = server.during(back) => {}
            () = stop.cancelled() => {}
        }
    };
    tokio::join!(run, serve);
    let [said] = &logged.with("goes on trying")[..] else { panic!("{logged:?}") };
    assert!(said.starts_with("WARN"), "{said}");
    let facts = [server.address().to_string(), expires.to_string(), "out of reach".to_owned()];
    assert!(facts.iter().all(|fact| said.contains(fact)), "{said}");
    assert_eq!(logged.with("answers again").len(), 1, "{logged:?}");
}

#[tokio::test]
async fn asks_to_come_back_once_its_certificate_has_ended_until_it_is_let_in() {
    let server = Arc::new(FakeServer::start(NOW).await);
    let refused = || Turn::Refuse(Status::permission_denied("refused, id 0123456789abcdef"));
    server.script([refused(), refused(), Turn::LoseAnswer]);
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let membership = server.authority.membership("web-1", &server.address().to_string());
    let ended = server.authority.credentials("/credence/node/web-1", NOW - DAY, DAY);
    let (old_key, old_leaf) = (ended.key.public().hash(), ended.chain.leaf().clone());
    state.join(&membership, &ended, EnvoyOptions::default()).unwrap();
    let agent = Agent::open(state, server.clock.clone()).unwrap();
    let mut status = agent.status();
    let watcher = async {
        let waiting = status.wait_for(|status| status.last_error.is_some()).await.unwrap().clone();
        assert_eq!(waiting.serial, *old_leaf.serial(), "what was held is held");
        assert!(waiting.last_error.as_ref().unwrap().contains("refused, id 0123456789abcdef"));
        let back = status.wait_for(|status| status.recoveries == 1).await.unwrap().clone();
        assert_eq!((back.last_error.as_ref(), back.renewals), (None, 0));
        // And goes on as any node.
        status.wait_for(|status| status.renewals >= 1).await.unwrap();
    };
    server
        .during(async {
            tokio::select! {
                ended = agent.run(CancellationToken::new()) => panic!("{ended:?}"),
                () = watcher => {}
            }
        })
        .await;
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.comebacks.len(), 4, "two refusals, a lost answer, and the one that came");
    assert!(seen.comebacks.windows(2).all(|pair| pair[0] == pair[1]), "always with the same new key");
    assert_ne!(seen.comebacks[0], old_key);
    let (_, credentials) = reopen(folder.path()).load().unwrap();
    assert_ne!(credentials.chain.leaf().serial(), old_leaf.serial());
    assert!(std::fs::read_dir(folder.path().join("joining")).unwrap().next().is_none());
}

#[tokio::test]
async fn a_comeback_that_cannot_be_kept_is_asked_for_again_with_the_same_key() {
    let server = Arc::new(FakeServer::start(NOW).await);
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let membership = server.authority.membership("web-1", &server.address().to_string());
    let ended = server.authority.credentials("/credence/node/web-1", NOW - DAY, DAY);
    state.join(&membership, &ended, EnvoyOptions::default()).unwrap();
    let agent = Agent::open(state, server.clock.clone()).unwrap();
    let mut status = agent.status();
    // Where the link is made that shows the new files.
    let blocked = folder.path().join(".current.new");
    std::fs::create_dir(&blocked).unwrap();
    let watcher = async {
        let waiting = status.wait_for(|status| status.last_error.is_some()).await.unwrap().clone();
        assert_eq!(waiting.recoveries, 0);
        assert!(waiting.last_error.as_ref().unwrap().contains(".current.new"), "{:?}", waiting.last_error);
        std::fs::remove_dir(&blocked).unwrap();
        status.wait_for(|status| status.recoveries == 1).await.unwrap();
    };
    server
        .during(async {
            tokio::select! {
                ended = agent.run(CancellationToken::new()) => panic!("{ended:?}"),
                () = watcher => {}
            }
        })
        .await;
    let comebacks = server.seen.lock().unwrap().comebacks.clone();
    assert!(comebacks.len() >= 2 && comebacks.windows(2).all(|pair| pair[0] == pair[1]), "{comebacks:?}");
    assert!(reopen(folder.path()).load().is_ok());
}

#[tokio::test]
async fn nothing_is_lost_while_nobody_answers_an_expired_node() {
    let server = FakeServer::start(NOW).await;
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let (mut status, clock) = (agent.status(), server.clock.clone());
    drop(server);
    let later = async {
        let failing =
            |status: &Arc<AgentStatus>| clock.now() > NOW + DAY + SECOND * 600 && status.last_error.is_some();
        let waiting = status.wait_for(failing).await.unwrap().clone();
        assert!(waiting.last_error.as_ref().unwrap().contains("cannot reach"));
    };
    tokio::select! {
        ended = agent.run(CancellationToken::new()) => panic!("{ended:?}"),
        () = later => {}
    }
    assert!(reopen(folder.path()).load().is_ok());
}

/// A clock that is ahead until it is put right.
#[derive(Debug)]
struct Wrong {
    right: ManualClock,
    ahead: Duration,
    is_ahead: AtomicBool,
}

impl Wrong {
    fn start(ahead: Duration) -> Arc<Self> {
        Arc::new(Self { right: ManualClock::new(NOW), ahead, is_ahead: AtomicBool::new(true) })
    }
}

impl Clock for Wrong {
    fn now(&self) -> Timestamp {
        let ahead = if self.is_ahead.load(Ordering::SeqCst) { self.ahead } else { Duration::ZERO };
        self.right.now() + ahead
    }

    fn sleep_until(&self, at: Timestamp) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            while self.now() < at {
                tokio::time::sleep(SECOND).await;
                self.right.advance(SECOND);
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_goes_on_when_the_clock_by_which_the_certificate_had_ended_is_put_right() {
    let server = FakeServer::start(NOW).await;
    let folder = tempfile::tempdir().unwrap();
    drop(joined(&server, &folder));
    drop(server);
    let clock = Wrong::start(DAY * 2);
    let agent = Agent::open(reopen(folder.path()), clock.clone()).unwrap();
    let mut status = agent.status();
    let watcher = async {
        let waiting = status.wait_for(|status| status.last_error.is_some()).await.unwrap().failures;
        assert_eq!(waiting, 0, "it does not renew what has ended");
        clock.right.advance(DAY / 2);
        clock.is_ahead.store(false, Ordering::SeqCst);
        status.wait_for(|status| status.failures >= 1).await.unwrap();
    };
    tokio::select! {
        ended = agent.run(CancellationToken::new()) => panic!("{ended:?}"),
        () = watcher => {}
    }
}

#[tokio::test]
async fn news_are_asked_for_within_seconds_when_the_clock_is_put_back_in_a_pause() {
    let clock = Wrong::start(SECOND * 7200);
    let mut server = FakeServer::start(NOW).await;
    server.clock = clock.clone();
    server.news.send_replace(Some((server.authority.bundle(), false)));
    let server = Arc::new(server);
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let work = async {
        server.refuse_one().await;
        // The agent hears of it, and its pause begins.
        tokio::time::sleep(Duration::from_millis(100)).await;
        clock.is_ahead.store(false, Ordering::SeqCst);
        let asked = async {
            while server.seen.lock().unwrap().reports.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        server.during(asked).await;
    };
    tokio::select! {
        ended = agent.run(CancellationToken::new()) => panic!("{ended:?}"),
        () = work => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it waits for the clock to catch up"),
    }
}

#[tokio::test]
async fn stops_when_told() {
    let server = FakeServer::start(NOW).await;
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let stopped = timeout(Duration::from_secs(10), joined(&server, &folder).run(shutdown)).await;
    assert!(matches!(stopped, Ok(Ok(()))));
}

/// A server whose clock, and its agent's, goes ahead by `step` every few milliseconds.
async fn ticking(step: Duration) -> (Arc<FakeServer>, impl Future<Output = ()>) {
    let clock = ManualClock::new(NOW);
    let mut server = FakeServer::start(NOW).await;
    server.clock = Arc::new(clock.clone());
    let tick = async move {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            clock.advance(step);
        }
    };
    (Arc::new(server), tick)
}

fn both_roots(server: &FakeServer, other: &TestAuthority) -> TrustBundle {
    let roots = vec![server.authority.root.clone(), other.root.clone()];
    TrustBundle::new(server.authority.domain.clone(), roots, 1)
}

/// Runs the agent until `work`, which watches it, is done.
async fn while_running(
    server: &Arc<FakeServer>,
    tick: impl Future<Output = ()>,
    agent: Agent,
    work: impl Future<Output = ()>,
) {
    server
        .during(async {
            tokio::select! {
                ended = agent.run(CancellationToken::new()) => panic!("{ended:?}"),
                () = tick => unreachable!("time goes on"),
                () = work => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => panic!("nothing came of it"),
            }
        })
        .await;
}

#[tokio::test]
async fn takes_a_new_bundle_at_once_and_says_so() {
    let (server, tick) = ticking(SECOND).await;
    server.news.send_replace(Some((server.authority.bundle(), false)));
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let paths = agent.state().secret_paths();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let (chain, key) = (read(&paths.chain), read(&paths.key));
    let mut status = agent.status();
    let both = both_roots(&server, &TestAuthority::new("td", NOW));
    let work = async {
        while server.seen.lock().unwrap().reports.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.news.send_replace(Some((both.clone(), false)));
        let changed = status.wait_for(|status| status.bundles == 1).await.unwrap().clone();
        assert_eq!((changed.renewals, changed.failures), (0, 0));
        while server.seen.lock().unwrap().reports.len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    while_running(&server, tick, agent, work).await;
    let seen = server.seen.lock().unwrap();
    assert_eq!(seen.reports[..2], [server.authority.bundle().content_hash(), both.content_hash()]);
    assert_eq!(seen.client_serials.len(), 1, "one connection is kept open");
    assert_eq!(read(&paths.bundle).matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!((read(&paths.chain), read(&paths.key)), (chain, key), "chain and key stay");
    let (_, credentials) = reopen(folder.path()).load().unwrap();
    assert_eq!(credentials.bundle.content_hash(), both.content_hash());
}

#[tokio::test]
async fn renews_before_its_time_when_told_and_shows_the_new_certificate() {
    let (server, tick) = ticking(SECOND).await;
    server.news.send_replace(Some((server.authority.bundle(), true)));
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let mut status = agent.status();
    let first = status.borrow().serial.clone();
    let work = async {
        let renewed = status.wait_for(|status| status.renewals == 1).await.unwrap().clone();
        assert_ne!(renewed.serial, first);
        while server.seen.lock().unwrap().reports.len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seen = server.seen.lock().unwrap();
        assert_eq!(
            seen.client_serials,
            [first, renewed.serial.clone()],
            "the renewal went over the open connection"
        );
    };
    while_running(&server, tick, agent, work).await;
    assert!(server.clock.now().since(NOW) < DAY / 4);
}

#[tokio::test]
async fn a_server_that_knows_no_news_is_asked_once_an_hour() {
    let (server, tick) = ticking(20 * SECOND).await;
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let work = async {
        while server.seen.lock().unwrap().unknown_calls == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.news.send_replace(Some((server.authority.bundle(), false)));
        while server.seen.lock().unwrap().reports.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(server.clock.now().since(NOW) >= Duration::from_secs(3600));
    };
    while_running(&server, tick, agent, work).await;
}

#[tokio::test]
async fn a_bundle_that_does_not_parse_or_cannot_be_written_changes_nothing() {
    let server = FakeServer::start(NOW).await;
    let folder = tempfile::tempdir().unwrap();
    let mut agent = joined(&server, &folder);
    let held = agent.credentials.bundle.content_hash();
    let root = server.authority.root.der().to_vec();
    assert!(matches!(agent.take_bundle(&[vec![1, 2, 3]]), Err(RenewError::Answer(_))));
    assert!(matches!(agent.take_bundle(&vec![root.clone(); 33]), Err(RenewError::Answer(_))));
    assert!(agent.take_bundle(&[root]).is_ok() && agent.bundles == 0, "what is held already is no news");
    let other = TestAuthority::new("td", NOW).root.der().to_vec();
    std::fs::rename(folder.path().join("certs"), folder.path().join("gone")).unwrap();
    assert!(matches!(agent.take_bundle(&[other]), Err(RenewError::State(_))));
    assert_eq!((agent.credentials.bundle.content_hash(), agent.bundles), (held, 0));
}
