//! Certificates for public names, obtained from a real Pebble by what real Envoys and a real name server answer it, and
//! shown at the edge: replaced without a lost request, and by nobody whose listener does not show them.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use acme::{Client, Settings, Url};
use base64::{Engine, engine::general_purpose::STANDARD};
use kit::{
    Envoy, Kept, Knot, Looks, Outcome, Pebble, PebbleOptions, Speaks, SystemClock, TestWorld, Upstream,
    WorldOptions, envoy, eventually, get, probe, try_http, within,
};
use serde_json::Value;
use server::sandbox::ProxyOptions;

/// How long an order may take here: four steps, each looked at after a second, on a machine that is shared.
const ORDER: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn proxies_answer_for_their_names_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        proxies_answer("edge-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_answer_for_their_names_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        proxies_answer("edge-1.36.4", envoy).await;
    }
}

/// A proxy's part of two edges: one shown at `https`, which is answered for at `http`; the other at `tls`, for itself.
fn document(app: &str, [https, http, tls]: [SocketAddr; 3], upstream: SocketAddr) -> String {
    let chain = |routes: &str| {
        format!(
            "[{{filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: {routes}}}}}]}}]"
        )
    };
    format!(
        r#"apiVersion: v1
kind: ProxyConfig
metadata: {{name: {app}}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  listeners:
    - {{name: https, address: {}, port: {}, tls: {{edge: shop}}, filterChains: {site}}}
    - {{name: http, address: {}, port: {}, mtls: off, filterChains: {plain}}}
    - {{name: tls, address: {}, port: {}, tls: {{edge: pay}}, filterChains: {site}}}
  routes:
    - name: site
      virtualHosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: site}}}}]}}]
    - name: plain
      virtualHosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, redirect: {{https: true}}}}]}}]
  clusters:
    - {{name: site, type: STATIC, endpoints: [{{address: {}, port: {}}}]}}
"#,
        https.ip(),
        https.port(),
        http.ip(),
        http.port(),
        tls.ip(),
        tls.port(),
        upstream.ip(),
        upstream.port(),
        site = chain("site"),
        plain = chain("plain"),
    )
}

async fn add_issuer(world: &TestWorld, pebble: &Pebble) {
    let url = Url::parse(&pebble.directory()).unwrap();
    let client = Client::new(&Settings::new(url, pebble.ca_file()), Arc::new(SystemClock));
    let terms = client.directory().await.unwrap().terms.clone().unwrap();
    let file = pebble.ca_file().display().to_string();
    let directory = pebble.directory();
    let add = ["issuer", "add", "acme", "pebble", "--directory", &directory, "--ca-file", &file];
    world.command(&[&add[..], &["--agree-terms", &terms]].concat()).await;
}

/// The edge, when it is as `wanted` says.
async fn edge(world: &TestWorld, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    within(ORDER, &format!("edge {name}"), async || {
        let shown = world.command(&["edge", "show", name]).await;
        if wanted(&shown) { Ok(shown) } else { Err(shown) }
    })
    .await
}

fn is_valid(shown: &Value) -> bool {
    shown["state"] == "valid"
}

async fn shown_at(address: SocketAddr) -> Option<String> {
    probe(address).await.map(|shown| shown.serial)
}

/// How many requests for challenges a proxy answered.
async fn answered(world: &TestWorld, node: &str, stat: &str) -> u64 {
    let stats = world.admin(node).await.stats(stat).await.unwrap();
    stats.get(stat).copied().unwrap_or_default()
}

