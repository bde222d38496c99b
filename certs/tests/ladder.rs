//! The ladder against the verifier, over every flaw and every oddity of the fixtures.

use std::{collections::BTreeSet, time::Duration};

use credence_certs::{
    Certificate, Context, Ladder, Part, Profile, Timestamp, Usage, Verdict, VerifyOptions, explain,
    explain_profile, lint, verify_chain,
};
use fixtures::{Negative, Oddity, World};

const IDENTITY: &str = "spiffe://prod.example/ns/shop/web";
/// Rungs that are no rules of the verifier.
const BESIDE: [&str; 3] = ["peer-key", "peer-path", "key-match"];

fn now() -> Timestamp {
    Timestamp::from_unix_millis(1_790_000_000_250)
}

fn ladder(ders: &[Vec<u8>], anchors: &[Certificate], usage: Usage) -> Ladder {
    let ders: Vec<&[u8]> = ders.iter().map(Vec::as_slice).collect();
    explain(&ders, &Context { anchors: Some(anchors), ..Context::new(now(), Part::Leaf(usage)) })
}

#[test]
fn every_rule_stands_in_it_once_and_says_what_to_do() {
    let world = World::new("prod.example", now());
    let found = ladder(world.leaf(IDENTITY).ders(), &world.anchors(), Usage::Any);
    let names: BTreeSet<&str> = found.rungs.iter().map(|rung| rung.rule).collect();
    assert_eq!(names.len(), found.rungs.len());
    assert!(found.rungs.len() > 45);
    for rung in &found.rungs {
        assert!(!rung.asks.is_empty() && !rung.why.is_empty() && !rung.why.ends_with('.'), "{}", rung.rule);
        assert!(rung.fix.is_empty(), "what holds needs no fix: {}", rung.rule);
    }
}

#[test]
fn passes_exactly_what_the_verifier_believes() {
    let world = World::new("prod.example", now());
    let strict = |ladder: &Ladder| ladder.failures().filter(|rung| !BESIDE.contains(&rung.rule)).count() == 0;
    for oddity in Oddity::ALL {
        let credential = oddity.make(&world, IDENTITY);
        let found = ladder(credential.ders(), &world.anchors(), Usage::Any);
        assert!(strict(&found), "{oddity:?}: {:#?}", found.failures().collect::<Vec<_>>());
        let refused = matches!(oddity, Oddity::P521Key | Oddity::Ed25519Key | Oddity::ExpiredCrossSign);
        assert_eq!(!found.is_passed(), refused, "{oddity:?}");
    }
    for flaw in Negative::ALL {
        let credential = flaw.make(&world, IDENTITY);
        let found = ladder(credential.ders(), &world.anchors(), flaw.usage());
        let options = VerifyOptions::new(now(), flaw.usage());
        let believed =
            credential.chain().is_ok_and(|chain| verify_chain(&chain, &world.anchors(), &options).is_ok());
        assert_eq!(strict(&found), believed, "{}: {:#?}", flaw.name(), found.failures().collect::<Vec<_>>());
    }
}

#[test]
fn a_flaw_of_the_chain_fails_the_rung_of_its_own_rule() {
    let world = World::new("prod.example", now());
    let identity = ["uri-names", "spiffe-id", "trust-domain", "foreign-authority", "key-usage"];
    let identity = [&identity[..], &["no-digital-signature", "purpose"]].concat();
    for flaw in Negative::ALL.iter().filter(|flaw| !identity.contains(&flaw.rule())) {
        let found = ladder(flaw.make(&world, IDENTITY).ders(), &world.anchors(), flaw.usage());
        let failed: Vec<&str> = found.failures().map(|rung| rung.rule).collect();
        let expected = match (flaw.rule(), flaw) {
            (_, Negative::HugeChain | Negative::HugeCertificate) => "chain-bounds",
            (_, Negative::SerialZero | Negative::SerialNegative | Negative::SerialTooLong) => "serial",
            (rule, _) => rule,
        };
        assert!(failed.contains(&expected), "{}: {failed:?}", flaw.name());
        // Ending before it begins is to be valid at no time: three rules say so. A leaf lacks more than one thing to be
        // an authority.
        let most = match flaw {
            Negative::NegativeValidity | Negative::LeafSignedByLeaf => 3,
            _ => 2,
        };
        assert!(failed.len() <= most, "{} breaks one rule: {failed:?}", flaw.name());
        for rung in found.failures() {
            assert!(rung.sentence().is_some_and(|text| text.contains("because")), "{}", rung.rule);
            assert!(!rung.found.is_empty() && !rung.subject.is_empty());
        }
    }
}

