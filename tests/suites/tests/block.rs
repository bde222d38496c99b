//! A blocked identity has no request served, on connections that it had open before, as a client or as a server; and
//! nobody else notices.

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
use serde_json::Value;
use server::sandbox::ProxyOptions;
use tokio::time::Instant;

/// From the command to its last effect.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_client_is_refused_on_open_connections_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        client("block-client-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_client_is_refused_on_open_connections_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        client("block-client-1.36.4", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_server_is_asked_no_more_on_open_connections_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        server("block-server-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_server_is_asked_no_more_on_open_connections_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        server("block-server-1.36.4", envoy).await;
    }
}

/// Connections of one caller, opened once: HTTP/1.1 and HTTP/2 to `http`, and a session to `tcp`.
struct Caller {
    identity: Identity,
    http: Vec<Kept>,
    tcp: Kept,
}

impl Caller {
    async fn open(identity: Identity, at: &Ports) -> Self {
        let http = vec![
            Kept::open(at.http, &identity, Speaks::Http1).await.unwrap(),
            Kept::open(at.http, &identity, Speaks::Http2).await.unwrap(),
        ];
        let tcp = Kept::open(at.tcp, &identity, Speaks::Tcp).await.unwrap();
        Self { identity, http, tcp }
    }

    /// What each open HTTP connection answers now.
    async fn statuses(&mut self) -> Vec<Result<u16, Outcome>> {
        let mut all = Vec::new();
        for kept in &mut self.http {
            all.push(kept.ask("/").await.map(|(status, _)| status));
        }
        all
    }

    async fn is_served(&mut self) -> Result<(), Vec<Result<u16, Outcome>>> {
        let all = self.statuses().await;
        if all.iter().all(|one| *one == Ok(200)) { Ok(()) } else { Err(all) }
    }

    async fn is_refused(&mut self) -> Result<(), Vec<Result<u16, Outcome>>> {
        let all = self.statuses().await;
        if all.iter().all(|one| *one == Ok(403)) { Ok(()) } else { Err(all) }
    }

    /// A request on a connection of its own.
    async fn anew(&self, at: SocketAddr, speaks: Speaks) -> Result<u16, Outcome> {
        let mut kept = Kept::open(at, &self.identity, speaks).await?;
        kept.ask("/").await.map(|(status, _)| status)
    }
}

#[derive(Clone, Copy)]
struct Ports {
    http: SocketAddr,
    tcp: SocketAddr,
}

/// `pay`: one HTTP and one TCP listener, for everybody of the trust domain.
fn pay(at: &Ports, upstream: &Upstream) -> String {
    let (http, tcp) = (at.http.port(), at.tcp.port());
    let document = format!(
        "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: pay}}\nspec:\n  selector: {{matchLabels: {{app: pay}}}}\n  \
         listeners:\n    - name: pay\n      address: 127.0.0.1\n      port: {http}\n      filterChains:\n        \
         - filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: pay}}}}]\n    \
         - name: ledger\n      address: 127.0.0.1\n      port: {tcp}\n      filterChains:\n        \
         - filters: [{{name: envoy.filters.network.tcp_proxy, config: {{cluster: books}}}}]\n  \
         routes:\n    - name: pay\n      virtualHosts:\n        - name: all\n          domains: [\"*\"]\n          \
         routes: [{{match: {{prefix: /}}, route: {{cluster: books}}}}]\n  \
         clusters: [{{name: books, type: EDS, mtls: off}}]\n"
    );
    document + "---\n" + &endpoints("books", "default", &[upstream.address()])
}

async fn boot(name: &'static str, envoy: Envoy) -> TestWorld {
    TestWorld::boot(name, WorldOptions { envoy: Some(envoy), ..WorldOptions::default() }).await
}

async fn block(world: &TestWorld, id: &str) -> Value {
    // Hosts without an Envoy of their own have nothing to acknowledge.
    world.command(&["identity", "block", id, "--now", "--reason", "stolen key", "--yes"]).await
}

