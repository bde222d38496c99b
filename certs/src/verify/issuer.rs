//! More leaves of an authority whose path was verified: of the leaf everything is asked, of the path above it only
//! what time changes.

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::{
    Fault, Position, Usage, VerifiedChain, VerifyError,
    constraints::{self, Violation},
    rules::{Role, expiry, faults},
    work::{MAX_SIGNATURE_CHECKS, Signature, signature},
};
use crate::{
    Certificate, SpkiHash, Timestamp,
    anatomy::{Anatomy, oid},
};

/// The authorities of a path that was verified, the one that signs the leaves first, the anchor last.
///
/// What [`crate::verify_chain`] found out about them stays true, because it was read from octets that do not change:
/// that each signed the one below, that their names follow one another, their constraints, and their purposes for
/// the usage that was asked about. What may change is asked again for each leaf: whether they are valid at the time,
/// and whether a key of the path is tainted. Revocation is not asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedIssuer {
    authorities: Vec<Certificate>,
    /// The name under which the first of them signs, as octets.
    subject: Vec<u8>,
    /// Whether any of them constrains names.
    constrains: bool,
}

impl VerifiedIssuer {
    pub(super) fn of(chain: &VerifiedChain) -> Self {
        let authorities = chain.path()[1..].to_vec();
        let subject = Anatomy::of(chain.authority().der()).map(|parts| parts.subject.to_vec());
        let constrains = authorities.iter().any(|authority| {
            // What does not read has been refused before; if in doubt, the constraints are asked.
            Anatomy::of(authority.der())
                .map_or(true, |parts| parts.extension(oid::NAME_CONSTRAINTS).is_some())
        });
        Self { authorities, subject: subject.unwrap_or_default(), constrains }
    }

    /// From the one that signs leaves to the anchor.
    #[must_use]
    pub fn authorities(&self) -> &[Certificate] {
        &self.authorities
    }

