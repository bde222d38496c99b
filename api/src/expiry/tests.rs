use std::time::Duration;

use audit::{Action, Actor, Event};
use ca::{
    ports::{Intent, IssueOutcome, Journal, ResultRecord},
    testing::MemoryStore as Ca,
};
use certs::{Serial, SpkiHash, Validity};
use spiffe::{
    AuthorityId, Binding, BindingState, Bindings, Block, BlockList, EdgeName, Labels, Namespace, Purpose,
    RequestId, SpiffeId,
};
use tokio::sync::watch;

use super::*;
use crate::{
    sources::EdgeStanding,
    testing::{Still, StillEdges},
};

const HOUR: u64 = 3600;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000) + Duration::from_secs(secs)
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://td/{path}")).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn serial(number: u8) -> Serial {
    Serial::from_random([number; 20])
}

/// Issues a leaf at `from` that lives until `to`.
async fn issue(ca: &Ca, number: u8, profile: Profile, path: &str, on: Option<&str>, from: u64, to: u64) {
    let authority = AuthorityId::of(SpkiHash([1; 32]));
    let intent = Intent {
        serial: serial(number),
        authority,
        epoch: 1,
        tbs_sha256: [number; 32],
        id: id(path),
        profile,
        tenant: Tenant::default(),
        node: on.map(node),
        purpose: Purpose::Delivery,
        spki: SpkiHash([number; 32]),
        not_before: at(from) - Validity::BACKDATE,
        not_after: at(to),
        at: at(from),
        request_id: RequestId::from_random([number; 8]),
    };
    let event = || Event::done(at(from), Actor::System, Action::CertificateIssue, path);
    ca.record_intent(intent, None, event()).await.unwrap();
    let outcome = IssueOutcome::Issued(vec![vec![number]]);
    let result = ResultRecord { serial: serial(number), authority, outcome, at: at(from) };
    ca.record_result(result, event()).await.unwrap();
}

fn binding(name: &str, identities: &[&str], created: u64) -> Binding {
    Binding {
        node: node(name),
        tenant: Tenant::default(),
        namespace: Namespace::default(),
        labels: Labels::default(),
        identities: identities.iter().map(|path| id(path)).collect(),
        issuer: None,
        state: BindingState::Enabled,
        created: at(created),
    }
}

fn fact(name: &str, path: &str, is_wanted: bool, acknowledged: Option<u8>) -> LeafFact {
    LeafFact { node: node(name), identity: id(path), is_wanted, acknowledged: acknowledged.map(serial) }
}

fn ending(kind: ExpiryKind, name: &str, began: u64, ends: u64) -> Ending {
    Ending {
        kind,
        name: name.to_owned(),
        node: None,
        state: None,
        tenant: None,
        began: at(began),
        ends: at(ends),
        advice: None,
    }
}

#[test]
fn waits_for_an_operator_from_half_of_its_life_on_and_only_where_nothing_renews_it() {
    let by_itself = ending(ExpiryKind::Intermediate, "a", 100, 200);
    let by_hand = Ending { advice: Some("credence ca csr"), ..by_itself.clone() };
    for (now, expected) in [(149, false), (150, true), (250, true)] {
        assert_eq!(by_hand.waits_for_operator(at(now)), expected, "{now}");
        assert!(!by_itself.waits_for_operator(at(now)));
    }
}

#[test]
fn a_life_is_used_from_its_beginning_to_its_end_and_beyond() {
    let one = ending(ExpiryKind::Root, "r", 100, 200);
    for (now, used, left) in [(100, 0.0, 100_000), (170, 0.7, 30_000), (200, 1.0, 0), (250, 1.5, -50_000)] {
        assert!((one.used(at(now)) - used).abs() < 1e-9, "{now}: {}", one.used(at(now)));
        assert_eq!(one.millis_left(at(now)), left, "{now}");
    }
    assert!(one.used(at(0)) == 0.0);
    // No length is no division by zero.
    assert!(ending(ExpiryKind::Root, "r", 100, 100).used(at(100)).is_finite());
}

