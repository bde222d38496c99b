//! The catalogue of flawed credentials: each is refused, and for its own reason.

use certs::{Timestamp, Usage};
use credence_spiffe::{Trust, TrustBundle, TrustDomain, verify_svid};
use fixtures::{Negative, Oddity, World};

const IDENTITY: &str = "spiffe://prod.example/ns/shop/web";

fn world() -> (World, Trust) {
    let world = World::new("prod.example", Timestamp::from_unix_millis(1_790_000_000_250));
    let domain = TrustDomain::parse(world.domain()).expect("a trust domain");
    let trust = Trust::new(TrustBundle::new(domain, world.anchors(), 1));
    (world, trust)
}

#[test]
fn every_flaw_is_refused_for_its_own_reason() {
    let (world, trust) = world();
    let mut wrong = Vec::new();
    for flaw in Negative::ALL {
        let credential = flaw.make(&world, IDENTITY);
        let found = match credential.chain() {
            Err(_) => "parse",
            Ok(chain) => match verify_svid(&chain, &trust, world.now(), flaw.usage()) {
                Ok(_) => "accepted",
                Err(error) => error.rule(),
            },
        };
        if found != flaw.rule() {
            wrong.push((flaw.name(), flaw.rule(), found));
        }
    }
    println!("{} flaws", Negative::ALL.len());
    assert!(wrong.is_empty(), "flaw, expected, found: {wrong:#?}");
}

#[test]
fn what_is_merely_unusual_is_believed() {
    let (world, trust) = world();
    for oddity in Oddity::ALL {
        let credential = oddity.make(&world, IDENTITY);
        let chain = credential.chain().unwrap();
        for usage in [Usage::Server, Usage::Client, Usage::Any] {
            let svid = verify_svid(&chain, &trust, world.now(), usage);
            let svid = svid.unwrap_or_else(|error| panic!("{oddity:?}: {error}"));
            assert_eq!(svid.id().as_str(), IDENTITY);
            assert_eq!(svid.serial(), chain.leaf().serial());
            assert_eq!(svid.authority(), world.issuing().certificate().spki_hash());
        }
    }
}

#[test]
fn names_of_flaws_are_unique() {
    let mut names: Vec<_> = Negative::ALL.iter().map(|flaw| flaw.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Negative::ALL.len());
}
