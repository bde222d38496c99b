//! Make before break: xds.md F.

use super::*;

/// A listener with a route to a cluster, and what they need.
fn chain(generation: &str) -> Vec<Arc<Resource>> {
    let name = |kind: &str| format!("{kind}{generation}");
    vec![
        resource(C, &name("c"), "1", &[(E, &name("e")), (S, "default")]),
        resource(E, &name("e"), "1", &[]),
        resource(L, "l", generation, &[(R, "r"), (S, "default"), (X, "x")]),
        resource(X, "x", generation, &[]),
        resource(R, "r", generation, &[]),
    ]
}

const WANTED: [(TypeUrl, &[&str]); 6] =
    [(C, &[]), (E, &["e1", "e2"]), (S, &["default"]), (L, &[]), (X, &["x"]), (R, &["r"])];

fn settled(delta: bool) -> World {
    let mut world = World::open(delta, view(&chain("1")));
    world.offer("default", SecretOffer::Held(resource(S, "default", "1", &[])));
    for (type_url, names) in WANTED {
        if delta {
            world.change(type_url, names, &[]);
        } else {
            world.want(type_url, names);
        }
    }
    ack_all(&mut world);
    world.others();
    world
}

/// Acknowledges until there is nothing left to acknowledge.
fn ack_all(world: &mut World) -> Vec<String> {
    let mut written = Vec::new();
    for _ in 0..10 {
        for (type_url, names) in WANTED {
            if world.session.is_in_flight(type_url) {
                written.extend(world.ack(type_url, names));
            }
        }
    }
    written
}

/// xds.md 86, 87, 89, 90, 93, 94, 97.
#[test]
fn one_flush_makes_before_it_breaks() {
    for delta in [true, false] {
        let mut world = settled(delta);
        let written = world.publish(&chain("2"), &[(C, "c1"), (E, "e1")]);
        let cds = if delta { "CDS c2=1" } else { "CDS c1=1 c2=1" };
        assert_eq!(
            written,
            [cds, "EDS e2=1", "SDS default=1", "LDS l=2", "ECDS x=2", "RDS r=2"],
            "delta: {delta}"
        );
        assert_eq!(world.wait(secs(4)), NOTHING, "nothing is removed before the users of it are settled");
        // What a changed listener needs follows it once more, when its last response is acknowledged.
        assert_eq!(ack_all(&mut world), ["SDS default=1"]);
        let removals = world.wait(secs(2));
        if delta {
            assert_eq!(removals, ["CDS -c1"]);
            assert_eq!(world.ack(C, &[]), ["EDS -e1"], "what a cluster needs goes after it");
        } else {
            assert_eq!(removals, ["CDS c2=1"]);
        }
    }
}

/// xds.md 93: a node that refused the new route goes on with the old one.
#[test]
fn nothing_in_use_is_removed_while_its_successor_is_refused() {
    let mut world = settled(true);
    world.publish(&chain("2"), &[(C, "c1"), (E, "e1")]);
    world.nack(R, &["r"], "no");
    ack_all(&mut world);
    assert_eq!(world.wait(secs(600)), NOTHING);
    assert_eq!(world.publish(&[resource(R, "r", "3", &[])], &[]), ["RDS r=3"]);
    ack_all(&mut world);
    assert_eq!(world.wait(secs(2)), ["CDS -c1"]);
}

/// Section 0 item 3: a cluster that never warms withholds its own acknowledgement and must be repairable.
#[test]
fn a_cluster_that_never_warms_can_be_repaired_and_removed() {
    let mut world = settled(true);
    assert_eq!(world.publish(&[resource(C, "c3", "1", &[(E, "e3")])], &[]), ["CDS c3=1"]);
    assert_eq!(world.change(E, &["e3"], &[]), ["EDS -e3"], "children are not gated by the parent's ACK");
    world.ack(E, &[]);
    world.publish(&[], &[(C, "c3")]);
    assert_eq!(world.wait(secs(60)), ["CDS -c3"]);
}

/// xds.md 95.
#[test]
fn listeners_come_and_go_in_one_message() {
    for delta in [true, false] {
        let mut world = settled(delta);
        let written = world.publish(&[resource(L, "m", "1", &[])], &[(L, "l")]);
        assert_eq!(written, [if delta { "LDS m=1 -l" } else { "LDS m=1" }]);
    }
}