#[test]
fn shows_who_signed_whom_and_where_it_breaks() {
    let world = World::new("prod.example", now());
    let good = ladder(world.leaf(IDENTITY).ders(), &world.anchors(), Usage::Any);
    assert_eq!(good.chain.len(), 3);
    assert!(good.chain.iter().all(|link| link.holds), "{:#?}", good.chain);
    let broken = Negative::SameNameRoot.make(&world, IDENTITY);
    let found = ladder(broken.ders(), &world.anchors(), Usage::Any);
    let holds: Vec<bool> = found.chain.iter().map(|link| link.holds).collect();
    assert_eq!(holds, [true, false, true], "{:#?}", found.chain);
    let missing = Negative::MissingIntermediate.make(&world, IDENTITY);
    let found = ladder(missing.ders(), &world.anchors(), Usage::Any);
    assert!(found.chain[0].signed_by.contains("not here"), "{:?}", found.chain);
}

#[test]
fn asks_of_an_authority_what_an_installation_needs() {
    let world = World::new("prod.example", now());
    let (issuing, root) = (world.issuing(), world.root());
    let hours = |count: u64| Duration::from_secs(count * 3600);
    let anchors = world.anchors();
    let context = Context {
        anchors: Some(&anchors),
        key: Some(issuing.certificate().spki_hash()),
        ..Context::new(now(), Part::Issuing(hours(12)))
    };
    let found = explain(&[issuing.der(), root.der()], &context);
    assert!(found.is_passed(), "{:#?}", found.failures().collect::<Vec<_>>());
    let check = |context: &Context<'_>, ders: &[&[u8]], rule: &str| {
        let found = explain(ders, context);
        let failed: Vec<&str> = found.failures().map(|rung| rung.rule).collect();
        assert_eq!(failed, [rule]);
    };
    check(&Context { part: Part::Issuing(hours(24 * 8)), ..context }, &[issuing.der()], "life-left");
    check(&Context { key: Some(root.certificate().spki_hash()), ..context }, &[issuing.der()], "key-match");
    let stranger = World::new("prod.example", now());
    let theirs = stranger.issuing();
    let of_theirs = Context { key: Some(theirs.certificate().spki_hash()), ..context };
    check(&of_theirs, &[theirs.der()], "bad-signature");
    let leaf = world.leaf(IDENTITY);
    let of_leaf = Context { key: None, part: Part::Issuing(hours(1)), ..context };
    let found = explain(&[&leaf.ders()[0], issuing.der()], &of_leaf);
    assert_eq!(found.first_failure().map(|rung| rung.rule), Some("empty-subject"));
    assert!(found.failures().any(|rung| rung.rule == "not-authority"));
    // Below an authority with path length 0 no other may stand.
    let below = issuing.issuing("sub.prod.example", now());
    let of_below = Context { key: None, ..context };
    check(&of_below, &[below.der(), issuing.der()], "path-length");
}

#[test]
fn says_what_cannot_be_asked_without_a_bundle() {
    let world = World::new("prod.example", now());
    let leaf = world.leaf(IDENTITY);
    let found = explain(&[&leaf.ders()[0]], &Context::new(now(), Part::Leaf(Usage::Any)));
    assert!(found.is_passed());
    let skipped: Vec<&str> =
        found.rungs.iter().filter(|rung| rung.verdict == Verdict::Skipped).map(|rung| rung.rule).collect();
    for rule in ["no-anchor", "unknown-issuer", "bad-signature", "revoked", "key-match"] {
        assert!(skipped.contains(&rule), "{rule}: {skipped:?}");
    }
    let nothing = explain(&[], &Context::new(now(), Part::Leaf(Usage::Any)));
    assert_eq!(nothing.first_failure().map(|rung| rung.rule), Some("parse"));
}

#[test]
fn profile_ladders_agree_with_the_lint() {
    let world = World::new("prod.example", now());
    let leaf = Certificate::from_der(&world.leaf(IDENTITY).ders()[0]).unwrap();
    let issuer = world.issuing().certificate();
    let root = world.root().certificate();
    for (certificate, above, profile) in [
        (&leaf, Some(issuer), Profile::Workload),
        (issuer, Some(root), Profile::Issuing),
        (root, Some(root), Profile::Root),
        (&leaf, Some(root), Profile::Workload),
        (&leaf, None, Profile::Workload),
        (&leaf, Some(issuer), Profile::Issuing),
        (issuer, Some(root), Profile::Workload),
    ] {
        let found = explain_profile(certificate, above, profile);
        let names: BTreeSet<&str> = found.rungs.iter().map(|rung| rung.rule).collect();
        assert_eq!(names.len(), found.rungs.len(), "each rule once");
        let errors = lint(certificate, above.filter(|_| profile != Profile::Root), profile);
        let errors: BTreeSet<&str> = errors.iter().map(|finding| finding.rule).collect();
        for failure in found.failures() {
            assert!(errors.contains(failure.rule) || failure.rule == "issuer", "{}", failure.rule);
        }
        assert_eq!(found.is_passed(), above.is_none() || errors.is_empty(), "{profile:?}: {errors:?}");
    }
}
