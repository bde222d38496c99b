//! Who signed whom, step by step, from the certificate in question to an anchor or to where it breaks.

use super::{
    Context, DEPTH, Part, RevocationState,
    certificates::Presented,
    opinion::{self, Opinion},
    rung::{Board, Link},
};
use crate::{
    Certificate, MAX_SIGNATURE_CHECKS, VerifyError,
    anatomy::{Anatomy, BasicConstraints, oid},
    verify::{
        constraints::{self, Violation},
        work::{Signature, signature},
    },
};

/// One certificate of the path.
pub(super) struct Step<'a> {
    pub(super) certificate: &'a Certificate,
    /// What it is called.
    pub(super) name: String,
    /// Which of the anchors it is, if one.
    pub(super) anchor: Option<usize>,
    /// Whether it is self-signed.
    pub(super) is_root: bool,
    /// Whether the certificate above signed it; `None` when there is none above, or it could not be checked.
    signed: Option<Signature>,
}

/// The path that holds, or the one that comes nearest to it.
pub(super) struct Path<'a> {
    steps: Vec<Step<'a>>,
    /// Signatures that were checked.
    checks: u32,
}

impl<'a> Path<'a> {
    /// The path that the verifier found.
    pub(super) fn known(
        verified: &[Certificate],
        presented: &'a Presented,
        context: &'a Context<'_>,
    ) -> Self {
        let anchors = context.anchors.unwrap_or_default();
        let mut path = Self { steps: Vec::new(), checks: 0 };
        for (index, certificate) in verified.iter().enumerate() {
            let last = index + 1 == verified.len();
            let anchor = anchors.iter().position(|one| last && one == certificate);
            let step = match anchor {
                Some(anchor) => path.step(&anchors[anchor], None, Some(anchor)),
                None => {
                    let mut placed = presented.placed();
                    let Some((place, found)) = placed.find(|(_, one)| *one == certificate) else { continue };
                    path.step(found, Some(place), None)
                }
            };
            path.steps.push(Step { signed: (!last).then_some(Signature::Holds), ..step });
        }
        path
    }

    /// Walks upwards by names: anchors before what was presented, whoever really signed before whoever says so,
    /// the valid before the ended.
    pub(super) fn walk(presented: &'a Presented, context: &'a Context<'_>) -> Self {
        let mut path = Self { steps: Vec::new(), checks: 0 };
        let Some(first) = presented.first() else { return path };
        let step = path.step(first, Some(0), None);
        path.steps.push(step);
        while path.steps.len() <= DEPTH + 2 {
            let Some(next) = path.above(presented, context) else { break };
            let is_end = next.anchor.is_some() || next.is_root;
            path.steps.push(next);
            if is_end {
                break;
            }
        }
        path
    }

