use std::time::Duration;

use fixtures::{Negative, Oddity, Random, World};

use super::*;
use crate::{KeyKind, Profile, SecretKey, Signer, SoftwareSigner, Template, Validity, sign};

/// Who signs, and how its leaves look.
struct Authority {
    certificate: Certificate,
    form: Form,
}

impl Authority {
    fn of(certificate: Certificate) -> Option<Self> {
        let kind = PublicKey::from_spki_der(certificate.spki_der()).ok()?.kind();
        let form = Form::of(&certificate, kind).ok()?;
        Some(Self { certificate, form })
    }

    /// Holds both readers against each other; says whether ours has read it.
    fn agrees(&self, octets: &[u8], key: &PublicKey) -> bool {
        let parts = Anatomy::of(octets).ok();
        let Some(own) = parts.and_then(|parts| facts(&parts, &self.form, &self.certificate, key)) else {
            return false;
        };
        let general = Certificate::from_der(octets)
            .unwrap_or_else(|error| panic!("only ours reads {}: {error}", hex::encode(octets)));
        assert_eq!(own, *general.facts, "{}", hex::encode(octets));
        true
    }
}

fn template(profile: Profile, key: &PublicKey) -> Template {
    let now = Timestamp::from_unix_secs(1_800_000_000);
    let is_authority = profile.is_authority();
    Template {
        profile,
        serial: Serial::random(),
        validity: Validity::starting(now, Duration::from_secs(36_000), None),
        public_key: key.clone(),
        subject: is_authority.then(|| ("Credence".into(), "td \u{e4}, root".into())),
        uri: if is_authority { "spiffe://td".into() } else { "spiffe://td/ns/shop/web".into() },
        dns_names: vec![],
        ip_addresses: vec![],
    }
}

fn authority(kind: KeyKind) -> (Authority, SoftwareSigner) {
    let key = SecretKey::generate(kind);
    let signer = SoftwareSigner::try_new(&key).unwrap();
    let root = sign(&template(Profile::Root, key.public()), None, &signer).unwrap();
    (Authority::of(root).unwrap(), signer)
}

fn leaves(authority: &Authority, signer: &SoftwareSigner) -> Vec<(Vec<u8>, PublicKey)> {
    let mut leaves = Vec::new();
    let mut make = |change: &dyn Fn(&mut Template)| {
        for profile in [Profile::Node, Profile::Workload, Profile::Server, Profile::Operator] {
            for kind in [KeyKind::P256, KeyKind::P384] {
                let key = SecretKey::generate(kind);
                let mut template = template(profile, key.public());
                change(&mut template);
                let signed = authority.form.to_be_signed(&template).unwrap();
                let signature = signer.sign(&signed).unwrap();
                leaves.push((authority.form.certificate(&signed, &signature), key.public().clone()));
            }
        }
    };
    make(&|_| {});
    make(&|template| template.uri = format!("spiffe://td/{}", "a".repeat(2000)));
    make(&|template| {
        template.dns_names = vec!["localhost".into(), "*.shop.example".into()];
        template.ip_addresses = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    });
    make(&|template| template.serial = "01".parse().unwrap());
    make(&|template| template.serial = Serial::from_der_integer(&[0, 0xff, 0x01]).unwrap());
    // The last second of UTCTime and the first after it, a leap day, and the last second that can be written.
    for secs in [2_524_607_999, 2_524_608_000, 1_835_395_199, 253_402_300_799] {
        make(&|template| {
            let at = Timestamp::from_unix_secs(secs);
            template.validity = Validity { not_before: at - Duration::from_secs(86_400), not_after: at };
        });
    }
    leaves
}

#[test]
fn every_leaf_of_ours_is_read_by_our_own_reader_and_says_what_the_general_one_says() {
    for kind in [KeyKind::P256, KeyKind::P384] {
        let (authority, signer) = authority(kind);
        for (octets, key) in leaves(&authority, &signer) {
            assert!(authority.agrees(&octets, &key), "{}", hex::encode(&octets));
        }
    }
}

#[test]
fn a_changed_leaf_is_read_alike_by_both_or_not_by_ours() {
    let (authority, signer) = authority(KeyKind::P256);
    let (mut random, mut read) = (Random::new(2026), 0);
    for (octets, key) in leaves(&authority, &signer).into_iter().step_by(7) {
        for at in 0..octets.len().min(700) {
            let mut changed = octets.clone();
            for value in
                [octets[at] ^ 1, octets[at] ^ 0x80, octets[at].wrapping_add(1), 0, 0xff, random.octet()]
            {
                changed[at] = value;
                read += u32::from(authority.agrees(&changed, &key));
            }
        }
    }
    assert!(read > 1000, "{read} changed leaves were read");
}

/// The elements of DER as a tree, so that what is changed inside keeps the lengths around it right.
enum Tree {
    Leaf(u8, Vec<u8>),
    Node(u8, Vec<Self>),
}

impl Tree {
    fn of(octets: &[u8]) -> Vec<Self> {
        Self::try_of(octets).unwrap()
    }

