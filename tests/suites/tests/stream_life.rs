//! Row D2 of the reliability programme: what a node holds open ends with its certificate, within 2 s, and within 5 s
//! of whatever takes away what it stood on; and nothing of it is resumed. 40 cases, each counted where it ends.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail the test, and say what was measured"
)]

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use fixtures::Blueprint;
use futures::future::join_all;
use http::Method;
use kit::{
    CDS, DeltaStream, HeldSync, Identity, IdleConnection, Outcome, Resumer, RustlsPeer, SDS, SotwStream,
    TestWorld, WorldOptions, XdsClient, back, eventually, renew, try_stream, within,
};
use proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use serde_json::json;
use tokio::time::Instant;

const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// How far from its deadline a stream may end.
const TOLERANCE: Duration = Duration::from_secs(2);
/// When a denial must have taken effect.
const DENIED: Duration = Duration::from_secs(5);
/// The part of a certificate's life after which its connection is told to go.
const LEAVES_AT: f64 = 0.8;
const DEADLINE_EXCEEDED: i32 = 4;
const HOUR: Duration = Duration::from_secs(3600);

/// The cases that held, and how late each was, in milliseconds.
#[derive(Debug, Default)]
struct Cases(Mutex<Vec<(String, i64)>>);

impl Cases {
    fn held(&self, what: &str, late: i64) {
        self.0.lock().expect("nobody panicked").push((what.to_owned(), late));
    }

    /// Says what was measured, and that these are all.
    fn finish(self, of: &str, count: usize) {
        let cases = self.0.into_inner().expect("nobody panicked");
        let worst = cases.iter().max_by_key(|(_, late)| late.abs());
        println!("D2: {} of 40 cases: {of}, furthest off {worst:?} (ms)", cases.len());
        assert_eq!(cases.len(), count, "{cases:?}");
    }
}

/// A certificate for `node` with so much left to live, signed with the authority's own key; the binding is written.
async fn minted(world: &TestWorld, node: &str, left: Duration) -> (Identity, Instant) {
    let body = json!({ "node": node, "identities": [world.id(node)], "labels": {"app": "web"} });
    world.rest().post("/api/v1/proxies", &body).await;
    let signer = world.keys().world();
    let not_after = (signer.now() + left).floor_secs();
    let credential = signer.leaf_with(&world.node_id(node), |leaf| Blueprint { not_after, ..leaf });
    let ends = Instant::now() + not_after.since(signer.now());
    (Identity::of(&credential), ends)
}

/// Something that a node holds open.
enum Held {
    Delta(DeltaStream),
    Sotw(SotwStream),
    /// A call that waits for news.
    Sync(HeldSync),
    /// A connection on which nothing is ever asked, and nothing answered: it is cut, whatever it was told.
    Idle(Box<IdleConnection>),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Delta,
    Sotw,
    Sync,
    Idle,
}

async fn hold(world: &TestWorld, node: &str, identity: &Identity, kind: Kind) -> Held {
    let xds = XdsClient::new(world.ports().xds, identity);
    match kind {
        Kind::Delta => {
            let mut stream = xds.delta(node, "default");
            stream.subscribe(SDS, &["default"]).await;
            let first = stream.next().await.unwrap_or_else(|status| panic!("{node}: {status}"));
            stream.ack(&first).await;
            Held::Delta(stream)
        }
        Kind::Sotw => {
            let mut stream = xds.sotw(node, "default");
            stream.ask(SDS, &["default"]).await;
            stream.next().await.unwrap_or_else(|status| panic!("{node}: {status}"));
            Held::Sotw(stream)
        }
        Kind::Sync => {
            let held = HeldSync::open(world.ports().xds, identity).await;
            Held::Sync(held.unwrap_or_else(|outcome| panic!("{node}: {outcome:?}")))
        }
        Kind::Idle => {
            let idle = IdleConnection::open(world.ports().xds, identity).await;
            Held::Idle(Box::new(idle.unwrap_or_else(|outcome| panic!("{node}: {outcome:?}"))))
        }
    }
}

