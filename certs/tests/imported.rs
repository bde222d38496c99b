//! Imported secrets: what is taken, and what is refused with which reason.

use std::time::Duration;

use credence_certs::{ImportError, Imported, MAX_IMPORTED_BYTES, Timestamp, certificates_to_pem};
use fixtures::{TestAuthority, TestKey, TestKeyKind};
use zeroize::Zeroizing;

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

struct World {
    root: TestAuthority,
    issuing: TestAuthority,
}

impl World {
    fn new() -> Self {
        let root = TestAuthority::root("td", now());
        let issuing = root.issuing("td", now());
        Self { root, issuing }
    }

    fn leaf(&self, kind: TestKeyKind) -> (Vec<u8>, TestKey) {
        let key = TestKey::generate(kind);
        let der = {
            let blueprint = self.issuing.leaf_blueprint("spiffe://td/web", &key, now());
            let copy = TestKey::from_pkcs8_der(kind, &key.pkcs8_der());
            TestAuthority::from_blueprint(blueprint, copy, Some(&self.issuing)).der().to_vec()
        };
        (der, key)
    }
}

fn pem(ders: &[&[u8]]) -> Vec<u8> {
    certificates_to_pem(ders.iter().copied()).into_bytes()
}

#[test]
fn takes_chains_with_keys_of_every_kind_that_envoy_takes() {
    let world = World::new();
    for kind in [TestKeyKind::P256, TestKeyKind::P384, TestKeyKind::Rsa2048] {
        let (leaf, key) = world.leaf(kind);
        for chain in [
            pem(&[&leaf]),
            pem(&[&leaf, world.issuing.der()]),
            pem(&[&leaf, world.issuing.der(), world.root.der()]),
        ] {
            let taken = Imported::tls(&chain, key.pkcs8_pem().as_bytes(), now()).unwrap();
            assert_eq!(taken.word(), "tls");
            assert!(taken.not_after().unwrap() > now());
            assert!(!format!("{taken:?}").contains(&hex::encode(key.pkcs8_der())));
        }
    }
}

#[test]
fn refuses_what_does_not_parse_match_or_chain() {
    let world = World::new();
    let (leaf, key) = world.leaf(TestKeyKind::P256);
    let (_, other) = world.leaf(TestKeyKind::P256);
    let stranger = World::new();
    let key = key.pkcs8_pem();
    let check = |chain: &[u8], key: &str, at: Timestamp, expected: &str| {
        let error = Imported::tls(chain, key.as_bytes(), at).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(!error.hint().is_empty());
    };
    let good = pem(&[&leaf, world.issuing.der()]);
    check(b"", &key, now(), "no certificate in the PEM text");
    check(&good[..200], &key, now(), "certificate");
    check(&pem(&[b"junk"]), &key, now(), "certificate 0 of the chain");
    check(&good, "", now(), "no private key");
    check(&good, &(key.clone() + &key), now(), "2 private keys");
    check(&good, &key.replace("PRIVATE", "ENCRYPTED PRIVATE"), now(), "is encrypted");
    check(&good, &other.pkcs8_pem(), now(), "does not belong to the first certificate");
    check(&pem(&[world.issuing.der(), &leaf]), &key, now(), "does not belong to the first certificate");
    check(&pem(&[&leaf, world.root.der()]), &key, now(), "the names differ");
    check(&pem(&[&leaf, stranger.issuing.der()]), &key, now(), "the signature is not its");
    check(&good, &key, now() + Duration::from_secs(400 * 86_400), "has expired");
    for kind in [TestKeyKind::Ed25519, TestKeyKind::P521] {
        let (leaf, key) = world.leaf(kind);
        check(&pem(&[&leaf]), &key.pkcs8_pem(), now(), "neither P-256, P-384 nor RSA");
    }
    check(&vec![b'x'; MAX_IMPORTED_BYTES], &key, now(), "at most 65536 are taken");
}

#[test]
fn takes_any_bytes_within_the_bound() {
    let taken = Imported::generic(Zeroizing::new(b"hunter2hunter2".to_vec())).unwrap();
    assert_eq!((taken.word(), taken.not_after()), ("generic", None));
    assert!(!format!("{taken:?}").contains("hunter"), "{taken:?}");
    assert_eq!(Imported::generic(Zeroizing::new(Vec::new())).unwrap_err(), ImportError::Empty);
    let large = Zeroizing::new(vec![0; MAX_IMPORTED_BYTES + 1]);
    assert_eq!(Imported::generic(large).unwrap_err(), ImportError::TooLarge(MAX_IMPORTED_BYTES + 1));
}