async fn proxies_answer(name: &'static str, envoy: Envoy) {
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot(name, options).await;
    let upstream = Upstream::start("from the shop").await;
    let ports = TestWorld::free_ports(6);
    let (a, b) = ([ports[0], ports[1], ports[2]], [ports[3], ports[4], ports[5]]);
    // It asks the first proxy; the second must show the same before it is asked at all.
    let looks = Looks { http: a[1], tls: a[2], resolver: None };
    let options = PebbleOptions {
        profiles: vec![
            ("default".to_owned(), Duration::from_secs(90 * 24 * 3600)),
            ("short".to_owned(), Duration::from_secs(40)),
        ],
        ..PebbleOptions::default()
    };
    let Some(pebble) = Pebble::start_at(&options, looks).await else { return world.finish().await };
    for node in ["edge-a", "edge-b"] {
        let proxy = ProxyOptions {
            identities: vec![world.id(node)],
            labels: vec![format!("app={node}")],
            ..ProxyOptions::default()
        };
        world.start_proxy_with(node, proxy).await;
    }
    add_issuer(&world, &pebble).await;

    // Mistakes are refused with what to change, and nothing is kept of them.
    let refused = async |arguments: &[&str], parts: &[&str]| {
        let (code, out, err) = world.run(&[&["edge", "add"][..], arguments].concat()).await;
        assert_ne!(code, 0, "{out}");
        assert!(parts.iter().all(|part| err.contains(part) || out.contains(part)), "{out}{err}");
    };
    let tls_way = ["--issuer", "pebble", "--challenge", "tls-alpn-01", "--profile", "default"];
    let with = |more: &[&'static str]| [more, &tls_way].concat();
    refused(&with(&["pay.example", "--listener", "tls"]), &["has a listener", "tls: {edge: pay.example}"])
        .await;
    let documents = [document("edge-a", a, upstream.address()), document("edge-b", b, upstream.address())];
    world.rest().apply(&documents.join("---\n")).await;
    refused(&with(&["pay.example", "--listener", "tls"]), &["shows edge pay"]).await;
    refused(&with(&["pay", "--listener", "tls", "--domain", "*.pay.example"]), &["dns-01"]).await;
    let unknown = ["pay", "--listener", "tls", "--domain", "pay.example", "--issuer", "pebble"];
    refused(
        &[&unknown[..], &["--challenge", "tls-alpn-01", "--profile", "none"]].concat(),
        &["profile", "short"],
    )
    .await;
    let plain = ["shop", "--listener", "https", "--domain", "shop.example", "--issuer", "pebble"];
    let http_way = ["--challenge", "http-01", "--profile", "default", "--http-listener"];
    refused(&[&plain[..], &http_way, &["tls"]].concat(), &["takes no plain HTTP"]).await;
    let none = world.command(&["edge", "list"]).await;
    assert_eq!(none.as_array().map(Vec::len), Some(0), "{none}");

    // HTTP-01, for two names, before the redirect of everything.
    let add =
        [&["edge", "add"][..], &plain, &["--domain", "www.shop.example"], &http_way, &["http"]].concat();
    world.command(&add).await;
    let shop = edge(&world, "shop", is_valid).await;
    let first = shown_at(a[0]).await;
    assert!(first.is_some());
    eventually("both proxies show it", async || {
        let shown = (shown_at(a[0]).await, shown_at(b[0]).await);
        if shown.0 == first && shown.1 == first { Ok(()) } else { Err(shown) }
    })
    .await;
    let served = try_http(a[0], None, "/").await;
    assert!(
        matches!(&served, Outcome::Http { status: 200, body, .. } if body == "from the shop"),
        "{served:?}"
    );
    assert_eq!(shop["proxies"].as_array().map(Vec::len), Some(2), "{shop}");
    // Three looks at each name, and Envoy counted them; nothing is answered so any more.
    assert!(answered(&world, "edge-a", "http.http.downstream_rq_2xx").await >= 6);
    let (status, _) = get(a[1], "/.well-known/acme-challenge/anything").await.unwrap();
    assert_eq!(status.as_u16(), 301, "what is no challenge is redirected as ever");

    // TLS-ALPN-01, beside the certificate that is in use: nobody who is connected notices.
    let add = with(&[
        "edge",
        "add",
        "pay",
        "--listener",
        "tls",
        "--domain",
        "pay.example",
        "--domain",
        "www.pay.example",
    ]);
    world.command(&add).await;
    edge(&world, "pay", is_valid).await;
    let first = shown_at(a[2]).await;
    let mut kept = vec![
        Kept::anonymous(a[2], Speaks::Http1).await.unwrap(),
        Kept::anonymous(a[2], Speaks::Http2).await.unwrap(),
        Kept::anonymous(b[2], Speaks::Http2).await.unwrap(),
    ];
    let drained = answered(&world, "edge-a", "listener_manager.listener_in_place_updated").await;
    world.command(&["edge", "renew", "pay"]).await;
    within(ORDER, "the renewed certificate is shown", async || {
        for open in &mut kept {
            let (status, body) = open.ask("/").await.unwrap();
            assert_eq!((status, body.as_str()), (200, "from the shop"), "on a connection that was open");
        }
        let shown = (shown_at(a[2]).await, shown_at(b[2]).await);
        if shown.0.is_some() && shown.0 != first && shown.0 == shown.1 { Ok(()) } else { Err(shown) }
    })
    .await;
    let in_place = answered(&world, "edge-a", "listener_manager.listener_in_place_updated").await;
    assert!(in_place > drained);
    let modified = answered(&world, "edge-a", "listener_manager.listener_modified").await;
    assert_eq!(modified, in_place, "a listener was replaced");
    for open in &mut kept {
        assert_eq!(open.ask("/").await.unwrap().0, 200);
    }

    // Whose listeners do not show it gets neither the certificate nor what shows that the name is ours.
    let stranger = world.node_of("stranger", "other", &["other"]).await;
    let mut stream = world.xds(&stranger).delta(&stranger.id, &stranger.namespace);
    stream.subscribe(kit::SDS, &["edge://shop", "edge://pay/pay.example"]).await;
    let answer = stream.next().await.unwrap();
    assert_eq!(answer.resources, [], "a stranger is told of an edge");
    world.audit_says(&["secret-refuse", "edge shop", "stranger"]).await;

    // A restart of the server takes nothing away, and asks for nothing.
    let second = shown_at(a[2]).await;
    world.kill().await;
    world.start().await;
    let is_back = |shown: &Value| {
        let proxies = shown["proxies"].as_array().map(Vec::as_slice).unwrap_or_default();
        is_valid(shown) && proxies.len() == 2 && proxies.iter().all(|proxy| proxy["acknowledged"] == true)
    };
    edge(&world, "pay", is_back).await;
    for open in &mut kept {
        assert_eq!(open.ask("/").await.unwrap().0, 200);
    }
    let refused = world.audit().await.into_iter().filter(|row| row["action"] == "secret-refuse");
    let false_ones: Vec<Value> = refused.filter(|row| !row.to_string().contains("stranger")).collect();
    assert!(false_ones.len() <= 4, "only of what was asked for before it was there: {false_ones:?}");
    assert_eq!(shown_at(a[2]).await, second);

    // What is in use is not removed; its document says otherwise first.
    let (code, _, err) = world.run(&["edge", "remove", "pay", "--yes"]).await;
    assert!(code != 0 && err.contains("edge-a"), "{err}");
    let (code, _, err) = world.run(&["issuer", "remove", "pebble", "--yes"]).await;
    assert!(code != 0 && err.contains("edge"), "{err}");
    let dump = world.admin("edge-a").await.config_dump().await.unwrap().to_string();
    assert!(!dump.contains("PRIVATE KEY"), "a key is shown");
    world.finish().await;
}

/// A proxy that has just started acknowledges what it must show before it opens a listener at all: the server is told to
/// look when it can be answered, and no order is lost.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_order_waits_until_a_new_proxy_listens() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot("edge-first", options).await;
    let upstream = Upstream::start("from the shop").await;
    let ports = TestWorld::free_ports(3);
    let a = [ports[0], ports[1], ports[2]];
    let looks = Looks { http: a[1], tls: a[2], resolver: None };
    let Some(pebble) = Pebble::start_at(&PebbleOptions::default(), looks).await else {
        return world.finish().await;
    };
    add_issuer(&world, &pebble).await;
    world.rest().apply(&document("edge", a, upstream.address())).await;
    let add =
        ["edge", "add", "shop", "--listener", "https", "--domain", "shop.example", "--issuer", "pebble"];
    world.command(&[&add[..], &["--challenge", "http-01", "--http-listener", "http"]].concat()).await;
    let proxy = ProxyOptions {
        identities: vec![world.id("edge")],
        labels: vec!["app=edge".to_owned()],
        ..ProxyOptions::default()
    };
    world.start_proxy_with("edge", proxy).await;
    let shown = edge(&world, "shop", |shown| is_valid(shown) || shown["state"] == "failing").await;
    assert!(is_valid(&shown), "{shown}");
    world.finish().await;
}

