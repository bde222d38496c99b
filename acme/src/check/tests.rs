use certs::{SubjectAltName, certificates_to_pem};
use fixtures::{
    Blueprint, DIGITAL_SIGNATURE, KEY_CERT_SIGN, TestAuthority, TestKey, TestKeyKind, dns, oid, uri,
};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

struct World {
    root: TestAuthority,
    issuing: TestAuthority,
    key: TestKey,
    names: Names,
    public: PublicKey,
}

impl World {
    fn new() -> Self {
        let root = TestAuthority::root("acme", NOW);
        let issuing = root.issuing("acme", NOW);
        let key = TestKey::generate(TestKeyKind::P256);
        let public = PublicKey::from_spki_der(&key.spki_der()).unwrap();
        let names = ["a.example", "b.example"].map(|name| Identifier::parse(name).unwrap());
        Self { root, issuing, key, names: Names::try_new(names.to_vec()).unwrap(), public }
    }

    fn leaf(&self) -> Blueprint {
        let made = self.issuing.leaf_blueprint("urn:x", &self.key, NOW);
        made.with_names(&[dns("b.example"), dns("a.example")]).with_purposes(&[oid::SERVER_AUTH])
    }

    fn check(&self, ders: &[&[u8]], anchors: &[Certificate]) -> Result<Chain, Refusal> {
        let asked = Asked { names: &self.names, key: &self.public, anchors };
        issued(certificates_to_pem(ders.iter().copied()).as_bytes(), &asked, NOW)
    }

    fn refused(&self, change: impl FnOnce(Blueprint) -> Blueprint) -> Refusal {
        let leaf = change(self.leaf()).sign(self.issuing.key());
        self.check(&[&leaf, self.issuing.der()], &[]).unwrap_err()
    }
}

#[test]
fn what_was_asked_for_is_taken_without_its_root() {
    let world = World::new();
    let leaf = world.leaf().sign(world.issuing.key());
    let root = [world.root.certificate().clone()];
    for anchors in [&[][..], &root] {
        let chain = world.check(&[&leaf, world.issuing.der(), world.root.der()], anchors).unwrap();
        assert_eq!(chain.intermediates(), [world.issuing.certificate().clone()]);
        assert_eq!(world.check(&[&leaf, world.issuing.der()], anchors), Ok(chain));
    }
    // A purpose too many does no harm.
    let both = world.leaf().with_purposes(&[oid::SERVER_AUTH, oid::CLIENT_AUTH]).sign(world.issuing.key());
    assert!(world.check(&[&both, world.issuing.der()], &root).is_ok());
}

#[test]
fn what_was_not_asked_for_is_refused_by_the_rule_that_it_breaks() {
    let world = World::new();
    let other = TestKey::generate(TestKeyKind::P256);
    assert_eq!(world.refused(|leaf| Blueprint { spki: other.spki_der(), ..leaf }), Refusal::Key);
    for names in [
        &[dns("a.example")][..],
        &[dns("a.example"), dns("b.example"), dns("c.example")],
        &[dns("a.example"), dns("b.example"), uri("urn:x")],
        &[dns("a.example"), dns("*.example")],
        &[],
    ] {
        let refused = world.refused(|leaf| leaf.with_names(names));
        assert!(matches!(refused, Refusal::Names { .. }), "{names:?}: {refused}");
    }
    for purposes in [&[oid::CLIENT_AUTH][..], &[], &[oid::SERVER_AUTH, oid::ANY_USAGE]] {
        assert_eq!(world.refused(|leaf| leaf.with_purposes(purposes)), Refusal::Purpose);
    }
    assert_eq!(world.refused(|leaf| leaf.with_key_usage(true, 0x40)), Refusal::Purpose);
    let both = DIGITAL_SIGNATURE | KEY_CERT_SIGN;
    assert_eq!(world.refused(|leaf| leaf.with_key_usage(true, both)), Refusal::Authority);
    assert_eq!(world.refused(|leaf| leaf.with_basic_constraints(true, None)), Refusal::Authority);
    let early = NOW + Duration::from_secs(301);
    let refused = world.refused(|leaf| Blueprint { not_before: early, ..leaf });
    assert!(matches!(refused, Refusal::Life { .. }), "{refused}");
    let refused = world.refused(|leaf| Blueprint { not_after: NOW, ..leaf });
    assert!(matches!(refused, Refusal::Life { .. }), "{refused}");
}

#[test]
fn a_chain_is_in_order_and_leads_to_the_anchors_if_there_are_any() {
    let world = World::new();
    let leaf = world.leaf().sign(world.issuing.key());
    let stranger = World::new();
    let (issuing, root) = (world.issuing.der(), world.root.der());
    let order = |ders: &[&[u8]], place: usize| match world.check(ders, &[]) {
        Err(Refusal::Order { index, .. }) => assert_eq!(index, place),
        other => panic!("{other:?}"),
    };
    order(&[&leaf, stranger.issuing.der()], 1);
    order(&[&leaf, &leaf], 1);
    order(&[&leaf, issuing, stranger.issuing.der()], 2);
    order(&[&leaf, issuing, &leaf, root], 2);
    // In order, but of nobody that is known here.
    let anchors = [stranger.root.certificate().clone()];
    let refused = world.check(&[&leaf, issuing], &anchors).unwrap_err();
    assert!(matches!(refused, Refusal::Anchor(_)) && refused.is_about_chain(), "{refused}");
    assert!(matches!(world.check(&[], &[]), Err(Refusal::Pem(_))));
    let many = [[leaf.as_slice()].as_slice(), &[issuing; 8]].concat();
    assert!(matches!(world.check(&many, &[]), Err(Refusal::Chain(ChainError::TooMany(9)))));
    let asked = Asked { names: &world.names, key: &world.public, anchors: &[] };
    let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(issued(garbage, &asked, NOW), Err(Refusal::Chain(_))));
    assert!(Identifier::of(&SubjectAltName::Other("x400Address")).is_none());
}

#[test]
fn a_certificate_above_that_has_ended_is_the_fault_of_the_chain_and_not_of_the_leaf() {
    let mut world = World::new();
    let key = TestKey::generate(TestKeyKind::P256);
    let subject = fixtures::der::name("Test", "ended");
    let ended = Blueprint::authority(&subject, &key, &subject, None, None, NOW);
    let ended = Blueprint { not_after: NOW, ..ended };
    world.issuing = TestAuthority::from_blueprint(ended, key, None);
    let leaf = world.leaf().sign(world.issuing.key());
    let refused = world.check(&[&leaf, world.issuing.der(), world.root.der()], &[]).unwrap_err();
    assert!(matches!(refused, Refusal::LifeAbove { index: 1, .. }) && refused.is_about_chain(), "{refused}");
}
