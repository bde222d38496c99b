//! Whether we may sign with an issuing authority that somebody else signed: an offline root, or an enterprise's.

use std::{net::IpAddr, time::Duration};

use super::{
    Context, Part,
    certificates::has_no_extensions,
    explain_on,
    opinion::Opinion,
    rules::{RULES, rules},
    rung::{Board, Ladder, Rule, Scope},
};
use crate::{
    Certificate, ExtendedKeyUsage, KeyKind, MAX_CHAIN_CERTIFICATES, MAX_DEPTH, Profile, PublicKey, SecretKey,
    Serial, Severity, SpkiHash, SubjectAltName, Template, Timestamp, Validity,
    anatomy::{Anatomy, BasicConstraints, oid},
    certificate::purposes_text,
    lint,
    names::distinguished_name,
    rehearse,
    verify::work::{Signature, signature},
};

/// The most authorities that may stand between the issuing one and its root: with it there are four below a root,
/// which is as deep as anybody of ours looks.
pub const MAX_INTERMEDIATES: usize = MAX_DEPTH - 1;

rules! {
    /// What is asked of it beside the rules of every chain.
    BROUGHT:
    First "issuing-constraints" "is an authority with path length 0, by critical BasicConstraints"
        "its key signs leaves only, and whoever steals it shall not make authorities"
        "have it issued as the request asks: CA:TRUE, pathlen:0, critical"
    First "issuing-usage" "may sign certificates and revocation lists, by a critical KeyUsage"
        "without cRLSign nobody could revoke what it signs (RFC 5280 4.2.1.3)"
        "have it issued as the request asks: keyCertSign and cRLSign, critical"
    Each "authority-purposes" "is for no purpose in particular, or for both ends of TLS"
        "purposes of an authority restrict everything below it, and a workload is both ends of its connections"
        "have the authority issued without ExtendedKeyUsage, or with serverAuth and clientAuth"
    Each "authority-constraints" "constrains no names"
        "rustls refuses every chain below an authority that constrains URIs (RUSTSEC-2026-0098), and our own \
         certificate carries hosts and addresses beside its SPIFFE ID"
        "have the authority issued without NameConstraints"
    Each "authority-domain" "names our trust domain, if it names one"
        "an authority that names another vouches for nobody of ours (X509-SVID 3.2)"
        "have it issued with the URI of the request, or without one"
    Each "ends-with-issuer" "ends no later than its issuer"
        "everything below an authority dies with it, whatever it says"
        "have it issued for less, or below an authority that lives longer"
    Each "issuer-key-id" "means its issuer by AuthorityKeyIdentifier, if it has one"
        "Envoy looks for an issuer by that key id and serial number, and passes by another certificate of the same key \
         (RFC 5280 4.2.1.1)"
        "have it issued again by the certificate that proxies are to trust, with its key id and without a serial number"
    First "trial-leaf" "could sign a leaf as Credence issues them"
        "each leaf repeats the name and key id of its authority octet by octet"
        "have it issued with the name that the request asks for"
    Chain "root-key" "leads to the root that signs now, or to one whose key is new here"
        "authorities are known by their keys, and one that is in use, going or tainted is not brought again"
        "have the request signed by the root that signs now, or by another one"
    Chain "nothing-else" "is the path and nothing else"
        "what nobody needs is sent to every peer, and may lead one of them astray"
        "give the issuing authority first, then each one above it up to the root"
}

/// What a chain for an issuing authority is held against.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The time for which it must be valid.
    pub now: Timestamp,
    /// The key of the request.
    pub key: SpkiHash,
    /// How long the leaf lives that lives longest of those it is to sign.
    pub leaf_life: Duration,
    /// The URI of our trust domain, `spiffe://DOMAIN`.
    pub domain: &'a str,
    /// The root that signs now; the file need not hold it.
    pub root: Option<&'a Certificate>,
    /// Keys of roots that may not be brought, and why; a certificate of the root that signs now is not meant.
    pub taken: &'a [(SpkiHash, &'a str)],
    /// Keys that no certificate of the path may carry any more.
    pub tainted: &'a [SpkiHash],
}

/// An issuing authority that passed, with what leads to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    /// The certificate for the key of the request.
    pub issuing: Certificate,
    /// Those between it and its root, the one that signed it first; at most [`MAX_INTERMEDIATES`].
    pub intermediates: Vec<Certificate>,
    /// Its root.
    pub root: Certificate,
}

