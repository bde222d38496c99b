//! x509-limbo (C2SP): 208 chains with the verdict that RFC 5280 and the web PKI expect.
//!
//! Where we differ is written down, with the reason, in `limbo-exceptions.json`. The list is frozen: a difference
//! that is not listed fails, and so does one that is listed and no longer there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use credence_certs::{
    Certificate, Chain, Crl, MAX_DEPTH, MAX_SIGNATURE_CHECKS, Timestamp, Usage, VerifyOptions,
    certificates_from_pem, verify_chain_counting,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, DnsName, ServerName, pem::PemObject};
use serde::Deserialize;

/// Names the file; without it there is nothing to run on.
const VARIABLE: &str = "CREDENCE_LIMBO_JSON";
/// For cases that do not care: limbo's own certificates are valid for a thousand years.
const NOW: &str = "2026-11-20T00:00:00Z";
/// A soft goal, reported and not asserted.
const SLOW_MILLIS: u128 = 50;

#[derive(Deserialize)]
struct Limbo {
    testcases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    validation_kind: String,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
    validation_time: Option<String>,
    expected_result: String,
    expected_peer_name: Option<PeerName>,
    max_chain_depth: Option<usize>,
    crls: Vec<String>,
}

#[derive(Deserialize)]
struct PeerName {
    kind: String,
    value: String,
}

/// By case, the reason for which our verdict is another.
#[derive(Deserialize)]
struct Exceptions {
    accepted_though_limbo_refuses: BTreeMap<String, String>,
    refused_though_limbo_accepts: BTreeMap<String, String>,
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the suite's data is named by the environment; time is reported only"
)]
fn differs_from_limbo_only_where_the_exceptions_say() {
    let Ok(path) = std::env::var(VARIABLE) else {
        eprintln!("NOT RUN: x509-limbo: {VARIABLE} is not set");
        return;
    };
    let text = std::fs::read_to_string(&path).unwrap();
    let limbo: Limbo = serde_json::from_str(&text).unwrap();
    let exceptions: Exceptions = serde_json::from_str(include_str!("limbo-exceptions.json")).unwrap();
    let (mut accepts, mut rejects) = (BTreeMap::new(), BTreeMap::new());
    let mut most_checks = 0;
    for case in &limbo.testcases {
        let start = Instant::now();
        let (verdict, checks) = judge(case);
        let took = start.elapsed().as_millis();
        if took > SLOW_MILLIS {
            eprintln!("slow: {} took {took} ms, {checks} signature checks", case.id);
        }
        most_checks = most_checks.max(checks);
        match (case.expected_result.as_str(), verdict) {
            ("SUCCESS", Err(reason)) => drop(rejects.insert(case.id.clone(), reason)),
            ("FAILURE", Ok(())) => drop(accepts.insert(case.id.clone(), String::new())),
            ("SUCCESS", Ok(())) | ("FAILURE", Err(_)) => {}
            (other, _) => panic!("{}: unknown verdict {other}", case.id),
        }
    }
    eprintln!(
        "x509-limbo: {} cases, {} agree, {} accepted though refused there, {} refused though accepted there, \
         at most {most_checks} signature checks",
        limbo.testcases.len(),
        limbo.testcases.len() - accepts.len() - rejects.len(),
        accepts.len(),
        rejects.len(),
    );
    compare("accepted", &accepts, &exceptions.accepted_though_limbo_refuses);
    compare("refused", &rejects, &exceptions.refused_though_limbo_accepts);
    let outside: Vec<_> = accepts.keys().filter(|id| !id.starts_with("webpki::")).collect();
    assert!(outside.is_empty(), "accepted outside the web PKI's own rules: {outside:?}");
    assert!(accepts.len() <= 20, "{} accepted, at most 20 may be", accepts.len());
    assert!(rejects.len() <= 10, "{} refused, at most 10 may be", rejects.len());
    assert!(most_checks <= MAX_SIGNATURE_CHECKS);
}

fn compare(verb: &str, found: &BTreeMap<String, String>, listed: &BTreeMap<String, String>) {
    let ids = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<BTreeSet<_>>();
    let unlisted: Vec<_> = found.iter().filter(|(id, _)| !listed.contains_key(*id)).collect();
    assert!(unlisted.is_empty(), "{verb} and not listed: {unlisted:#?}");
    let stale: Vec<_> = ids(listed).difference(&ids(found)).cloned().collect();
    assert!(stale.is_empty(), "listed as {verb} and no longer so: {stale:#?}");
}

/// Our verdict, with the reason for a refusal, and the number of signature checks it took.
fn judge(case: &Case) -> (Result<(), String>, u32) {
    let ders: Vec<Vec<u8>> = std::iter::once(&case.peer_certificate)
        .chain(&case.untrusted_intermediates)
        .filter_map(|pem| certificates_from_pem(pem.as_bytes()).ok())
        .flatten()
        .collect();
    let chain = match Chain::from_ders(ders.iter().map(Vec::as_slice)) {
        Ok(chain) => chain,
        Err(error) => return (Err(error.to_string()), 0),
    };
    // As a bundle is loaded: what does not parse is no anchor.
    let anchors: Vec<Certificate> = case
        .trusted_certs
        .iter()
        .flat_map(|pem| certificates_from_pem(pem.as_bytes()).unwrap_or_default())
        .filter_map(|der| Certificate::from_der(&der).ok())
        .collect();
    let crls: Result<Vec<Crl>, _> = case
        .crls
        .iter()
        .map(|pem| {
            CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).expect("limbo's lists are PEM")
        })
        .map(|der| Crl::from_der(&der))
        .collect();
    let crls = match crls {
        Ok(crls) => crls,
        Err(error) => return (Err(error.to_string()), 0),
    };
    let usage = if case.validation_kind == "SERVER" { Usage::Server } else { Usage::Client };
    let now = Timestamp::parse_rfc3339(case.validation_time.as_deref().unwrap_or(NOW))
        .expect("limbo's times are RFC 3339");
    let options = VerifyOptions {
        crls: &crls,
        max_depth: case.max_chain_depth.unwrap_or(MAX_DEPTH),
        ..VerifyOptions::new(now, usage)
    };
    let (verdict, checks) = verify_chain_counting(&chain, &anchors, &options);
    let verdict = verdict.map_err(|error| format!("{}: {error}", error.rule())).and_then(|verified| {
        case.expected_peer_name.as_ref().map_or(Ok(()), |name| match_name(verified.leaf(), name))
    });
    (verdict, checks)
}

/// Names are not `certs`' subject: identities here are SPIFFE IDs. The suite asks webpki.
fn match_name(leaf: &Certificate, name: &PeerName) -> Result<(), String> {
    let name = match name.kind.as_str() {
        "DNS" => {
            DnsName::try_from(name.value.as_str()).map(ServerName::DnsName).map_err(|e| e.to_string())?
        }
        "IP" => ServerName::IpAddress(name.value.parse::<IpAddr>().map_err(|e| e.to_string())?.into()),
        other => return Err(format!("unknown kind of name {other}")),
    };
    let der = CertificateDer::from(leaf.der());
    webpki::EndEntityCert::try_from(&der)
        .and_then(|leaf| leaf.verify_is_valid_for_subject_name(&name))
        .map_err(|error| format!("name: {error:?}"))
}
