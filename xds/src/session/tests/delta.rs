//! Differences: xds.md D, E; secrets.

use super::*;

fn clusters() -> World {
    World::open(true, view(&[resource(C, "a", "1", &[]), resource(C, "b", "1", &[])]))
}

/// xds.md 46, 53, 55, 62, 74.
#[test]
fn only_what_changed_is_sent() {
    let mut world = clusters();
    assert_eq!(world.change(C, &[], &[]), ["CDS a=1 b=1"]);
    assert_eq!(world.ack(C, &[]), NOTHING);
    assert_eq!(world.publish(&[resource(C, "b", "2", &[])], &[]), ["CDS b=2"]);
    world.ack(C, &[]);
    assert_eq!(world.change(C, &["a"], &[]), ["CDS a=1"]);
    world.ack(C, &[]);
    assert_eq!(world.change(C, &[], &["*"]), NOTHING, "55");
    assert_eq!(world.publish(&[resource(C, "b", "3", &[])], &[]), NOTHING);
    assert_eq!(world.publish(&[resource(C, "a", "3", &[])], &[]), ["CDS a=3"]);
    world.ack(C, &[]);
    assert_eq!(world.change(C, &[], &["a"]), NOTHING, "53");
    assert_eq!(world.publish(&[resource(C, "a", "4", &[])], &[]), NOTHING);
}

/// xds.md 47, 48.
#[test]
fn names_count_whatever_the_nonce_says() {
    let mut world = World::open(true, view(&[resource(E, "a", "1", &[]), resource(E, "b", "1", &[])]));
    world.change(E, &["a"], &[]);
    let nonce = world.nonce(E);
    assert_eq!(world.change_with(E, &["b"], &["a"], &[], &nonce, None), ["EDS b=1"]);
    assert_eq!(world.others(), ["EDS a acked"]);
    world.ack(E, &[]);
    world.others();
    assert_eq!(world.change_with(E, &["a"], &[], &[], "stale", None), ["EDS a=1"]);
    assert_eq!(world.others(), ["StaleNonce"]);
}

/// xds.md 49, 50.
#[test]
fn what_is_asked_for_again_is_sent_again() {
    let mut world = clusters();
    world.change(C, &["*", "a"], &[]);
    world.ack(C, &[]);
    assert_eq!(world.change(C, &["a"], &[]), ["CDS a=1"]);
    world.ack(C, &[]);
    assert_eq!(world.change(C, &["*"], &[]), ["CDS a=1 b=1"]);
}

/// xds.md 51, 52, 68.
#[test]
fn a_missing_name_is_answered_and_remembered() {
    let mut world = World::open(true, Snapshot::default());
    assert_eq!(world.change(E, &["a"], &[]), ["EDS -a"]);
    world.ack(E, &[]);
    assert_eq!(world.publish(&[resource(E, "a", "1", &[])], &[]), ["EDS a=1"]);
    world.ack(E, &[]);
    world.publish(&[], &[(E, "a")]);
    assert_eq!(world.wait(secs(2)), ["EDS -a"]);
    world.ack(E, &[]);
    assert_eq!(world.publish(&[resource(E, "a", "1", &[])], &[]), ["EDS a=1"]);
}

/// xds.md 53, 54.
#[test]
fn leaving_a_name_beside_the_wildcard_is_answered() {
    let mut world = clusters();
    world.change(C, &["*", "a", "none"], &[]);
    world.ack(C, &[]);
    assert_eq!(world.change(C, &[], &["a", "none"]), ["CDS a=1 -none"]);
    world.ack(C, &[]);
    assert_eq!(
        world.change(C, &[], &["b", "none"]),
        ["CDS b=1"],
        "53: of what it never named, what there is"
    );
}

/// xds.md 76, 77.
#[test]
fn a_first_message_may_want_nothing() {
    assert_eq!(clusters().change(C, &["*"], &["*"]), NOTHING);
    assert_eq!(clusters().change(C, &[], &["*"]), NOTHING);
}

/// xds.md 35, 61, 72.
#[test]
fn a_first_wildcard_is_answered_even_by_nothing() {
    let mut world = World::open(true, Snapshot::default());
    assert_eq!(world.change(C, &[], &[]), ["CDS"]);
    assert_eq!(world.change(E, &[], &[]), NOTHING);
}

