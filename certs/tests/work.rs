//! Whatever a stranger presents, verifying it takes a bounded number of signature checks.

use std::time::Duration;

use credence_certs::{
    Certificate, Chain, ChainError, MAX_SIGNATURE_CHECKS, Timestamp, Usage, VerifyError, VerifyOptions,
    verify_chain_counting,
};
use fixtures::{Blueprint, RawName, TestAuthority, TestKey, TestKeyKind, World, der, dns, oid, uri};

const WEB: &str = "spiffe://prod.example/web";

struct Run {
    result: Result<usize, VerifyError>,
    checks: u32,
}

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_790_000_000)
}

fn run(ders: &[Vec<u8>], anchors: &[Certificate]) -> Run {
    let chain = Chain::from_ders(ders.iter().map(Vec::as_slice)).expect("within the bounds");
    let (result, checks) = verify_chain_counting(&chain, anchors, &VerifyOptions::new(now(), Usage::Server));
    assert!(checks <= MAX_SIGNATURE_CHECKS, "{checks} checks");
    Run { result: result.map(|verified| verified.path().len()), checks }
}

fn key() -> TestKey {
    TestKey::generate(TestKeyKind::P256)
}

fn name(text: &str) -> Vec<u8> {
    der::name("Credence fixtures", text)
}

/// An authority's DER with these names and keys.
fn authority(subject: &str, key: &TestKey, issuer: &str, issuer_key: &TestKey) -> Vec<u8> {
    let spki = issuer_key.spki_der();
    Blueprint::authority(&name(subject), key, &name(issuer), Some(&spki), None, now()).sign(issuer_key)
}

fn root(subject: &str, key: TestKey) -> TestAuthority {
    let made = Blueprint::authority(&name(subject), &key, &name(subject), None, None, now());
    TestAuthority::from_blueprint(made, key, None)
}

fn leaf(issuer: &str, issuer_key: &TestKey) -> Vec<u8> {
    Blueprint::leaf(WEB, &key(), &name(issuer), &issuer_key.spki_der(), now()).sign(issuer_key)
}

#[test]
fn a_plain_chain_takes_two_checks() {
    let world = World::new("prod.example", now());
    let run = run(world.leaf(WEB).ders(), &world.anchors());
    assert_eq!((run.result, run.checks), (Ok(3), 2));
}

#[test]
fn the_right_one_of_thirty_anchors_of_one_name_is_found_by_its_key_id() {
    let keys: Vec<TestKey> = (0..30).map(|_| key()).collect();
    let issuing = key();
    let below = authority("issuing", &issuing, "root", &keys[29]);
    let ders = [leaf("issuing", &issuing), below];
    let anchors: Vec<Certificate> =
        keys.into_iter().map(|key| root("root", key).certificate().clone()).collect();
    let run = run(&ders, &anchors);
    assert_eq!((run.result, run.checks), (Ok(3), 2));
}

#[test]
fn many_anchors_of_one_name_end_at_the_bound() {
    let issuing = key();
    let ders: Vec<Vec<u8>> = std::iter::once(leaf("issuing", &issuing))
        .chain((0..7).map(|_| authority("issuing", &key(), "root", &key())))
        .collect();
    let anchors: Vec<Certificate> = (0..20).map(|_| root("root", key()).certificate().clone()).collect();
    let run = run(&ders, &anchors);
    assert_eq!(run.result, Err(VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS)));
    assert_eq!(run.checks, MAX_SIGNATURE_CHECKS);
}

#[test]
fn authorities_of_one_name_that_lead_nowhere_take_no_check() {
    let issuing = key();
    let ders: Vec<Vec<u8>> = std::iter::once(leaf("same", &issuing))
        .chain((0..7).map(|_| authority("same", &key(), "same", &key())))
        .collect();
    let run = run(&ders, &[root("root", key()).certificate().clone()]);
    assert!(matches!(run.result, Err(VerifyError::UnknownIssuer { .. })), "{:?}", run.result);
    assert_eq!(run.checks, 0);
}

#[test]
fn a_mesh_of_cross_signed_authorities_stays_within_the_bound() {
    // Every authority signs every other under one name, and the anchor has it too: all orders look possible.
    let keys: Vec<TestKey> = (0..7).map(|_| key()).collect();
    for step in 1..7 {
        let ders: Vec<Vec<u8>> = std::iter::once(leaf("same", &keys[0]))
            .chain((0..7).map(|index| authority("same", &keys[index], "same", &keys[(index + step) % 7])))
            .collect();
        let stranger = root("same", key()).certificate().clone();
        assert!(run(&ders, &[stranger]).result.is_err());
    }
}

