//! State of the world: xds.md B, C, E.

use super::*;

fn clusters() -> World {
    World::open(false, view(&[resource(C, "a", "1", &[]), resource(C, "b", "1", &[])]))
}

fn endpoints() -> World {
    World::open(false, view(&[resource(E, "a", "1", &[]), resource(E, "b", "1", &[])]))
}

/// xds.md 15, 16, 17, 25, 36, 62, 163.
#[test]
fn whole_sets_are_sent_when_they_change_and_only_then() {
    let mut world = clusters();
    assert_eq!(world.want(C, &[]), ["CDS a=1 b=1"]);
    assert_eq!(world.ack(C, &[]), NOTHING);
    assert_eq!(world.others(), ["CDS a b acked"]);
    assert_eq!(world.publish(&[], &[]), NOTHING);
    assert_eq!(world.publish(&[resource(C, "a", "1", &[])], &[]), NOTHING);
    let before = world.last[&C].version.clone();
    assert_eq!(world.publish(&[resource(C, "b", "2", &[])], &[]), ["CDS a=1 b=2"]);
    assert_ne!(world.last[&C].version, before);
    assert_eq!(world.ack(C, &[]), NOTHING);
    assert_eq!(world.others(), ["CDS b acked"]);
}

/// xds.md 18, 19, 121.
#[test]
fn a_refused_set_waits_for_other_content() {
    let mut world = clusters();
    world.want(C, &[]);
    world.ack(C, &[]);
    world.publish(&[resource(C, "a", "bad", &[])], &[]);
    world.others();
    assert_eq!(world.nack(C, &[], "no\nway"), NOTHING);
    assert_eq!(world.others(), ["CDS a nacked \"no way\""]);
    assert_eq!(world.publish(&[resource(C, "a", "bad", &[])], &[]), NOTHING);
    assert_eq!(world.wait(secs(60)), NOTHING);
    assert_eq!(world.publish(&[resource(C, "a", "1", &[])], &[]), ["CDS a=1 b=1"]);
    world.ack(C, &[]);
    assert_eq!(world.publish(&[resource(C, "a", "3", &[])], &[]), ["CDS a=3 b=1"]);
}

/// xds.md 18 for what is sent one by one.
#[test]
fn a_refused_resource_waits_and_others_do_not() {
    let mut world = World::open(false, view(&[resource(E, "a", "bad", &[]), resource(E, "b", "1", &[])]));
    assert_eq!(world.want(E, &["a"]), ["EDS a=bad"]);
    assert_eq!(world.nack(E, &["a"], "no"), NOTHING);
    assert_eq!(world.want(E, &["a", "b"]), ["EDS b=1"]);
    world.ack(E, &["a", "b"]);
    assert_eq!(world.publish(&[resource(E, "a", "2", &[])], &[]), ["EDS a=2"]);
}

/// xds.md 18, 38: each alone, and only the newest response can be answered.
#[test]
fn what_was_refused_with_others_comes_once_more_alone_one_after_another() {
    let names = ["a", "b", "c"];
    let mut world = World::open(false, view(&names.map(|name| resource(R, name, "1", &[]))));
    assert_eq!(world.want(R, &names), ["RDS a=1 b=1 c=1"]);
    assert_eq!(world.nack(R, &names, "no"), ["RDS a=1"]);
    assert_eq!(world.publish(&[resource(R, "d", "1", &[])], &[]), NOTHING);
    assert_eq!(world.want(R, &["a", "b", "c", "d"]), ["RDS d=1"], "what is good waits for nobody");
    let names = ["a", "b", "c", "d"];
    assert_eq!(world.ack(R, &names), ["RDS b=1"]);
    assert_eq!(world.nack(R, &names, "no"), ["RDS c=1"]);
    assert_eq!(world.ack(R, &names), NOTHING);
    assert_eq!(
        world.others(),
        ["RDS  nacked \"no\"", "RDS a acked", "RDS d acked", "RDS b nacked \"no\"", "RDS c acked"]
    );
    assert_eq!(world.wait(secs(60)), NOTHING);
}

/// xds.md 20, 21, 22, 23.
#[test]
fn a_stale_nonce_says_nothing_but_names() {
    let mut world = endpoints();
    assert_eq!(world.want(E, &["a"]), ["EDS a=1"]);
    for nonce in ["", "6.1", "unknown"] {
        assert_eq!(world.want_with(E, &["a"], nonce, Some("ignored")), NOTHING);
    }
    assert_eq!(world.others(), ["StaleNonce", "StaleNonce"]);
    assert_eq!(world.want_with(E, &["a", "b"], "", None), NOTHING);
    assert_eq!(world.ack(E, &["a", "b"]), ["EDS b=1"]);
    assert_eq!(world.others(), ["EDS a acked"]);
}

/// xds.md 8, 23: a nonce of another type.
#[test]
fn types_are_walled_off_from_each_other() {
    let mut world = World::open(false, view(&[resource(C, "a", "1", &[]), resource(L, "l", "1", &[])]));
    world.want(C, &[]);
    world.want(L, &[]);
    let listener_nonce = world.nonce(L);
    assert_eq!(world.want_with(C, &[], &listener_nonce, Some("no")), NOTHING);
    assert_eq!(world.others(), ["StaleNonce"]);
    world.ack(L, &[]);
    assert_eq!(world.others(), ["LDS l acked"]);
}

