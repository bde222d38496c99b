use certs::{KeyKind, Profile, Serial, SoftwareSigner, SpkiHash, Template, Timestamp, Usage, Validity, sign};
use spiffe::{TrustBundle, TrustDomain, verify_svid};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

/// Two roots, an issuing authority that both have signed, and a server certificate of it.
struct World {
    domain: TrustDomain,
    roots: [Certificate; 2],
    chain: Chain,
    key: SecretKey,
    anchor: Anchor,
}

fn template(profile: Profile, key: &SecretKey, uri: String, name: Option<&str>) -> Template {
    Template {
        profile,
        serial: Serial::random(),
        validity: Validity::starting(NOW, profile.default_lifetime(), None),
        public_key: key.public().clone(),
        subject: name.map(|name| ("Credence".into(), name.into())),
        uri,
        dns_names: vec![],
        ip_addresses: vec![],
    }
}

fn world() -> World {
    let domain = TrustDomain::parse("td").unwrap();
    let make = |name: &str| {
        let key = SecretKey::generate(Profile::Root.key_kind());
        let signer = SoftwareSigner::try_new(&key).unwrap();
        let root = sign(&template(Profile::Root, &key, domain.to_uri(), Some(name)), None, &signer).unwrap();
        (root, signer)
    };
    let ((old, old_signer), (new, new_signer)) = (make("root 1"), make("root 2"));
    let issuing_key = SecretKey::generate(Profile::Issuing.key_kind());
    let issuing_template = template(Profile::Issuing, &issuing_key, domain.to_uri(), Some("issuing 2"));
    let issuing = sign(&issuing_template, Some(&new), &new_signer).unwrap();
    let cross = Template { serial: Serial::random(), ..issuing_template };
    let cross = sign(&cross, Some(&old), &old_signer).unwrap();
    let key = SecretKey::generate(KeyKind::P256);
    let signer = SoftwareSigner::try_new(&issuing_key).unwrap();
    let leaf = template(Profile::Server, &key, domain.server_id().to_string(), None);
    let leaf = Template { dns_names: vec!["localhost".into()], ..leaf };
    let leaf = sign(&leaf, Some(&issuing), &signer).unwrap();
    let id = |of: &Certificate| Some(AuthorityId::of(of.spki_hash()));
    let anchor = Anchor {
        issuing: id(&issuing),
        root: id(&new),
        since: Some(NOW),
        previous: id(&old),
        cross: Some(cross),
    };
    World { chain: Chain::new(leaf, vec![issuing]), domain, roots: [old, new], key, anchor }
}

impl World {
    fn trust(&self, roots: &[usize]) -> Trust {
        let roots = roots.iter().map(|index| self.roots[*index].clone()).collect();
        Trust::new(TrustBundle::new(self.domain.clone(), roots, 0))
    }

    fn install(&self, own: &OwnCertificate, roots: &[usize], anchor: &Anchor) {
        own.install(&self.chain, &self.key, &self.trust(roots), anchor).unwrap();
    }

    /// Whether who trusts one root alone believes what is offered.
    fn is_believed(&self, offer: &Offer, root: usize) -> bool {
        let chain = Chain::from_ders(offer.key.cert.iter().map(AsRef::as_ref)).unwrap();
        verify_svid(&chain, &self.trust(&[root]), NOW, Usage::Server).is_ok()
    }

    fn id(&self, root: usize) -> Option<AuthorityId> {
        Some(AuthorityId::of(self.roots[root].spki_hash()))
    }
}

#[test]
fn each_root_believes_what_is_shown_for_it_and_nodes_prove_which() {
    let world = world();
    let own = OwnCertificate::default();
    assert!(own.offer(Admits::Nodes, Shown::Active).is_none());
    world.install(&own, &[0, 1], &world.anchor);
    assert_eq!(*own.showing().borrow(), world.id(1));
    let check = |admits, shown, old: bool, new: bool, root| {
        let offer = own.offer(admits, shown).unwrap();
        assert_eq!((world.is_believed(&offer, 0), world.is_believed(&offer, 1)), (old, new), "{offer:?}");
        assert_eq!(offer.root, root, "{offer:?}");
        assert_eq!(offer.has_way_back, admits != Admits::Strangers);
    };
    check(Admits::Nodes, Shown::Active, false, true, world.id(1));
    check(Admits::Nodes, Shown::Cross, true, false, world.id(0));
    check(Admits::Operators, Shown::Active, true, true, None);
    check(Admits::Operators, Shown::Cross, true, true, None);
    check(Admits::Strangers, Shown::Active, true, true, None);
    check(Admits::Strangers, Shown::Cross, true, true, None);
    // Whoever has a pin finds its root among what strangers are shown.
    let offer = own.offer(Admits::Strangers, Shown::Active).unwrap();
    let chain = Chain::from_ders(offer.key.cert.iter().map(AsRef::as_ref)).unwrap();
    let keys: Vec<SpkiHash> = chain.certificates().map(Certificate::spki_hash).collect();
    assert!(world.roots.iter().all(|root| keys.contains(&root.spki_hash())));
}

#[test]
fn there_is_no_way_back_once_the_old_root_is_gone_or_to_another_authority() {
    let world = world();
    let own = OwnCertificate::default();
    let only_new = |own: &OwnCertificate| {
        let offer = own.offer(Admits::Nodes, Shown::Cross).unwrap();
        assert_eq!((offer.shown, offer.root, offer.has_way_back), (Shown::Active, world.id(1), false));
        assert!(world.is_believed(&offer, 1) && !world.is_believed(&offer, 0));
        assert_eq!(own.offer(Admits::Strangers, Shown::Active).unwrap().key.cert.len(), 3);
    };
    // Its root is no longer in the bundle although the certificate is still there.
    world.install(&own, &[1], &world.anchor);
    only_new(&own);
    // None was made.
    world.install(&own, &[0, 1], &Anchor { cross: None, ..world.anchor.clone() });
    only_new(&own);
    // It is another authority's: our certificate is about to follow.
    let other = self::world().anchor.cross;
    world.install(&own, &[0, 1], &Anchor { cross: other, ..world.anchor.clone() });
    only_new(&own);
}
