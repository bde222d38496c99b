//! What was presented, read; and the rules that each certificate must keep by itself.

use super::{
    Context, Part,
    opinion::{self, Opinion},
    path::Path,
    rung::Board,
};
use crate::{
    Certificate, CertificateError, Chain, ChainError, Fault, MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES,
    Position,
    anatomy::Anatomy,
    verify::rules::{Role, faults},
};

/// What was presented: each certificate that parses, in its place.
pub(super) struct Presented {
    read: Vec<Option<Certificate>>,
}

impl Presented {
    pub(super) fn read(ders: &[&[u8]], board: &mut Board) -> Self {
        let bytes = ders.iter().map(|der| der.len()).sum();
        let bounds = [
            (ders.len() > MAX_CHAIN_CERTIFICATES).then_some(ChainError::TooMany(ders.len())),
            (bytes > MAX_CHAIN_BYTES).then_some(ChainError::TooLarge(bytes)),
        ];
        for error in bounds.into_iter().flatten() {
            board.fail("chain-bounds", "the chain", error.to_string(), Opinion::Accepts.both());
        }
        let mut read = Vec::with_capacity(ders.len());
        for (index, der) in ders.iter().enumerate() {
            let parsed = Certificate::from_der(der);
            if let Err(error) = &parsed {
                let opinions = match error {
                    _ if index > 0 => Opinion::unknown(),
                    CertificateError::Serial(_) => Opinion::Accepts.both(),
                    CertificateError::Malformed(_) => opinion::UNREADABLE,
                };
                let rule = match error {
                    CertificateError::Serial(_) => "serial",
                    CertificateError::Malformed(_) => "parse",
                };
                board.fail(rule, &place(index), error.to_string(), opinions);
            }
            read.push(parsed.ok());
        }
        if ders.is_empty() {
            board.fail("parse", "the chain", "there is no certificate", Opinion::unknown());
        }
        Self { read }
    }

    /// The certificate in question.
    pub(super) fn first(&self) -> Option<&Certificate> {
        self.read.first()?.as_ref()
    }

    /// Everything, if all of it parses.
    pub(super) fn chain(&self) -> Option<Chain> {
        let all: Vec<Certificate> = self.read.iter().cloned().collect::<Option<_>>()?;
        let (leaf, above) = all.split_first()?;
        Some(Chain::new(leaf.clone(), above.to_vec()))
    }

    /// What parses, each with its place.
    pub(super) fn placed(&self) -> impl Iterator<Item = (usize, &Certificate)> {
        self.read.iter().enumerate().filter_map(|(index, read)| Some((index, read.as_ref()?)))
    }
}

/// Whether a certificate is of a version that has no extensions, and has none.
pub(super) fn has_no_extensions(certificate: &Certificate) -> bool {
    Anatomy::of(certificate.der()).is_ok_and(|parts| parts.version != 3 && parts.extensions.is_empty())
}

/// What a presented certificate is called.
pub(super) fn place(index: usize) -> String {
    if index == 0 { "first certificate".to_owned() } else { format!("certificate {}", index + 1) }
}

/// Asks every rule that a certificate keeps by itself, of every certificate of the path.
pub(super) fn ask(path: &Path<'_>, context: &Context<'_>, board: &mut Board) {
    for (index, step) in path.steps().iter().enumerate() {
        let (role, position) = match (context.part, step.anchor) {
            (_, Some(anchor)) if index > 0 => (Role::Anchor, Position::Anchor(anchor)),
            (Part::Leaf(usage), _) if index == 0 => (Role::Leaf(usage), Position::Leaf),
            (Part::Root, _) if index == 0 => (Role::Anchor, Position::Anchor(0)),
            // A self-signed one that nobody trusts yet is judged as the root that it wants to be.
            _ if step.is_root => (Role::Anchor, Position::Anchor(0)),
            _ => (Role::Intermediate, Position::Intermediate(index)),
        };
        let found = faults(step.certificate, role, Some(context.now));
        let is_bare = has_no_extensions(step.certificate);
        // Before version 3 there are none to have it issued with: the version says it all.
        let follows = |fault: &&Fault| is_bare && matches!(fault, Fault::MissingExtension(_));
        if found.contains(&Fault::MissingExtension("BasicConstraints")) {
            board.skip("not-authority", "the extension that would say it is missing");
        }
        if is_bare {
            board.skip("no-cert-sign", "the extension that would say it is missing");
        }
        for fault in found.iter().filter(|fault| !follows(fault)) {
            let opinions = opinion::on_fault(step.certificate, position, fault, &found);
            board.fail(fault.rule(), &step.name, fault.to_string(), opinions);
        }
        if context.tainted.contains(&step.certificate.spki_hash()) {
            let fault = Fault::TaintedKey;
            board.fail(fault.rule(), &step.name, fault.to_string(), Opinion::Accepts.both());
        }
    }
    let leaf_rules = ["leaf-is-authority", "leaf-signs", "any-usage", "authority-key", "peer-key"];
    if !matches!(context.part, Part::Leaf(_)) {
        leaf_rules.into_iter().for_each(|rule| board.skip(rule, "asked of a leaf only"));
        return;
    }
    let leaf = path.steps()[0].certificate;
    let above = &path.steps()[1..];
    if above.iter().any(|step| step.certificate.spki_der() == leaf.spki_der()) {
        let fault = Fault::AuthorityKey;
        board.fail(fault.rule(), "first certificate", fault.to_string(), Opinion::Accepts.both());
    }
    if let Some((found, words)) = refused_by_envoy(leaf) {
        board.fail("peer-key", "first certificate", found, (Opinion::Refuses(words), Opinion::Accepts));
    }
}

/// Keys that are sound, and that Envoy's default policy refuses from peers all the same.
fn refused_by_envoy(leaf: &Certificate) -> Option<(&'static str, &'static str)> {
    const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
    const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
    let spki = Anatomy::of(leaf.der()).ok()?.spki;
    let has = |oid: &[u8]| spki.windows(oid.len()).take(16).any(|at| at == oid);
    if has(ED25519) {
        Some(("has an Ed25519 key", "PEER_DID_NOT_RETURN_A_CERTIFICATE"))
    } else if has(P521) {
        Some(("has a key on P-521", "PEER_DID_NOT_RETURN_A_CERTIFICATE"))
    } else {
        None
    }
}
