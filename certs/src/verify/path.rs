//! From a chain and anchors to one path: bounds, the strict layer on every candidate, webpki's path building, and
//! what must hold for a path as a whole.

use std::cell::Cell;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, ExtendedKeyUsageValidator, KeyPurposeIdIter,
    KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::{
    Fault, MAX_SIGNATURE_CHECKS, Position, Usage, VerifiedChain, VerifyError, VerifyOptions,
    constraints::{self, Violation},
    rules::{self, Role, faults},
    work::Work,
};
use crate::{Certificate, Chain, Crl, Timestamp, anatomy::Anatomy};

pub(super) struct Verifier<'a> {
    pub(super) chain: &'a Chain,
    pub(super) options: &'a VerifyOptions<'a>,
    pub(super) work: &'a Work,
}

/// A certificate that was left out of path building, and why.
struct Dropped<'a> {
    certificate: &'a Certificate,
    reason: VerifyError,
}

impl<'a> Verifier<'a> {
    pub(super) fn verify(&self, anchors: &'a [Certificate]) -> Result<VerifiedChain, VerifyError> {
        self.chain.check_bounds()?;
        let leaf = self.chain.leaf();
        if let Some(reason) = self.fault(leaf, Role::Leaf(self.options.usage), Position::Leaf) {
            return Err(reason);
        }
        if anchors.is_empty() {
            return Err(VerifyError::NoAnchor);
        }
        let mut dropped = Vec::new();
        let mut keep = |certificate: &'a Certificate, role, position| {
            let fault = self.fault(certificate, role, position);
            fault.map(|reason| dropped.push(Dropped { certificate, reason })).is_none()
        };
        let mut intermediates: Vec<&Certificate> = Vec::new();
        for (index, certificate) in self.chain.intermediates().iter().enumerate() {
            if !intermediates.contains(&certificate)
                && certificate != leaf
                && keep(certificate, Role::Intermediate, Position::Intermediate(index + 1))
            {
                intermediates.push(certificate);
            }
        }
        let mut anchors: Vec<&Certificate> = anchors
            .iter()
            .enumerate()
            .filter(|(index, certificate)| keep(certificate, Role::Anchor, Position::Anchor(*index)))
            .map(|(_, certificate)| certificate)
            .collect();
        if constraints::is_too_much(intermediates.iter().copied().chain([leaf])) {
            return Err(VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS));
        }
        let intermediates = reachable(leaf, intermediates, &mut anchors);
        if anchors.is_empty() {
            let unknown = VerifyError::UnknownIssuer { issuer: leaf.issuer().to_owned() };
            return Err(self.explain(&intermediates, dropped).unwrap_or(unknown));
        }
        self.build(leaf, &intermediates, &anchors).map_err(|error| match error {
            VerifyError::UnknownIssuer { .. } => self.explain(&intermediates, dropped).unwrap_or(error),
            other => other,
        })
    }

    fn fault(&self, certificate: &Certificate, role: Role, position: Position) -> Option<VerifyError> {
        let tainted = || {
            let tainted = self.options.tainted.contains(&certificate.spki_hash());
            tainted.then_some(Fault::TaintedKey)
        };
        let fault = faults(certificate, role, Some(self.options.now)).into_iter().next().or_else(tainted)?;
        Some(VerifyError::Certificate { position, fault })
    }

    /// No path was found: the reason is a dropped certificate if one could have stood in it.
    fn explain(&self, kept: &[&Certificate], dropped: Vec<Dropped<'_>>) -> Option<VerifyError> {
        let names = |certificate: &Certificate| {
            Anatomy::of(certificate.der()).map(|parts| (parts.subject.to_vec(), parts.issuer.to_vec())).ok()
        };
        let wanted: Vec<Vec<u8>> = std::iter::once(self.chain.leaf())
            .chain(kept.iter().copied())
            .filter_map(|certificate| names(certificate).map(|(_, issuer)| issuer))
            .collect();
        let blamed =
            |one: &Dropped<'_>| names(one.certificate).is_none_or(|(subject, _)| wanted.contains(&subject));
        dropped.into_iter().find(|one| blamed(one)).map(|one| one.reason)
    }

    fn build(
        &self,
        leaf: &Certificate,
        intermediates: &[&Certificate],
        anchors: &[&Certificate],
    ) -> Result<VerifiedChain, VerifyError> {
        let anchor_ders: Vec<CertificateDer<'_>> =
            anchors.iter().map(|anchor| CertificateDer::from(anchor.der())).collect();
        let trusted: Vec<TrustAnchor<'_>> = anchor_ders
            .iter()
            .map(webpki::anchor_from_trusted_cert)
            // The constraints of anchors are ours to check: webpki refuses mailboxes and directory names.
            .map(|anchor| anchor.map(|anchor| TrustAnchor { name_constraints: None, ..anchor }))
            .collect::<Result<_, _>>()
            .map_err(|error| self.translate(error, None))?;
        let presented: Vec<CertificateDer<'_>> =
            intermediates.iter().map(|certificate| CertificateDer::from(certificate.der())).collect();
        let end_der = CertificateDer::from(leaf.der());
        let end = EndEntityCert::try_from(&end_der).map_err(|error| self.translate(error, None))?;
        let lists: Vec<&CertRevocationList<'_>> = self.options.crls.iter().map(Crl::list).collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let counted = self.work.algorithms();
        let algorithms: Vec<&dyn SignatureVerificationAlgorithm> =
            counted.iter().map(|algorithm| algorithm as &dyn SignatureVerificationAlgorithm).collect();
        let refusal = Cell::new(None);
        let check = |path: &VerifiedPath<'_>| {
            self.check_path(&resolve(path, leaf, intermediates, anchors, &trusted)).map_err(|reason| {
                refusal.set(Some(reason));
                webpki::Error::UnknownIssuer
            })
        };
        let found = end.verify_for_usage(
            &algorithms,
            &trusted,
            &presented,
            UnixTime::since_unix_epoch(self.options.now.floor_secs().since(Timestamp::EPOCH)),
            Purpose(self.options.usage),
            revocation,
            Some(&check),
        );
        match found {
            Ok(path) => Ok(VerifiedChain { path: resolve(&path, leaf, intermediates, anchors, &trusted) }),
            Err(error) => Err(self.translate(error, refusal.take())),
        }
    }

    /// What must hold for a whole path.
    fn check_path(&self, path: &[Certificate]) -> Result<(), VerifyError> {
        let (leaf, authorities) = (&path[0], &path[1..]);
        if authorities.is_empty() {
            return Err(VerifyError::Other("path without an anchor".to_owned()));
        }
        let counted = authorities[..authorities.len() - 1]
            .iter()
            .filter(|authority| !Anatomy::of(authority.der()).is_ok_and(|parts| parts.is_self_issued()))
            .count();
        if counted > self.options.max_depth {
            return Err(VerifyError::TooDeep(self.options.max_depth));
        }
        constraints::check_path(path).map_err(|violation| match violation {
            Violation::Outside => VerifyError::NameConstraint,
            Violation::TooMuchWork => VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS),
        })?;
        for authority in authorities {
            if authority.spki_der() == leaf.spki_der() {
                let fault = Fault::AuthorityKey;
                return Err(VerifyError::Certificate { position: Position::Leaf, fault });
            }
            let signs_a_list = || {
                let subject = Anatomy::of(authority.der()).map(|parts| parts.subject);
                self.options.crls.iter().any(|crl| subject == Ok(crl.issuer()))
            };
            if rules::may_not_sign_crls(authority) && signs_a_list() {
                return Err(VerifyError::CrlIssuer);
            }
        }
        Ok(())
    }

    fn translate(&self, error: webpki::Error, refusal: Option<VerifyError>) -> VerifyError {
        use webpki::Error;
        if self.work.is_exhausted() {
            return VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS);
        }
        let leaf = self.chain.leaf();
        match error {
            Error::UnknownIssuer => {
                refusal.unwrap_or_else(|| VerifyError::UnknownIssuer { issuer: leaf.issuer().to_owned() })
            }
            Error::InvalidSignatureForPublicKey => VerifyError::BadSignature,
            Error::SignatureAlgorithmMismatch
            | Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => VerifyError::AlgorithmMismatch,
            Error::MaximumSignatureChecksExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumNameConstraintComparisonsExceeded => {
                VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS)
            }
            Error::MaximumPathDepthExceeded => VerifyError::TooDeep(self.options.max_depth),
            Error::PathLenConstraintViolated => VerifyError::PathLength,
            Error::NameConstraintViolation => VerifyError::NameConstraint,
            Error::RequiredEkuNotFoundContext(_) => VerifyError::WrongUsage,
            Error::CertRevoked => VerifyError::Revoked { serial: leaf.serial().clone() },
            Error::UnknownRevocationStatus => VerifyError::RevocationUnknown,
            Error::CrlExpired { .. } => VerifyError::CrlExpired,
            Error::IssuerNotCrlSigner | Error::InvalidCrlSignatureForPublicKey => VerifyError::CrlIssuer,
            other => VerifyError::Other(format!("{other:?}")),
        }
    }
}