/// Asks every rule about `presented`, DER: the issuing authority first, then those above it. The root may be left out
/// when it is the one that signs now.
#[must_use]
pub fn explain_brought(presented: &[&[u8]], wanted: &Wanted<'_>) -> (Ladder, Option<Brought>) {
    let read: Vec<Certificate> = presented
        .iter()
        .take(MAX_CHAIN_CERTIFICATES)
        .filter_map(|der| Certificate::from_der(der).ok())
        .collect();
    let mut anchors: Vec<Certificate> = wanted.root.into_iter().cloned().collect();
    anchors.extend(read.iter().filter(|one| is_self_signed(one) && Some(*one) != wanted.root).cloned());
    let context = Context {
        anchors: Some(&anchors),
        key: Some(wanted.key),
        tainted: wanted.tainted,
        ..Context::new(wanted.now, Part::Issuing(wanted.leaf_life))
    };
    let (mut board, path) = explain_on(Board::new(RULES).with(BROUGHT), presented, &context);
    let [issuing, above @ ..] = path.as_slice() else { return (board.finish(), None) };
    first(issuing, &mut board);
    for (index, authority) in path.iter().enumerate() {
        each(authority, &place(index, authority), wanted, &mut board);
    }
    for (index, pair) in path.windows(2).enumerate() {
        // Of an issuer that did not sign it the broken signature says more.
        let is_issuer = signature(&pair[0], &pair[1]) == Signature::Holds;
        if is_issuer && !pair[0].means_issuer(&pair[1]) {
            let found = format!("means another certificate than the one of {:?}", pair[1].subject());
            board.fail("issuer-key-id", &place(index, &pair[0]), found, Opinion::unknown());
        }
        if pair[0].not_after() > pair[1].not_after() {
            let found = format!("ends at {}, its issuer at {}", pair[0].not_after(), pair[1].not_after());
            board.fail("ends-with-issuer", &place(index, &pair[0]), found, Opinion::Accepts.both());
        }
    }
    if above.len() > MAX_INTERMEDIATES + 1 {
        let found =
            format!("has {} authorities below its root, at most {MAX_DEPTH} are allowed", above.len());
        board.fail("too-deep", "the chain", found, Opinion::unknown());
    }
    for (index, one) in read.iter().enumerate() {
        if !path.contains(one) || read[..index].contains(one) {
            let found = format!("certificate {} ({:?}) is not needed", index + 1, one.subject());
            board.fail("nothing-else", "the file", found, Opinion::Accepts.both());
        }
    }
    let root = above.last().filter(|root| anchors.contains(root));
    match root {
        Some(root) if Some(root) != wanted.root => new_root(root, wanted, &mut board),
        Some(_) => {}
        None => board.skip("root-key", "no root was found"),
    }
    let brought = root.filter(|_| !board.has_failed()).map(|root| Brought {
        issuing: issuing.clone(),
        intermediates: above[..above.len() - 1].to_vec(),
        root: root.clone(),
    });
    match &brought {
        Some(brought) => trial(&brought.issuing, wanted, &mut board),
        None => board.skip("trial-leaf", "asked of a chain that breaks no other rule"),
    }
    let brought = brought.filter(|_| !board.has_failed());
    (board.finish(), brought)
}

/// The ladder of a file in which no certificate was found, with the reason.
#[must_use]
pub fn explain_unreadable(reason: &str) -> Ladder {
    let mut board = Board::new(RULES).with(BROUGHT);
    board.fail("parse", "the file", reason, Opinion::unknown());
    board.skip_rest("no certificate was read");
    board.finish()
}

fn place(index: usize, certificate: &Certificate) -> String {
    match index {
        0 => "first certificate".to_owned(),
        _ => format!("authority {:?}", certificate.subject()),
    }
}

/// Whether a certificate names itself as its issuer, and its key signed it.
#[must_use]
pub fn is_self_signed(certificate: &Certificate) -> bool {
    let is_self_issued = Anatomy::of(certificate.der()).is_ok_and(|parts| parts.is_self_issued());
    is_self_issued && signature(certificate, certificate) == Signature::Holds
}

