//! The open TCP sessions of a blocked identity are ended, with those of others beside it and nothing else of theirs.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail the test, and tell what they measured"
)]

use std::{net::SocketAddr, time::Duration};

use kit::{
    Envoy, Identity, Kept, Outcome, Speaks, TestWorld, Upstream, WorldOptions, endpoints, envoy, eventually,
    within,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The drain time of an Envoy of ours, and what it takes to tell it.
const DRAINED: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn open_sessions_of_a_blocked_identity_end_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        evict("evict-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_sessions_of_a_blocked_identity_end_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        evict("evict-1.36.4", envoy).await;
    }
}

#[derive(Clone, Copy)]
struct Ports {
    http: SocketAddr,
    tcp: SocketAddr,
    bank: SocketAddr,
}

/// `pay`: one HTTP and one TCP listener for everybody, and one TCP listener for the bank alone.
fn pay(world: &TestWorld, at: Ports, upstream: &Upstream) -> String {
    let (http, tcp, bank, bank_id) = (at.http.port(), at.tcp.port(), at.bank.port(), world.id("bank"));
    let chain =
        "filterChains: [{filters: [{name: envoy.filters.network.tcp_proxy, config: {cluster: books}}]}]";
    let document = format!(
        "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: pay}}\nspec:\n  selector: {{matchLabels: {{app: pay}}}}\n  \
         listeners:\n    - name: pay\n      address: 127.0.0.1\n      port: {http}\n      filterChains:\n        \
         - filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: pay}}}}]\n    \
         - {{name: ledger, address: 127.0.0.1, port: {tcp}, {chain}}}\n    \
         - {{name: vault, address: 127.0.0.1, port: {bank}, mtls: {{allow: [{bank_id}]}}, {chain}}}\n  \
         routes:\n    - name: pay\n      virtualHosts:\n        - name: all\n          domains: [\"*\"]\n          \
         routes: [{{match: {{prefix: /}}, route: {{cluster: books}}}}]\n  \
         clusters: [{{name: books, type: EDS, mtls: off}}]\n"
    );
    document + "---\n" + &endpoints("books", "default", &[upstream.address()])
}

async fn open(at: SocketAddr, who: &Identity, speaks: Speaks) -> Result<Kept, Outcome> {
    let mut kept = Kept::open(at, who, speaks).await?;
    match kept.ask("/").await? {
        (200, _) => Ok(kept),
        (status, body) => Err(Outcome::Nothing(format!("{status} {body}"))),
    }
}

async fn evict(name: &'static str, envoy: Envoy) {
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot(name, options).await;
    let free = TestWorld::free_port;
    let at = Ports { http: free(), tcp: free(), bank: free() };
    let upstream = Upstream::start("paid").await;
    world.start_proxy("pay", "pay", &["pay"]).await;
    world.rest().apply(&pay(&world, at, &upstream)).await;
    let alice = world.caller("alice").await;
    let (bob, bank) = (world.caller("bob").await, world.caller("bank").await);
    let mut web = eventually("pay answers", async || open(at.http, &bob, Speaks::Http1).await).await;
    world.synced("pay").await;
    let hers = open(at.tcp, &alice, Speaks::Tcp).await.unwrap();
    let his = open(at.tcp, &bob, Speaks::Tcp).await.unwrap();
    let mut banks = open(at.bank, &bank, Speaks::Tcp).await.unwrap();

    // A proxy that is not there said nothing of its drain time either; the plan names it.
    let slow = json!({ "node": "slow", "identities": [world.id("pay")], "labels": { "app": "pay" } });
    world.rest().post("/api/v1/proxies", &slow).await;
    let id = world.id("alice");
    let plan = world.command(&["identity", "block", &id, "--now", "--evict", "--dry-run"]).await;
    let expected = json!({
        "proxies": 2, "listeners": 2, "clusters": 0,
        "within": [{ "secs": 5, "proxies": 1 }], "untold": ["slow"], "untold_count": 1,
    });
    assert_eq!(plan["drain"], expected, "{plan:#}");
    let words = plan["summary"].as_str().unwrap();
    for part in ["those of others too", "within 5 s on 1 proxy", "cannot be enforced there: slow"] {
        assert!(words.contains(part), "{part}: {words}");
    }

    let start = Instant::now();
    let (code, out, err) = world
        .run(&["identity", "block", &id, "--now", "--evict", "--reason", "theft", "--yes", "-o", "json"])
        .await;
    assert_eq!(code, 7, "slow has acknowledged nothing: {out}\n{err}");
    let outcome: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&outcome["enforcement"]["acknowledged"], &outcome["enforcement"]["offline"]),
        (&json!(1), &json!(["slow"]))
    );
    assert!(open(at.tcp, &alice, Speaks::Tcp).await.is_err(), "a new session of alice passes");
    // Who is not blocked comes in anew at once, and stays.
    let mut again = open(at.tcp, &bob, Speaks::Tcp).await.unwrap();
    within(DRAINED, "the sessions on that chain end", async || match (hers.is_open(), his.is_open()) {
        (false, false) => Ok(()),
        open => Err(open),
    })
    .await;
    eprintln!("{name}: the sessions ended {:?} after the command began", start.elapsed());
    assert_eq!(web.ask("/").await.unwrap().0, 200, "bob's HTTP connection is the same one");
    assert_eq!(banks.ask("/").await.unwrap().0, 200, "a listener that does not admit alice goes on");
    assert_eq!(again.ask("/").await.unwrap().0, 200);
    world.audit_says(&["identity-block", &id, "evict"]).await;
    let (code, _, err) = world.run(&["identity", "block", &id, "--now", "--evict", "--yes"]).await;
    assert_eq!(code, 5, "{err}");

    // Neither a restart nor the end of the block ends a session once more.
    world.kill().await;
    world.start().await;
    within(LONG, "pay is back", async || {
        let proxy = world.proxy("pay").await;
        if proxy["status"]["sync"] == "SYNCED" { Ok(()) } else { Err(proxy["status"].clone()) }
    })
    .await;
    let _ = world.run(&["identity", "unblock", &id, "--yes"]).await;
    let mut back = within(LONG, "alice comes in", async || open(at.tcp, &alice, Speaks::Tcp).await).await;
    world.synced("pay").await;
    for (who, kept) in
        [("bob", &mut again), ("bank", &mut banks), ("bob's HTTP", &mut web), ("alice", &mut back)]
    {
        assert_eq!(kept.ask("/").await.map(|(status, _)| status), Ok(200), "{who}");
    }
    let stats = world.admin("pay").await.stats("update_rejected").await.unwrap();
    assert!(stats.values().all(|count| *count == 0), "{stats:?}");
    world.finish().await;
}
