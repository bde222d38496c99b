use certs::{Certificate, PublicKey};
use fixtures::{
    Blueprint, DIGITAL_SIGNATURE, KEY_CERT_SIGN, TestAuthority, TestKey, TestKeyKind, World, dns, uri,
};

use super::*;

const URI: &str = "spiffe://td/web";
const HOURS_12: Duration = Duration::from_secs(12 * 3600);

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

fn signed(certificate: Certificate, above: &[&TestAuthority]) -> Signed {
    let above = above.iter().map(|one| one.certificate().clone()).collect();
    Signed { certificate, above, lease_id: String::new(), warnings: Vec::new() }
}

fn parse(der: &[u8]) -> Certificate {
    Certificate::from_der(der).unwrap()
}

/// A leaf of the world with one thing changed, held against what was asked for.
fn check(change: impl FnOnce(Blueprint) -> Blueprint, expected: Result<(), &str>) {
    check_asked(change, |_| {}, expected);
}

fn check_asked(
    change: impl FnOnce(Blueprint) -> Blueprint,
    adjust: impl FnOnce(&mut Signed),
    expected: Result<(), &str>,
) {
    let world = World::new("td", now());
    let key = TestKey::generate(TestKeyKind::P256);
    let der = change(world.issuing().leaf_blueprint(URI, &key, now())).sign(world.issuing().key());
    let mut signed = signed(parse(&der), &[world.issuing(), world.root()]);
    adjust(&mut signed);
    let key = PublicKey::from_spki_der(&key.spki_der()).unwrap();
    let asked = Asked { uri: URI, key: &key, at: now(), lifetime: HOURS_12 };
    let got = leaf(&signed, &asked, world.issuing().certificate(), world.root().certificate());
    match (got, expected) {
        (Ok(chain), Ok(())) => assert_eq!(chain.intermediates(), [world.issuing().certificate().clone()]),
        (Err(refusal), Err(words)) => {
            assert!(refusal.to_string().contains(words), "{refusal}");
            assert!(!refusal.hint().is_empty());
        }
        (got, expected) => panic!("{got:?}, expected {expected:?}"),
    }
}

#[test]
fn a_leaf_is_taken_that_is_exactly_what_was_asked_for() {
    check(|leaf| leaf, Ok(()));
    // Less than asked for is what a role with a shorter maximum gives.
    check(|leaf| Blueprint { not_after: now() + Duration::from_secs(600), ..leaf }, Ok(()));
    // The role backdates, and Vault's clock is not ours.
    check(|leaf| Blueprint { not_after: now() + HOURS_12 + CLOCK_TOLERANCE, ..leaf }, Ok(()));
}

#[test]
fn each_way_to_be_something_else_is_refused() {
    let other = "names [\"spiffe://td/admin\"] instead of \"spiffe://td/web\"";
    check(|leaf| leaf.with_names(&[uri("spiffe://td/admin")]), Err(other));
    check(|leaf| leaf.with_names(&[]), Err("names [] instead"));
    check(|leaf| leaf.with_names(&[uri(URI), uri("spiffe://td/admin")]), Err("instead"));
    check(|leaf| leaf.with_names(&[uri(URI), uri(URI)]), Err("instead"));
    check(|leaf| leaf.with_names(&[uri("spiffe://TD/web")]), Err("instead"));
    check(|leaf| leaf.with_names(&[uri("spiffe://td/web\0")]), Err("instead"));
    check(|leaf| leaf.with_names(&[uri(URI), dns("web.example")]), Err("further names"));
    let named = |leaf| Blueprint { subject: fixtures::der::name("Corp", "web"), ..leaf };
    check(named, Err("its subject is"));
    let late = now() + HOURS_12 + CLOCK_TOLERANCE + Duration::from_secs(1);
    check(|leaf| Blueprint { not_after: late, ..leaf }, Err("12h1m after it was asked for instead of 12h"));
    check(|leaf| leaf.with_basic_constraints(true, None), Err("may sign certificates"));
    check(|leaf| leaf.with_key_usage(true, DIGITAL_SIGNATURE | KEY_CERT_SIGN), Err("may sign certificates"));
    let another = TestKey::generate(TestKeyKind::P256);
    check(|leaf| Blueprint { spki: another.spki_der(), ..leaf }, Err("another key"));
    check_asked(
        |leaf| leaf,
        |signed| signed.lease_id = "pki/issue/1".to_owned(),
        Err("the lease \"pki/issue/1\""),
    );
    let by = fixtures::der::name("Corp", "Other issuing");
    check(|leaf| Blueprint { issuer: by, ..leaf }, Err("and not by the pinned"));
}