/// xds.md 56, 57, 58, 59, 61.
#[test]
fn known_versions_spare_what_is_current_and_remove_what_is_gone() {
    let (a, b) = (resource(C, "a", "1", &[]), resource(C, "b", "1", &[]));
    let e = resource(E, "a", "1", &[]);
    let open = || World::open(true, view(&[a.clone(), b.clone(), e.clone(), resource(L, "l", "1", &[])]));
    let old = Version::of(b"0");
    let known = [("a", a.version()), ("b", &old), ("gone", &old)];
    let mut world = open();
    assert_eq!(world.change_with(C, &[], &[], &known, "", None), ["CDS b=1"]);
    world.ack(C, &[]);
    assert_eq!(world.wait(secs(2)), ["CDS -gone"]);
    world.ack(C, &[]);
    world.others();
    assert_eq!(world.change_with(C, &[], &[], &[("a", &old)], "", None), NOTHING);
    assert_eq!(world.others(), ["LateVersions"]);
    assert_eq!(world.change_with(L, &[], &[], &[("gone", &old)], "", None), ["LDS l=1 -gone"]);
    assert_eq!(open().change_with(C, &["b"], &[], &[("a", a.version())], "", None), ["CDS b=1"], "58");
    assert_eq!(open().change_with(E, &["a"], &[], &[("a", e.version())], "", None), ["EDS a=1"], "59");
    let all = [("a", a.version()), ("b", b.version())];
    assert_eq!(open().change_with(C, &[], &[], &all, "", None), ["CDS"], "61");
}

/// xds.md 60.
#[test]
fn an_old_envoy_is_not_believed_about_versions() {
    use proto::envoy::{config::core::v3::BuildVersion, r#type::v3::SemanticVersion};
    let a = resource(C, "a", "1", &[]);
    for (minor, expected) in [(20, "CDS a=1"), (40, "CDS")] {
        let mut world = World::open(true, view(std::slice::from_ref(&a)));
        let version = SemanticVersion { major_number: 1, minor_number: minor, patch: 0 };
        let build = BuildVersion { version: Some(version), metadata: None };
        let node = Node {
            user_agent_name: "envoy".to_owned(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build)),
            ..node().unwrap()
        };
        let request = DeltaDiscoveryRequest {
            node: Some(node),
            type_url: C.as_str().to_owned(),
            initial_resource_versions: [("a".to_owned(), a.version().to_string())].into(),
            ..Default::default()
        };
        assert_eq!(world.step(Event::Delta(Box::new(request))), [expected]);
        assert_eq!(world.session.agent(), ("envoy", &*format!("1.{minor}.0")));
    }
}

#[test]
fn what_a_proxy_calls_itself_moves_no_cursor() {
    let mut world = World::open(true, view(&[]));
    let node = Node {
        user_agent_name: "en\u{1b}voy\n".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
            "\u{1b}[2J1.\u{202e}40".to_owned(),
        )),
        ..node().unwrap()
    };
    let request =
        DeltaDiscoveryRequest { node: Some(node), type_url: C.as_str().to_owned(), ..Default::default() };
    world.step(Event::Delta(Box::new(request)));
    assert_eq!(world.session.agent(), ("envoy", "[2J1.40"));
}

/// xds.md 18, 19, 66.
#[test]
fn a_refused_resource_waits_for_other_content() {
    let mut world = clusters();
    world.change(C, &[], &[]);
    world.ack(C, &[]);
    assert_eq!(world.publish(&[resource(C, "a", "bad", &[])], &[]), ["CDS a=bad"]);
    assert_eq!(world.nack(C, &[], "no"), NOTHING);
    assert_eq!(world.publish(&[resource(C, "b", "2", &[])], &[]), ["CDS b=2"]);
    world.ack(C, &[]);
    assert_eq!(world.publish(&[resource(C, "a", "1", &[])], &[]), ["CDS a=1"], "19: a rollback is sent");
    world.ack(C, &[]);
    assert_eq!(world.publish(&[resource(C, "a", "bad", &[])], &[]), ["CDS a=bad"]);
    world.nack(C, &[], "no");
    assert_eq!(world.change(C, &["a"], &[]), ["CDS a=bad"], "18: until the names change");
}

