//! Who may open a stream, and what ends one: xds.md A, K; R1-R12.

use super::*;

fn refuses(opening: Opening) -> Refusal {
    Session::open(opening).unwrap_err()
}

const ADS: Method = Method { only: None, delta: true };

#[test]
fn opens_for_a_bound_node_and_nobody_else() {
    assert!(Session::open(opening(ADS)).is_ok());
    for path in ["shop/web", "credence/server", "credence/operator/admin"] {
        assert_eq!(refuses(Opening { peer: peer_of(path), ..opening(ADS) }), Refusal::NotANode, "{path}");
    }
    assert_eq!(refuses(Opening { is_blocked: true, ..opening(ADS) }), Refusal::Blocked);
    assert_eq!(refuses(Opening { binding: None, ..opening(ADS) }), Refusal::Unbound);
    assert_eq!(refuses(Opening { binding: Some(binding_of("edge-2")), ..opening(ADS) }), Refusal::Unbound);
}

/// xds.md 12.
#[test]
fn refuses_to_answer_from_nothing() {
    assert_eq!(refuses(Opening { view: None, ..opening(ADS) }), Refusal::NotReady);
    assert_eq!(Refusal::NotReady.code(), Code::Unavailable);
}

fn first(node: Option<Node>, type_url: &str) -> Vec<String> {
    let mut world = World::open(true, view(&[resource(C, "a", "1", &[])]));
    let request = DeltaDiscoveryRequest { node, type_url: type_url.to_owned(), ..Default::default() };
    world.step(Event::Delta(Box::new(request)))
}

/// xds.md 1, 141, R2: nothing is sent before access said yes.
#[test]
fn what_a_node_says_of_itself_must_be_what_its_certificate_says() {
    let named = |id: &str, cluster: &str| {
        Some(Node { id: id.to_owned(), cluster: cluster.to_owned(), ..Node::default() })
    };
    assert_eq!(first(named(NODE, "shop"), C.as_str()), ["CDS a=1"]);
    assert_eq!(first(named(NODE, ""), C.as_str()), ["CDS a=1"]);
    for (node, words) in [
        (None, "refused: the first message has no node id"),
        (named("", "shop"), "refused: the first message has no node id"),
        (named("edge-2", "shop"), "refused: the certificate is another node's than node.id \"edge-2\""),
        (named("Edge-1", "shop"), "refused: the certificate is another node's than node.id \"Edge-1\""),
        (named(NODE, "bank"), "refused: node.cluster \"bank\" is not the namespace of the binding"),
    ] {
        assert_eq!(first(node, C.as_str()), [words]);
    }
}

/// xds.md 2, 3.
#[test]
fn a_later_node_is_the_same_or_the_end() {
    let mut world = World::open(true, Snapshot::default());
    world.change(C, &[], &[]);
    let again = |node| {
        let request = DeltaDiscoveryRequest { node, type_url: C.as_str().to_owned(), ..Default::default() };
        Event::Delta(Box::new(request))
    };
    assert_eq!(world.step(again(node())), NOTHING);
    assert_eq!(world.step(again(None)), NOTHING);
    let other = Some(Node { id: "edge-2".to_owned(), ..Node::default() });
    assert_eq!(world.step(again(other)), ["refused: node changed during the stream, to \"edge-2\""]);
    assert_eq!(world.publish(&[resource(C, "a", "1", &[])], &[]), NOTHING);
}

/// xds.md 5, 6.
#[test]
fn a_service_of_one_type_serves_that_type() {
    let open = |only| {
        let method = Method { only: Some(only), delta: false };
        let view = Some(Arc::new(view(&[resource(C, "a", "1", &[])])));
        let mut world = World::open(false, Snapshot::default());
        world.session = Session::open(Opening { view, ..opening(method) }).unwrap();
        world
    };
    let ask = |type_url: &str| {
        let request = DiscoveryRequest { node: node(), type_url: type_url.to_owned(), ..Default::default() };
        Event::Sotw(Box::new(request))
    };
    assert_eq!(open(C).step(ask("")), ["CDS a=1"]);
    assert_eq!(open(C).step(ask(C.as_str())), ["CDS a=1"]);
    let refused = open(C).step(ask(S.as_str()));
    assert!(refused[0].starts_with("refused: type URL"), "{refused:?}");
    assert_eq!(first(node(), ""), ["refused: a request without type URL on the aggregated service"]);
}

