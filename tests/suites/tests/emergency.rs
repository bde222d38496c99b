//! An authority's key is stolen: its certificates are replaced under load, and what the thief had opened before ends.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail the test, and tell what they measured"
)]

use std::{net::SocketAddr, time::Duration};

use kit::{
    Envoy, Identity, Kept, Load, LoadPlan, Outcome, Pair, Speaks, TestWorld, Upstream, WorldOptions, envoy,
    eventually, within,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// From the command to the removal of the stolen root.
const BOUND: Duration = Duration::from_secs(60);
/// From there to the end of what was opened before: the drain time of an Envoy of ours, and what it takes to tell it.
const DRAINED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_thief_loses_what_it_had_open_and_nobody_a_request_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        emergency("emergency-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thief_loses_what_it_had_open_and_nobody_a_request_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        emergency("emergency-1.36.4", envoy).await;
    }
}

/// What a thief who has the key of an authority opened while it was trusted.
struct Thief {
    identity: Identity,
    /// Asked again and again.
    busy: Vec<Kept>,
    /// Never asked again.
    idle: Vec<Kept>,
}

impl Thief {
    async fn open(identity: Identity, http: SocketAddr, tcp: SocketAddr) -> Self {
        let (mut busy, mut idle) = (Vec::new(), Vec::new());
        for (at, speaks) in [(http, Speaks::Http1), (http, Speaks::Http2), (tcp, Speaks::Tcp)] {
            for kept in [&mut busy, &mut idle] {
                let mut opened = Kept::open(at, &identity, speaks).await.unwrap();
                assert_eq!(opened.ask("/").await.unwrap().0, 200, "{speaks:?}");
                kept.push(opened);
            }
        }
        Self { identity, busy, idle }
    }

    /// Asks on each connection that is open; answers how many still are.
    async fn asks(&mut self) -> usize {
        let mut open = 0;
        for kept in &mut self.busy {
            open += usize::from(kept.ask("/").await.is_ok());
        }
        open
    }

    fn open_ones(&self) -> Vec<bool> {
        self.busy.iter().chain(&self.idle).map(Kept::is_open).collect()
    }

    async fn anew(&self, at: SocketAddr, speaks: Speaks) -> Result<u16, Outcome> {
        let mut kept = Kept::open(at, &self.identity, speaks).await?;
        kept.ask("/").await.map(|(status, _)| status)
    }
}

/// `pay` gets a TCP listener, and `web` a plaintext one through which sessions go to a bank.
fn more(world: &TestWorld, tcp: SocketAddr, tunnel: SocketAddr, paid: &Upstream, bank: &Upstream) -> String {
    let (tcp, tunnel, bank_id) = (tcp.port(), tunnel.port(), world.id("bank"));
    let (paid, bank) = (paid.address().port(), bank.address().port());
    format!(
        "---\napiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: ledger}}\nspec:\n  selector: {{matchLabels: {{app: pay}}}}\n  \
         listeners:\n    - name: ledger\n      address: 127.0.0.1\n      port: {tcp}\n      filterChains:\n        \
         - filters: [{{name: envoy.filters.network.tcp_proxy, config: {{cluster: books}}}}]\n  \
         clusters: [{{name: books, type: STATIC, mtls: off, endpoints: [{{address: 127.0.0.1, port: {paid}}}]}}]\n\
         ---\napiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: tunnel}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  \
         listeners:\n    - name: tunnel\n      address: 127.0.0.1\n      port: {tunnel}\n      mtls: off\n      filterChains:\n        \
         - filters: [{{name: envoy.filters.network.tcp_proxy, config: {{cluster: bank}}}}]\n  \
         clusters: [{{name: bank, type: STATIC, mtls: {{server: [{bank_id}]}}, endpoints: [{{address: 127.0.0.1, port: {bank}}}]}}]\n"
    )
}

/// Gives the command, which may take longer than others; exit code, report and remarks.
async fn respond(world: &TestWorld, authority: &str) -> (i32, Value, String) {
    let arguments = [
        "ca",
        "emergency",
        "--authority",
        authority,
        "--reason",
        "drill",
        "--yes",
        "--report",
        "stolen.json",
    ];
    let command = tokio::process::Command::new(world.sandbox().program())
        .args(arguments)
        .args(["-o", "json"])
        .current_dir(world.sandbox().path(""))
        .output();
    let output = tokio::time::timeout(2 * BOUND, command).await.unwrap().unwrap();
    let remarks = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(shown.is_object(), "{remarks}");
    let written = std::fs::read(world.sandbox().path("stolen.json")).unwrap();
    assert_eq!(shown, serde_json::from_slice::<Value>(&written).unwrap());
    (output.status.code().unwrap_or(-1), shown, remarks)
}

/// A node that does not come is waited for until the minute is over, and is named as long as it has not enrolled again.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_left_behind_is_named_until_it_enrols_again() {
    let mut world = TestWorld::boot("emergency-laggard", WorldOptions::default()).await;
    world.node("gone", &["web"]).await;
    let issuing = world.active("intermediate").await;
    for _ in 0..2 {
        let (code, report, remarks) = respond(&world, &issuing).await;
        assert_eq!(code, 7, "{report:#}\n{remarks}");
        assert_eq!(report["status"]["left_behind"], json!(["gone"]), "{report:#}");
        let nodes = report["certificates"].as_array().unwrap();
        let node = nodes.iter().find(|one| one["class"] == "node").unwrap();
        assert_eq!((&node["node"], &node["replaced"]), (&json!("gone"), &json!(false)), "{report:#}");
    }
    world.read_operator();
    let again = json!({ "node": "gone", "identities": [world.id("web")], "replace": true });
    let token = world.rest().post("/api/v1/proxies", &again).await["token"].as_str().unwrap().to_owned();
    let key = certs::SecretKey::generate(certs::KeyKind::P256);
    kit::Enrolment::join(world.ports().enrolment, &token, &key).await.unwrap();
    let (code, report, remarks) = respond(&world, &issuing).await;
    assert_eq!(code, 0, "{report:#}\n{remarks}");
    world.finish().await;
}