/// xds.md 18, 66: one watch of Envoy throws, and what is good in the same response goes without.
#[test]
fn what_was_refused_with_others_comes_once_more_alone() {
    let resources = ["a", "b", "c"].map(|name| resource(R, name, "1", &[]));
    let mut world = World::open(true, view(&resources));
    assert_eq!(world.change(R, &["a", "b", "c", "none"], &[]), ["RDS a=1 b=1 c=1 -none"]);
    let together = world.nonce(R);
    assert_eq!(world.nack(R, &[], "no"), ["RDS a=1", "RDS b=1", "RDS c=1", "RDS -none"]);
    assert_eq!(world.others(), ["RDS  nacked \"no\""], "nobody knows yet which");
    assert!(world.session.progress(R).unwrap().refused.is_empty());
    let replies = [("7.2", None), ("7.3", Some("no")), ("7.4", None), ("7.5", None)];
    assert_eq!(together, "7.1");
    for (nonce, words) in replies {
        assert_eq!(world.change_with(R, &[], &[], &[], nonce, words), NOTHING);
    }
    assert_eq!(world.others(), ["RDS a acked", "RDS b nacked \"no\"", "RDS c acked", "RDS  acked"]);
    let progress = world.session.progress(R).unwrap();
    assert_eq!(progress.refused.keys().map(|name| &**name).collect::<Vec<_>>(), ["b"]);
    assert!(progress.unacked.keys().all(|name| &**name == "b"));
    assert_eq!(world.wait(secs(60)), NOTHING);

    let changed = [resource(R, "a", "2", &[]), resource(R, "b", "2", &[]), resource(R, "c", "2", &[])];
    assert_eq!(world.publish(&changed, &[]), ["RDS a=2 c=2", "RDS b=2"], "what was refused is tried alone");
    world.change_with(R, &[], &[], &[], "7.6", None);
    assert_eq!(world.nack(R, &[], "no"), NOTHING);
    assert_eq!(world.change(R, &["a", "b", "c"], &[]), ["RDS a=2 c=2", "RDS b=2"], "asked for again");
    world.change_with(R, &[], &[], &[], "7.8", None);
    world.ack(R, &[]);
    let changed = [resource(R, "a", "3", &[]), resource(R, "b", "3", &[])];
    assert_eq!(world.publish(&changed, &[]), ["RDS a=3 b=3"], "what was accepted is as the others");
}

/// xds.md 18, 66: what changes before it came alone is sent as it is then.
#[test]
fn what_is_left_or_gone_before_it_came_alone_is_not_sent() {
    let resources = ["a", "b", "c"].map(|name| resource(R, name, "1", &[]));
    let mut world = World::open(true, view(&resources));
    world.change(R, &["a", "b", "c"], &[]);
    world.session.is_writable = false;
    assert_eq!(world.nack(R, &[], "no"), NOTHING);
    assert_eq!(world.change(R, &[], &["a"]), NOTHING);
    world.publish(&[resource(R, "b", "2", &[])], &[]);
    assert_eq!(world.step(Event::Writable), ["RDS b=1", "RDS c=1"]);
    world.change_with(R, &[], &[], &[], "7.2", Some("no"));
    assert_eq!(world.ack(R, &[]), ["RDS b=2"]);
    world.ack(R, &[]);
    assert_eq!(world.change(R, &["a"], &[]), ["RDS a=1"]);
}

/// xds.md 64, 65, 127.
#[test]
fn a_long_response_is_cut_and_acknowledged_by_parts() {
    let big = "x".repeat(400_000);
    let resources: Vec<_> = (0..5).map(|n| resource(C, &format!("c{n}"), &big, &[])).collect();
    let mut world = World::open(true, view(&resources));
    world.session.is_writable = false;
    world.change(L, &[], &[]);
    world.change(C, &["*", "none"], &[]);
    let long = "400000 bytes";
    assert_eq!(
        world.step(Event::Writable),
        [
            format!("CDS c0={long} c1={long}"),
            format!("CDS c2={long} c3={long}"),
            format!("CDS c4={long} -none"),
            "LDS".to_owned()
        ]
    );
    let last = world.nonce(C);
    world.change_with(C, &[], &[], &[], &last, None);
    assert_eq!(world.publish(&[resource(C, "c0", "2", &[])], &[]), NOTHING, "two parts are not acknowledged");
    world.change_with(C, &[], &[], &[], "7.1", None);
    assert_eq!(world.change_with(C, &[], &[], &[], "7.2", Some("no")), ["CDS c0=2"]);
}

/// xds.md 69.
#[test]
fn what_comes_and_goes_between_two_messages_is_no_news() {
    let mut world = clusters();
    world.change(C, &[], &[]);
    world.publish(&[resource(C, "c", "1", &[]), resource(C, "a", "2", &[])], &[]);
    world.publish(&[resource(C, "a", "1", &[])], &[(C, "c"), (C, "b")]);
    world.publish(&[resource(C, "b", "1", &[])], &[]);
    assert_eq!(world.ack(C, &[]), NOTHING);
    assert_eq!(world.wait(secs(60)), NOTHING);
}

