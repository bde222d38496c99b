//! An issuing authority that somebody else signed: what is taken, and what each flaw is refused for.

use std::time::Duration;

use credence_certs::{
    Brought, Certificate, Ladder, MAX_INTERMEDIATES, SpkiHash, Timestamp, Verdict, Wanted, explain_brought,
    explain_unreadable,
};
use fixtures::{Blueprint, KEY_CERT_SIGN, TestAuthority, TestKey, TestKeyKind, der, oid, uri};

const DOMAIN: &str = "spiffe://prod.example";
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    Timestamp::from_unix_millis(1_790_000_000_250)
}

/// An enterprise: its root, on P-384 and with room below it.
fn root(path_length: Option<u8>) -> TestAuthority {
    let key = TestKey::generate(TestKeyKind::P384);
    let name = der::name("Example Corp", "Corp Root");
    TestAuthority::from_blueprint(
        Blueprint::authority(&name, &key, &name, None, path_length, now()),
        key,
        None,
    )
}

fn below(above: &TestAuthority, name: &str, path_length: Option<u8>) -> TestAuthority {
    let key = TestKey::generate(TestKeyKind::P256);
    let made = above.authority_blueprint(name, &key, path_length, now());
    TestAuthority::from_blueprint(made, key, Some(above))
}

/// The issuing authority as it was asked for, under `above`, and changed.
fn issuing(above: &TestAuthority, change: impl FnOnce(Blueprint) -> Blueprint) -> TestAuthority {
    let key = TestKey::generate(TestKeyKind::P256);
    let made = above.authority_blueprint("issuing", &key, Some(0), now()).with_names(&[uri(DOMAIN)]);
    TestAuthority::from_blueprint(change(made), key, Some(above))
}

fn wanted<'a>(issuing: &TestAuthority) -> Wanted<'a> {
    Wanted {
        now: now(),
        key: issuing.certificate().spki_hash(),
        leaf_life: DAY,
        domain: DOMAIN,
        root: None,
        taken: &[],
        tainted: &[],
    }
}

fn rules(ladder: &Ladder) -> Vec<&str> {
    ladder.failures().map(|rung| rung.rule).collect()
}

#[test]
fn takes_what_a_new_root_or_the_active_one_signed() {
    let root = root(None);
    let signed = issuing(&root, |made| made);
    let (ladder, brought) = explain_brought(&[signed.der(), root.der()], &wanted(&signed));
    assert!(ladder.is_passed(), "{:#?}", ladder.failures().collect::<Vec<_>>());
    let certificate = |authority: &TestAuthority| authority.certificate().clone();
    let expected =
        Brought { issuing: certificate(&signed), intermediates: Vec::new(), root: certificate(&root) };
    assert_eq!(brought, Some(expected.clone()));
    // The root that signs now need not be in the file, and may be.
    let known = Wanted { root: Some(root.certificate()), ..wanted(&signed) };
    assert_eq!(explain_brought(&[signed.der()], &known).1, Some(expected.clone()));
    assert_eq!(explain_brought(&[signed.der(), root.der()], &known).1, Some(expected));
    // As many as may stand between, in any order behind the first.
    let mut above = vec![root];
    for index in 0..MAX_INTERMEDIATES {
        above.push(below(above.last().unwrap(), &format!("between {index}"), None));
    }
    let signed = issuing(above.last().unwrap(), |made| made);
    let mut ders = vec![signed.der()];
    ders.extend(above.iter().map(TestAuthority::der));
    let (ladder, brought) = explain_brought(&ders, &wanted(&signed));
    assert!(ladder.is_passed(), "{:#?}", ladder.failures().collect::<Vec<_>>());
    let between: Vec<Certificate> = above[1..].iter().rev().map(certificate).collect();
    assert_eq!(brought.map(|brought| brought.intermediates), Some(between));
}