impl Held {
    /// Waits for its end.
    async fn ended(self) -> Instant {
        match self {
            Self::Delta(mut stream) => loop {
                match stream.next().await {
                    Ok(answer) => stream.ack(&answer).await,
                    Err(status) => {
                        assert_ne!(status.code() as i32, DEADLINE_EXCEEDED, "it does not end");
                        return Instant::now();
                    }
                }
            },
            Self::Sotw(mut stream) => loop {
                if let Err(status) = stream.next().await {
                    assert_ne!(status.code() as i32, DEADLINE_EXCEEDED, "it does not end");
                    return Instant::now();
                }
            },
            Self::Sync(sync) => sync.ended().await,
            Self::Idle(idle) => idle.ended().await,
        }
    }
}

/// How late `at` is, in milliseconds; negative when it is early.
fn late(at: Instant, expected: Instant) -> i64 {
    let millis = |length: Duration| i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    millis(at.saturating_duration_since(expected)) - millis(expected.saturating_duration_since(at))
}

/// Where a connection that begins now is told to go.
fn leaves(ends: Instant) -> Instant {
    let now = Instant::now();
    now + ends.saturating_duration_since(now).mul_f64(LEAVES_AT)
}

/// It ended when it should have, and never after its certificate.
fn on_time(cases: &Cases, what: &str, at: Instant, expected: Instant, ends: Instant) {
    let off = late(at, expected);
    let bound = i64::try_from(TOLERANCE.as_millis()).unwrap_or(0);
    assert!(off.abs() <= bound, "{what}: {off} ms off");
    assert!(at <= ends + TOLERANCE, "{what}: it outlived its certificate");
    cases.held(what, off);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_holds_open_ends_with_its_certificate() {
    let world = TestWorld::boot("life-expiry", WorldOptions::default()).await;
    let cases = Cases::default();
    let secs = Duration::from_secs;
    let plain = [
        (Kind::Delta, 4),
        (Kind::Delta, 8),
        (Kind::Delta, 14),
        (Kind::Sotw, 4),
        (Kind::Sotw, 8),
        (Kind::Sotw, 14),
        (Kind::Idle, 6),
        (Kind::Sync, 8),
    ];
    let (world_ref, cases_ref) = (&world, &cases);
    let plain = join_all(plain.into_iter().enumerate().map(|(number, (kind, left))| async move {
        let node = format!("plain-{number}");
        let (identity, ends) = minted(world_ref, &node, secs(left)).await;
        // Who does not go when it is told to is cut at the very end.
        let expected = if matches!(kind, Kind::Idle) { ends } else { leaves(ends) };
        let at = hold(world_ref, &node, &identity, kind).await.ended().await;
        on_time(cases_ref, &format!("{kind:?} of {left} s"), at, expected, ends);
    }));
    let together = async {
        let (identity, ends) = minted(&world, "together", secs(8)).await;
        let client = XdsClient::new(world.ports().xds, &identity);
        let expected = leaves(ends);
        let (mut one, mut other) = (client.delta("together", "default"), client.sotw("together", "default"));
        one.subscribe(CDS, &[]).await;
        other.ask(SDS, &["default"]).await;
        // And a third, late, on the same connection: it has the connection's time and no more.
        tokio::time::sleep(secs(3)).await;
        let mut third = client.delta("together", "default");
        third.subscribe(SDS, &["default"]).await;
        let ended =
            join_all([Held::Delta(one), Held::Sotw(other), Held::Delta(third)].map(Held::ended)).await;
        for (what, at) in ["first of three", "second of three", "third, opened late"].into_iter().zip(ended) {
            on_time(&cases, what, at, expected, ends);
        }
    };
    let unanswered = async {
        let (identity, ends) = minted(&world, "waiting", secs(6)).await;
        let mut stream = XdsClient::new(world.ports().xds, &identity).delta("waiting", "default");
        let expected = leaves(ends);
        stream.subscribe(SDS, &["secret://default/nothing"]).await;
        on_time(&cases, "unanswered", Held::Delta(stream).ended().await, expected, ends);
    };
    let expired = async {
        let (identity, _) = minted(&world, "expired", secs(3)).await;
        Held::ended(hold(&world, "expired", &identity, Kind::Delta).await).await;
        eventually("it opens nothing", async || {
            let outcome = try_stream(world.ports().xds, Some(&identity), ADS).await;
            if outcome.is_refused_by_tls() { Ok(()) } else { Err(outcome) }
        })
        .await;
        assert!(renew(world.ports().xds, &identity).await.is_err());
        cases.held("an expired certificate opens nothing", 0);
    };
    let last_second = async {
        let (identity, ends) = minted(&world, "last", secs(1)).await;
        match IdleConnection::open(world.ports().xds, &identity).await {
            Ok(idle) => assert!(idle.ended().await <= ends + TOLERANCE),
            Err(outcome) => assert!(outcome.is_refused_by_tls(), "{outcome:?}"),
        }
        cases.held("its last second", 0);
    };
    tokio::join!(plain, together, unanswered, expired, last_second);
    cases.finish("expiry", 14);
    world.finish().await;
}

async fn deny(world: &TestWorld, event: &str, node: &str) {
    let rest = world.rest();
    match event {
        "removed" => {
            let path = format!("/api/v1/proxies/{node}");
            let answer = rest.call(Method::DELETE, &path, "", Bytes::new()).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        _ => {
            let body = json!({ "id": world.node_id(node), "reason": "drill" });
            rest.post("/api/v1/identities/block", &body).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_removed_or_blocked_holds_nothing_open_after_five_seconds() {
    let world = TestWorld::boot("life-denied", WorldOptions::default()).await;
    let cases = Cases::default();
    let (world_ref, cases_ref) = (&world, &cases);
    let events = ["removed", "blocked"].into_iter().flat_map(|event| {
        [Some(Kind::Delta), Some(Kind::Sotw), Some(Kind::Sync), Some(Kind::Idle), None]
            .map(|kind| (event, kind))
    });
    join_all(events.map(|(event, kind)| async move {
        let what = kind.map_or_else(|| "new".to_owned(), |kind| format!("{kind:?}").to_lowercase());
        let node = format!("{event}-{what}");
        let (identity, _) = minted(world_ref, &node, HOUR).await;
        // Whatever is refused afterwards was let in before.
        let before = hold(world_ref, &node, &identity, kind.unwrap_or(Kind::Delta)).await;
        let held = kind.map(|_| before);
        let from = Instant::now();
        deny(world_ref, event, &node).await;
        let at = match held {
            Some(held) => held.ended().await,
            // A connection that is made after it.
            None => {
                within(DENIED, "a new connection is refused", async || {
                    let mut stream = XdsClient::new(world_ref.ports().xds, &identity).delta(&node, "default");
                    stream.subscribe(SDS, &["default"]).await;
                    match stream.next().await {
                        Err(status) if status.code() as i32 != DEADLINE_EXCEEDED => Ok(Instant::now()),
                        other => Err(other),
                    }
                })
                .await
            }
        };
        assert!(at <= from + DENIED, "{node}: after {:?}", at - from);
        cases_ref.held(&format!("{event}, {what}"), late(at, from));
    }))
    .await;
    // Two streams of one connection, of which one is in the middle of something.
    for event in ["removed", "blocked"] {
        let node = format!("{event}-both");
        let (identity, _) = minted(&world, &node, HOUR).await;
        let client = XdsClient::new(world.ports().xds, &identity);
        let (mut one, mut other) = (client.delta(&node, "default"), client.sotw(&node, "default"));
        one.subscribe(SDS, &["default"]).await;
        one.next().await.expect("an answer, which is not acknowledged");
        other.ask(SDS, &["secret://default/nothing"]).await;
        let from = Instant::now();
        deny(&world, event, &node).await;
        let ended = join_all([Held::Delta(one), Held::Sotw(other)].map(Held::ended)).await;
        let last = ended.into_iter().max().expect("two");
        assert!(last <= from + DENIED, "{node}: after {:?}", last - from);
        cases.held(&format!("{event}, two streams"), late(last, from));
    }
    cases.finish("removed and blocked", 12);
    world.finish().await;
}

/// Reads a stream until `wanted` is seen in it.
async fn until_seen(
    stream: &mut DeltaStream,
    what: &str,
    mut wanted: impl FnMut(&DeltaDiscoveryResponse) -> bool,
) -> Instant {
    loop {
        let answer = stream.next_within(DENIED).await.unwrap_or_else(|status| panic!("{what}: {status}"));
        stream.ack(&answer).await;
        if wanted(&answer) {
            return Instant::now();
        }
    }
}

async fn rebind(world: &TestWorld, node: &str, identities: &[&str], app: &str) {
    let identities: Vec<String> = identities.iter().map(|path| world.id(path)).collect();
    let labels = json!({ "app": app });
    let body = json!({ "node": node, "identities": identities, "labels": labels, "replace": true });
    world.rest().post("/api/v1/proxies", &body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_binding_or_a_document_no_longer_gives_is_gone_from_open_streams_in_five_seconds() {
    let world = TestWorld::boot("life-policy", WorldOptions::default()).await;
    let cases = Cases::default();
    let document = back("web", TestWorld::free_port(), &[]);
    world.rest().apply(&document).await;
    let held = |what: &str, at: Instant, from: Instant| {
        assert!(at <= from + DENIED, "{what}: after {:?}", at - from);
        cases.held(what, late(at, from));
    };
    let (identity, _) = minted(&world, "alice", HOUR).await;
    rebind(&world, "alice", &["alice", "carol"], "web").await;
    let client = XdsClient::new(world.ports().xds, &identity);
    let (alice, carol, dave) = (world.id("alice"), world.id("carol"), world.id("dave"));
    let names = |answer: &DeltaDiscoveryResponse| {
        answer.resources.iter().map(|one| one.name.clone()).collect::<Vec<_>>()
    };

    // A binding that loses one identity and gains another, while both are asked for.
    let mut secrets = client.delta("alice", "default");
    secrets.subscribe(SDS, &[&alice, &carol, &dave]).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        until_seen(&mut secrets, "two secrets", |answer| {
            seen.extend(names(answer));
            true
        })
        .await;
    }
    let from = Instant::now();
    rebind(&world, "alice", &["alice", "dave"], "web").await;
    let (mut lost, mut gained) = (None, None);
    while lost.is_none() || gained.is_none() {
        until_seen(&mut secrets, "one goes and one comes", |answer| {
            lost = lost.or(answer.removed_resources.contains(&carol).then(Instant::now));
            gained = gained.or(names(answer).contains(&dave).then(Instant::now));
            true
        })
        .await;
    }
    held("an identity taken from the binding", lost.expect("seen"), from);
    held("an identity given to the binding", gained.expect("seen"), from);

    // A blocked workload gets nothing that it asks for from now on; its neighbour does.
    let from = Instant::now();
    world.rest().post("/api/v1/identities/block", &json!({ "id": dave, "reason": "drill" })).await;
    let gone = within(DENIED, "a blocked workload gets nothing new", async || {
        let mut asks = client.delta("alice", "default");
        asks.subscribe(SDS, &[&dave]).await;
        match asks.next_within(Duration::from_secs(1)).await {
            Ok(answer) if answer.resources.is_empty() => Ok(Instant::now()),
            Err(status) if status.code() as i32 == DEADLINE_EXCEEDED => Ok(Instant::now()),
            other => Err(other.map(|answer| names(&answer))),
        }
    })
    .await;
    // The last look itself waits a second for what does not come.
    held("a blocked workload", gone - Duration::from_secs(1), from);
    let from = Instant::now();
    let mut asks = client.delta("alice", "default");
    asks.subscribe(SDS, &[&alice]).await;
    let at = until_seen(&mut asks, "its neighbour", |answer| names(answer) == [alice.clone()]).await;
    held("its neighbour on the same node is none the worse", at, from);

    // Documents: the selector does not match any more, by the label or by the document, or the document is gone.
    let cluster = "web-upstream".to_owned();
    for what in ["another label", "another selector", "a deleted document"] {
        rebind(&world, "alice", &["alice"], "web").await;
        world.rest().apply(&document).await;
        let mut stream = client.delta("alice", "default");
        stream.subscribe(CDS, &[]).await;
        until_seen(&mut stream, what, |answer| names(answer).contains(&cluster)).await;
        let from = Instant::now();
        match what {
            "another label" => rebind(&world, "alice", &["alice"], "other").await,
            "another selector" => {
                let other = document.replace("matchLabels: {app: web}", "matchLabels: {app: other}");
                drop(world.rest().apply(&other).await);
            }
            _ => drop(world.command(&["delete", "ProxyConfig", "web", "--yes"]).await),
        }
        let at = until_seen(&mut stream, what, |answer| answer.removed_resources.contains(&cluster)).await;
        held(what, at, from);
    }
    cases.finish("bindings and documents", 7);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stolen_key_opened_is_closed_five_seconds_after_the_key_is_given_up() {
    let world = TestWorld::boot("life-tainted", WorldOptions::default()).await;
    let cases = Cases::default();
    let genuine = world.node("genuine", &["genuine"]).await;
    let mut own = world.xds(&genuine).delta("genuine", "default");
    own.subscribe(SDS, &["default"]).await;
    own.next().await.expect("an answer");
    let mut held = Vec::new();
    for (node, kind) in [("thief-1", Kind::Delta), ("thief-2", Kind::Idle)] {
        let (identity, _) = minted(&world, node, HOUR).await;
        held.push((node, hold(&world, node, &identity, kind).await));
    }
    let (forged, _) = minted(&world, "thief-3", HOUR).await;
    let outcome = try_stream(world.ports().xds, Some(&forged), ADS).await;
    assert!(matches!(outcome, Outcome::Grpc { .. }), "before: {outcome:?}");

    let issuing = world.active("intermediate").await;
    let from = Instant::now();
    let body = json!({ "authority": issuing, "reason": "drill" });
    world.rest().post("/api/v1/authorities/emergency", &body).await;
    let refused = within(DENIED, "a new connection of a thief", async || {
        match try_stream(world.ports().xds, Some(&forged), ADS).await {
            outcome if outcome.is_refused_by_tls() => Ok(Instant::now()),
            other => Err(other),
        }
    });
    let ended = join_all(held.into_iter().map(async |(node, held)| (node, held.ended().await)));
    let (refused, ended) = tokio::join!(refused, ended);
    for (what, at) in ended.into_iter().chain([("thief-3", refused)]) {
        assert!(at <= from + DENIED, "{what}: after {:?}", at - from);
        cases.held(what, late(at, from));
    }
    // Whoever we gave a certificate may come for the next one, once another root has taken over.
    let before = genuine.identity.leaf();
    eventually("whoever is genuine renews", async || {
        match renew(world.ports().xds, &genuine.identity).await {
            Ok(renewed) if renewed.leaf().authority_key_id() != before.authority_key_id() => Ok(()),
            other => Err(other.map(|renewed| renewed.leaf())),
        }
    })
    .await;
    cases.held("whoever is genuine renews", 0);
    cases.finish("tainted", 4);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_resumed_on_any_port() {
    let world = TestWorld::boot("life-resumption", WorldOptions::default()).await;
    let cases = Cases::default();
    // A server that gives tickets, so that there is something to offer: all servers are 127.0.0.1 to this client.
    let (identity, _) = minted(&world, "alice", HOUR).await;
    let generous = RustlsPeer::start(&identity, &[]).await;
    let ports = world.ports();
    let operator = {
        let admin = world.sandbox().path("credence-admin");
        Identity::from_files(&admin.join("operator.crt"), &admin.join("operator.key"))
    };
    for (what, port, identity, alpn) in [
        ("xDS", ports.xds, &identity, &b"h2"[..]),
        ("enrolment", ports.enrolment, &identity, b"h2"),
        ("management", ports.rest, &operator, b"http/1.1"),
    ] {
        let client = Resumer::new(identity, &[alpn]);
        let first = client.connect(generous.address()).await.expect("a connection");
        assert!(!first.offered && !first.resumed && first.tickets > 0, "{first:?}");
        let second = client.connect(generous.address()).await.expect("a connection");
        assert!(second.offered && second.resumed, "this client resumes where it may: {second:?}");
        let ours = client.connect(port).await.expect("a connection");
        assert!(ours.offered && !ours.resumed, "{what}: {ours:?}");
        assert_eq!(ours.tickets, 0, "{what} gives tickets");
        if what == "xDS" {
            let body = json!({ "id": world.node_id("alice"), "reason": "drill" });
            world.rest().post("/api/v1/identities/block", &body).await;
            within(DENIED, "a blocked node is refused, whatever it offers", async || {
                client.connect(generous.address()).await.expect("a ticket");
                match client.connect(port).await {
                    Err(outcome) if outcome.is_refused_by_tls() => Ok(()),
                    other => Err(other),
                }
            })
            .await;
            let body = json!({ "id": world.node_id("alice") });
            world.rest().post("/api/v1/identities/unblock", &body).await;
        }
        cases.held(what, 0);
    }
    cases.finish("resumption", 3);
    world.finish().await;
}
