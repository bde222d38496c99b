//! Row P2 of the reliability programme: whatever a certificate request says beside its key, the certificate is the
//! one that an honest request for that key gets, octet for octet, or there is none.

mod corpus;

use std::collections::BTreeMap;

use certs::Csr;
use fixtures::{CsrBlueprint, TestKey, TestKeyKind};

use self::corpus::{Expected, FAMILIES, PER_FAMILY};
use super::*;
use crate::testing::{Random, full};

/// What would be signed for this request, with everything that is not the request's fixed.
async fn to_be_signed(bench: &Bench, request: &[u8], asked: &SvidRequest) -> Result<Vec<u8>, String> {
    let csr = Csr::from_der(request).map_err(|error| error.to_string())?;
    let asked = SvidRequest { public_key: csr.public_key().clone(), ..asked.clone() };
    let serial = Serial::from_random([0x5a; 20]);
    let authorized = bench.authorize(asked).map_err(|error| error.to_string())?;
    let prepared = authorized
        .prepare(&bench.authority, &bench.policy, serial, 7, now())
        .map_err(|error| error.to_string())?;
    // A journal of its own: the serial number is the same each time.
    let journal = MemoryStore::new();
    let Recorded::Intended(intended) = prepared.record(&journal).await else {
        return Err("the journal refused".to_owned());
    };
    let signed = intended.sign(&bench.authority, &bench.judge, now()).expect("what was intended is signed");
    let issued = signed.release(&journal, now()).await.expect("what was signed is released");
    Ok(issued.chain.leaf().to_be_signed().to_vec())
}

#[tokio::test]
async fn a_hostile_request_gets_what_an_honest_one_for_its_key_gets_or_nothing() {
    let seeds = if full() { 10 } else { 1 };
    let bench = Bench::new();
    let authority = TestKey::from_pkcs8_der(TestKeyKind::P256, bench.key.expose_secret());
    let mut asked = workload();
    asked.node = None;
    let (mut cases, mut outcomes) = (0_usize, BTreeMap::<(&str, &str), usize>::new());
    for seed in 0..seeds {
        let mut random = Random::new(seed);
        for (family, make) in FAMILIES {
            for which in 0..PER_FAMILY {
                let kind = if which % 3 == 2 { TestKeyKind::P384 } else { TestKeyKind::P256 };
                let key = TestKey::generate(kind);
                let case = make(which, &mut random, &key, &authority);
                let key = case.key.as_ref().unwrap_or(&key);
                let honest = CsrBlueprint::honest(key).sign(key);
                let place = || {
                    format!("seed {seed}, {family} {which}, {}: {}", case.what, hex::encode(&case.request))
                };
                assert!(case.request != honest, "{}: it is the honest one", place());
                let honest = to_be_signed(&bench, &honest, &asked).await.expect("an honest request");
                let outcome = match to_be_signed(&bench, &case.request, &asked).await {
                    Ok(tbs) => {
                        assert!(tbs == honest, "{}: another certificate", place());
                        "same"
                    }
                    Err(_) => "refused",
                };
                let fits = match case.expected {
                    Expected::Same => outcome == "same",
                    Expected::Refused => outcome == "refused",
                    Expected::Either => true,
                };
                assert!(fits, "{}: {outcome}", place());
                cases += 1;
                *outcomes.entry((family, outcome)).or_default() += 1;
            }
        }
    }
    println!("P2: {cases} hostile requests of 150 a seed, {seeds} seeds: {outcomes:?}");
    assert_eq!(cases, 150 * usize::try_from(seeds).unwrap());
}