#[test]
fn a_path_is_what_leads_to_the_agreed_root_and_nothing_else() {
    let (root, stranger) = (TestAuthority::root("corp", now()), TestAuthority::root("corp", now()));
    let key = TestKey::generate(TestKeyKind::P256);
    let middle = root.authority_blueprint("policy", &key, Some(1), now());
    let middle = TestAuthority::from_blueprint(middle, key, Some(&root));
    let issuing = middle.issuing("td", now());
    let certificate = |one: &TestAuthority| one.certificate().clone();
    let led = |above: &[&TestAuthority], to: &TestAuthority| {
        let above: Vec<_> = above.iter().map(|one| certificate(one)).collect();
        path(issuing.certificate(), &above, to.certificate())
    };
    let whole = [&issuing, &middle, &root].map(certificate);
    for above in [
        vec![&middle],
        vec![&middle, &root],
        vec![&root, &middle],
        vec![&stranger, &issuing, &middle, &middle, &root],
    ] {
        assert_eq!(led(&above, &root).unwrap(), whole);
    }
    for above in [vec![], vec![&root], vec![&stranger]] {
        let refused = led(&above, &root).unwrap_err();
        assert!(refused.to_string().contains("and not to the agreed root"), "{refused}");
        assert!(!refused.hint().is_empty());
    }
    assert!(led(&[&middle, &root], &stranger).is_err(), "a root of the same name is another");
    // A root that signs leaves itself leads to itself.
    assert_eq!(path(root.certificate(), &[], root.certificate()).unwrap(), [certificate(&root)]);
}

/// An authority below a root of Vault, with one thing changed.
fn check_authority(change: impl FnOnce(Blueprint) -> Blueprint, expected: Result<(), &str>) {
    let root = TestAuthority::root("corp", now());
    let key = TestKey::generate(TestKeyKind::P256);
    let name = fixtures::der::sequence(&[&fixtures::der::set(&[&fixtures::der::sequence(&[
        &fixtures::der::object_id(&[0x55, 0x04, 0x03]),
        &fixtures::der::element(0x0c, b"Credence td"),
    ])])]);
    let made = root.authority_blueprint("any", &key, Some(0), now()).with_names(&[uri("spiffe://td")]);
    let made = change(Blueprint { subject: name, ..made });
    let signed = signed(parse(&made.sign(root.key())), &[&root]);
    let key = PublicKey::from_spki_der(&key.spki_der()).unwrap();
    let lifetime = Duration::from_secs(30 * 86_400);
    let asked = Asked { uri: "spiffe://td", key: &key, at: now(), lifetime };
    let got = authority(&signed, &asked, "Credence td", &[root.certificate().clone()], now());
    match (got, expected) {
        (Ok(chain), Ok(())) => assert!(chain.intermediates().is_empty(), "the root is left out"),
        (Err(refusal), Err(words)) => assert!(refusal.to_string().contains(words), "{refusal}"),
        (got, expected) => panic!("{got:?}, expected {expected:?}"),
    }
    // Below another root it is nothing.
    let other = TestAuthority::root("corp", now());
    assert!(authority(&signed, &asked, "Credence td", &[other.certificate().clone()], now()).is_err());
}

#[test]
fn an_authority_is_taken_that_may_sign_leaves_of_the_domain_and_nothing_else() {
    check_authority(|made| made, Ok(()));
    check_authority(|made| made.with_basic_constraints(true, Some(1)), Err("one with path length 1"));
    check_authority(|made| made.with_basic_constraints(true, None), Err("one with any path length"));
    check_authority(|made| made.with_basic_constraints(false, None), Err("a leaf"));
    check_authority(|made| made.with_key_usage(true, DIGITAL_SIGNATURE), Err("may not sign certificates"));
    check_authority(|made| made.with_names(&[]), Err("instead of \"spiffe://td\""));
    check_authority(|made| made.with_names(&[uri("spiffe://td"), dns("Credence td")]), Err("further names"));
    let empty = |made| Blueprint { subject: fixtures::der::sequence(&[]), ..made };
    check_authority(empty, Err("its subject is \"\""));
    let late = now() + Duration::from_secs(31 * 86_400);
    check_authority(|made| Blueprint { not_after: late, ..made }, Err("it lives until"));
}
