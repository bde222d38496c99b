//! What a certificate that Credence issues must be, exactly (security reference 5.1).
//!
//! Verifying asks what anybody may present; this asks whether we made what we meant to. It runs before signing,
//! on a rehearsal with a throwaway key: of a leaf the authority then signs those very octets, and an authority's
//! certificate is asked again after, as it came out.

use std::time::Duration;

use crate::{
    Certificate, ExtendedKeyUsage, Fault, KeyKind, Profile, PublicKey, SubjectAltName, Usage, Validity,
    anatomy::{Anatomy, BasicConstraints, oid},
    certificate::purposes_text,
    der,
    verify::rules::{Role, faults},
};

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// May be issued, and somebody should know why.
    Warning,
    /// Must not be issued.
    Error,
}

/// One rule that a certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The stable name of the rule.
    pub rule: &'static str,
    /// How much it weighs.
    pub severity: Severity,
    /// What is wrong, with the value that was found.
    pub message: String,
}

/// Everything about `certificate` that is not as `profile` says. `issuer` is the certificate that signs it, `None`
/// for a self-signed one. The signature itself is not looked at: see [`Certificate::is_signed_by`].
#[must_use]
pub fn lint(certificate: &Certificate, issuer: Option<&Certificate>, profile: Profile) -> Vec<Finding> {
    lint_knowing(certificate, issuer, profile, None)
}

/// As [`lint`]; `known` is a key that has been looked at before, so that it need not be if it is the certificate's.
pub(crate) fn lint_knowing(
    certificate: &Certificate,
    issuer: Option<&Certificate>,
    profile: Profile,
    known: Option<&PublicKey>,
) -> Vec<Finding> {
    let role = match profile {
        Profile::Root => Role::Anchor,
        Profile::Issuing => Role::Intermediate,
        Profile::Node | Profile::Workload | Profile::Server | Profile::Operator => Role::Leaf(Usage::Any),
    };
    let mut findings: Findings = Findings(Vec::new());
    for fault in faults(certificate, role, None) {
        findings.error(fault.rule(), fault.to_string());
        if fault == Fault::NotDer {
            return findings.0;
        }
    }
    let Ok(parts) = Anatomy::of(certificate.der()) else { return findings.0 };
    key_and_serial(certificate, profile, known, &mut findings);
    lifetime(certificate, profile, &mut findings);
    names(certificate, &parts, profile, &mut findings);
    constraints(&parts, profile, &mut findings);
    usages(certificate, &parts, profile, &mut findings);
    identifiers(certificate, issuer, profile, &mut findings);
    extensions(&parts, profile, &mut findings);
    match issuer {
        Some(issuer) => below(certificate, &parts, issuer, profile, &mut findings),
        None if profile != Profile::Root => {
            findings.error("issuer", "is self-signed, and no root".to_owned())
        }
        None if !parts.is_self_issued() => {
            findings.error("issuer", "is a root that names another issuer".to_owned());
        }
        None => {}
    }
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, rule: &'static str, message: String) {
        self.0.push(Finding { rule, severity: Severity::Error, message });
    }

    fn warning(&mut self, rule: &'static str, message: String) {
        self.0.push(Finding { rule, severity: Severity::Warning, message });
    }
}

fn key_and_serial(
    certificate: &Certificate,
    profile: Profile,
    known: Option<&PublicKey>,
    findings: &mut Findings,
) {
    let known = known.filter(|key| key.spki_der() == certificate.spki_der()).cloned();
    match known.map_or_else(|| PublicKey::from_spki_der(certificate.spki_der()), Ok) {
        Ok(key) if profile == Profile::Root && key.kind() != KeyKind::P384 => {
            findings.error("profile-key", format!("has a {} key, a root has P-384", key.kind()));
        }
        Ok(_) => {}
        Err(error) => findings.error("profile-key", error.to_string()),
    }
    let octets = certificate.serial().as_bytes().len();
    if octets != 20 {
        findings.error("serial-entropy", format!("has a serial number of {octets} octets, not 20"));
    }
}

fn lifetime(certificate: &Certificate, profile: Profile, findings: &mut Findings) {
    let life = certificate.not_after().since(certificate.not_before());
    let (min, max) = (profile.min_lifetime(), profile.max_lifetime() + Validity::BACKDATE);
    let shown = |length: Duration| crate::format_duration(length);
    if life > max {
        findings.error("lifetime", format!("lives {}, at most {} are allowed", shown(life), shown(max)));
    } else if life < min {
        findings.warning("lifetime", format!("lives {}, less than {}", shown(life), shown(min)));
    }
}

fn names(certificate: &Certificate, parts: &Anatomy<'_>, profile: Profile, findings: &mut Findings) {
    if !profile.is_authority() && !parts.subject.is_empty() {
        findings.error("subject", format!("is a leaf with the subject {:?}", certificate.subject()));
    }
    match certificate.uri_names() {
        [uri] => {
            let has_path = uri.strip_prefix(b"spiffe://").map(|rest| rest.contains(&b'/'));
            let shown = || String::from_utf8_lossy(uri).into_owned();
            match (has_path, profile.is_authority()) {
                (None, _) => findings.error("uri", format!("names {:?}, no SPIFFE ID", shown())),
                (Some(false), false) => findings.error("uri", format!("names {:?}, without a path", shown())),
                (Some(true), true) => {
                    findings.error("uri", format!("is an authority that names {:?}, with a path", shown()));
                }
                _ => {}
            }
        }
        uris => findings.error("uri", format!("has {} URI names, not one", uris.len())),
    }
    for name in certificate.subject_alt_names() {
        match name {
            SubjectAltName::Uri(_) => {}
            SubjectAltName::Dns(_) | SubjectAltName::Ip(_) if profile == Profile::Server => {}
            SubjectAltName::Dns(name) if profile == Profile::Workload => {
                findings.warning("names", format!("has the DNS name {name:?}"));
            }
            SubjectAltName::Dns(name) => findings.error("names", format!("has the DNS name {name:?}")),
            SubjectAltName::Ip(address) => findings.error("names", format!("has the address {address}")),
            SubjectAltName::Other(form) => findings.error("names", format!("has a name of the form {form}")),
        }
    }
}