/// xds.md 96.
#[test]
fn a_filter_in_use_is_never_removed() {
    let mut world = settled(true);
    assert_eq!(world.publish(&[], &[(X, "x")]), NOTHING);
    assert_eq!(world.wait(secs(600)), NOTHING);
    assert_eq!(world.change(X, &["x"], &[]), NOTHING);
    assert_eq!(world.publish(&[resource(X, "x", "2", &[])], &[]), ["ECDS x=2"]);
    let mut world = World::open(true, Snapshot::default());
    assert_eq!(world.change(X, &["never"], &[]), ["ECDS -never"], "what never existed is said");
}

/// xds.md 89, 90, 91.
#[test]
fn what_a_changed_parent_needs_follows_it_unchanged() {
    for delta in [true, false] {
        let mut world = settled(delta);
        let changed = resource(C, "c1", "2", &[(E, "e1"), (S, "default")]);
        assert_eq!(world.publish(&[changed], &[]), ["CDS c1=2", "EDS e1=1", "SDS default=1"]);
        ack_all(&mut world);
        let listener = resource(L, "l", "2", &[(R, "r"), (S, "default"), (X, "x")]);
        assert_eq!(world.publish(&[listener], &[]), ["LDS l=2", "SDS default=1", "ECDS x=1"]);
    }
}

/// xds.md 88, 97: endpoints do not overtake a cluster that waits for its gate; other endpoints do not wait.
#[test]
fn a_waiting_parent_holds_back_its_own_and_nothing_else() {
    let mut world = settled(true);
    let cluster = |content| resource(C, "c1", content, &[(E, "e1")]);
    assert_eq!(world.publish(&[cluster("2")], &[]), ["CDS c1=2", "EDS e1=1"]);
    world.ack(E, &[]);
    let next = [cluster("3"), resource(E, "e1", "3", &[]), resource(E, "e2", "3", &[])];
    assert_eq!(world.publish(&next, &[]), ["EDS e2=3"]);
    world.ack(E, &[]);
    assert_eq!(world.publish(&[resource(R, "r", "3", &[])], &[]), NOTHING, "a route may need the cluster");
    assert_eq!(world.change(E, &["e1"], &[]), ["EDS e1=3"], "what is asked for never waits");
    world.ack(E, &[]);
    assert_eq!(world.ack(C, &[]), ["CDS c1=3", "EDS e1=3", "RDS r=3"]);
}

/// One that changed while its company was refused may refer to what the client has not acknowledged yet.
#[test]
fn what_changed_while_it_was_refused_in_company_waits_for_what_it_refers_to() {
    let mut world = settled(true);
    let cluster = |content| resource(C, "c1", content, &[(E, "e1")]);
    let route = |name, content| resource(R, name, content, &[]);
    world.change(R, &["r2"], &[]);
    world.ack(R, &[]);
    let first = [cluster("2"), route("r", "2"), route("r2", "2")];
    assert_eq!(world.publish(&first, &[]), ["CDS c1=2", "EDS e1=1", "RDS r=2 r2=2"]);
    world.ack(E, &[]);
    assert_eq!(world.publish(&[cluster("3"), route("r2", "3")], &[]), NOTHING);
    assert_eq!(world.nack(R, &[], "no"), ["RDS r=2"], "and r2 waits for the cluster");
    world.ack(R, &[]);
    assert_eq!(world.ack(C, &[]), ["CDS c1=3", "EDS e1=1", "RDS r2=3"]);
}

/// A stream of changes must not starve what comes last in the order.
#[test]
fn a_flush_is_of_one_view() {
    let mut world = settled(true);
    world.session.is_writable = false;
    world.publish(&[resource(C, "c1", "2", &[]), resource(R, "r", "2", &[])], &[]);
    let actions = world.session.step(Event::Writable, world.now);
    assert!(matches!(&actions[..], [Action::Send(r)] if &*r.type_url == C.as_str()));
    world.view.insert(resource(C, "c1", "3", &[]));
    let newer = Arc::new(world.view.clone());
    world.session.step(Event::View(Some(newer)), world.now);
    assert_eq!(world.step(Event::Writable), ["RDS r=2"]);
}