#[test]
fn each_flaw_is_refused_by_its_own_rule() {
    let root = root(Some(1));
    let check = |signed: &TestAuthority, expected: &[&str]| {
        let (ladder, brought) = explain_brought(&[signed.der(), root.der()], &wanted(signed));
        assert_eq!(rules(&ladder), expected);
        assert_eq!(brought, None);
        assert_eq!(ladder.rungs.iter().filter(|rung| rung.rule == "parse").count(), 1);
    };
    let changed = |change: &dyn Fn(Blueprint) -> Blueprint| issuing(&root, change);
    check(&changed(&|made| made.with_basic_constraints(true, None)), &["issuing-constraints"]);
    check(&changed(&|made| made.with_basic_constraints(true, Some(1))), &["issuing-constraints"]);
    check(
        &changed(&|made| made.critical(oid::BASIC_CONSTRAINTS, false)),
        &["uncritical-extension", "issuing-constraints"],
    );
    check(
        &changed(&|made| made.with_basic_constraints(false, None)),
        &["not-authority", "issuing-constraints"],
    );
    check(&changed(&|made| made.with_key_usage(true, KEY_CERT_SIGN)), &["issuing-usage"]);
    check(&changed(&|made| made.critical(oid::KEY_USAGE, false)), &["issuing-usage"]);
    check(&changed(&|made| made.without(oid::KEY_USAGE)), &["issuing-usage"]);
    check(&changed(&|made| made.with_purposes(&[oid::SERVER_AUTH])), &["authority-purposes"]);
    check(&changed(&|made| made.with_names(&[uri("spiffe://other.example")])), &["authority-domain"]);
    let constraints = {
        let host = der::element(0x86, b"prod.example");
        der::sequence(&[&der::element(0xa0, &der::sequence(&[&host]))])
    };
    check(
        &changed(&|made| made.with(oid::NAME_CONSTRAINTS, true, constraints.clone())),
        &["authority-constraints"],
    );
    check(&changed(&|made| Blueprint { not_after: now() + 5 * DAY, ..made }), &["life-left"]);
    check(
        &changed(&|made| Blueprint { not_after: now() - DAY, not_before: now() - 2 * DAY, ..made }),
        &["expired", "life-left"],
    );
    check(&changed(&|made| Blueprint { not_after: now() + 31 * DAY, ..made }), &["ends-with-issuer"]);
    check(&changed(&|made| made.without(oid::SUBJECT_KEY_ID)), &["missing-extension"]);
    // Another certificate of the same key is meant: by its key id, or by its serial number alone.
    let meaning = |parts: &[&[u8]]| {
        let means = der::sequence(parts);
        changed(&|made| made.without(oid::AUTHORITY_KEY_ID).with(oid::AUTHORITY_KEY_ID, false, means.clone()))
    };
    check(&meaning(&[&der::element(0x80, &[7; 20])]), &["issuer-key-id"]);
    let right = root.certificate().subject_key_id().unwrap().to_vec();
    check(&meaning(&[&der::element(0x80, &right), &der::element(0x82, &[1, 2, 3])]), &["issuer-key-id"]);
    let serial = root.certificate().serial().as_bytes();
    let meant = meaning(&[&der::element(0x80, &right), &der::element(0x82, serial)]);
    assert!(explain_brought(&[meant.der(), root.der()], &wanted(&meant)).0.is_passed());
    // A name that leaves cannot repeat: two attributes side by side.
    let twofold = {
        let attribute = |kind: u8, value: &[u8]| {
            der::sequence(&[&der::object_id(&[0x55, 0x04, kind]), &der::element(0x0c, value)])
        };
        der::sequence(&[&der::set(&[&attribute(3, b"issuing"), &attribute(10, b"Corp")])])
    };
    check(&changed(&|made| Blueprint { subject: twofold.clone(), ..made }), &["trial-leaf"]);
    // The request of somebody else, or an earlier one.
    let (theirs, ours) = (changed(&|made| made), changed(&|made| made));
    let (ladder, _) = explain_brought(&[theirs.der(), root.der()], &wanted(&ours));
    assert_eq!(rules(&ladder), ["key-match"]);
}