#[test]
fn a_ladder_of_two_authorities_per_level_stays_within_the_bound() {
    let levels: Vec<[TestKey; 2]> = (0..4).map(|_| [key(), key()]).collect();
    let mut ders = vec![leaf("level 0", &levels[0][0])];
    for (height, pair) in levels.windows(2).enumerate() {
        let (subject, issuer) = (format!("level {height}"), format!("level {}", height + 1));
        for below in &pair[0] {
            ders.push(authority(&subject, below, &issuer, &pair[1][1]));
        }
    }
    // The top of the ladder is named like the anchor, whose key made none of it.
    let stranger = root("level 3", key()).certificate().clone();
    assert!(run(&ders, &[stranger]).result.is_err());
    let [_, good] = levels.into_iter().next_back().expect("four levels");
    let right = root("level 3", good).certificate().clone();
    assert_eq!(run(&ders, &[right]).result, Ok(5));
}

#[test]
fn paths_end_at_the_greatest_depth() {
    let check = |depth: usize, expected: Result<usize, VerifyError>| {
        let keys: Vec<TestKey> = (0..=depth).map(|_| key()).collect();
        let mut ders = vec![leaf("authority 0", &keys[0])];
        for index in 0..depth {
            let (subject, issuer) = (format!("authority {index}"), format!("authority {}", index + 1));
            ders.push(authority(&subject, &keys[index], &issuer, &keys[index + 1]));
        }
        let top = keys.into_iter().next_back().expect("at least one key");
        let anchor = root(&format!("authority {depth}"), top).certificate().clone();
        assert_eq!(run(&ders, &[anchor]).result, expected, "{depth}");
    };
    check(1, Ok(3));
    check(4, Ok(6));
    check(5, Err(VerifyError::TooDeep(4)));
    check(6, Err(VerifyError::TooDeep(4)));
}

#[test]
fn names_times_constraints_are_bounded_before_any_check() {
    let (top, issuing) = (key(), key());
    let bases: Vec<Vec<u8>> = (0..300)
        .map(|index| der::sequence(&[&der::element(0x82, format!("c{index}.example").as_bytes())]))
        .collect();
    let constraints = der::sequence(&[&der::element(0xa1, &bases.concat())]);
    let spki = top.spki_der();
    let below = Blueprint::authority(&name("issuing"), &issuing, &name("root"), Some(&spki), Some(0), now())
        .with(oid::NAME_CONSTRAINTS, true, constraints)
        .sign(&top);
    let names: Vec<RawName> =
        std::iter::once(uri(WEB)).chain((0..300).map(|index| dns(&format!("n{index}.test")))).collect();
    let leaf = Blueprint::leaf(WEB, &key(), &name("issuing"), &issuing.spki_der(), now());
    let leaf = leaf.with_names(&names).sign(&issuing);
    let run = run(&[leaf, below], &[root("root", top).certificate().clone()]);
    assert_eq!(run.result, Err(VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS)));
    assert_eq!(run.checks, 0);
}

#[test]
fn bounds_hold_however_a_chain_is_put_together() {
    let world = World::new("prod.example", now());
    let made = world.leaf(WEB);
    let read = |der: &Vec<u8>| Certificate::from_der(der).expect("a good certificate");
    let many = Chain::new(read(&made.ders()[0]), vec![read(&made.ders()[1]); 8]);
    let (result, checks) =
        verify_chain_counting(&many, &world.anchors(), &VerifyOptions::new(now(), Usage::Server));
    assert_eq!(result, Err(VerifyError::Chain(ChainError::TooMany(9))));
    assert_eq!(checks, 0);
}

#[test]
fn an_expired_twin_of_an_authority_does_not_hide_the_valid_one() {
    let world = World::new("prod.example", now());
    let issuing = world.issuing();
    let spki = world.root().key().spki_der();
    let mut old = Blueprint::authority(
        issuing.name(),
        issuing.key(),
        world.root().name(),
        Some(&spki),
        Some(0),
        now() - Duration::from_secs(90 * 86_400),
    );
    old.not_after = now() - Duration::from_secs(1);
    let good = world.leaf(WEB);
    let ders = [good.ders()[0].clone(), old.sign(world.root().key()), good.ders()[1].clone()];
    assert_eq!(run(&ders, &world.anchors()).result, Ok(3));
}
