//! One revoked certificate is refused by every proxy while its owner goes on with another; and lists, which can break
//! what they protect, break nothing: not when an authority is replaced, and not when they cannot be renewed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests fail the test, and tell what they measured"
)]

use std::{net::SocketAddr, time::Duration};

use certs::Clock;
use kit::{
    Config, Envoy, Identity, Kept, Load, LoadPlan, Outcome, Pair, Speaks, SystemClock, TestWorld, Upstream,
    WorldOptions, endpoints, envoy, eventually, try_http, try_stream, within,
};
use serde_json::Value;
use tokio::time::Instant;

const STREAM: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const DAY: Duration = Duration::from_secs(86_400);
/// How soon every proxy refuses what was revoked.
const BOUND: Duration = Duration::from_secs(10);
/// The life of lists where they are short, and of leaves then.
const SHORT: Duration = Duration::from_secs(24);

fn lists(config: &mut Config) {
    config.revocation_lists = Some(7 * DAY);
}

fn short_lists(config: &mut Config) {
    config.revocation_lists = Some(SHORT);
    config.lifetimes.leaf = SHORT / 2;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_leaf_is_refused_while_its_proxy_goes_on_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        stolen("crl-stolen-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_leaf_is_refused_while_its_proxy_goes_on_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        stolen("crl-stolen-1.36.4", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuing_authority_is_replaced_with_lists_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        rotated("crl-rotation-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuing_authority_is_replaced_with_lists_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        rotated("crl-rotation-1.36.4", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_renewed_in_time_and_withdrawn_when_they_cannot_be_on_1_40() {
    if let Some(envoy) = envoy("1.40.0") {
        withdrawn("crl-withdrawn-1.40.0", envoy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_renewed_in_time_and_withdrawn_when_they_cannot_be_on_1_36() {
    if let Some(envoy) = envoy("1.36.4") {
        withdrawn("crl-withdrawn-1.36.4", envoy).await;
    }
}

async fn boot(name: &'static str, envoy: Envoy, adjust: fn(&mut Config)) -> TestWorld {
    TestWorld::boot(name, WorldOptions { envoy: Some(envoy), adjust }).await
}

/// Whether a new connection with this certificate is served.
async fn is_served(at: SocketAddr, identity: &Identity) -> Result<(), Outcome> {
    match try_http(at, Some(identity), "/").await {
        Outcome::Http { status: 200, .. } => Ok(()),
        other => Err(other),
    }
}

/// Whether it ends in the handshake.
async fn is_refused(at: SocketAddr, identity: &Identity) -> Result<(), Outcome> {
    let outcome = try_http(at, Some(identity), "/").await;
    if outcome.is_refused_by_tls() { Ok(()) } else { Err(outcome) }
}

fn serial(identity: &Identity) -> String {
    identity.leaf().serial().to_string()
}

/// The lists of issuing authorities, by number.
async fn shown(world: &TestWorld) -> Vec<u64> {
    let authorities = world.command(&["ca", "show"]).await;
    let lists = authorities.as_array().unwrap().iter().map(|one| one["revocation_list"].clone());
    lists.filter(|list| list["is_shown"] == true).map(|list| list["number"].as_u64().unwrap()).collect()
}

async fn rejected_nothing(world: &TestWorld, nodes: &[&str]) {
    for node in nodes {
        let stats = world.admin(node).await.stats("update_rejected").await.unwrap();
        assert!(stats.values().all(|count| *count == 0), "{node}: {stats:?}");
    }
}

async fn stolen(name: &'static str, envoy: Envoy) {
    let mut world = boot(name, envoy, lists).await;
    let pair = Pair::start(&mut world).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let web = world.id("web");
    let thief = world.copy_of("web", &web).await;
    is_served(pair.pay, &thief).await.unwrap();
    let mut open = Kept::open(pair.pay, &thief, Speaks::Http1).await.unwrap();
    assert_eq!(open.ask("/").await.unwrap().0, 200);

    // A plan changes nothing, and says what there is to know.
    let copied = serial(&thief);
    let plan = world.command(&["cert", "revoke", &copied, "--dry-run"]).await;
    assert_eq!(plan["dry_run"], true, "{plan:#}");
    assert!(plan["limits"].to_string().contains("connections that are open already"), "{plan:#}");
    is_served(pair.pay, &thief).await.unwrap();

    let start = Instant::now();
    let words = ["cert", "revoke", &copied, "--code", "key-compromise", "--reason", "copied", "--yes"];
    let outcome = world.command(&words).await;
    assert_eq!(outcome["uptake"]["acknowledged"], 2, "{outcome:#}");
    assert_eq!(outcome["uptake"]["proxies"], 2, "{outcome:#}");
    within(BOUND, "the copy is refused", async || is_refused(pair.pay, &thief).await).await;
    eprintln!(
        "{name}: refused {:?} after the command began; acknowledged by 2 of 2 in {} ms",
        start.elapsed(),
        outcome["took_ms"]
    );
    // What it does not do is as it says.
    assert_eq!(open.ask("/").await.unwrap().0, 200, "a connection that was open lasts");
    let owner = world.copy_of("web", &web).await;
    assert_ne!(serial(&owner), copied, "its proxy has another");
    is_served(pair.pay, &owner).await.unwrap();
    world.audit_says(&["certificate-revoke", &copied, "copied", "key-compromise"]).await;
    world.audit_says(&["revocation-list-sign", "\"number\":\"2\""]).await;
    let again = world.run(&["cert", "revoke", &copied, "--yes"]).await;
    assert_eq!(again.0, 5, "{again:?}");
    assert!(again.2.contains("was revoked at"), "{again:?}");

    // A control plane that comes back has not forgotten, and shows the same list.
    world.kill().await;
    is_refused(pair.pay, &thief).await.unwrap();
    world.start().await;
    for node in ["web", "pay"] {
        world.synced(node).await;
    }
    is_refused(pair.pay, &thief).await.unwrap();
    assert_eq!(shown(&world).await, [2]);
    let expiring = world.command(&["status", "--expiring", "8d"]).await;
    assert!(expiring.to_string().contains("\"crl\""), "{expiring:#}");

    // Certificates that only we look at, at our own doors.
    let node = world.node("lost", &["lost"]).await;
    let mut stream = world.xds(&node).delta(&node.id, &node.namespace);
    stream.subscribe(kit::SDS, &["ROOTCA"]).await;
    stream.next().await.unwrap();
    world.command(&["cert", "revoke", &serial(&node.identity), "--yes"]).await;
    let ended = stream.next_within(BOUND).await;
    assert!(ended.is_err(), "its stream goes on: {ended:?}");
    let refused = try_stream(world.ports().xds, Some(&node.identity), STREAM).await;
    assert!(refused.is_refused_by_tls(), "{refused:?}");
    world.audit_says(&["connection-refuse", "revoked"]).await;

    load.finish_unharmed(200).await;
    rejected_nothing(&world, &["web", "pay"]).await;
    world.finish().await;
}

async fn rotated(name: &'static str, envoy: Envoy) {
    let mut world = boot(name, envoy, lists).await;
    let pair = Pair::start(&mut world).await;
    let thief = world.copy_of("web", &world.id("web")).await;
    let outcome = world.command(&["cert", "revoke", &serial(&thief), "--yes"]).await;
    assert_eq!(outcome["uptake"]["acknowledged"], outcome["uptake"]["proxies"], "{outcome:#}");
    let load = Load::start(pair.web, "/", LoadPlan::default());

    // One proxy that does not answer holds the next authority up, by name; nothing else happens.
    let (_node, mut mute) = world.mute_node("mute").await;
    let refused = world.run(&["ca", "rotate", "intermediate", "--yes", "--reason", "drill"]).await;
    assert_eq!(refused.0, 5, "{refused:?}");
    assert!(refused.2.contains("mute has not acknowledged the revocation list"), "{refused:?}");
    assert_eq!(shown(&world).await.len(), 2, "its list is with the others");
    let authorities = world.command(&["ca", "show"]).await;
    let prepared = authorities.as_array().unwrap().iter().find(|one| one["state"] == "prepared").unwrap();
    assert_eq!(prepared["waits_for"][0]["name"], "mute", "{authorities:#}");

    // When it does, the rotation goes on by itself.
    let to = prepared["id"].as_str().unwrap().to_owned();
    let update = mute.next().await.unwrap();
    mute.ack(&update).await;
    eventually("the next authority signs", async || {
        let authorities = world.command(&["ca", "show"]).await;
        let active = authorities.as_array().unwrap().iter().find(|one| one["id"] == to.as_str()).cloned();
        match active {
            Some(active) if active["state"] == "active" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    within(Duration::from_secs(30), "leaves of the next authority are in use", async || {
        let owner = world.copy_of("web", &world.id("web")).await;
        let row = world.rest().get(&format!("/api/v1/certificates/{}", serial(&owner))).await;
        if row["authority"] == to.as_str() { Ok(()) } else { Err(row) }
    })
    .await;
    // What the old one signed verifies on, and what was revoked under it stays so.
    is_refused(pair.pay, &thief).await.unwrap();
    // Nobody holds this one up: it is done when the command answers. Whose connection has only broken is awaited.
    drop(mute);
    world.command(&["proxy", "remove", "mute", "--yes"]).await;
    let rotated = world.command(&["ca", "rotate", "intermediate", "--yes"]).await;
    assert!(rotated["to"].is_string(), "{rotated:#}");
    assert_eq!(shown(&world).await.len(), 3);
    let before = load.so_far().total;
    eventually("the load goes on", async || {
        let total = load.so_far().total;
        if total > before + 200 { Ok(()) } else { Err(total) }
    })
    .await;
    load.finish_unharmed(500).await;
    rejected_nothing(&world, &["web", "pay"]).await;
    world.finish().await;
}

/// `pay`: open to every identity of the trust domain.
fn open_to_all(at: SocketAddr, upstream: &Upstream) -> String {
    let document = format!(
        "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: open}}\nspec:\n  selector: {{matchLabels: {{app: pay}}}}\n  \
         listeners:\n    - name: open\n      address: 127.0.0.1\n      port: {}\n      filterChains:\n        \
         - filters: [{{name: envoy.filters.network.http_connection_manager, config: {{routeConfig: open}}}}]\n  \
         routes:\n    - name: open\n      virtualHosts:\n        - name: all\n          domains: [\"*\"]\n          \
         routes: [{{match: {{prefix: /}}, route: {{cluster: books}}}}]\n  \
         clusters: [{{name: books, type: EDS, mtls: off}}]\n",
        at.port()
    );
    document + "---\n" + &endpoints("books", "default", &[upstream.address()])
}

/// When each list was signed, in milliseconds, oldest first.
async fn signed(world: &TestWorld) -> Vec<i64> {
    let rows = world.audit().await;
    let at =
        |row: &Value| certs::Timestamp::parse_rfc3339(row["at"].as_str().unwrap()).unwrap().unix_millis();
    let mut all: Vec<i64> =
        rows.iter().filter(|row| row["action"] == "revocation-list-sign").map(at).collect();
    all.sort_unstable();
    all
}

async fn withdrawn(name: &'static str, envoy: Envoy) {
    let mut world = boot(name, envoy, short_lists).await;
    let pair = Pair::start(&mut world).await;
    let open = TestWorld::free_port();
    world.rest().apply(&open_to_all(open, &pair.upstream)).await;
    let thief = world.probe_identity().await;
    eventually("the open listener answers", async || is_served(open, &thief).await).await;
    let load = Load::start(pair.web, "/", LoadPlan::default());
    let outcome = world.command(&["cert", "revoke", &serial(&thief), "--yes"]).await;
    assert_eq!(outcome["uptake"]["acknowledged"], outcome["uptake"]["proxies"], "{outcome:#}");
    is_refused(open, &thief).await.unwrap();

    // Renewed at half of their lives, three times, and each is with the proxies.
    let first = shown(&world).await[0];
    let later = within(SHORT * 3, "three lists more", async || {
        let now = shown(&world).await;
        if now.iter().any(|number| *number >= first + 3) { Ok(now) } else { Err(now) }
    });
    later.await;
    let times = signed(&world).await;
    let longest = times.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    let half = i64::try_from((SHORT / 2).as_millis()).unwrap();
    assert!(longest <= half + 1_000, "a list was renewed {longest} ms after the one before: {times:?}");
    for node in ["web", "pay"] {
        world.synced(node).await;
    }
    is_refused(open, &thief).await.unwrap();
    eprintln!("{name}: lists of {SHORT:?} follow each other after {longest} ms at most");

    // None can be made any more: said at once, withdrawn before the last one ends, and nobody good is refused.
    world.keep_lists(false).await;
    within(SHORT, "status says that a list is not renewed", async || warned(&world, "is not renewed").await)
        .await;
    within(SHORT, "status says that lists are withdrawn", async || warned(&world, "WITHDRAWN").await).await;
    let last = *signed(&world).await.last().unwrap();
    let life = i64::try_from(SHORT.as_millis()).unwrap();
    let now = || SystemClock.now().unix_millis();
    assert!(now() < last + life, "withdrawn {} ms after the last list ended", now() - last - life);
    assert!((world.metric("credence_revocation_lists_withdrawn").await - 1.0).abs() < f64::EPSILON);
    within(BOUND, "proxies check no more", async || is_served(open, &thief).await).await;
    // Past the end of the list that they had.
    within(SHORT, "the last list has ended", async || {
        if now() > last + life + 2_000 { Ok(()) } else { Err(last + life - now()) }
    })
    .await;
    is_served(open, &thief).await.unwrap();
    assert_eq!(load.so_far().failed, 0, "{:#?}", load.so_far());
    let plan = world.command(&["cert", "revoke", &serial(&world.probe_identity().await), "--dry-run"]).await;
    assert!(plan["limits"].to_string().contains("withdrawn since"), "{plan:#}");

    // They come back by themselves.
    world.keep_lists(true).await;
    within(SHORT, "the copy is refused again", async || is_refused(open, &thief).await).await;
    assert!((world.metric("credence_revocation_lists_withdrawn").await).abs() < f64::EPSILON);
    load.finish_unharmed(500).await;
    rejected_nothing(&world, &["web", "pay"]).await;
    world.finish().await;
}

/// Whether `status` warns of it.
async fn warned(world: &TestWorld, words: &str) -> Result<(), Value> {
    let status = world.rest().get("/api/v1/status").await;
    if status["warnings"].to_string().contains(words) { Ok(()) } else { Err(status["warnings"].clone()) }
}