async fn client(name: &'static str, envoy: Envoy) {
    let mut world = boot(name, envoy).await;
    let at = Ports { http: TestWorld::free_port(), tcp: TestWorld::free_port() };
    let upstream = Upstream::start("paid").await;
    world.start_proxy("pay", "pay", &["pay"]).await;
    world.rest().apply(&pay(&at, &upstream)).await;
    let (alice_id, bob_id) = (world.caller("alice").await, world.caller("bob").await);
    eventually("pay answers", async || {
        let mut kept = Kept::open(at.http, &alice_id, Speaks::Http1).await?;
        match kept.ask("/").await? {
            (200, _) => Ok(()),
            other => Err(Outcome::Nothing(format!("{other:?}"))),
        }
    })
    .await;
    world.synced("pay").await;
    let mut alice = Caller::open(alice_id, &at).await;
    let mut bob = Caller::open(bob_id, &at).await;
    alice.is_served().await.unwrap();
    bob.is_served().await.unwrap();
    assert_eq!(alice.tcp.ask("/").await.unwrap().0, 200);
    assert_eq!(bob.tcp.ask("/").await.unwrap().0, 200);

    // A plan changes nothing.
    let id = world.id("alice");
    let plan = world.command(&["identity", "block", &id, "--now", "--dry-run"]).await;
    assert!(plan["summary"].as_str().unwrap().contains("would block"), "{plan}");
    alice.is_served().await.unwrap();

    let start = Instant::now();
    let outcome = block(&world, &id).await;
    let told = start.elapsed();
    assert_eq!(outcome["enforcement"]["acknowledged"], 1, "{outcome}");
    assert_eq!(outcome["enforcement"]["proxies"], 1, "{outcome}");
    within(BOUND, "alice is refused on every open connection", async || alice.is_refused().await).await;
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    eprintln!(
        "{name}: alice is refused {:?} after the command began, which took {told:?}; acknowledged in {} ms",
        start.elapsed(),
        outcome["took_ms"]
    );
    // Bob's connections are the same ones.
    bob.is_served().await.unwrap();
    assert_eq!(bob.tcp.ask("/").await.unwrap().0, 200);
    // New ones of alice are refused as well, in HTTP with words, in TCP without.
    assert_eq!(alice.anew(at.http, Speaks::Http1).await, Ok(403));
    assert_eq!(alice.anew(at.http, Speaks::Http2).await, Ok(403));
    assert!(alice.anew(at.tcp, Speaks::Tcp).await.is_err(), "a new session of alice passes");
    assert_eq!(bob.anew(at.tcp, Speaks::Tcp).await, Ok(200));
    let shown = world.command(&["identity", "show", &id]).await;
    assert_eq!(shown["enforcement"]["acknowledged"], 1, "{shown}");
    world.audit_says(&["identity-block", &id, "stolen key"]).await;

    // A control plane that comes back has not forgotten, and its return ends nobody's connection.
    world.kill().await;
    alice.is_refused().await.unwrap();
    world.start().await;
    let proxy = within(Duration::from_secs(30), "pay is back", async || {
        let proxy = world.proxy("pay").await;
        if proxy["status"]["sync"] == "SYNCED" { Ok(proxy) } else { Err(proxy["status"].clone()) }
    });
    proxy.await;
    alice.is_refused().await.unwrap();
    bob.is_served().await.unwrap();
    assert_eq!(bob.tcp.ask("/").await.unwrap().0, 200);

    // The same connections work again once it is lifted.
    world.command(&["identity", "unblock", &id, "--yes"]).await;
    within(BOUND, "alice is served on the connections that she had", async || alice.is_served().await).await;
    assert_eq!(alice.anew(at.tcp, Speaks::Tcp).await, Ok(200));

    // Its own proxy, as long as it is ours, answers for a blocked server.
    block(&world, &world.id("pay")).await;
    within(BOUND, "pay serves bob no more", async || bob.is_refused().await).await;
    assert!(bob.anew(at.tcp, Speaks::Tcp).await.is_err(), "a new session to pay passes");
    world.command(&["identity", "unblock", &world.id("pay"), "--yes"]).await;
    within(BOUND, "pay serves bob again", async || bob.is_served().await).await;
    let stats = world.admin("pay").await.stats("update_rejected").await.unwrap();
    assert!(stats.values().all(|count| *count == 0), "{stats:?}");
    world.finish().await;
}

