//! Seeded damage to good chains: nothing panics, and nothing that was signed may change.

use credence_certs::{Chain, Crl, Csr, Timestamp, Usage, VerifyOptions, verify_chain};
use fixtures::{Random, World};

const WEB: &str = "spiffe://prod.example/web";
const ROUNDS: u64 = 4000;

/// One to four small changes.
fn damage(random: &mut Random, octets: &mut Vec<u8>) {
    for _ in 0..=random.index(4) {
        let at = random.index(octets.len().max(1));
        match random.index(6) {
            0 | 1 if !octets.is_empty() => octets[at] ^= 1 << random.index(8),
            2 if !octets.is_empty() => octets[at] = random.octet(),
            3 => octets.insert(at.min(octets.len()), random.octet()),
            4 if !octets.is_empty() => drop(octets.remove(at)),
            _ => octets.truncate(octets.len().saturating_sub(random.index(8))),
        }
    }
}

#[test]
fn damaged_chains_never_panic_and_are_never_believed() {
    let now = Timestamp::from_unix_secs(1_790_000_000);
    let world = World::new("prod.example", now);
    let good = world.leaf(WEB);
    let anchors = world.anchors();
    let options = VerifyOptions::new(now, Usage::Server);
    let mut random = Random::new(2026);
    let (mut parsed, mut damaged) = (0, 0);
    for round in 0..ROUNDS {
        let mut ders = good.ders().to_vec();
        let which = random.index(ders.len());
        damage(&mut random, &mut ders[which]);
        if ders == good.ders() {
            continue;
        }
        damaged += 1;
        let Ok(chain) = Chain::from_ders(ders.iter().map(Vec::as_slice)) else { continue };
        parsed += 1;
        assert!(verify_chain(&chain, &anchors, &options).is_err(), "round {round}");
    }
    println!("{damaged} damaged chains, {parsed} of them parsed");
    assert!(damaged > 2000 && parsed > 200);
}

#[test]
fn damaged_anchors_never_panic() {
    let now = Timestamp::from_unix_secs(1_790_000_000);
    let world = World::new("prod.example", now);
    let chain = world.leaf(WEB).chain().expect("a good chain");
    let mut random = Random::new(7);
    for _ in 0..1000 {
        let mut der = world.root().der().to_vec();
        damage(&mut random, &mut der);
        if let Ok(anchor) = credence_certs::Certificate::from_der(&der) {
            // An anchor's own signature is nobody's concern, so some of these hold.
            drop(verify_chain(&chain, &[anchor], &VerifyOptions::new(now, Usage::Server)));
        }
    }
}

#[test]
fn noise_is_neither_request_nor_list_nor_certificate() {
    let mut random = Random::new(99);
    for _ in 0..2000 {
        let length = random.index(300);
        let noise = random.octets(length);
        assert!(Csr::from_der(&noise).is_err());
        assert!(Crl::from_der(&noise).is_err());
        assert!(credence_certs::Certificate::from_der(&noise).is_err());
    }
}
