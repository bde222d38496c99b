//! The ladder of an SVID against the verifier of SVIDs, over every flaw and every oddity of the fixtures.

use std::collections::BTreeSet;

use certs::{Context, Ladder, Part, Timestamp, Usage, Verdict};
use credence_spiffe::{Expected, SpiffeId, Trust, TrustBundle, TrustDomain, explain, verify_svid};
use fixtures::{Credential, Negative, Oddity, World};

const IDENTITY: &str = "spiffe://prod.example/ns/shop/web";

fn world() -> (World, TrustDomain) {
    let world = World::new("prod.example", Timestamp::from_unix_millis(1_790_000_000_250));
    let domain = TrustDomain::parse(world.domain()).expect("a trust domain");
    (world, domain)
}

fn ladder(credential: &Credential, world: &World, domain: &TrustDomain, usage: Usage) -> Ladder {
    let ders: Vec<&[u8]> = credential.ders().iter().map(Vec::as_slice).collect();
    let anchors = world.anchors();
    let context = Context { anchors: Some(&anchors), ..Context::new(world.now(), Part::Leaf(usage)) };
    explain(&ders, &context, Expected { id: None, domain: Some(domain) })
}

#[test]
fn every_flaw_fails_the_rung_of_its_own_rule_and_each_rule_is_asked_once() {
    let (world, domain) = world();
    for flaw in Negative::ALL {
        let found = ladder(&flaw.make(&world, IDENTITY), &world, &domain, flaw.usage());
        let names: BTreeSet<&str> = found.rungs.iter().map(|rung| rung.rule).collect();
        assert_eq!(names.len(), found.rungs.len());
        let failed: Vec<&str> = found.failures().map(|rung| rung.rule).collect();
        let expected = match (flaw.rule(), flaw) {
            (_, Negative::HugeChain | Negative::HugeCertificate) => "chain-bounds",
            (_, Negative::SerialZero | Negative::SerialNegative | Negative::SerialTooLong) => "serial",
            (rule, _) => rule,
        };
        assert!(failed.contains(&expected), "{}: {failed:?}", flaw.name());
        // A leaf in the place of an authority lacks several things at once.
        assert!(failed.len() <= 4, "{}: {failed:?}", flaw.name());
        assert!(!found.is_passed() && found.first_failure().is_some());
    }
}

#[test]
fn passes_exactly_what_the_verifier_believes_but_for_what_envoy_refuses() {
    let (world, domain) = world();
    let trust = Trust::new(TrustBundle::new(domain.clone(), world.anchors(), 1));
    for oddity in Oddity::ALL {
        let credential = oddity.make(&world, IDENTITY);
        let chain = credential.chain().unwrap();
        assert!(verify_svid(&chain, &trust, world.now(), Usage::Any).is_ok());
        let found = ladder(&credential, &world, &domain, Usage::Any);
        let failed: Vec<&str> = found.failures().map(|rung| rung.rule).collect();
        let expected: &[&str] = match oddity {
            Oddity::P521Key | Oddity::Ed25519Key => &["peer-key"],
            Oddity::ExpiredCrossSign => &["peer-path"],
            _ => &[],
        };
        assert_eq!(failed, expected, "{oddity:?}");
    }
}

#[test]
fn tells_who_was_expected() {
    let (world, domain) = world();
    let leaf = world.leaf(IDENTITY);
    let ders: Vec<&[u8]> = leaf.ders().iter().map(Vec::as_slice).collect();
    let context = Context::new(world.now(), Part::Leaf(Usage::Any));
    let other = SpiffeId::parse("spiffe://prod.example/other").unwrap();
    let found = explain(&ders, &context, Expected { id: Some(&other), domain: Some(&domain) });
    let failure = found.first_failure().unwrap();
    assert_eq!(failure.rule, "expected-id");
    assert_eq!((found.passes_envoy(), found.passes_rustls()), (Some(false), Some(true)));
    let sentence = failure.sentence().unwrap();
    assert!(
        sentence.contains("Envoy would say") && sentence.contains("rustls would let it pass"),
        "{sentence}"
    );
    let nobody = explain(&ders, &context, Expected::default());
    let skipped = nobody.rungs.iter().filter(|rung| rung.verdict == Verdict::Skipped).map(|rung| rung.rule);
    assert!(skipped.collect::<Vec<_>>().contains(&"trust-domain") && nobody.is_passed());
}
