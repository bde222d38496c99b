//! Revocation lists are an opt-in; once there is one, every certificate below the anchor needs a fresh one.

use std::time::Duration;

use credence_certs::{
    Certificate, Crl, CrlError, CrlTemplate, IssueError, KeyKind, Profile, Revocation, RevocationReason,
    SecretKey, Serial, SoftwareSigner, Template, Timestamp, Usage, Validity, VerifyError, VerifyOptions,
    crls_to_pem, sign, sign_crl, verify_chain,
};
use fixtures::{Credential, CrlBlueprint, TestAuthority, TestKey, TestKeyKind, World};

const WEB: &str = "spiffe://prod.example/web";
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_790_000_000)
}

/// A fresh list of nothing.
fn empty() -> CrlBlueprint {
    CrlBlueprint {
        revoked: vec![],
        this_update: now() - DAY,
        next_update: now() + DAY,
        number: Some((1, false)),
    }
}

fn revoking(serial: &Serial) -> CrlBlueprint {
    CrlBlueprint { revoked: vec![serial.as_bytes().to_vec()], ..empty() }
}

fn verify(world: &World, credential: &Credential, lists: &[Vec<u8>]) -> Result<(), VerifyError> {
    let crls: Vec<Crl> = lists.iter().map(|der| Crl::from_der(der).expect("a list that parses")).collect();
    let options = VerifyOptions { crls: &crls, ..VerifyOptions::new(now(), Usage::Server) };
    verify_chain(&credential.chain().expect("a good chain"), &world.anchors(), &options).map(drop)
}

#[test]
fn the_whole_path_needs_fresh_lists_that_do_not_name_it() {
    let world = World::new("prod.example", now());
    let (root, issuing) = (world.root(), world.issuing());
    let good = world.leaf(WEB);
    let leaf = good.chain().expect("a good chain").leaf().clone();
    let revoked = VerifyError::Revoked { serial: leaf.serial().clone() };
    let (above, below) = (empty().sign(root), empty().sign(issuing));
    let stale = CrlBlueprint { next_update: now() - Duration::from_secs(1), ..empty() };
    let check = |lists: &[Vec<u8>], expected: Result<(), VerifyError>| {
        assert_eq!(verify(&world, &good, lists), expected);
    };
    check(&[], Ok(()));
    check(&[above.clone(), below.clone()], Ok(()));
    check(std::slice::from_ref(&above), Err(VerifyError::RevocationUnknown));
    check(std::slice::from_ref(&below), Err(VerifyError::RevocationUnknown));
    check(&[above.clone(), revoking(leaf.serial()).sign(issuing)], Err(revoked.clone()));
    check(&[revoking(issuing.certificate().serial()).sign(root), below], Err(revoked));
    // The same number under another issuer is another certificate.
    check(&[revoking(leaf.serial()).sign(root), empty().sign(issuing)], Ok(()));
    check(&[above, stale.sign(issuing)], Err(VerifyError::CrlExpired));
}

#[test]
fn lists_come_from_authorities_that_may_sign_them() {
    let world = World::new("prod.example", now());
    let good = world.leaf(WEB);
    // The right name, another key.
    let impostor = World::new("prod.example", now());
    let lists = [empty().sign(world.root()), empty().sign(impostor.issuing())];
    assert_eq!(verify(&world, &good, &lists), Err(VerifyError::CrlIssuer));

    // An authority without cRLSign.
    let key = TestKey::generate(TestKeyKind::P256);
    let blueprint =
        world.root().authority_blueprint("no lists", &key, Some(0), now()).with_key_usage(true, 0x04);
    let authority = TestAuthority::from_blueprint(blueprint, key, Some(world.root()));
    let made = world.leaf_below(WEB, &[&authority]);
    let lists = [empty().sign(world.root()), empty().sign(&authority)];
    assert_eq!(verify(&world, &made, &[]), Ok(()));
    assert_eq!(verify(&world, &made, &lists), Err(VerifyError::CrlIssuer));
}

#[test]
fn lists_have_a_number_that_is_not_critical() {
    let world = World::new("prod.example", now());
    let read = |number| Crl::from_der(&CrlBlueprint { number, ..empty() }.sign(world.root())).map(drop);
    assert_eq!(read(Some((1, false))), Ok(()));
    assert_eq!(read(None), Err(CrlError::NoNumber));
    assert_eq!(read(Some((1, true))), Err(CrlError::CriticalNumber));
}

/// An authority of our own make, with its key.
fn authority(name: &str) -> (Certificate, SoftwareSigner) {
    let key = SecretKey::generate(KeyKind::P256);
    let template = Template {
        profile: Profile::Root,
        serial: Serial::random(),
        validity: Validity::starting(now(), 30 * DAY, None),
        public_key: key.public().clone(),
        subject: Some(("Credence".into(), name.into())),
        uri: "spiffe://prod.example".into(),
        dns_names: vec![],
        ip_addresses: vec![],
    };
    let signer = SoftwareSigner::try_new(&key).expect("a generated key signs");
    (sign(&template, None, &signer).expect("a root signs itself"), signer)
}

#[test]
fn a_list_that_we_make_says_what_its_template_says() {
    let (issuer, signer) = authority("one");
    let (revoked, other) = (Serial::random(), Serial::random());
    let reasons =
        RevocationReason::ALL.map(|reason| Revocation { serial: Serial::random(), at: now(), reason });
    let one =
        Revocation { serial: revoked.clone(), at: now() - DAY, reason: RevocationReason::KeyCompromise };
    let template = CrlTemplate {
        number: 7,
        this_update: now() - Duration::from_secs(60),
        next_update: now() + 7 * DAY,
        revoked: reasons.iter().cloned().chain([one]).collect(),
    };
    let list = sign_crl(&template, &issuer, &signer).expect("a list");
    assert!(list.revokes(&revoked) && reasons.iter().all(|one| list.revokes(&one.serial)));
    assert!(!list.revokes(&other));
    assert_eq!((list.this_update(), list.next_update()), (template.this_update, template.next_update));
    assert!(list.is_of(&issuer));
    assert_eq!(Crl::from_der(list.der()).expect("it reads back"), list);
    let empty = CrlTemplate { number: 8, revoked: vec![], ..template };
    let empty = sign_crl(&empty, &issuer, &signer).expect("a list of nothing");
    assert!(!empty.revokes(&revoked));
    let pem = crls_to_pem([&list, &empty]);
    assert_eq!(pem.matches("-----BEGIN X509 CRL-----\n").count(), 2);

    // Another key signs nothing in its name, and a list of another is not its own.
    let (another, other_signer) = authority("one");
    assert!(matches!(sign_crl(&template, &issuer, &other_signer), Err(IssueError::Issuer(_))));
    assert!(!list.is_of(&another), "the same name, another key");
    let (third, _) = authority("two");
    assert!(!list.is_of(&third));
}