/// A proxy that takes challenges and never says so holds an order up by name, and only until it is gone; a kill of the
/// server meanwhile leaves one order.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_waits_for_every_proxy_and_is_gone_on_with_after_a_kill() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let options = WorldOptions { envoy: Some(envoy), ..WorldOptions::default() };
    let mut world = TestWorld::boot("edge-waits", options).await;
    let upstream = Upstream::start("from the shop").await;
    let ports = TestWorld::free_ports(3);
    let a = [ports[0], ports[1], ports[2]];
    let looks = Looks { http: a[1], tls: a[2], resolver: None };
    let options = PebbleOptions {
        profiles: vec![("short".to_owned(), Duration::from_secs(40))],
        ..PebbleOptions::default()
    };
    let Some(pebble) = Pebble::start_at(&options, looks).await else { return world.finish().await };
    let proxy = ProxyOptions {
        identities: vec![world.id("edge")],
        labels: vec!["app=edge".to_owned()],
        ..ProxyOptions::default()
    };
    world.start_proxy_with("edge", proxy).await;
    add_issuer(&world, &pebble).await;
    world.rest().apply(&document("edge", a, upstream.address())).await;
    let mute = world.node_of("mute", "edge", &["mute"]).await;
    let mut stream = world.xds(&mute).delta(&mute.id, &mute.namespace);
    stream.subscribe(kit::LDS, &[]).await;
    stream.next().await.unwrap();
    let add = ["edge", "add", "pay", "--listener", "tls", "--domain", "pay.example", "--issuer", "pebble"];
    world.command(&[&add[..], &["--challenge", "tls-alpn-01", "--profile", "short"]].concat()).await;
    let waits = |shown: &Value| shown["doing"].as_str().is_some_and(|doing| doing.contains("waits for mute"));
    edge(&world, "pay", waits).await;
    world.kill().await;
    drop(stream);
    world.start().await;
    edge(&world, "pay", is_valid).await;
    let steps = |rows: &[Value], step: &str| {
        let is_it = |row: &&Value| row["action"] == "edge-obtain" && row["details"]["step"] == step;
        rows.iter().filter(is_it).count()
    };
    let rows = world.audit().await;
    assert_eq!(steps(&rows, "ordering"), 1, "one order: {rows:?}");
    // It lives for seconds, and the next one comes by itself before it ends.
    let first = shown_at(a[2]).await;
    within(ORDER, "it is renewed by itself", async || {
        let now = shown_at(a[2]).await;
        if now.is_some() && now != first { Ok(()) } else { Err(now) }
    })
    .await;
    world.finish().await;
}