#[test]
fn refuses_a_path_that_does_not_hold_and_certificates_that_nobody_needs() {
    let (corp, other) = (root(Some(1)), root(Some(1)));
    let signed = issuing(&corp, |made| made);
    let check = |ders: &[&[u8]], wanted: &Wanted<'_>, expected: &[&str]| {
        let (ladder, brought) = explain_brought(ders, wanted);
        assert_eq!(rules(&ladder), expected);
        assert_eq!(brought, None);
    };
    let plain = wanted(&signed);
    // Nobody to trust, and somebody else of the same name.
    check(&[signed.der()], &plain, &["no-anchor"]);
    let elsewhere = TestAuthority::root("prod.example", now());
    let known = Wanted { root: Some(elsewhere.certificate()), ..plain };
    check(&[signed.der()], &known, &["unknown-issuer"]);
    check(&[signed.der(), other.der()], &plain, &["bad-signature"]);
    check(&[signed.der(), corp.der(), elsewhere.der()], &plain, &["nothing-else"]);
    check(&[signed.der(), corp.der(), corp.der()], &plain, &["nothing-else"]);
    let order = explain_brought(&[corp.der(), signed.der()], &plain).0;
    assert!(rules(&order).contains(&"key-match"), "{:?}", rules(&order));
    // The root allows one below it, and there are two.
    let between = below(&corp, "between", Some(0));
    let deep = issuing(&between, |made| made);
    check(&[deep.der(), between.der(), corp.der()], &wanted(&deep), &["path-length"]);
    let mut above = vec![root(None)];
    for index in 0..=MAX_INTERMEDIATES {
        above.push(below(above.last().unwrap(), &format!("between {index}"), None));
    }
    let deep = issuing(above.last().unwrap(), |made| made);
    let mut ders = vec![deep.der()];
    ders.extend(above.iter().map(TestAuthority::der));
    check(&ders, &wanted(&deep), &["too-deep"]);
    check(&[signed.der(), b"junk", corp.der()], &plain, &["parse"]);
    check(&[], &plain, &["parse"]);
    check(
        &[signed.der(); 9],
        &Wanted { root: Some(corp.certificate()), ..plain },
        &["chain-bounds", "nothing-else"],
    );
}

#[test]
fn a_root_that_is_taken_tainted_or_made_again_is_refused() {
    let corp = root(None);
    let signed = issuing(&corp, |made| made);
    let key = corp.certificate().spki_hash();
    let check = |wanted: &Wanted<'_>, rule: &str, words: &str| {
        let (ladder, brought) = explain_brought(&[signed.der(), corp.der()], wanted);
        assert_eq!(rules(&ladder), [rule]);
        assert!(ladder.first_failure().unwrap().found.contains(words), "{:?}", ladder.first_failure());
        assert_eq!(brought, None);
    };
    let taken = [(key, "is prepared already")];
    check(&Wanted { taken: &taken, ..wanted(&signed) }, "root-key", "is prepared already");
    let tainted: [SpkiHash; 1] = [key];
    check(&Wanted { tainted: &tainted, ..wanted(&signed) }, "tainted-key", "");
    // The same key in another certificate.
    let name = corp.name().to_vec();
    let again = Blueprint::authority(&name, corp.key(), &name, None, None, now() - DAY).sign(corp.key());
    let again = Certificate::from_der(&again).unwrap();
    let known = Wanted { root: Some(&again), ..wanted(&signed) };
    let (ladder, _) = explain_brought(&[signed.der(), corp.der()], &known);
    assert!(!ladder.is_passed());
}

#[test]
fn garbage_has_a_ladder_too() {
    let ladder = explain_unreadable("neither PEM nor a DER certificate");
    assert_eq!(rules(&ladder), ["parse"]);
    let skipped = ladder.rungs.iter().filter(|rung| rung.verdict == Verdict::Skipped).count();
    assert_eq!(skipped + 1, ladder.rungs.len());
}

#[test]
fn version_that_has_no_extensions_is_refused_for_that_alone() {
    let root = root(Some(1));
    let signed = issuing(&root, |made| Blueprint { version: 1, extensions: Vec::new(), ..made });
    let (ladder, brought) = explain_brought(&[signed.der(), root.der()], &wanted(&signed));
    assert_eq!((rules(&ladder), brought), (vec!["version"], None));
    // Nothing says that it is an authority, and no rung says that it is.
    for rule in ["not-authority", "no-cert-sign", "issuing-constraints", "issuing-usage"] {
        let rung = ladder.rungs.iter().find(|rung| rung.rule == rule).unwrap();
        assert_eq!(rung.verdict, Verdict::Skipped, "{rule}: {}", rung.found);
    }
}
