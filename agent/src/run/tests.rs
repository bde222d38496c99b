use std::time::Duration;

use tonic::Status;

use super::*;
use crate::{
    EnvoyOptions,
    testing::{DAY, FakeServer, NOW, Turn, reopen},
};

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
    assert!(seen.client_serials.windows(2).all(|pair| pair[0] != pair[1]), "each renewal shows the newest");
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
async fn says_at_the_end_that_only_a_new_token_helps() {
    let server = FakeServer::start(NOW).await;
    let folder = tempfile::tempdir().unwrap();
    let agent = joined(&server, &folder);
    let clock = server.clock.clone();
    drop(server);
    let error = agent.run(CancellationToken::new()).await.unwrap_err();
    let RunError::Expired { expired, last_error, .. } = &error else { panic!("{error}") };
    assert_eq!(*expired, NOW + DAY);
    assert!(clock.now() >= NOW + DAY);
    assert!(last_error.as_ref().unwrap().contains("cannot reach"), "{last_error:?}");
    assert!(error.hint().unwrap().contains("credence proxy enroll web-1"), "{:?}", error.hint());
    // What was held is still there: nothing was thrown away.
    assert!(reopen(folder.path()).load().is_ok());
}

#[tokio::test]
async fn stops_when_told() {
    let server = FakeServer::start(NOW).await;
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(10), joined(&server, &folder).run(shutdown)).await;
    assert!(matches!(stopped, Ok(Ok(()))));
}