    fn step(
        &mut self,
        certificate: &'a Certificate,
        place: Option<usize>,
        anchor: Option<usize>,
    ) -> Step<'a> {
        let is_self_issued = Anatomy::of(certificate.der()).is_ok_and(|parts| parts.is_self_issued());
        let is_root = is_self_issued && anchor.is_none() && {
            self.checks += 1;
            signature(certificate, certificate) == Signature::Holds
        };
        let name = match (place, anchor) {
            (Some(0), _) => "first certificate".to_owned(),
            (Some(place), _) => format!("certificate {} ({:?})", place + 1, shown(certificate)),
            (None, _) => format!("anchor ({:?})", shown(certificate)),
        };
        Step { certificate, name, anchor, is_root, signed: None }
    }

    /// The next step upwards; marks the last one with what its signature says.
    fn above(&mut self, presented: &'a Presented, context: &'a Context<'_>) -> Option<Step<'a>> {
        let last = self.steps.last()?;
        if last.is_root && self.steps.len() == 1 && !is_known(last.certificate, context) {
            return None;
        }
        let below = last.certificate;
        let issuer = Anatomy::of(below.der()).ok()?.issuer;
        let is_named = |one: &Certificate| Anatomy::of(one.der()).is_ok_and(|parts| parts.subject == issuer);
        let anchors = context.anchors.unwrap_or_default().iter().enumerate();
        let anchors = anchors.map(|(index, one)| (one, None, Some(index)));
        let others = presented.placed().map(|(place, one)| (one, Some(place), None));
        let mut best: Option<(u8, Signature, Step<'a>)> = None;
        for (certificate, place, anchor) in anchors.chain(others) {
            let is_used = self.steps.iter().any(|step| step.certificate == certificate);
            if !is_named(certificate) || is_used || self.checks >= MAX_SIGNATURE_CHECKS {
                continue;
            }
            self.checks += 1;
            let signed = signature(below, certificate);
            let is_valid = certificate.not_before() <= context.now && context.now <= certificate.not_after();
            let asked_for = below.authority_key_id().is_some()
                && below.authority_key_id() == certificate.subject_key_id();
            let rank = 8 * u8::from(signed == Signature::Holds)
                + 4 * u8::from(is_valid)
                + 2 * u8::from(anchor.is_some())
                + u8::from(asked_for);
            if best.as_ref().is_none_or(|(than, _, _)| rank > *than) {
                best = Some((rank, signed, self.step(certificate, place, anchor)));
            }
        }
        let (_, signed, step) = best?;
        if let Some(last) = self.steps.last_mut() {
            last.signed = Some(signed);
        }
        Some(step)
    }

    pub(super) fn steps(&self) -> &[Step<'a>] {
        &self.steps
    }

    /// The path as it is shown.
    pub(super) fn links(&self) -> Vec<Link> {
        let last = self.steps.len().saturating_sub(1);
        let link = |(index, step): (usize, &Step<'_>)| {
            let (signed_by, holds) = match (&step.signed, self.steps.get(index + 1)) {
                (Some(signed), Some(above)) => (above.name.clone(), *signed == Signature::Holds),
                _ if step.anchor.is_some() => ("nobody: it is trusted".to_owned(), true),
                _ if step.is_root => ("itself, and it is not in the bundle".to_owned(), false),
                _ => (format!("{:?}, which is not here", step.certificate.issuer()), false),
            };
            let subject = match index {
                0 => format!("first certificate ({:?})", shown(step.certificate)),
                _ => step.name.clone(),
            };
            debug_assert!(index <= last);
            Link { subject, signed_by, holds }
        };
        self.steps.iter().enumerate().map(link).collect()
    }

    /// Asks what must hold for the path as a whole.
    pub(super) fn ask(&self, context: &Context<'_>, board: &mut Board) {
        for rule in ["revocation-unknown", "crl-expired", "crl-issuer"] {
            board.skip(rule, "no revocation list was given");
        }
        match context.revocation {
            RevocationState::Unasked => board.skip("revoked", "no revocation list was given"),
            RevocationState::Good => {}
            RevocationState::Revoked(at) => {
                let found = format!("was revoked at {at}");
                board.fail("revoked", "first certificate", found, Opinion::unknown());
            }
        }
        if self.checks >= MAX_SIGNATURE_CHECKS {
            let error = VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS);
            board.fail(error.rule(), "the chain", error.to_string(), Opinion::unknown());
        }
        self.ask_end(context, board);
        self.ask_signatures(board);
        self.ask_lengths(context, board);
        self.ask_constraints(board);
    }

    /// Asks what Envoy asks beside: it does not look for another authority once it has found one by name.
    pub(super) fn ask_peers(&self, presented: &Presented, context: &Context<'_>, board: &mut Board) {
        for pair in self.steps.windows(2) {
            let (below, above) = (pair[0].certificate, pair[1].certificate);
            let Ok(issuer) = Anatomy::of(below.der()).map(|parts| parts.issuer) else { continue };
            let first = presented.placed().map(|(_, one)| one).find(|one| {
                *one != below && Anatomy::of(one.der()).is_ok_and(|parts| parts.subject == issuer)
            });
            let Some(first) = first.filter(|first| *first != above && first.not_after() < context.now) else {
                continue;
            };
            let found =
                format!("an authority {:?} that ended at {} stands first", shown(first), first.not_after());
            let words = Opinion::Refuses("certificate has expired");
            board.fail("peer-path", "the chain", found, (words, Opinion::Accepts));
        }
    }

    fn ask_end(&self, context: &Context<'_>, board: &mut Board) {
        let Some(end) = self.steps.last() else { return };
        match context.anchors {
            _ if context.part == Part::Root => {
                board.skip("no-anchor", "a root is trusted by being in the bundle");
                if end.is_root || end.anchor.is_some() {
                    return;
                }
                let found = format!("is signed by {:?}, and not by itself", end.certificate.issuer());
                board.fail("unknown-issuer", &end.name, found, Opinion::unknown());
            }
            None => {
                board.skip("no-anchor", "no bundle was given");
                if self.steps.len() == 1 && !end.is_root {
                    board.skip("unknown-issuer", "no bundle was given, and no authority stands beside it");
                } else {
                    board.skip("unknown-issuer", "no bundle was given");
                }
            }
            Some([]) => {
                board.fail("no-anchor", "the chain", VerifyError::NoAnchor.to_string(), Opinion::unknown());
                board.skip("unknown-issuer", "nobody is trusted");
            }
            Some(_) if end.anchor.is_some() => {}
            Some(_) => {
                let found = if end.is_root {
                    format!("ends at the self-signed {:?}, which is not trusted", shown(end.certificate))
                } else {
                    format!("is signed by {:?}, which is neither here nor trusted", end.certificate.issuer())
                };
                board.fail("unknown-issuer", &end.name, found, opinion::NO_ISSUER);
            }
        }
    }

    fn ask_signatures(&self, board: &mut Board) {
        if self.steps.iter().all(|step| step.signed.is_none()) {
            board.skip("bad-signature", "no certificate above is here");
        }
        for pair in self.steps.windows(2) {
            let (step, above) = (&pair[0], &pair[1]);
            match step.signed {
                None | Some(Signature::Holds) => {}
                Some(Signature::Broken) => {
                    let found = format!("is not signed by the key of {}", above.name);
                    let wanted = step.certificate.authority_key_id();
                    let is_stranger = wanted.is_some() && wanted != above.certificate.subject_key_id();
                    // Whoever looks for an issuer by its key id does not even try another.
                    let opinions = if is_stranger {
                        (opinion::NO_ISSUER.0, Opinion::Refuses("BadSignature"))
                    } else {
                        (Opinion::Refuses("certificate signature failure"), Opinion::Refuses("BadSignature"))
                    };
                    board.fail("bad-signature", &step.name, found, opinions);
                }
                // The algorithm has a rule of its own, unless it is sound and only does not fit the key.
                Some(Signature::Unfit) if board.has_failed_at("signature-algorithm") => {}
                Some(Signature::Unfit) => {
                    let found =
                        format!("is signed with an algorithm that does not fit the key of {}", above.name);
                    board.fail("algorithm-mismatch", &step.name, found, Opinion::unknown());
                }
            }
        }
    }

    fn ask_lengths(&self, context: &Context<'_>, board: &mut Board) {
        let is_leaf = matches!(context.part, Part::Leaf(_));
        let counts =
            |step: &Step<'_>| !Anatomy::of(step.certificate.der()).is_ok_and(|parts| parts.is_self_issued());
        for (height, step) in self.steps.iter().enumerate().skip(1) {
            let below = &self.steps[usize::from(is_leaf).min(height)..height];
            let below = below.iter().filter(|one| counts(one)).count();
            let Some(allowed) = path_length(step.certificate).map(usize::from) else { continue };
            if below > allowed {
                let found = format!("allows {allowed} authorities below it, and has {below}");
                let words = Opinion::Refuses("path length constraint exceeded");
                board.fail(
                    "path-length",
                    &step.name,
                    found,
                    (words, Opinion::Refuses("PathLenConstraintViolated")),
                );
            }
        }
        let between = self.steps.iter().skip(1).filter(|step| step.anchor.is_none() && counts(step)).count();
        if between > DEPTH {
            let error = VerifyError::TooDeep(DEPTH);
            board.fail(error.rule(), "the chain", error.to_string(), Opinion::unknown());
        }
    }

    fn ask_constraints(&self, board: &mut Board) {
        let certificates: Vec<Certificate> = self.steps.iter().map(|step| step.certificate.clone()).collect();
        let refused = match constraints::check_path(&certificates) {
            Ok(()) => return,
            Err(Violation::TooMuchWork) => {
                let error = VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS);
                return board.fail(error.rule(), "the chain", error.to_string(), Opinion::unknown());
            }
            Err(Violation::Outside) => VerifyError::NameConstraint,
        };
        let compared = Opinion::Refuses("NameConstraintViolation");
        let (found, opinions) = match constraints::uris(&certificates) {
            Some(true) => (
                "an authority constrains URIs, and rustls refuses every such chain",
                (Opinion::Accepts, compared),
            ),
            Some(false) => ("an authority constrains URIs", (Opinion::Unknown, compared)),
            None => (
                "a name is outside the constraints of an authority",
                (Opinion::Refuses("permitted subtree violation"), compared),
            ),
        };
        board.fail(refused.rule(), "the chain", found, opinions);
    }
}

fn is_known(certificate: &Certificate, context: &Context<'_>) -> bool {
    context.anchors.unwrap_or_default().contains(certificate)
}

fn path_length(certificate: &Certificate) -> Option<u8> {
    let parts = Anatomy::of(certificate.der()).ok()?;
    BasicConstraints::parse(parts.extension(oid::BASIC_CONSTRAINTS)?.value).ok()?.path_length
}

/// What people call a certificate: its subject, else its first URI name, else its serial number.
fn shown(certificate: &Certificate) -> String {
    let uri = certificate.uri_names().first().map(|uri| String::from_utf8_lossy(uri).into_owned());
    let name = match certificate.subject() {
        "" => uri.unwrap_or_else(|| format!("serial {}", certificate.serial())),
        subject => subject.to_owned(),
    };
    name.chars().take(120).collect()
}