/// `web`: plain HTTP in front; by path to `pay` on HTTP/1.1 and HTTP/2, to `bank`, and to either of them at bank's.
fn web(world: &TestWorld, listen: SocketAddr, pay: &Upstream, bank: &Upstream) -> String {
    let (pay_id, bank_id) = (world.id("pay"), world.id("bank"));
    let cluster = |name: &str, servers: &str, at: &Upstream, http2: bool| {
        format!(
            "    - name: {name}\n      type: STATIC\n      http2: {http2}\n      mtls: {{server: [{servers}]}}\n      \
             endpoints: [{{address: 127.0.0.1, port: {}}}]\n",
            at.address().port()
        )
    };
    let route =
        |name: &str| format!("            - {{match: {{prefix: /{name}}}, route: {{cluster: {name}}}}}\n");
    format!(
        "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: web}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  \
         listeners:\n    - name: web\n      address: 127.0.0.1\n      port: {}\n      mtls: {{mode: permissive}}\n      \
         filterChains:\n        \
         - filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: web}}}}]\n  \
         routes:\n    - name: web\n      virtualHosts:\n        - name: all\n          domains: [\"*\"]\n          \
         routes:\n{}{}{}{}  clusters:\n{}{}{}{}",
        listen.port(),
        route("pay-one"),
        route("pay-two"),
        route("bank"),
        route("either"),
        cluster("pay-one", &pay_id, pay, false),
        cluster("pay-two", &pay_id, pay, true),
        cluster("bank", &bank_id, bank, false),
        cluster("either", &format!("{pay_id}, {bank_id}"), bank, true),
    )
}

async fn server(name: &'static str, envoy: Envoy) {
    let mut world = boot(name, envoy).await;
    let listen = TestWorld::free_port();
    // Neither has an Envoy, nor any ear for us: only their clients can do something about them.
    let pay = Upstream::start_hostile("pay", &world.caller("pay").await).await;
    let bank = Upstream::start_hostile("bank", &world.caller("bank").await).await;
    let options = ProxyOptions {
        identities: vec![world.id("web")],
        labels: vec!["app=web".to_owned()],
        ..ProxyOptions::default()
    };
    world.start_proxy_with("web", options).await;
    world.rest().apply(&web(&world, listen, &pay, &bank)).await;
    eventually("web answers", async || {
        let mut kept = Kept::plain(listen).await?;
        match kept.ask("/pay-one").await? {
            (200, _) => Ok(()),
            other => Err(Outcome::Nothing(format!("{other:?}"))),
        }
    })
    .await;
    world.synced("web").await;
    // One connection of a caller, so that one worker of Envoy has all the connections behind it.
    let mut caller = Kept::plain(listen).await.unwrap();
    for path in ["/pay-one", "/pay-two", "/bank", "/either"] {
        assert_eq!(caller.ask(path).await.unwrap().0, 200, "{path}");
    }
    let before = bank.connections();

    let id = world.id("pay");
    let start = Instant::now();
    let outcome = block(&world, &id).await;
    assert_eq!(outcome["enforcement"]["acknowledged"], 1, "{outcome}");
    let mut either = 0;
    within(BOUND, "pay is asked no more", async || {
        // Whoever else a cluster names goes on without a failure.
        assert_eq!(caller.ask("/either").await, Ok((200, "bank".to_owned())));
        either += 1;
        let mut seen = Vec::new();
        for path in ["/pay-one", "/pay-two"] {
            seen.push(caller.ask(path).await.map(|(status, _)| status));
        }
        if seen.iter().all(|one| *one == Ok(503)) { Ok(()) } else { Err(seen) }
    })
    .await;
    eprintln!(
        "{name}: pay is asked no more {:?} after the command began; acknowledged in {} ms",
        start.elapsed(),
        outcome["took_ms"]
    );
    let asked = pay.requests();
    for _ in 0..20 {
        assert_ne!(caller.ask("/pay-one").await.unwrap().0, 200);
        assert_ne!(caller.ask("/pay-two").await.unwrap().0, 200);
        assert_eq!(caller.ask("/bank").await.unwrap(), (200, "bank".to_owned()));
        assert_eq!(caller.ask("/either").await.unwrap(), (200, "bank".to_owned()));
    }
    assert_eq!(pay.requests(), asked, "a request reached the blocked server");
    // The cluster that names both took one new connection to bank; the one that names bank alone kept its own.
    assert_eq!(bank.connections(), before + 1);

    world.command(&["identity", "unblock", &id, "--yes"]).await;
    within(BOUND, "pay is asked again", async || {
        let mut seen = Vec::new();
        for path in ["/pay-one", "/pay-two", "/bank", "/either"] {
            seen.push(caller.ask(path).await.map(|(status, _)| status));
        }
        if seen.iter().all(|one| *one == Ok(200)) { Ok(()) } else { Err(seen) }
    })
    .await;
    let stats = world.admin("web").await.stats("update_rejected").await.unwrap();
    assert!(stats.values().all(|count| *count == 0), "{stats:?}");
    world.finish().await;
}