#[test]
fn however_many_end_only_the_first_of_each_kind_are_shown_and_all_are_counted() {
    let all: Vec<Ending> = (0..1000)
        .map(|number| ending(ExpiryKind::Workload, &number.to_string(), 0, number))
        .chain([ending(ExpiryKind::Root, "root", 0, 5000)])
        .collect();
    let (first, counts) = first_of_each_kind(&all, 20);
    assert_eq!(first.len(), 21);
    assert!(first.iter().all(|one| one.kind == ExpiryKind::Root || one.ends < at(20)));
    assert_eq!((counts[&ExpiryKind::Workload], counts[&ExpiryKind::Root]), (1000, 1));
    assert_eq!(counts.len(), ExpiryKind::ALL.len(), "kinds without any are counted too");
}

#[tokio::test]
async fn certificates_that_nobody_counts_on_are_not_listed() {
    let ca = Arc::new(Ca::new());
    let day = 24 * HOUR;
    for (number, profile, path, on, from, to) in [
        (1, Profile::Workload, "web", Some("web-1"), 10, HOUR),
        (2, Profile::Node, "credence/node/web-1", Some("web-1"), 10, 2 * HOUR),
        (3, Profile::Server, "credence/server", None, 10, 3 * HOUR),
        (4, Profile::Operator, "credence/operator/ann", None, 10, 4 * HOUR),
        // Of a probe, of a node that was removed, of one enrolled anew since, of an identity that was taken away,
        // of one that is blocked, of one that its connected node does not use.
        (5, Profile::Workload, "credence-probe", None, 10, HOUR),
        (6, Profile::Workload, "web", Some("gone-1"), 10, HOUR),
        (7, Profile::Node, "credence/node/new-1", Some("new-1"), 10, HOUR),
        (8, Profile::Workload, "old", Some("web-1"), 10, HOUR),
        (9, Profile::Workload, "bad", Some("web-1"), 10, HOUR),
        (10, Profile::Workload, "idle", Some("web-1"), 10, HOUR),
        // A node that is away may use it.
        (11, Profile::Workload, "idle", Some("away-1"), 10, day),
    ] {
        issue(&ca, number, profile, path, on, from, to).await;
    }
    let bindings = Bindings::new([
        binding("web-1", &["web", "bad", "idle"], 5),
        binding("new-1", &["web"], 500),
        binding("away-1", &["idle"], 5),
    ]);
    let blocks = BlockList::new([(
        id("bad"),
        Block { since: at(20), reason: "stolen".to_owned(), is_enforced: false },
    )]);
    let still = Still::default();
    still.leaves.lock().unwrap().push(fact("web-1", "web", true, Some(1)));
    let source = LeafEndings {
        journal: ca,
        bindings: watch::channel(Arc::new(bindings)).1,
        blocks: watch::channel(Arc::new(blocks)).1,
        leaves: Arc::new(still),
    };
    let expiries = Expiries::new([Arc::new(source) as Arc<dyn ExpirySource>]);
    let labels = async |now: u64| -> Vec<String> {
        let endings = expiries.collect(at(now)).await.unwrap();
        endings.iter().map(|one| format!("{} {}", one.kind.word(), one.label())).collect()
    };
    let server = "server spiffe://td/credence/server";
    let operator = "operator spiffe://td/credence/operator/ann";
    let (web, web_node) = ("workload spiffe://td/web@web-1", "node spiffe://td/credence/node/web-1");
    let idle = "workload spiffe://td/idle@away-1";
    assert_eq!(labels(100).await, [web, web_node, server, operator, idle]);
    // What ended without a successor stays for a day.
    assert_eq!(labels(day + 2 * HOUR).await, [web_node, server, operator, idle]);
    assert_eq!(labels(3 * day).await, [""; 0]);
}

