//! With real Envoys: those in the folder that `CREDENCE_ENVOYS` names (`VERSION/envoy`), or in `target/envoy`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use certs::{Chain, Clock, KeyKind, SecretKey, Serial};
use tokio::{net::TcpListener, process::Command, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    EnvoyOptions, StateDir,
    bootstrap::Discovery,
    testing::{DAY, RealClock, TestAuthority, server_config},
};

fn envoys() -> Vec<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "the test runner says where its Envoys are")]
    let folder = std::env::var("CREDENCE_ENVOYS")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/envoy"), PathBuf::from);
    let entries = std::fs::read_dir(&folder).into_iter().flatten();
    let found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("envoy")))
        .filter(|path| path.is_file())
        .collect();
    if found.is_empty() {
        eprintln!("NOT RUN: no Envoy in {} (set CREDENCE_ENVOYS)", folder.display());
    }
    found
}

fn joined(folder: &Path, authority: &TestAuthority, server: &str, discovery: Discovery) -> StateDir {
    let state = StateDir::open(folder).unwrap();
    let credentials = authority.credentials("/credence/node/web-1", RealClock.now(), DAY);
    let options = EnvoyOptions { admin_port: None, discovery };
    state.join(&authority.membership("web-1", server), &credentials, options).unwrap();
    state
}

#[tokio::test]
async fn envoy_accepts_the_bootstrap() {
    for envoy in envoys() {
        for (server, discovery) in [
            ("127.0.0.1:18000", Discovery::Delta),
            ("[::1]:18000", Discovery::Delta),
            ("localhost:18000", Discovery::Sotw),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let authority = TestAuthority::new("td", RealClock.now());
            let state = joined(folder.path(), &authority, server, discovery);
            let output = Command::new(&envoy)
                .args(["--mode", "validate", "--disable-hot-restart", "--config-path"])
                .arg(state.envoy_config())
                .args(drain_arguments())
                .output()
                .await
                .unwrap();
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{} {server}: {log}", envoy.display());
            assert!(!log.contains("deprecated"), "{} {server}: {log}", envoy.display());
        }
    }
}

/// Accepts one TLS connection, says whose certificate came, and hangs up.
async fn next_serial(listener: &TcpListener, chain: &Chain, key: &SecretKey) -> Serial {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server_config(chain, key, None)));
        let Ok(tls) = acceptor.accept(tcp).await else { continue };
        let ders = tls.get_ref().1.peer_certificates().unwrap();
        return Chain::from_ders(ders.iter().map(AsRef::as_ref)).unwrap().leaf().serial().clone();
    }
}

#[tokio::test]
async fn envoy_takes_a_renewed_certificate_from_disk_without_a_restart() {
    for envoy in envoys() {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let authority = TestAuthority::new("td", clock.now());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = joined(folder.path(), &authority, &address, Discovery::Delta);
        let key = SecretKey::generate(KeyKind::P256);
        let chain = authority.issue("/credence/server", key.public(), clock.now(), DAY);
        let supervisor = Supervisor::envoy(&envoy, &state.envoy_config(), folder.path(), clock.clone());
        let mut phase = supervisor.phase();
        let shutdown = CancellationToken::new();
        let story = async {
            let first = state.load().unwrap().1.chain.leaf().serial().clone();
            assert_eq!(next_serial(&listener, &chain, &key).await, first);
            for _ in 0..3 {
                let next = authority.credentials("/credence/node/web-1", clock.now(), DAY);
                let wanted = next.chain.leaf().serial().clone();
                state.install(&next).unwrap();
                while next_serial(&listener, &chain, &key).await != wanted {}
            }
            let admin = Admin::from_file(&Supervisor::admin_address_file(folder.path())).unwrap();
            let told = admin.version().await.unwrap();
            assert_eq!(told, version(&envoy).await.unwrap());
            let own = state.load().unwrap().1.chain.leaf().serial().to_string();
            let certificates = admin.certificates().await.unwrap();
            assert!(certificates.iter().any(|one| one.serial == own && !one.is_anchor), "{certificates:?}");
            assert!(certificates.iter().any(|one| one.is_anchor), "{certificates:?}");
            let reloads =
                admin.stats("^sds.credence_node.key_rotation_failed$|ssl.fail_verify_san").await.unwrap();
            assert!(reloads.values().all(|count| *count == 0), "{reloads:?}");
            assert!(!admin.is_ready().await.unwrap());
            assert!(admin.listeners().await.unwrap().is_empty());
            assert!(admin.config_dump().await.unwrap()["configs"].is_array());
            assert!(admin.clusters().await.unwrap()["cluster_statuses"].is_array());
            assert!(matches!(admin.json("/nowhere").await, Err(AdminError::Status { .. })));
            let is_running = matches!(*phase.borrow_and_update(), Phase::Running { .. });
            assert!(is_running && !phase.has_changed().unwrap(), "it was restarted");
            shutdown.cancel();
        };
        let both = async { tokio::join!(supervisor.run(shutdown.clone()), story) };
        let log = || std::fs::read_to_string(folder.path().join("envoy.log")).unwrap_or_default();
        let (ran, ()) = timeout(Duration::from_secs(60), both).await.unwrap_or_else(|_| panic!("{}", log()));
        ran.unwrap();
    }
}

#[tokio::test]
async fn envoy_refuses_a_server_that_is_somebody_else() {
    for envoy in envoys() {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let authority = TestAuthority::new("td", clock.now());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = joined(folder.path(), &authority, &address, Discovery::Delta);
        let key = SecretKey::generate(KeyKind::P256);
        let chain = authority.issue("/credence/servers", key.public(), clock.now(), DAY);
        let supervisor = Supervisor::envoy(&envoy, &state.envoy_config(), folder.path(), clock.clone());
        let shutdown = CancellationToken::new();
        let story = async {
            // Its alert ends each handshake: no certificate of the node is ever seen.
            let nobody = async {
                next_serial(&listener, &chain, &key).await;
            };
            let refused = async {
                loop {
                    if let Some(admin) = Admin::from_file(&Supervisor::admin_address_file(folder.path()))
                        && let Ok(stats) = admin.stats("ssl.fail_verify_san").await
                        && stats.values().any(|count| *count > 0)
                    {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = nobody => panic!("the handshake succeeded"),
                () = refused => shutdown.cancel(),
            }
        };
        let both = async { tokio::join!(supervisor.run(shutdown.clone()), story) };
        let (ran, ()) = timeout(Duration::from_secs(60), both).await.unwrap();
        ran.unwrap();
    }
}
