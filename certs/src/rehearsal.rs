//! A certificate before its authority signs it: whole, and signed by a key that nobody trusts.
//!
//! What is linted must be what is signed. So the certificate is assembled once, under a throwaway key of the
//! authority's kind, and linted like that; the authority then signs the very octets that were linted, and its
//! signature takes the place of the worthless one.

use crate::{
    Certificate, Finding, IssueError, Profile, PublicKey, SecretKey, Signer, SoftwareSigner, Template,
    leaf::Form, lint::lint_knowing,
};

/// Rehearses what one authority is going to sign. The authority's certificate is read once, and the throwaway key
/// is made once.
///
/// One key for many rehearsals serves as well as one for each. Its purpose is that the authority's own key is not
/// used before the lint has passed, and that what the lint saw is worth nothing if it gets out: no certificate names
/// the throwaway key, so no signature of it is ever believed, be it the first or the thousandth. It lives and dies
/// with this value and has no way out of it.
#[derive(Debug)]
pub struct Rehearser {
    certificate: Certificate,
    form: Form,
    throwaway: SoftwareSigner,
}

/// A certificate that could be linted and cannot be believed.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    certificate: Certificate,
    public_key: PublicKey,
    issuer: Certificate,
}

impl Rehearser {
    /// For the authority that `certificate` is of.
    ///
    /// # Errors
    /// When that certificate cannot issue.
    pub fn try_new(certificate: &Certificate) -> Result<Self, IssueError> {
        let key = PublicKey::from_spki_der(certificate.spki_der())
            .map_err(|error| IssueError::Issuer(error.to_string()))?;
        let form = Form::of(certificate, key.kind())?;
        let throwaway = SecretKey::generate(key.kind());
        let throwaway = SoftwareSigner::try_new(&throwaway).expect("a generated key signs");
        Ok(Self { certificate: certificate.clone(), form, throwaway })
    }

    /// Assembles the leaf that `template` says, as [`crate::sign`] would.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn rehearse(&self, template: &Template) -> Result<Rehearsal, IssueError> {
        let signed = self.form.to_be_signed(template)?;
        let signature = self.throwaway.sign(&signed)?;
        let octets = self.form.certificate(&signed, &signature);
        let public_key = template.public_key.clone();
        let certificate = Certificate::leaf_from_der(&octets, &self.form, &self.certificate, &public_key)?;
        Ok(Rehearsal { certificate, public_key, issuer: self.certificate.clone() })
    }
}

impl Rehearsal {
    /// What [`crate::lint`] finds in it, below the authority that is going to sign it.
    #[must_use]
    pub fn lint(&self, profile: Profile) -> Vec<Finding> {
        lint_knowing(&self.certificate, Some(&self.issuer), profile, Some(&self.public_key))
    }

    /// What the lint looks at. Its signature is worthless; all else is what [`Rehearsal::sign`] keeps.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Has the authority sign the octets that were rehearsed. Whether its signature holds is for the verifier to say.
    ///
    /// # Errors
    /// When `signer` is not the authority that was rehearsed for, or does not sign.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Certificate, IssueError> {
        if self.issuer.spki_der() != signer.public().spki_der() {
            return Err(IssueError::Issuer("its key is not the signer's".to_owned()));
        }
        let signature = signer.sign(self.certificate.to_be_signed())?;
        let signed = self.certificate.with_signature(&signature);
        signed.map_err(|_| IssueError::Template("the rehearsal is not DER"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{KeyKind, Serial, Timestamp, Validity, lint, sign};

    fn template(profile: Profile, key: &PublicKey) -> Template {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let is_authority = profile.is_authority();
        let life = Duration::from_secs(if is_authority { 864_000 } else { 36_000 });
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

    fn authority(kind: KeyKind) -> (Certificate, SoftwareSigner) {
        let key = SecretKey::generate(kind);
        let signer = SoftwareSigner::try_new(&key).unwrap();
        (sign(&template(Profile::Root, key.public()), None, &signer).unwrap(), signer)
    }

    #[test]
    fn what_is_signed_is_what_was_rehearsed_and_what_would_be_assembled_without_rehearsal() {
        for kind in [KeyKind::P256, KeyKind::P384] {
            let (root, signer) = authority(kind);
            let rehearser = Rehearser::try_new(&root).unwrap();
            let template = template(Profile::Workload, SecretKey::generate(KeyKind::P256).public());
            let rehearsal = rehearser.rehearse(&template).unwrap();
            let leaf = rehearsal.sign(&signer).unwrap();

            assert!(leaf.is_signed_by(&root));
            assert!(leaf.differs_in_signature_only(rehearsal.certificate()));
            let assembled = sign(&template, Some(&root), &signer).unwrap();
            assert!(leaf.differs_in_signature_only(&assembled));
            assert_eq!(lint(&leaf, Some(&root), Profile::Workload), []);
            let read = Certificate::from_der(leaf.der()).unwrap();
            assert_eq!((&read, format!("{read:?}")), (&leaf, format!("{leaf:?}")));
            assert_eq!(rehearsal.lint(Profile::Workload), []);
            for other in [Profile::Node, Profile::Server, Profile::Issuing, Profile::Root] {
                assert_eq!(rehearsal.lint(other), lint(rehearsal.certificate(), Some(&root), other));
            }
        }
    }

    #[test]
    fn a_rehearsal_is_believed_by_nobody_however_many_there_are() {
        let (root, signer) = authority(KeyKind::P256);
        let rehearser = Rehearser::try_new(&root).unwrap();
        for _ in 0..20 {
            let template = template(Profile::Workload, SecretKey::generate(KeyKind::P256).public());
            let rehearsal = rehearser.rehearse(&template).unwrap();
            assert!(!rehearsal.certificate().is_signed_by(&root));
        }
        assert_ne!(rehearser.throwaway.public(), signer.public());
    }

    #[test]
    fn another_authority_does_not_sign_it() {
        let (root, _) = authority(KeyKind::P256);
        let (_, other) = authority(KeyKind::P256);
        let template = template(Profile::Workload, SecretKey::generate(KeyKind::P256).public());
        let rehearsal = Rehearser::try_new(&root).unwrap().rehearse(&template).unwrap();
        assert!(matches!(rehearsal.sign(&other), Err(IssueError::Issuer(_))));
    }

    #[test]
    fn a_change_anywhere_but_in_the_signature_shows() {
        let (root, signer) = authority(KeyKind::P256);
        let template = template(Profile::Workload, SecretKey::generate(KeyKind::P256).public());
        let leaf = Rehearser::try_new(&root).unwrap().rehearse(&template).unwrap().sign(&signer).unwrap();
        // The header, then what is signed, then the algorithm; the signature comes last.
        let signature = leaf.der().len() - leaf.parts().unwrap().signature.len();
        let mut found = 0;
        for index in 0..leaf.der().len() {
            let mut octets = leaf.der().to_vec();
            octets[index] ^= 1;
            let Ok(changed) = Certificate::from_der(&octets) else { continue };
            found += 1;
            let expected = index >= signature;
            assert_eq!(changed.differs_in_signature_only(&leaf), expected, "octet {index} of {signature}");
        }
        assert!(found > 200, "{found} changed certificates were read");
    }
}