/// xds.md 7.
#[test]
fn an_unknown_type_ends_nothing() {
    let strange = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
    let mut world = World::open(true, view(&[resource(C, "a", "1", &[])]));
    let request = DeltaDiscoveryRequest {
        node: node(),
        type_url: strange.to_owned(),
        resource_names_subscribe: vec!["layer".to_owned()],
        ..Default::default()
    };
    assert_eq!(world.step(Event::Delta(Box::new(request))), ["??? -layer"]);
    assert_eq!(world.others(), ["UnknownType"]);
    assert_eq!(world.change(C, &[], &[]), ["CDS a=1"]);
    let mut world = World::open(false, Snapshot::default());
    let request = DiscoveryRequest { node: node(), type_url: strange.to_owned(), ..Default::default() };
    assert_eq!(world.step(Event::Sotw(Box::new(request))), NOTHING);
}

/// xds.md 80, 148.
#[test]
fn names_are_bounded_in_length_and_number() {
    let mut world = World::open(true, Snapshot::default());
    let refused = world.change(E, &[&"n".repeat(2049)], &[]);
    assert_eq!(refused, ["refused: a name of 2049 bytes, at most 2048 are allowed"]);
    let mut world = World::open(true, Snapshot::default());
    let names: Vec<String> = (0..6000).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.change(E, &names, &[]);
    let refused = world.change(R, &names, &[]);
    assert_eq!(refused, ["refused: 12000 names on one stream, at most 10000 are allowed"]);
    let mut world = World::open(false, Snapshot::default());
    let refused = world.want(E, &numbers(0..10_001).each());
    assert_eq!(refused, ["refused: 10001 names on one stream, at most 10000 are allowed"]);
}

/// Owned names, and the same borrowed.
struct Numbers(Vec<String>);

fn numbers(range: std::ops::Range<usize>) -> Numbers {
    Numbers(range.map(|n| n.to_string()).collect())
}

