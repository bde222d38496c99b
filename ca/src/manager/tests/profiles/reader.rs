//! What a certificate says, read without the code that made and checked it, and held against the words of the
//! profiles (security reference 5.1, 5.5): the numbers below are written out on purpose.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use certs::{KeyKind, Profile, PublicKey, Timestamp};
use spiffe::SvidRequest;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension, X509Extension},
    prelude::FromDer,
    x509::X509Version,
};

use super::Policy;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// How far notBefore may lie before the moment of issue.
const BACKDATE: i64 = 60;

const SUBJECT_KEY_ID: &str = "2.5.29.14";
const KEY_USAGE: &str = "2.5.29.15";
const SUBJECT_ALT_NAME: &str = "2.5.29.17";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const AUTHORITY_KEY_ID: &str = "2.5.29.35";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";

/// The shortest and the longest life of a leaf.
pub(super) fn bounds(profile: Profile, dev: bool) -> (Duration, Duration) {
    let (least, most) = match profile {
        Profile::Operator => (HOUR, 90 * DAY),
        Profile::Node | Profile::Workload | Profile::Server => (10 * MINUTE, DAY),
        Profile::Issuing => (DAY, 366 * DAY),
        Profile::Root => (DAY, 3653 * DAY),
    };
    (Duration::from_secs(if dev { 1 } else { least }), Duration::from_secs(most))
}

/// Every way in which `leaf`, issued at `now` by `issuer`, is not what its profile and `asked` allow.
pub(super) fn breaches(
    leaf: &[u8],
    issuer: &[u8],
    asked: &SvidRequest,
    policy: &Policy,
    now: Timestamp,
) -> Vec<String> {
    let mut found = Breaches::default();
    let (rest, leaf) = X509Certificate::from_der(leaf).expect("the leaf is a certificate");
    found.unless(rest.is_empty(), "octets follow the leaf");
    let (rest, issuer) = X509Certificate::from_der(issuer).expect("the issuer is a certificate");
    found.unless(rest.is_empty(), "octets follow the issuer");

    found.unless(leaf.version() == X509Version::V3, "version");
    found.unless(is_good_serial(leaf.raw_serial()), "serial number");
    let algorithm = leaf.signature_algorithm.algorithm.to_id_string();
    found.unless(algorithm == ECDSA_SHA256, "signature algorithm");
    found.unless(leaf.tbs_certificate.signature == leaf.signature_algorithm, "two signature algorithms");
    found.unless(leaf.verify_signature(Some(issuer.public_key())).is_ok(), "signature");
    found.unless(leaf.issuer().as_raw() == issuer.subject().as_raw(), "issuer");
    found.unless(leaf.subject().as_raw() == [0x30, 0x00], "subject is not empty");
    let ids = (&leaf.tbs_certificate.issuer_uid, &leaf.tbs_certificate.subject_uid);
    found.unless(ids.0.is_none() && ids.1.is_none(), "unique ids");
    key(&leaf, asked, &mut found);
    life(&leaf, &issuer, asked, policy, now, &mut found);
    extensions(&leaf, &issuer, &mut found);
    names(&leaf, asked, policy, &mut found);
    found.0
}

#[derive(Default)]
struct Breaches(Vec<String>);

impl Breaches {
    fn unless(&mut self, holds: bool, what: &str) {
        if !holds {
            self.0.push(what.to_owned());
        }
    }
}

/// Twenty octets, the top bit clear, not zero.
pub(super) fn is_good_serial(octets: &[u8]) -> bool {
    octets.len() == 20 && octets[0] & 0x80 == 0 && octets[0] != 0
}

fn key(leaf: &X509Certificate<'_>, asked: &SvidRequest, found: &mut Breaches) {
    found.unless(leaf.public_key().raw == asked.public_key.spki_der(), "key");
    let kind = PublicKey::from_spki_der(leaf.public_key().raw).map(|key| key.kind());
    found.unless(matches!(kind, Ok(KeyKind::P256 | KeyKind::P384)), "kind of key");
}

fn life(
    leaf: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    asked: &SvidRequest,
    policy: &Policy,
    now: Timestamp,
    found: &mut Breaches,
) {
    let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    let above = (issuer.validity().not_before.timestamp(), issuer.validity().not_after.timestamp());
    let now = now.unix_millis();
    let lasts = to * 1000 - now;
    let millis = |length: Duration| i64::try_from(length.as_millis()).expect("a bounded life");
    let (least, most) = bounds(asked.profile, policy.dev);
    found.unless(lasts <= millis(most), "lives longer than its profile");
    found.unless(lasts <= millis(asked.lifetime), "lives longer than was asked for");
    found.unless(asked.lifetime >= least && asked.lifetime <= most, "asked for a life outside its profile");
    // A second of rounding, and the end of the issuer, are the only reasons to live shorter.
    let is_cut = to == above.1 - 1;
    found.unless(is_cut || lasts > millis(asked.lifetime) - 1000, "lives shorter than was asked for");
    found.unless(from * 1000 <= now && now <= to * 1000, "is not valid at the moment of issue");
    found.unless(from >= now.div_euclid(1000) - BACKDATE, "is backdated too far");
    found.unless(from >= above.0 && to < above.1, "is not inside the validity of its issuer");
    let left = above.1 * 1000 - now;
    found.unless(
        left >= 2 * millis(policy.lifetimes.workload),
        "its issuer has less than two leaf lives left",
    );
}