async fn emergency(name: &'static str, envoy: Envoy) {
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot(name, options).await;
    let pair = Pair::start(&mut world).await;
    let (tcp, tunnel) = (TestWorld::free_port(), TestWorld::free_port());
    // With the stolen key the thief makes certificates that no journal knows: as a client, and as a server.
    let forger = world.keys().world();
    let forged = |name: &str| Identity::of(&forger.leaf(&world.id(name)));
    let bank = Upstream::start_hostile("robbed", &forged("bank")).await;
    let documents = pair.documents(&world) + &more(&world, tcp, tunnel, &pair.upstream, &bank);
    world.rest().apply(&documents).await;
    for node in ["web", "pay"] {
        world.synced(node).await;
    }
    let mut session = eventually("a session through the tunnel", async || {
        let mut kept = Kept::plain(tunnel).await?;
        kept.ask("/").await.map(|_| kept)
    })
    .await;
    assert_eq!(session.ask("/").await.unwrap(), (200, "robbed".to_owned()));
    let mut thief = Thief::open(forged("web"), pair.pay, tcp).await;
    let (root, issuing) = (world.active("root").await, world.active("intermediate").await);

    let load = Load::start(pair.web, "/", LoadPlan::default());
    within(
        BOUND,
        "the load runs",
        async || if load.so_far().total > 50 { Ok(()) } else { Err(load.so_far()) },
    )
    .await;
    let start = Instant::now();
    let plan = world.command(&["ca", "emergency", "--authority", &issuing, "--dry-run"]).await;
    let within_5 = json!([{ "secs": 5, "proxies": 2 }]);
    assert_eq!((&plan["stage"], &plan["drain"]["within"]), (&json!("none"), &within_5), "{plan:#}");
    let (code, report, err) = respond(&world, &issuing).await;
    let removed = start.elapsed();
    assert_eq!(code, 0, "{report:#}\n{err}");
    assert!(removed < BOUND, "{removed:?}");
    assert_eq!(report["status"]["stage"], "done", "{report:#}");
    let certificates = report["certificates"].as_array().unwrap();
    let of = |node: &str, class: &str| {
        certificates.iter().filter(|one| one["node"] == node && one["class"] == class).count()
    };
    assert!(
        ["web", "pay"].iter().all(|node| of(node, "node") == 1 && of(node, "workload") >= 1),
        "{report:#}"
    );
    let entitled = |one: &&Value| one["class"] == "node" || one["class"] == "workload";
    assert!(certificates.iter().filter(entitled).all(|one| one["replaced"] == true), "{report:#}");
    world.read_operator();
    let after = (world.active("root").await, world.active("intermediate").await);
    assert!(after.0 != root && after.1 != issuing, "{after:?}");

    // Those that go on asking, and those that wait in silence, end alike.
    let ended = within(DRAINED, "nothing of the thief's is open", async || {
        let asked = thief.asks().await;
        let open = thief.open_ones();
        if asked == 0 && open.iter().all(|open| !open) { Ok(start.elapsed()) } else { Err((asked, open)) }
    })
    .await;
    within(DRAINED, "the session to a server under the stolen key ends", async || match session.is_open() {
        false => Ok(()),
        true => Err("it is open"),
    })
    .await;
    for (at, speaks) in [(pair.pay, Speaks::Http1), (pair.pay, Speaks::Http2), (tcp, Speaks::Tcp)] {
        assert!(thief.anew(at, speaks).await.is_err(), "the thief comes in anew: {speaks:?}");
    }
    let robbed = bank.requests();
    let mut again = Kept::plain(tunnel).await.unwrap();
    assert!(again.ask("/").await.is_err(), "a session reaches the thief's server");
    assert_eq!(bank.requests(), robbed);

    let seen = load.so_far();
    within(BOUND, "the load goes on", async || {
        let now = load.so_far().total;
        if now > seen.total + 100 { Ok(()) } else { Err(now) }
    })
    .await;
    let report = load.finish_unharmed(200).await;
    eprintln!(
        "{name}: the stolen root was out after {removed:?}, what was opened under it ended by {ended:?}; {} requests, 0 failed",
        report.total
    );
    for node in ["web", "pay"] {
        world.synced(node).await;
        let admin = world.admin(node).await;
        let stats = admin.stats("update_rejected|key_rotation_failed").await.unwrap();
        assert!(stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }

    // What is opened now stays, also when the control plane comes back: it drains once.
    let node = world.node("alice-host", &["web"]).await;
    let alice = world.workload(&node, "default").await;
    let mut kept = Kept::open(pair.pay, &alice, Speaks::Http1).await.unwrap();
    let mut sent = Kept::open(tcp, &alice, Speaks::Tcp).await.unwrap();
    world.kill().await;
    world.start().await;
    for node in ["web", "pay"] {
        within(BOUND, &format!("{node} is back"), async || {
            let proxy = world.proxy(node).await;
            if proxy["status"]["sync"] == "SYNCED" { Ok(()) } else { Err(proxy["status"].clone()) }
        })
        .await;
    }
    assert_eq!(kept.ask("/").await.unwrap().0, 200);
    assert_eq!(sent.ask("/").await.unwrap().0, 200);
    let dump = world.rest().get("/api/v1/proxies/pay/config").await.to_string();
    assert!(dump.contains("?g=1") && !dump.contains("?g=2"), "{dump}");
    assert!(kept.is_open() && sent.is_open());
    world.finish().await;
}