/// xds.md 70: one request for each name.
#[test]
fn a_burst_of_requests_gets_few_answers() {
    let names: Vec<String> = (0..1000).map(|n| format!("e{n}")).collect();
    let resources: Vec<_> = names.iter().map(|name| resource(E, name, "1", &[])).collect();
    let mut world = World::open(true, view(&resources));
    let mut answers: Vec<String> = names.iter().flat_map(|name| world.change(E, &[name], &[])).collect();
    answers.extend(world.ack(E, &[]));
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[1].split(' ').count(), 1000);
}

/// xds.md 108, 109, 110: silence while nothing is known; never "removed" for what only has to be made again.
#[test]
fn a_secret_that_does_not_exist_yet_is_silence() {
    let held = |content| SecretOffer::Held(resource(S, "default", content, &[]));
    let mut world = World::open(true, Snapshot::default());
    assert_eq!(world.change(S, &["default", "other"], &[]), NOTHING);
    assert_eq!(world.others(), ["+default", "+other"]);
    assert_eq!(world.offer("default", SecretOffer::Pending), NOTHING);
    assert_eq!(world.offer("other", SecretOffer::Absent), ["SDS -other"]);
    world.ack(S, &[]);
    assert_eq!(world.offer("default", held("1")), ["SDS default=1"]);
    world.ack(S, &[]);
    assert_eq!(world.offer("default", SecretOffer::Pending), NOTHING);
    assert_eq!(world.wait(secs(60)), NOTHING);
    assert_eq!(world.offer("default", held("1")), NOTHING);
    assert_eq!(world.offer("default", held("2")), ["SDS default=2"]);
    world.ack(S, &[]);
    world.others();
    assert_eq!(world.change(S, &["default"], &["other"]), ["SDS default=2"]);
    assert_eq!(world.others(), ["-other"]);
}

/// xds.md 32: between the parts of a long response a grant may end, and a secret may be replaced.
#[test]
fn a_secret_that_waits_for_a_slow_reader_goes_as_it_is_then() {
    let long = "x".repeat(600_000);
    let names = ["a", "b", "c", "d", "e"];
    let mut world = World::open(true, Snapshot::default());
    for name in names {
        world.secrets.insert(name.into(), SecretOffer::Held(resource(S, name, &long, &[])));
    }
    let view = world.secrets.clone();
    world.step(Event::Secrets(view));
    world.session.is_writable = false;
    world.change(S, &names, &[]);
    let first = world.session.step(Event::Writable, world.now);
    assert!(matches!(&first[..], [Action::Send(part)] if part.resources.len() == 1));
    world.secrets.insert("b".into(), SecretOffer::Absent);
    world.secrets.insert("c".into(), SecretOffer::Pending);
    world.secrets.insert("d".into(), SecretOffer::Held(resource(S, "d", "2", &[])));
    let view = world.secrets.clone();
    assert!(world.session.step(Event::Secrets(view), world.now).is_empty());
    assert_eq!(world.step(Event::Writable), ["SDS d=2 e=600000 bytes"]);
    world.change_with(S, &[], &[], &[], "7.1", None);
    assert_eq!(world.change_with(S, &[], &[], &[], "7.2", None), ["SDS -b"]);
    world.ack(S, &[]);
    assert_eq!(world.offer("c", SecretOffer::Held(resource(S, "c", "2", &[]))), ["SDS c=2"]);
}

/// xds.md 32: what was left is not sent, and what was asked for instead is, at once.
#[test]
fn what_is_asked_for_instead_of_the_rest_of_a_long_response_waits_for_nothing() {
    let long = "x".repeat(600_000);
    let mut world = World::open(true, view(&["a", "b", "c"].map(|name| resource(E, name, &long, &[]))));
    world.session.is_writable = false;
    world.change(E, &["a", "b"], &[]);
    assert_eq!(world.session.step(Event::Writable, world.now).len(), 1);
    world.change_with(E, &[], &[], &[], "7.1", None);
    assert_eq!(world.change(E, &["c"], &["b"]), NOTHING);
    assert_eq!(world.step(Event::Writable), ["EDS c=600000 bytes"]);
}

/// R5: a wildcard never means everybody's secrets.
#[test]
fn there_is_no_wildcard_over_secrets() {
    for delta in [true, false] {
        let mut world = World::open(delta, Snapshot::default());
        world.offer("default", SecretOffer::Held(resource(S, "default", "1", &[])));
        for names in [&[][..], &["*"][..]] {
            let written = if delta { world.change(S, names, &[]) } else { world.want(S, names) };
            assert_eq!(written, NOTHING);
        }
    }
}