fn constraints(parts: &Anatomy<'_>, profile: Profile, findings: &mut Findings) {
    let expected = BasicConstraints { ca: profile.is_authority(), path_length: profile.path_length() };
    match parts.extension(oid::BASIC_CONSTRAINTS) {
        None => findings.error("basic-constraints", "has no BasicConstraints".to_owned()),
        Some(extension) => {
            if !extension.critical {
                findings.error("basic-constraints", "has BasicConstraints that are not critical".to_owned());
            }
            let found = BasicConstraints::parse(extension.value);
            if found != Ok(expected) {
                findings.error("basic-constraints", format!("has {found:?}, not {expected:?}"));
            }
        }
    }
}

fn usages(certificate: &Certificate, parts: &Anatomy<'_>, profile: Profile, findings: &mut Findings) {
    /// digitalSignature.
    const LEAF: u16 = 0x8000;
    /// keyCertSign and cRLSign.
    const AUTHORITY: u16 = 0x0600;
    let expected = if profile.is_authority() { AUTHORITY } else { LEAF };
    match certificate.key_usage() {
        Some(usage) if usage.is_critical() && usage.bits() == expected => {}
        found => findings.error("key-usage", format!("has {found:?}, not critical bits {expected:#06x}")),
    }
    let purposes = certificate.extended_key_usages();
    let expected: &[_] = if profile.is_authority() {
        &[]
    } else {
        &[ExtendedKeyUsage::ServerAuth, ExtendedKeyUsage::ClientAuth]
    };
    if purposes != expected {
        let (found, expected) = (purposes_text(purposes), purposes_text(expected));
        findings.error("purposes", format!("is for {found}, not {expected}"));
    }
    if parts.extension(oid::EXTENDED_KEY_USAGE).is_some_and(|extension| extension.critical) {
        findings.error("purposes", "has a critical ExtendedKeyUsage".to_owned());
    }
}

fn identifiers(
    certificate: &Certificate,
    issuer: Option<&Certificate>,
    profile: Profile,
    findings: &mut Findings,
) {
    if certificate.subject_key_id().is_none() {
        findings.error("key-id", "has no SubjectKeyIdentifier".to_owned());
    }
    if profile == Profile::Root {
        return;
    }
    let above = issuer.and_then(Certificate::subject_key_id);
    if certificate.authority_key_id().is_none() || certificate.authority_key_id() != above {
        findings.error("key-id", "has an AuthorityKeyIdentifier that is not its issuer's key id".to_owned());
    }
}

fn extensions(parts: &Anatomy<'_>, profile: Profile, findings: &mut Findings) {
    let known = [
        oid::SUBJECT_KEY_ID,
        oid::KEY_USAGE,
        oid::SUBJECT_ALT_NAME,
        oid::BASIC_CONSTRAINTS,
        oid::AUTHORITY_KEY_ID,
        oid::EXTENDED_KEY_USAGE,
    ];
    let is_known =
        |id: &[u8]| known.contains(&id) && (profile != Profile::Root || id != oid::AUTHORITY_KEY_ID);
    for extension in parts.extensions.iter().filter(|extension| !is_known(extension.oid)) {
        findings.error("extensions", format!("has the extension {}", der::dotted(extension.oid)));
    }
}

/// What must hold between a certificate and the one that signs it.
fn below(
    certificate: &Certificate,
    parts: &Anatomy<'_>,
    issuer: &Certificate,
    profile: Profile,
    findings: &mut Findings,
) {
    let Ok(above) = Anatomy::of(issuer.der()) else {
        return findings.error("issuer", "is signed by a certificate that is not DER".to_owned());
    };
    if parts.issuer != above.subject {
        findings.error("issuer", format!("names {:?} as issuer", certificate.issuer()));
    }
    if profile == Profile::Root {
        findings.error("issuer", "is a root that another authority signs".to_owned());
    }
    let basic =
        above.extension(oid::BASIC_CONSTRAINTS).and_then(|found| BasicConstraints::parse(found.value).ok());
    match basic {
        Some(BasicConstraints { ca: true, path_length: Some(0) }) if profile.is_authority() => {
            findings.error("path-length", "is an authority below one that may sign leaves only".to_owned());
        }
        Some(BasicConstraints { ca: true, .. }) => {}
        _ => findings.error("issuer", "is signed by a certificate that is no authority".to_owned()),
    }
    if certificate.not_before() < issuer.not_before() {
        findings.error("outlives-issuer", format!("starts before its issuer at {}", issuer.not_before()));
    }
    if certificate.not_after() + Duration::from_secs(1) > issuer.not_after() {
        findings
            .error("outlives-issuer", format!("ends at or after its issuer's end {}", issuer.not_after()));
    }
    if certificate.spki_der() == issuer.spki_der() {
        findings.error("authority-key", "has the key of its issuer".to_owned());
    }
}