/// What can be reached from the leaf by names alone: the intermediates, and in `anchors` those that end such a
/// way. Without this, authorities of one name that lead nowhere cost a walk over all their orders. Authorities
/// whose key id is asked for come first.
fn reachable<'a>(
    leaf: &Certificate,
    mut rest: Vec<&'a Certificate>,
    anchors: &mut Vec<&Certificate>,
) -> Vec<&'a Certificate> {
    let parts = |certificate: &Certificate| {
        Anatomy::of(certificate.der()).map(|parts| (parts.subject.to_vec(), parts.issuer.to_vec())).ok()
    };
    let mut wanted: Vec<Vec<u8>> = parts(leaf).map(|(_, issuer)| issuer).into_iter().collect();
    let mut ids: Vec<&[u8]> = leaf.authority_key_id().into_iter().collect();
    let mut found: Vec<&'a Certificate> = Vec::new();
    loop {
        let before = found.len();
        rest.retain(|certificate| {
            let Some((subject, issuer)) = parts(certificate) else { return false };
            if wanted.contains(&subject) {
                wanted.push(issuer);
                ids.extend(certificate.authority_key_id());
                found.push(certificate);
                return false;
            }
            true
        });
        if found.len() == before {
            break;
        }
    }
    anchors.retain(|anchor| parts(anchor).is_some_and(|(subject, _)| wanted.contains(&subject)));
    let is_asked_for =
        |certificate: &Certificate| certificate.subject_key_id().is_some_and(|id| ids.contains(&id));
    anchors.sort_by_key(|anchor| !is_asked_for(anchor));
    found.sort_by_key(|certificate| !is_asked_for(certificate));
    found
}

/// The parsed certificates of webpki's path, leaf first, anchor last.
fn resolve(
    path: &VerifiedPath<'_>,
    leaf: &Certificate,
    intermediates: &[&Certificate],
    anchors: &[&Certificate],
    trusted: &[TrustAnchor<'_>],
) -> Vec<Certificate> {
    let same = |one: &&&Certificate, der: &[u8]| one.der() == der;
    let between = path
        .intermediate_certificates()
        .filter_map(|step| intermediates.iter().find(|one| same(one, step.der().as_ref())));
    // By address: two anchors may differ in nothing that webpki looks at, and only in their constraints.
    let anchor =
        trusted.iter().position(|anchor| std::ptr::eq(anchor, path.anchor())).map(|index| &anchors[index]);
    std::iter::once(&leaf).chain(between).chain(anchor).map(|one| (*one).clone()).collect()
}

/// Purposes of every certificate of a path, for webpki.
struct Purpose(Usage);

impl ExtendedKeyUsageValidator for Purpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        match self.0 {
            Usage::Server => KeyUsage::server_auth().validate(purposes),
            Usage::Client => KeyUsage::client_auth().validate(purposes),
            Usage::Any => Ok(()),
        }
    }
}
