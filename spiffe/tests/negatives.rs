//! The catalogue of flawed credentials: each is refused, and for its own reason.

use std::sync::Arc;

use certs::{Chain, Timestamp, Usage};
use credence_spiffe::{AuthorityId, ProvenAuthority, Trust, TrustBundle, TrustDomain, verify_svid};
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

/// The short way must refuse what the long way refuses, for the same reason, and nothing else.
#[test]
fn below_a_proven_authority_every_leaf_gets_the_verdict_of_the_whole_verification() {
    let (world, trust) = world();
    let sound = Oddity::ALL[0].make(&world, IDENTITY).chain().unwrap();
    let (_, proven) = ProvenAuthority::prove(&sound, &trust, world.now()).unwrap();
    let proven = proven.expect("one path for both uses");
    let issuing = world.issuing().certificate();
    assert!(proven.is_of(std::slice::from_ref(issuing)) && !proven.is_of(&[]));
    assert!(!proven.is_of(&[issuing.clone(), world.root().certificate().clone()]), "that is another path");
    let (mut refused, mut believed) = (0, 0);
    let flawed = Negative::ALL.iter().map(|flaw| (flaw.name().to_owned(), flaw.make(&world, IDENTITY)));
    let unusual = Oddity::ALL.iter().map(|oddity| (format!("{oddity:?}"), oddity.make(&world, IDENTITY)));
    for (name, credential) in flawed.chain(unusual) {
        let Ok(chain) = credential.chain() else { continue };
        let chain = Chain::new(chain.leaf().clone(), vec![issuing.clone()]);
        let whole = [Usage::Server, Usage::Client]
            .into_iter()
            .map(|usage| verify_svid(&chain, &trust, world.now(), usage))
            .find_map(Result::err);
        let short = proven.verify(chain.leaf(), world.now()).err();
        let rule = |error: &Option<credence_spiffe::SvidError>| error.as_ref().map(|error| error.rule());
        // For both uses at once the purposes are read by another rule, to the same end.
        let purposes = |rule: Option<&str>| matches!(rule, Some("purpose" | "wrong-usage"));
        let (whole, short) = (rule(&whole), rule(&short));
        assert!(whole == short || (purposes(whole) && purposes(short)), "{name}: {whole:?}, short {short:?}");
        if whole.is_some() { refused += 1 } else { believed += 1 }
    }
    println!("{refused} refused, {believed} believed");
    assert!(refused > 50 && believed > 5, "{refused} refused, {believed} believed");
}

#[test]
fn below_a_proven_authority_a_revoked_leaf_is_refused() {
    let (world, trust) = world();
    let [one, other] = [(); 2].map(|()| world.leaf(IDENTITY).chain().unwrap());
    let authority = AuthorityId::of(world.issuing().certificate().spki_hash());
    let trust = trust.with_revoked(Arc::new([(authority, one.leaf().serial().clone())].into()));
    let (_, proven) = ProvenAuthority::prove(&other, &trust, world.now()).unwrap();
    let proven = proven.expect("one path for both uses");
    assert!(proven.verify(other.leaf(), world.now()).is_ok());
    let whole = verify_svid(&one, &trust, world.now(), Usage::Client).unwrap_err();
    assert_eq!(proven.verify(one.leaf(), world.now()).unwrap_err().rule(), whole.rule());
}

/// Whoever else may sign below our root does not say who is ours.
#[test]
fn a_leaf_of_another_authority_below_the_same_root_is_refused_where_issuers_are_named() {
    let (world, trust) = world();
    let other = world.root().issuing(world.domain(), world.now());
    let [ours, theirs] =
        [world.issuing(), &other].map(|by| world.leaf_below(IDENTITY, &[by]).chain().unwrap());
    for usage in [Usage::Server, Usage::Client] {
        verify_svid(&theirs, &trust, world.now(), usage).unwrap();
    }
    let named = Arc::new([world.issuing().certificate().spki_hash()].into());
    let trust = trust.with_issuers(named);
    for usage in [Usage::Server, Usage::Client] {
        verify_svid(&ours, &trust, world.now(), usage).unwrap();
        assert_eq!(verify_svid(&theirs, &trust, world.now(), usage).unwrap_err().rule(), "strange-issuer");
    }
    ProvenAuthority::prove(&ours, &trust, world.now()).unwrap();
    let refused = ProvenAuthority::prove(&theirs, &trust, world.now()).unwrap_err();
    assert_eq!(refused.rule(), "strange-issuer");
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