    /// Nothing where the octets are no DER through and through: a key's identifier is as good as random, and
    /// may begin like an element.
    fn try_of(octets: &[u8]) -> Option<Vec<Self>> {
        let (mut reader, mut trees) = (Reader::new(octets), Vec::new());
        while !reader.is_empty() {
            let element = reader.next().ok()?;
            let may_hold = element.tag & 0x20 != 0 || element.tag == der::OCTET_STRING;
            let inside = may_hold.then(|| Self::try_of(element.value)).flatten();
            trees.push(match inside {
                Some(inside) if !inside.is_empty() => Self::Node(element.tag, inside),
                _ => Self::Leaf(element.tag, element.value.to_vec()),
            });
        }
        Some(trees)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Leaf(tag, value) => der::encode(*tag, &[value]),
            Self::Node(tag, inside) => der::encode(*tag, &[&Self::all(inside)]),
        }
    }

    fn all(trees: &[Self]) -> Vec<u8> {
        trees.iter().flat_map(Self::encode).collect()
    }

    fn count(trees: &[Self]) -> usize {
        let below = |tree: &Self| match tree {
            Self::Leaf(..) => 1,
            Self::Node(_, inside) => 1 + Self::count(inside),
        };
        trees.iter().map(below).sum()
    }

    /// Changes the element with that number, counted as they stand.
    fn change(trees: &mut Vec<Self>, number: &mut usize, random: &mut Random) {
        for at in 0..trees.len() {
            if *number == 0 {
                *number = usize::MAX;
                return Self::change_at(trees, at, random);
            }
            *number -= 1;
            if let Self::Node(_, inside) = &mut trees[at] {
                Self::change(inside, number, random);
                if *number == usize::MAX {
                    return;
                }
            }
        }
    }

    fn change_at(trees: &mut Vec<Self>, at: usize, random: &mut Random) {
        const TAGS: [u8; 14] =
            [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0c, 0x16, 0x17, 0x18, 0x80, 0x82, 0x86, 0x87];
        let (choice, other) = (random.index(7), random.index(trees.len()));
        match (choice, &mut trees[at]) {
            (0, _) => drop(trees.remove(at)),
            (1, _) => trees.swap(at, other),
            (2, _) => {
                let copy = Self::of(&trees[other].encode());
                trees.splice(at..at, copy);
            }
            (3, _) => trees.insert(at, Self::Leaf(TAGS[random.index(TAGS.len())], vec![random.octet()])),
            (4, Self::Leaf(tag, _) | Self::Node(tag, _)) => *tag = TAGS[random.index(TAGS.len())],
            (5, Self::Leaf(_, value)) => value.insert(random.index(value.len() + 1), random.octet()),
            (_, Self::Leaf(_, value)) if !value.is_empty() => {
                let at = random.index(value.len());
                match random.index(3) {
                    0 => drop(value.remove(at)),
                    1 => value[at] = random.octet(),
                    _ => value[at] ^= 1 << random.index(8),
                }
            }
            (_, Self::Node(_, inside)) => inside.push(Self::Leaf(TAGS[random.index(TAGS.len())], vec![])),
            _ => {}
        }
    }
}

#[test]
fn a_leaf_that_was_written_differently_is_read_alike_by_both_or_not_by_ours() {
    let (authority, signer) = authority(KeyKind::P256);
    let (mut random, mut read) = (Random::new(4), 0);
    for (octets, key) in leaves(&authority, &signer).into_iter().step_by(5) {
        assert_eq!(Tree::all(&Tree::of(&octets)), octets);
        for _ in 0..400 {
            let mut trees = Tree::of(&octets);
            for _ in 0..=random.index(3) {
                let count = Tree::count(&trees);
                if count > 0 {
                    Tree::change(&mut trees, &mut random.index(count), &mut random);
                }
            }
            read += u32::from(authority.agrees(&Tree::all(&trees), &key));
        }
    }
    assert!(read > 150, "{read} changed leaves were read");
}

#[test]
fn strange_leaves_are_read_alike_by_both_or_not_by_ours() {
    // The fixtures are built on this crate as others see it, and its time is another type to the compiler.
    let world = World::new("prod.example", serde_json::from_str("1790000000000").unwrap());
    let identity = "spiffe://prod.example/web";
    let negatives = Negative::ALL.iter().map(|one| one.make(&world, identity));
    let oddities = Oddity::ALL.iter().map(|one| one.make(&world, identity));
    let credentials: Vec<_> = negatives.chain(oddities).chain([world.leaf(identity)]).collect();
    let (mut held, mut read) = (0_usize, 0_usize);
    for credential in &credentials {
        let [leaf, above @ ..] = credential.ders() else { continue };
        let above = above.first().map_or(world.root().der(), Vec::as_slice);
        // What the general reader refuses is not left out: the key is found without it.
        let Ok(parts) = Anatomy::of(leaf) else { continue };
        let Ok(key) = PublicKey::from_spki_der(parts.spki) else { continue };
        let Some(authority) = Certificate::from_der(above).ok().and_then(Authority::of) else { continue };
        held += 1;
        read += usize::from(authority.agrees(leaf, &key));
    }
    // Of the others the authority is none of ours, or the key is of a kind that nobody takes.
    assert!(held * 10 >= credentials.len() * 9, "{held} of {} held", credentials.len());
    assert!(read * 2 >= held, "{read} of {held} read by ours");
}