/// xds.md 28, 29, 30, 31, 33, 35, 38, 41, 42, 75.
#[test]
fn named_types_get_what_they_ask_for() {
    let mut world = endpoints();
    assert_eq!(world.want(E, &[]), NOTHING, "33, 72: no names, no answer");
    assert_eq!(world.want(E, &["a", "later"]), ["EDS a=1"]);
    assert_eq!(world.ack(E, &["a", "later"]), NOTHING);
    assert_eq!(world.want(E, &["a", "b", "later"]), ["EDS b=1"], "28, 30");
    world.ack(E, &["a", "b", "later"]);
    assert_eq!(world.want(E, &["b", "later"]), NOTHING, "31: narrowing");
    assert_eq!(world.publish(&[resource(E, "a", "2", &[])], &[]), NOTHING);
    assert_eq!(world.want(E, &["a", "b", "later"]), ["EDS a=2"], "29: again");
    world.ack(E, &["a", "b", "later"]);
    assert_eq!(world.publish(&[resource(E, "later", "1", &[])], &[]), ["EDS later=1"], "42");
    world.ack(E, &["a", "b", "later"]);
    assert_eq!(world.publish(&[], &[(E, "later")]), NOTHING, "35, 41");
    assert_eq!(world.publish(&[resource(E, "later", "1", &[])], &[]), ["EDS later=1"]);
    world.ack(E, &["a", "b", "later"]);
    assert_eq!(world.want(E, &[]), NOTHING);
    assert_eq!(world.publish(&[resource(E, "a", "3", &[])], &[]), NOTHING, "33, 75");
}

/// xds.md 30, 36, 73 in responses.
#[test]
fn the_example_of_the_protocol_page_holds() {
    let mut world = clusters();
    assert_eq!(world.want(C, &[]), ["CDS a=1 b=1"]);
    assert_eq!(world.ack(C, &["*", "a"]), ["CDS a=1 b=1"]);
    world.ack(C, &["a"]);
    world.ack(C, &["a"]);
    assert_eq!(world.publish(&[resource(C, "b", "2", &[])], &[]), NOTHING);
    assert_eq!(world.publish(&[resource(C, "a", "2", &[])], &[]), ["CDS a=2"]);
    world.ack(C, &["a"]);
    assert_eq!(world.want(C, &[]), NOTHING);
    assert_eq!(world.publish(&[resource(C, "a", "3", &[])], &[]), NOTHING, "75");
}

/// xds.md 36, 151: gRPC names its listeners.
#[test]
fn listeners_can_be_asked_for_by_name() {
    let mut world = World::open(false, view(&[resource(L, "a", "1", &[]), resource(L, "b", "1", &[])]));
    assert_eq!(world.want(L, &["a"]), ["LDS a=1"]);
    world.ack(L, &["a"]);
    assert_eq!(world.want(L, &["a", "none"]), ["LDS a=1"]);
    world.ack(L, &["a", "none"]);
    assert_eq!(world.publish(&[], &[(L, "a")]), ["LDS"], "36: an empty set deletes");
}

/// xds.md 61 for state of the world.
#[test]
fn an_empty_wildcard_is_answered() {
    assert_eq!(World::open(false, Snapshot::default()).want(C, &[]), ["CDS"]);
}

/// xds.md 11, 26, 43.
#[test]
fn a_reconnect_is_left_unanswered_only_where_the_page_allows_it() {
    let resources = [resource(C, "a", "1", &[]), resource(E, "a", "1", &[])];
    let mut before = World::open(false, view(&resources));
    before.want(C, &[]);
    before.want(E, &["a"]);
    let again = |from: &mut World| {
        let mut world = World::open(false, view(&resources));
        world.last = std::mem::take(&mut from.last);
        world
    };
    let mut after = again(&mut before);
    assert_eq!(after.want(C, &[]), NOTHING);
    assert_eq!(after.want(E, &["a"]), ["EDS a=1"]);
    let mut named = again(&mut after);
    assert_eq!(named.want(C, &["a"]), ["CDS a=1"]);
    let mut changed = again(&mut named);
    changed.publish(&[resource(C, "a", "2", &[])], &[]);
    assert_eq!(changed.want(C, &[]), ["CDS a=2"]);
}

/// xds.md 34, 21.
#[test]
fn one_response_is_under_way_until_the_gate_runs_out() {
    let mut world = endpoints();
    world.want(E, &["a", "b"]);
    assert_eq!(world.publish(&[resource(E, "a", "2", &[])], &[]), NOTHING);
    assert_eq!(world.publish(&[resource(E, "a", "3", &[])], &[]), NOTHING);
    assert_eq!(world.ack(E, &["a", "b"]), ["EDS a=3"], "the newest wins");
    assert_eq!(world.publish(&[resource(E, "b", "2", &[])], &[]), NOTHING);
    assert_eq!(world.wait(secs(4)), NOTHING);
    assert_eq!(world.wait(secs(1)), ["EDS b=2"]);
    // a=3 can no longer be acknowledged, so it comes once more.
    assert_eq!(world.ack(E, &["a", "b"]), ["EDS a=3"]);
    world.ack(E, &["a", "b"]);
    assert_eq!(world.others(), ["EDS a b acked", "EDS b acked", "EDS a acked"]);
}