fn extensions(leaf: &X509Certificate<'_>, issuer: &X509Certificate<'_>, found: &mut Breaches) {
    let present: Vec<String> = leaf.extensions().iter().map(|one| one.oid.to_id_string()).collect();
    let expected = [
        SUBJECT_KEY_ID,
        KEY_USAGE,
        SUBJECT_ALT_NAME,
        BASIC_CONSTRAINTS,
        AUTHORITY_KEY_ID,
        EXTENDED_KEY_USAGE,
    ];
    let as_set: BTreeSet<&str> = present.iter().map(String::as_str).collect();
    found.unless(as_set == expected.into_iter().collect() && present.len() == expected.len(), "extensions");
    let key_id = |certificate: &X509Certificate<'_>| {
        certificate.extensions().iter().find_map(|one| match one.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
    };
    let own = key_id(leaf);
    found.unless(own.is_some_and(|id| id.len() >= 8), "subject key id");
    for one in leaf.extensions() {
        extension(one, key_id(issuer).as_deref(), found);
    }
}

fn extension(one: &X509Extension<'_>, issuer_key_id: Option<&[u8]>, found: &mut Breaches) {
    let expect_critical = |critical: bool, what: &str, found: &mut Breaches| {
        found.unless(one.critical == critical, &format!("criticality of {what}"));
    };
    match one.parsed_extension() {
        ParsedExtension::BasicConstraints(constraints) => {
            expect_critical(true, "basic constraints", found);
            found.unless(!constraints.ca && constraints.path_len_constraint.is_none(), "is an authority");
            // DER leaves out what is the default.
            found.unless(one.value == [0x30, 0x00], "basic constraints are not empty");
        }
        ParsedExtension::KeyUsage(_) => {
            expect_critical(true, "key usage", found);
            // digitalSignature, the first bit of a BIT STRING of one bit.
            found.unless(one.value == [0x03, 0x02, 0x07, 0x80], "key usage");
        }
        ParsedExtension::ExtendedKeyUsage(usage) => {
            expect_critical(false, "extended key usage", found);
            let others = usage.any || usage.code_signing || usage.email_protection || usage.time_stamping;
            let others = others || usage.ocsp_signing || !usage.other.is_empty();
            found.unless(usage.server_auth && usage.client_auth && !others, "extended key usage");
        }
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            expect_critical(false, "authority key id", found);
            let named = id.key_identifier.as_ref().map(|id| id.0);
            found.unless(named.is_some() && named == issuer_key_id, "authority key id");
            found.unless(
                id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none(),
                "authority key id names more than a key",
            );
        }
        ParsedExtension::SubjectKeyIdentifier(_) => expect_critical(false, "subject key id", found),
        ParsedExtension::SubjectAlternativeName(_) => {
            expect_critical(true, "subject alternative name", found);
        }
        other => found.0.push(format!("extension {other:?}")),
    }
}

fn names(leaf: &X509Certificate<'_>, asked: &SvidRequest, policy: &Policy, found: &mut Breaches) {
    let names = leaf.extensions().iter().find_map(|one| match one.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.clone()),
        _ => None,
    });
    let (mut uris, mut dns, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for name in names.unwrap_or_default() {
        match name {
            GeneralName::URI(uri) => uris.push(uri.to_owned()),
            GeneralName::DNSName(name) => dns.push(name.to_owned()),
            GeneralName::IPAddress(octets) => {
                match (<[u8; 4]>::try_from(octets), <[u8; 16]>::try_from(octets)) {
                    (Ok(four), _) => addresses.push(IpAddr::from(four)),
                    (_, Ok(sixteen)) => addresses.push(IpAddr::from(sixteen)),
                    _ => found.0.push(format!("address {octets:?}")),
                }
            }
            other => found.0.push(format!("name {other:?}")),
        }
    }
    let inside = format!("spiffe://{}/", policy.trust_domain);
    found.unless(uris == [asked.id.to_string()], "identity");
    found.unless(uris.iter().all(|uri| uri.starts_with(&inside)), "trust domain");
    found.unless(uris.iter().all(|uri| uri.len() <= 2048), "length of the identity");
    found.unless(dns == asked.dns_names && addresses == asked.ip_addresses, "names beside the identity");
    found.unless(
        asked.profile == Profile::Server || (dns.is_empty() && addresses.is_empty()),
        "names that only a server may have",
    );
    let path =
        uris.first().and_then(|uri| uri.strip_prefix(inside.trim_end_matches('/'))).unwrap_or_default();
    let is_own_class = match asked.profile {
        Profile::Node => path.starts_with("/credence/node/"),
        Profile::Server => path == "/credence/server",
        Profile::Operator => path.starts_with("/credence/operator/"),
        Profile::Workload => path != "/credence" && !path.starts_with("/credence/"),
        Profile::Root | Profile::Issuing => false,
    };
    found.unless(is_own_class, "class of the identity");
}