#[tokio::test]
async fn an_identity_survives_as_long_as_the_leaf_that_its_node_acknowledged() {
    let ca = Ca::new();
    // web-1 got a second leaf and has not acknowledged it; web-2 has; web-3 is away.
    issue(&ca, 1, Profile::Workload, "web", Some("web-1"), 0, 12 * HOUR).await;
    issue(&ca, 2, Profile::Workload, "web", Some("web-1"), 6 * HOUR, 18 * HOUR).await;
    issue(&ca, 3, Profile::Workload, "web", Some("web-2"), 6 * HOUR, 17 * HOUR).await;
    issue(&ca, 4, Profile::Workload, "web", Some("web-3"), 6 * HOUR, 20 * HOUR).await;
    issue(&ca, 5, Profile::Workload, "pay", Some("web-3"), 6 * HOUR, 11 * HOUR).await;
    let bindings = Bindings::new([
        binding("web-1", &["web"], 0),
        binding("web-2", &["web"], 0),
        binding("web-3", &["web", "pay"], 0),
    ]);
    let still = Still::default();
    *still.leaves.lock().unwrap() =
        vec![fact("web-1", "web", true, Some(1)), fact("web-2", "web", true, Some(3))];
    let now = at(7 * HOUR);
    let held = holds(&ca, &bindings, &still, now).await.unwrap();
    let shown: Vec<_> =
        held.iter().map(|hold| (hold.node.to_string(), hold.until, hold.is_acknowledged)).collect();
    let expected = [("web-3", 11, false), ("web-1", 12, true), ("web-2", 17, true), ("web-3", 20, false)];
    let expected = expected.map(|(node, hours, acked)| (node.to_owned(), at(hours * HOUR), acked));
    assert_eq!(shown, expected);
    let survivals = survivals(&held);
    let of = |path: &str| survivals.iter().find(|one| one.identity == id(path)).unwrap();
    assert_eq!((of("web").until, of("web").last, of("web").nodes), (at(12 * HOUR), at(20 * HOUR), 3));
    assert_eq!((of("web").first.as_str(), of("pay").first.as_str()), ("web-1", "web-3"));
    assert_eq!(survivals[0].identity, id("pay"), "soonest first");

    // Once it acknowledges the new leaf, that one counts.
    still.leaves.lock().unwrap()[0].acknowledged = Some(serial(2));
    let held = holds(&ca, &bindings, &still, now).await.unwrap();
    assert_eq!(super::survivals(&held)[1].until, at(17 * HOUR));
}

#[tokio::test]
async fn a_certificate_of_an_edge_ends_and_waits_for_an_operator_only_while_its_renewal_fails() {
    let name = EdgeName::parse("api.example.com").unwrap();
    let facts = EdgeFacts {
        tenant: Tenant::default(),
        name: name.clone(),
        not_before: at(0),
        not_after: at(90 * HOUR),
    };
    let (published, watched) = watch::channel(Vec::new());
    let edges = StillEdges::default();
    let source = EdgeEndings { facts: watched, at_work: Arc::new(edges.clone()) };
    assert_eq!(source.endings(at(0)).await.unwrap(), []);
    published.send_replace(vec![facts]);
    let all = source.endings(at(0)).await.unwrap();
    let expected = Ending {
        tenant: Some(Tenant::default()),
        ..ending(ExpiryKind::Edge, "api.example.com", 0, 90 * HOUR)
    };
    assert_eq!(all, [expected]);
    assert!(!all[0].waits_for_operator(at(80 * HOUR)), "it is renewed by itself");
    let standing = EdgeStanding { failures: 1, ..EdgeStanding::default() };
    edges.standing.lock().unwrap().insert(name, standing);
    let all = source.endings(at(0)).await.unwrap();
    assert_eq!(all[0].state.as_deref(), Some("failing"));
    assert!(all[0].waits_for_operator(at(60 * HOUR)));
}