/// What only the issuing authority must be.
fn first(issuing: &Certificate, board: &mut Board) {
    let name = "first certificate";
    if has_no_extensions(issuing) {
        for rule in ["issuing-constraints", "issuing-usage"] {
            board.skip(rule, "a certificate of this version has no extensions that could say it");
        }
        return;
    }
    let basic = Anatomy::of(issuing.der()).ok().and_then(|parts| {
        let extension = parts.extension(oid::BASIC_CONSTRAINTS)?;
        Some((extension.critical, BasicConstraints::parse(extension.value).ok()?))
    });
    let wanted = BasicConstraints { ca: true, path_length: Profile::Issuing.path_length() };
    if basic != Some((true, wanted)) {
        let found = match basic {
            None => "has no BasicConstraints".to_owned(),
            Some((_, BasicConstraints { ca: false, .. })) => "is no authority".to_owned(),
            Some((_, BasicConstraints { path_length: None, .. })) => "has no path length".to_owned(),
            Some((false, _)) => "has BasicConstraints that are not critical".to_owned(),
            Some((true, BasicConstraints { path_length: Some(length), .. })) => {
                format!("has path length {length}")
            }
        };
        board.fail("issuing-constraints", name, found, Opinion::unknown());
    }
    let found = match issuing.key_usage() {
        None => Some("has no KeyUsage"),
        Some(usage) if !usage.is_critical() => Some("has a KeyUsage that is not critical"),
        Some(usage) if !usage.has_key_cert_sign() => Some("lacks keyCertSign"),
        Some(usage) if !usage.has_crl_sign() => Some("lacks cRLSign"),
        Some(_) => None,
    };
    if let Some(found) = found {
        board.fail("issuing-usage", name, found, Opinion::unknown());
    }
}

/// What each authority of the path must be, its root too: Envoy looks at purposes and constraints of roots.
fn each(authority: &Certificate, name: &str, wanted: &Wanted<'_>, board: &mut Board) {
    let purposes = authority.extended_key_usages();
    let both = [ExtendedKeyUsage::ServerAuth, ExtendedKeyUsage::ClientAuth];
    let is_both = both.iter().all(|purpose| purposes.contains(purpose));
    if !purposes.is_empty() && !is_both {
        board.fail(
            "authority-purposes",
            name,
            format!("is for {}", purposes_text(purposes)),
            Opinion::unknown(),
        );
    }
    let has_constraints =
        Anatomy::of(authority.der()).is_ok_and(|parts| parts.extension(oid::NAME_CONSTRAINTS).is_some());
    if has_constraints {
        board.fail("authority-constraints", name, "has NameConstraints", Opinion::unknown());
    }
    for one in authority.subject_alt_names() {
        if let SubjectAltName::Uri(uri) = one
            && uri.starts_with("spiffe:")
            && uri != wanted.domain
        {
            let found = format!("names {uri:?}, we are {:?}", wanted.domain);
            board.fail("authority-domain", name, found, Opinion::Accepts.both());
        }
    }
}

/// Whether a root that is not the one that signs may enter.
fn new_root(root: &Certificate, wanted: &Wanted<'_>, board: &mut Board) {
    let key = root.spki_hash();
    let taken = wanted.taken.iter().find(|(taken, _)| *taken == key).map(|(_, why)| *why);
    let same_key = wanted.root.is_some_and(|active| active.spki_hash() == key);
    let found =
        taken.or(same_key.then_some("has the key of the root that signs now, and is another certificate"));
    if let Some(found) = found {
        board.fail("root-key", &format!("root {:?}", root.subject()), found, Opinion::Accepts.both());
    }
}

/// Makes a leaf as it would be issued, signed by a key that is thrown away, and holds it against our own lint.
fn trial(issuing: &Certificate, wanted: &Wanted<'_>, board: &mut Board) {
    let refuse = |board: &mut Board, found: String| {
        board.fail("trial-leaf", "first certificate", found, Opinion::unknown());
    };
    if distinguished_name(issuing).is_none() {
        let found =
            "has a name that cannot be repeated: several attributes side by side, or one of them twice";
        return refuse(board, found.to_owned());
    }
    let bounds = Validity { not_before: issuing.not_before(), not_after: issuing.not_after() };
    let key: PublicKey = SecretKey::generate(KeyKind::P256).public().clone();
    let template = Template {
        profile: Profile::Server,
        serial: Serial::random(),
        validity: Validity::starting(wanted.now, wanted.leaf_life, Some(bounds)),
        public_key: key,
        subject: None,
        uri: format!("{}/trial", wanted.domain),
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: vec![IpAddr::from([127, 0, 0, 1])],
    };
    let leaf = match rehearse(&template, Some(issuing)) {
        Ok(leaf) => leaf,
        Err(error) => return refuse(board, error.to_string()),
    };
    let findings = lint(&leaf, Some(issuing), Profile::Server);
    for finding in findings.into_iter().filter(|finding| finding.severity == Severity::Error) {
        refuse(board, format!("its leaf {}", finding.message));
    }
}