/// DNS-01: by updates of a real name server, which Pebble asks; and by a program.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_shown_by_records_too() {
    let Some(envoy) = envoy("1.40.0") else { return };
    let Some(knot) = Knot::start("shop.example").await else { return };
    let options = WorldOptions {
        envoy: Some(envoy),
        adjust: |config| config.dns_commands = vec![config.data_dir.with_file_name("publish")],
    };
    let mut world = TestWorld::boot("edge-dns", options).await;
    let upstream = Upstream::start("from the shop").await;
    let ports = TestWorld::free_ports(3);
    let a = [ports[0], ports[1], ports[2]];
    let looks = Looks { http: a[1], tls: a[2], resolver: Some(knot.address()) };
    let Some(pebble) = Pebble::start_at(&PebbleOptions::default(), looks).await else {
        return world.finish().await;
    };
    let proxy = ProxyOptions {
        identities: vec![world.id("edge")],
        labels: vec!["app=edge".to_owned()],
        ..ProxyOptions::default()
    };
    world.start_proxy_with("edge", proxy).await;
    add_issuer(&world, &pebble).await;
    world.rest().apply(&document("edge", a, upstream.address())).await;
    let folder = world.sandbox().path("");
    let key = folder.join("update.key");
    fs::write(&key, STANDARD.encode(Knot::SECRET)).unwrap();
    let (server, key) = (knot.address().to_string(), key.display().to_string());
    let shop =
        ["edge", "add", "shop", "--listener", "https", "--domain", "*.shop.example", "--issuer", "pebble"];
    let update =
        ["--challenge", "dns-01", "--dns-server", &server, "--dns-zone", knot.zone(), "--dns-key", Knot::KEY];
    let key_file = ["--dns-key-file", &key];
    let elsewhere = [&shop[..], &["--domain", "other.example"], &update, &key_file].concat();
    let (code, out, err) = world.run(&elsewhere).await;
    assert!(
        code != 0 && (err.contains("does not stand in the zone") || out.contains("does not stand in")),
        "{out}{err}"
    );
    // The name server is asked before the edge is kept, and nothing of the zone changes by that.
    let wrong = folder.join("wrong.key").display().to_string();
    fs::write(&wrong, STANDARD.encode([8; 32])).unwrap();
    let dead = TestWorld::free_port().to_string();
    let ways = [
        (["--dns-key-file", &wrong], "BADSIG: its key credence is another"),
        (["--dns-key", "nobody"], "BADKEY: it knows no key nobody"),
        (["--dns-zone", "example"], "NOTAUTH: it is no primary of zone example"),
        (["--dns-server", &dead], "cannot be reached"),
    ];
    let given = [&update[2..], &key_file].concat();
    for ([option, value], words) in ways {
        let mut options: Vec<&str> = given.clone();
        let at = options.iter().position(|one| *one == option).unwrap();
        options[at + 1] = value;
        let (code, out, err) = world.run(&[&shop[..], &update[..2], &options].concat()).await;
        assert!(code != 0 && (out.contains(words) || err.contains(words)), "{option} {value}: {out}{err}");
    }
    world.command(&[&shop[..], &update, &key_file].concat()).await;
    edge(&world, "shop", is_valid).await;
    eventually("the wildcard's certificate is shown", async || {
        shown_at(a[0]).await.ok_or("nothing is shown")
    })
    .await;

    // A program does the same: what it is called with stands in a file, and its failure is shown.
    let (told, program) = (folder.join("told"), folder.join("publish"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\n[ \"$1\" = withdraw ] && exit 0\necho no such zone >&2\nexit 3\n",
        told.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.display().to_string();
    let pay =
        ["edge", "add", "pay", "--listener", "tls", "--domain", "pay.shop.example", "--issuer", "pebble"];
    let way = ["--challenge", "dns-01", "--dns-command"];
    let (code, out, err) = world.run(&[&pay[..], &way, &["/bin/true"]].concat()).await;
    assert!(code != 0 && (out + &err).contains("edges.dns_commands"), "any program of the host is run");
    world.command(&[&pay[..], &way, &[&program]].concat()).await;
    let fails = |shown: &Value| {
        let tells = |why: &str| why.contains("no such zone") && !why.contains("every connected proxy");
        shown["problem"].as_str().is_some_and(tells)
    };
    edge(&world, "pay", fails).await;
    within(ORDER, "it is withdrawn", async || {
        let text = fs::read_to_string(&told).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let is_done = lines.iter().any(|line| line.starts_with("publish _acme-challenge.pay.shop.example "))
            && lines.iter().any(|line| line.starts_with("withdraw _acme-challenge.pay.shop.example "));
        if is_done { Ok(()) } else { Err(text) }
    })
    .await;
    world.finish().await;
}
