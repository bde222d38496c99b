//! The thing works at all: boot, enrol, join, apply, route, look.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::collections::HashSet;

use kit::{
    Answer, Envoy, Identity, LDS, NetworkNamespace, Outcome, Pair, TestWorld, Upstream, WorldOptions,
    endpoints, envoy, eventually, get, not_run, plaintext, try_http,
};
use serde_json::Value;
use server::sandbox::ProxyOptions;

/// The example of the requirements, section 6.3, byte for byte.
const EXAMPLE: &str = include_str!("data/example-6.3.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_of_1_40_route_by_mtls() {
    if let Some(envoy) = envoy("1.40.0") {
        smoke("smoke-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_of_1_36_route_by_mtls() {
    if let Some(envoy) = envoy("1.36.4") {
        smoke("smoke-1.36.4", envoy).await;
    }
}

async fn smoke(name: &'static str, envoy: Envoy) {
    let version = envoy.version;
    let mut world =
        TestWorld::boot(name, WorldOptions { envoy: Some(envoy), ..WorldOptions::default() }).await;
    let pair = Pair::start(&mut world).await;

    for node in ["web", "pay"] {
        let proxy = world.synced(node).await;
        let types = proxy["status"]["types"].as_array().unwrap();
        assert!(types.iter().all(|one| one["sync"] == "SYNCED"), "{proxy:#}");
        assert!(types.iter().any(|one| one["word"] == "SDS"), "{proxy:#}");
        assert!(proxy["status"]["version"].as_str().unwrap().contains(version), "{proxy:#}");
        let shown = world.command(&["proxy", "show", node]).await;
        assert!(shown.to_string().contains("SYNCED"), "{shown:#}");
        dump_shows_what_was_applied(&world, node).await;
    }
    listings_name_what_is_there(&world).await;
    for path in ["/livez", "/health", "/readyz", "/ready"] {
        let (status, body) = get(world.ports().probes, path).await.unwrap();
        assert_eq!(status, 200, "{path}: {body}");
    }
    let metrics = world.metrics().await;
    assert!(metrics.lines().filter(|line| line.starts_with("credence_")).count() > 10, "{metrics}");
    every_family_stands_in_one_piece(&metrics);
    assert!(!plaintext(pair.pay).await.starts_with(b"HTTP/"), "pay answered plaintext");
    assert!(pair.upstream.requests() >= 1);
    world.finish().await;
}

/// OpenMetrics: a family begins once, with its help and its type, and nothing of another stands in it.
fn every_family_stands_in_one_piece(metrics: &str) {
    let (mut seen, mut family) = (HashSet::new(), "");
    for line in metrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "EOF"] => assert!(metrics.ends_with("\n# EOF\n"), "{metrics}"),
            ["#", keyword, name, _] => {
                assert!(seen.insert((keyword, name)), "a second {keyword} of {name}");
                assert!(family == name || keyword == "HELP", "{line}: after {family}");
                family = name;
            }
            _ => {
                let name = line.split([' ', '{']).next().unwrap_or_default();
                assert_eq!(name.strip_suffix("_total").unwrap_or(name), family, "{line}");
            }
        }
    }
    for (_, name) in &seen {
        assert!(["HELP", "TYPE"].iter().all(|keyword| seen.contains(&(*keyword, *name))), "{name}");
    }
}

async fn dump_shows_what_was_applied(world: &TestWorld, node: &str) {
    let dump = world.admin(node).await.config_dump().await.unwrap();
    let sections = dump["configs"].as_array().unwrap();
    let section = |kind: &str| {
        let found = sections
            .iter()
            .find(|one| one["@type"].as_str().unwrap_or_default().ends_with(&format!(".{kind}")));
        found.unwrap_or_else(|| panic!("{node}: no {kind} in its dump")).to_string()
    };
    let listeners = section("ListenersConfigDump");
    assert!(listeners.contains(&format!("\"name\":\"{node}\"")), "{listeners}");
    assert!(listeners.contains("TLSv1_3"), "{listeners}");
    assert!(section("RoutesConfigDump").contains(&format!("\"name\":\"{node}\"")));
    let cluster = if node == "web" { "web-target" } else { "pay-upstream" };
    assert!(section("ClustersConfigDump").contains(cluster));
    assert!(
        section("SecretsConfigDump").contains(world.domain()),
        "{node} has no secret of its trust domain"
    );
}