    /// Holds a leaf against this path at `now`. `tainted` are keys that no certificate may carry any more.
    ///
    /// One signature is checked, that of the leaf. Whatever [`crate::verify_chain`] refuses about the leaf itself
    /// is refused here, by the same rules.
    ///
    /// # Errors
    /// See [`VerifyError`]; the first reason found is the answer.
    pub fn verify(
        &self,
        leaf: &Certificate,
        now: Timestamp,
        usage: Usage,
        tainted: &[SpkiHash],
    ) -> Result<(), VerifyError> {
        let refused = |position, fault| Err(VerifyError::Certificate { position, fault });
        if let Some(fault) = faults(leaf, Role::Leaf(usage), Some(now)).into_iter().next() {
            return refused(Position::Leaf, fault);
        }
        let is_tainted =
            |certificate: &Certificate| !tainted.is_empty() && tainted.contains(&certificate.spki_hash());
        if is_tainted(leaf) {
            return refused(Position::Leaf, Fault::TaintedKey);
        }
        for (index, authority) in self.authorities.iter().enumerate() {
            let is_anchor = index + 1 == self.authorities.len();
            let position = if is_anchor { Position::Anchor(0) } else { Position::Intermediate(index + 1) };
            if let Some(fault) = expiry(authority, now) {
                return refused(position, fault);
            }
            if is_tainted(authority) {
                return refused(position, Fault::TaintedKey);
            }
            if authority.spki_der() == leaf.spki_der() {
                return refused(Position::Leaf, Fault::AuthorityKey);
            }
        }
        // As strict about the encoding of a leaf as path building is.
        EndEntityCert::try_from(&CertificateDer::from(leaf.der()))
            .map_err(|error| VerifyError::Other(format!("{error:?}")))?;
        if Anatomy::of(leaf.der()).map(|parts| parts.issuer) != Ok(&self.subject) {
            return Err(VerifyError::UnknownIssuer { issuer: leaf.issuer().to_owned() });
        }
        match signature(leaf, &self.authorities[0]) {
            Signature::Holds => {}
            Signature::Broken => return Err(VerifyError::BadSignature),
            Signature::Unfit => return Err(VerifyError::AlgorithmMismatch),
        }
        if self.constrains {
            let path: Vec<_> = std::iter::once(leaf).chain(&self.authorities).cloned().collect();
            constraints::check_path(&path).map_err(|violation| match violation {
                Violation::Outside => VerifyError::NameConstraint,
                Violation::TooMuchWork => VerifyError::TooMuchWork(MAX_SIGNATURE_CHECKS),
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Chain, KeyKind, Profile, PublicKey, SecretKey, Serial, SoftwareSigner, Template, Validity,
        VerifyOptions, sign, verify_chain,
    };

    const DAY: Duration = Duration::from_secs(86_400);

    struct World {
        now: Timestamp,
        root: Certificate,
        issuing: Certificate,
        signer: SoftwareSigner,
        issuer: VerifiedIssuer,
    }

    fn template(profile: Profile, key: &PublicKey, now: Timestamp, life: Duration) -> Template {
        let is_authority = profile.is_authority();
        Template {
            profile,
            serial: Serial::random(),
            validity: Validity::starting(now, life, None),
            public_key: key.clone(),
            subject: is_authority.then(|| ("Credence".into(), format!("td {profile:?}"))),
            uri: if is_authority { "spiffe://td".into() } else { "spiffe://td/web".into() },
            dns_names: vec![],
            ip_addresses: vec![],
        }
    }

    impl World {
        fn new() -> Self {
            let now = Timestamp::from_unix_secs(1_800_000_000);
            let (root_key, key) = (SecretKey::generate(KeyKind::P384), SecretKey::generate(KeyKind::P256));
            let (root_signer, signer) =
                (SoftwareSigner::try_new(&root_key).unwrap(), SoftwareSigner::try_new(&key).unwrap());
            let root =
                sign(&template(Profile::Root, root_key.public(), now, 3 * DAY), None, &root_signer).unwrap();
            let issuing =
                sign(&template(Profile::Issuing, key.public(), now, 2 * DAY), Some(&root), &root_signer)
                    .unwrap();
            let leaf = leaf(&issuing, &signer, now, |_| {});
            let chain = Chain::new(leaf, vec![issuing.clone()]);
            let verified =
                verify_chain(&chain, std::slice::from_ref(&root), &VerifyOptions::new(now, Usage::Server))
                    .unwrap();
            Self { now, root, issuing, signer, issuer: verified.issuer() }
        }
    }

    fn leaf(
        issuing: &Certificate,
        signer: &SoftwareSigner,
        now: Timestamp,
        change: impl FnOnce(&mut Template),
    ) -> Certificate {
        let key = SecretKey::generate(KeyKind::P256);
        let mut template = template(Profile::Workload, key.public(), now, DAY / 2);
        change(&mut template);
        sign(&template, Some(issuing), signer).unwrap()
    }

    #[test]
    fn another_leaf_of_the_authority_holds_while_the_path_above_it_is_valid() {
        let world = World::new();
        assert_eq!(world.issuer.authorities(), [world.issuing.clone(), world.root.clone()]);
        // Lives longer than its authorities, which no lint allows: so they decide, each at its own end.
        let leaf = leaf(&world.issuing, &world.signer, world.now, |template| {
            template.validity.not_after = world.now + 9 * DAY;
        });
        let at = |now| world.issuer.verify(&leaf, now, Usage::Client, &[]);
        assert_eq!(at(world.now), Ok(()));
        assert_eq!(at(world.issuing.not_after() + Duration::from_millis(999)), Ok(()));
        let ended = |position, not_after: Timestamp, now| {
            let fault = Fault::Expired { not_after, now };
            Err(VerifyError::Certificate { position, fault })
        };
        let end = world.issuing.not_after();
        let late = end + Duration::from_secs(1);
        assert_eq!(at(late), ended(Position::Intermediate(1), end, late));
        let early = world.issuing.not_before() - Duration::from_secs(1);
        assert!(at(early).is_err());
    }

    #[test]
    fn a_leaf_that_the_authority_did_not_sign_is_refused() {
        let world = World::new();
        let check = |leaf: &Certificate, expected: &str| {
            let found = world.issuer.verify(leaf, world.now, Usage::Server, &[]).unwrap_err();
            assert_eq!(found.rule(), expected, "{found}");
        };
        let other = SoftwareSigner::try_new(&SecretKey::generate(KeyKind::P256)).unwrap();
        let claims = Claims(&world.signer, &other);
        let forged = sign(
            &template(Profile::Workload, SecretKey::generate(KeyKind::P256).public(), world.now, DAY),
            Some(&world.issuing),
            &claims,
        )
        .unwrap();
        check(&forged, VerifyError::BadSignature.rule());
        let elsewhere = World::new();
        let renamed = template(Profile::Issuing, elsewhere.issuing_key(), elsewhere.now, DAY);
        let renamed = Template { subject: Some(("Credence".into(), "other".into())), ..renamed };
        let renamed = sign(&renamed, None, &elsewhere.signer).unwrap();
        let foreign = leaf(&renamed, &elsewhere.signer, world.now, |_| {});
        check(&foreign, VerifyError::UnknownIssuer { issuer: String::new() }.rule());
        let own_key = leaf(&world.issuing, &world.signer, world.now, |template| {
            template.public_key = PublicKey::from_spki_der(world.root.spki_der()).unwrap();
        });
        check(&own_key, "authority-key");
        let authority = sign(
            &template(Profile::Issuing, SecretKey::generate(KeyKind::P256).public(), world.now, DAY),
            Some(&world.issuing),
            &world.signer,
        )
        .unwrap();
        check(&authority, "leaf-is-authority");
    }

    #[test]
    fn a_key_that_was_tainted_since_is_refused_wherever_it_stands() {
        let world = World::new();
        let leaf = leaf(&world.issuing, &world.signer, world.now, |_| {});
        for tainted in [leaf.spki_hash(), world.issuing.spki_hash(), world.root.spki_hash()] {
            let found = world.issuer.verify(&leaf, world.now, Usage::Server, &[tainted]);
            assert!(
                matches!(&found, Err(VerifyError::Certificate { fault: Fault::TaintedKey, .. })),
                "{found:?}"
            );
        }
        let other = SecretKey::generate(KeyKind::P256).public().hash();
        assert_eq!(world.issuer.verify(&leaf, world.now, Usage::Server, &[other]), Ok(()));
    }

    impl World {
        fn issuing_key(&self) -> &PublicKey {
            crate::Signer::public(&self.signer)
        }
    }

    /// Says it holds one key and signs with another.
    #[derive(Debug)]
    struct Claims<'a>(&'a SoftwareSigner, &'a SoftwareSigner);

    impl crate::Signer for Claims<'_> {
        fn public(&self) -> &PublicKey {
            crate::Signer::public(self.0)
        }
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, crate::SignError> {
            crate::Signer::sign(self.1, message)
        }
    }
}