impl Numbers {
    fn each(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

#[test]
fn every_list_of_a_request_is_bounded_in_length_and_number() {
    let (many, most, long) = (numbers(0..400_000), numbers(0..10_000), "n".repeat(2049));
    let (many, most, version) = (many.each(), most.each(), Version::of(b"1"));
    let check = |subscribe: &[&str], unsubscribe: &[&str], known: &[(&str, &Version)], expected: &[&str]| {
        for type_url in [C, E] {
            let mut world =
                World::open(true, view(&[resource(C, "a", "1", &[]), resource(E, "a", "1", &[])]));
            world.change(type_url, &["*"], &[]);
            world.session.is_writable = false;
            assert_eq!(world.change_with(type_url, subscribe, unsubscribe, known, "", None), expected);
        }
    };
    check(&most, &most, &[], &NOTHING);
    check(&most, &many, &[], &["refused: 400000 names on one stream, at most 10000 are allowed"]);
    check(&[], &many[..10_001], &[], &["refused: 10001 names on one stream, at most 10000 are allowed"]);
    check(&[], &[&long], &[], &["refused: a name of 2049 bytes, at most 2048 are allowed"]);
    let known: Vec<_> = many[..10_002].iter().map(|name| (*name, &version)).collect();
    check(&[], &[], &known[1..], &NOTHING);
    check(&[], &[], &known, &["refused: 10002 names on one stream, at most 10001 are allowed"]);
    check(&[], &[], &[(&long, &version)], &["refused: a name of 2049 bytes, at most 2048 are allowed"]);
    let request = DeltaDiscoveryRequest {
        node: node(),
        type_url: C.as_str().to_owned(),
        initial_resource_versions: [("a".to_owned(), long)].into(),
        ..Default::default()
    };
    let mut world = World::open(true, Snapshot::default());
    let refused = world.step(Event::Delta(Box::new(request)));
    assert_eq!(refused, ["refused: a name of 2049 bytes, at most 2048 are allowed"]);
}

/// A client may leave all that it wants for as much else, in one message.
#[test]
fn all_names_may_change_at_once() {
    let (old, new) = (numbers(0..10_000), numbers(10_000..20_000));
    let mut world = World::open(true, view(&[resource(E, "15000", "1", &[])]));
    world.change(E, &old.each(), &[]);
    world.ack(E, &[]);
    let written = world.change(E, &new.each(), &old.each());
    assert!(written.len() == 1 && written[0].starts_with("EDS 15000=1 -10000 -10001 "));
}

/// xds.md 53, 54.
#[test]
fn names_that_are_left_beside_a_wildcard_do_not_pile_up() {
    let waiting = |world: &World| {
        let subscriptions = world.session.subscriptions.iter();
        subscriptions.map(|subscription| subscription.waiting().len()).sum::<usize>()
    };
    let mut world = World::open(true, view(&[resource(C, "a", "1", &[])]));
    world.change(C, &["*"], &[]);
    world.session.is_writable = false;
    for round in 0..5 {
        assert_eq!(world.change(C, &[], &numbers(round * 6000..(round + 1) * 6000).each()), NOTHING);
        assert_eq!(waiting(&world), 0, "they never were wanted, and there are none");
    }
    for round in 0..100 {
        let names = numbers(round * 100..(round + 1) * 100);
        assert_eq!(world.change(C, &names.each(), &[]), NOTHING);
        assert_eq!(world.change(C, &[], &names.each()), NOTHING);
    }
    assert_eq!(waiting(&world), 10_000);
    assert_eq!(world.change(C, &["0"], &[]), NOTHING);
    assert_eq!(world.change(C, &["10000"], &["10000"]), NOTHING, "0 is wanted again, and does not count");
    let refused = world.change(C, &[], &["0"]);
    assert_eq!(refused, ["refused: 10001 names on one stream, at most 10000 are allowed"]);

    let mut world = World::open(false, Snapshot::default());
    world.session.is_writable = false;
    for round in 0..3 {
        let names = numbers(round * 6000..(round + 1) * 6000);
        let written = world.want(E, &[&["*"][..], &names.each()].concat());
        match round {
            0 | 1 => assert_eq!(written, NOTHING),
            _ => assert_eq!(written, ["refused: 12000 names on one stream, at most 10000 are allowed"]),
        }
    }
}

/// What is answered is forgotten, so that a client which reads may leave names for ever.
#[test]
fn names_that_are_left_count_until_they_are_answered() {
    let mut world = World::open(true, view(&[resource(C, "a", "1", &[])]));
    world.change(C, &["*"], &[]);
    for round in 0..5 {
        world.ack(C, &[]);
        let names = numbers(round * 6000..(round + 1) * 6000);
        assert_eq!(world.change(C, &names.each(), &names.each())[0].split(' ').count(), 6001);
    }
}

/// A client that reads and never acknowledges, and wants what does not exist.
#[test]
fn names_that_were_taken_away_do_not_pile_up_where_nobody_acknowledges() {
    let mut world = World::open(true, Snapshot::default());
    world.change(E, &["0"], &[]);
    for round in 0..5 {
        let names = numbers(round * 6000..(round + 1) * 6000);
        assert_eq!(world.change(E, &names.each(), &[]), NOTHING, "the last is not acknowledged");
        assert_eq!(world.wait(secs(5)).len(), 1);
        assert_eq!(world.change(E, &[], &names.each()), NOTHING);
        assert_eq!(
            world.session.subscriptions[E as usize].taken_away(),
            if round == 0 { 6001 } else { 6000 }
        );
    }
}

/// xds.md 7.
#[test]
fn names_of_unknown_types_are_bounded_together() {
    let mut world = World::open(true, Snapshot::default());
    world.session.is_writable = false;
    let names = numbers(0..4000);
    for _ in 0..5 {
        let request = DeltaDiscoveryRequest {
            node: node(),
            type_url: "type.googleapis.com/of.Nobody".to_owned(),
            resource_names_subscribe: names.0.clone(),
            ..Default::default()
        };
        world.step(Event::Delta(Box::new(request)));
    }
    assert_eq!(world.session.strays.len(), 2);
}

/// xds.md 149.
#[test]
fn a_silent_stream_ends_after_ten_seconds() {
    let mut world = World::open(true, Snapshot::default());
    assert_eq!(world.wait(secs(9)), NOTHING);
    assert_eq!(world.wait(secs(1)), ["refused: no message came in time"]);
    let mut world = World::open(true, Snapshot::default());
    world.change(E, &[], &[]);
    assert_eq!(world.wait(secs(60)), NOTHING);
}

/// xds.md 143, R8: a decision holds as long as its grounds.
#[test]
fn a_stream_ends_with_its_grounds() {
    type Case = (fn() -> Event, &'static str);
    let cases: [Case; 4] = [
        (|| Event::Blocked, "refused: the identity is blocked"),
        (|| Event::Binding(None), "refused: the node has no enabled binding"),
        (
            || Event::Binding(Some(Binding { namespace: Namespace::default(), ..binding_of(NODE) })),
            "refused: node.cluster \"shop\" is not the namespace of the binding",
        ),
        (|| Event::Drain, "closed: Ok"),
    ];
    for (event, words) in cases {
        let mut world = World::open(true, view(&[resource(C, "a", "1", &[])]));
        world.change(C, &[], &[]);
        assert_eq!(world.step(event()), [words]);
        assert_eq!(world.publish(&[resource(C, "b", "1", &[])], &[]), NOTHING);
        assert_eq!(world.session.deadline(), None);
    }
}

/// xds.md 135.
#[test]
fn a_draining_stream_finishes_its_flush() {
    let resources = [resource(C, "a", "1", &[]), resource(L, "l", "1", &[])];
    let mut world = World::open(true, view(&resources));
    world.session.is_writable = false;
    world.change(C, &[], &[]);
    world.change(L, &[], &[]);
    world.step(Event::Drain);
    assert_eq!(world.step(Event::Writable), ["CDS a=1", "LDS l=1", "closed: Ok"]);
    let mut world = World::open(true, Snapshot::default());
    assert_eq!(world.step(Event::Drain), ["closed: Unavailable"]);
    let mut stalled = World::open(true, view(&resources));
    stalled.session.is_writable = false;
    stalled.change(C, &[], &[]);
    stalled.step(Event::Drain);
    assert_eq!(stalled.wait(secs(5)), ["closed: Unavailable"]);
}

/// xds.md 18, 66: once for all of them, or one request would keep everybody waiting.
#[test]
fn what_was_refused_together_is_asked_for_again_and_left_together() {
    let names = numbers(0..9000);
    let resources: Vec<_> = names.0.iter().map(|name| resource(C, name, "1", &[])).collect();
    let mut world = World::open(true, view(&resources));
    for _ in 0..2 {
        let written = world.change(C, &names.each(), &[]);
        assert_eq!(written.iter().map(|text| text.split(' ').count()).collect::<Vec<_>>(), [9001]);
        assert!(world.nack(C, &[], "no").is_empty(), "nothing is sent twice");
    }
    let last = names.0[8999].as_str();
    assert_eq!(world.change(C, &[], &names.each()[..8999]), [format!("CDS {last}=1")], "it may be right");
    world.nack(C, &[], "no");
    assert_eq!(world.change(C, &[], &[last]), NOTHING);
}

/// xds.md 18, 66: however many there are, each is sent once more and its answer is known.
#[test]
fn as_many_as_were_refused_together_come_alone() {
    let names = numbers(0..3000);
    let resources: Vec<_> = names.0.iter().map(|name| resource(E, name, "1", &[])).collect();
    let mut world = World::open(true, view(&resources));
    assert_eq!(world.change(E, &names.each(), &[]).len(), 1);
    assert_eq!(world.nack(E, &[], "no").len(), 3000);
    for n in 2..=3001 {
        let words = (n % 100 == 0).then_some("no");
        assert_eq!(world.change_with(E, &[], &[], &[], &format!("7.{n:x}"), words), NOTHING);
    }
    let progress = world.session.progress(E).unwrap();
    assert_eq!((progress.refused.len(), progress.unacked.len()), (30, 30));
    let written = world.change(E, &names.each(), &[]);
    assert_eq!(written.iter().map(|text| text.split(' ').count() - 1).sum::<usize>(), 3000);
    assert_eq!(written.len(), 31, "what was refused alone goes alone");
}