async fn listings_name_what_is_there(world: &TestWorld) {
    let has = async |arguments: &[&str], words: &[&str]| {
        let listed = world.command(arguments).await.to_string();
        for word in words {
            assert!(listed.contains(word), "{arguments:?} does not name {word}: {listed}");
        }
    };
    has(&["status"], &["web", "pay", world.domain()]).await;
    has(&["proxy", "list"], &["\"web\"", "\"pay\""]).await;
    has(&["cert", "list"], &["workload", "node", "server", "operator"]).await;
    has(&["ca", "show"], &["root", "intermediate"]).await;
    has(&["identity", "list"], &[&world.id("web"), &world.id("pay")]).await;
    has(&["token", "list"], &["spent"]).await;
    has(&["get", "ProxyConfig"], &["web", "pay"]).await;
    has(&["history", "ProxyConfig", "web"], &["applied"]).await;
    has(&["audit", "list"], &["node-enrol", "document-apply", "certificate-issue"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_requirements_serves_mtls_and_refuses_plaintext() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let mut namespace = match NetworkNamespace::create() {
        Ok(namespace) => namespace,
        Err(why) => {
            not_run(&format!("the example listens on 8080 and needs a network namespace: {why}"));
            return;
        }
    };
    let options = WorldOptions { envoy: Some(envoy.clone()), ..WorldOptions::default() };
    let mut world = TestWorld::boot("example-6.3", options).await;
    let ports = world.ports();
    namespace.carry(ports.xds);
    let upstream = Upstream::start_at("from the upstream", namespace.host()).await;
    let wrapped = namespace.wrap(&envoy.path, &world.sandbox().path(""));
    let proxy = ProxyOptions {
        identities: vec![world.id("example")],
        namespace: Some("production".to_owned()),
        envoy: Some(wrapped),
        ..ProxyOptions::default()
    };
    world.start_proxy_with("edge", proxy).await;

    let text = [EXAMPLE, &endpoints("api_cluster", "production", &[upstream.address()])].join("---\n");
    world.rest().apply(&text).await;
    let client = world.node("client", &["client"]).await;
    let client: Identity = world.workload(&client, "default").await;
    let address = std::net::SocketAddr::new(namespace.inside(), 8080);
    eventually("the example answers over mTLS", async || {
        match try_http(address, Some(&client), "/api/x").await {
            Outcome::Http { status: 200, body, .. } if body == "from the upstream" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let elsewhere = try_http(address, Some(&client), "/elsewhere").await;
    assert!(matches!(elsewhere, Outcome::Http { status: 404, .. }), "{elsewhere:?}");
    let stranger = try_http(address, None, "/api/x").await;
    assert!(stranger.is_refused_by_tls(), "{stranger:?}");
    let plain = plaintext(address).await;
    assert!(!plain.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&plain));
    eventually("the namespace's proxy is SYNCED", async || {
        let proxy = world.proxy("edge").await;
        if proxy["status"]["sync"] == "SYNCED" { Ok(()) } else { Err(proxy) }
    })
    .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_on_a_port_of_ours_is_refused_by_name() {
    let world = TestWorld::boot("own-port", WorldOptions::default()).await;
    let rest = world.ports().rest.port();
    // Only a proxy on our own host can take a port away from us.
    let node = world.node_in("edge", "production", &["example"]).await;
    world.workload(&node, "default").await;
    let mut stream = world.xds(&node).delta("edge", "production");
    stream.subscribe(LDS, &[]).await;
    eventually("the node is seen on our own host", async || {
        let proxy = world.proxy("edge").await;
        if proxy["status"]["connected"] == true { Ok(()) } else { Err(proxy) }
    })
    .await;
    let text = [
        EXAMPLE.replace("port: 8080", &format!("port: {rest}")),
        endpoints("api_cluster", "production", &["127.0.0.1:9".parse().unwrap()]),
    ]
    .join("---\n");
    let answer = world
        .rest()
        .call(http::Method::POST, "/api/v1/apply?file=example.yaml", "application/yaml", text)
        .await
        .unwrap();
    let Answer { status, ref text, .. } = answer;
    assert_eq!(status, 422, "{text}");
    let problem: Value = answer.json();
    let errors = problem["errors"].as_array().unwrap();
    let ours = errors.iter().find(|one| one.to_string().contains(&rest.to_string()));
    let ours = ours.unwrap_or_else(|| panic!("no error names port {rest}: {problem:#}"));
    assert_eq!(ours["file"], "example.yaml", "{ours}");
    assert_eq!(
        (ours["line"].as_u64(), ours["path"].as_str()),
        (Some(11), Some("spec.listeners[0].port")),
        "{ours}"
    );
    let configs = world.rest().get("/api/v1/configs").await;
    assert_eq!(configs["items"].as_array().unwrap().len(), 0, "{configs:#}");
    world.finish().await;
}
