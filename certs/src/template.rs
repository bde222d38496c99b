//! One certificate about to be signed. Everything in it is ours; a request gave the public key alone.

use std::{net::IpAddr, time::Duration};

use ::time::OffsetDateTime;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::{
    Certificate, CertificateError, Profile, PublicKey, SecretKey, Serial, SignError, Signer, SoftwareSigner,
    Timestamp, names::distinguished_name,
};

/// From when to when, both inclusive and in whole seconds (RFC 5280 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first valid second.
    pub not_before: Timestamp,
    /// The last valid second.
    pub not_after: Timestamp,
}

impl Validity {
    /// How far `notBefore` is set back, for peers whose clocks lag.
    pub const BACKDATE: Duration = Duration::from_secs(60);

    /// A life of `lifetime` counted from `now`, backdated by [`Validity::BACKDATE`], inside the issuer's own
    /// validity: never before its start, and at most a second before its end.
    #[must_use]
    pub fn starting(now: Timestamp, lifetime: Duration, issuer: Option<Self>) -> Self {
        let mut not_before = (now - Self::BACKDATE).floor_secs();
        let mut not_after = (now + lifetime).floor_secs();
        if let Some(issuer) = issuer {
            not_before = not_before.max(issuer.not_before);
            not_after = not_after.min(issuer.not_after - Duration::from_secs(1));
        }
        Self { not_before, not_after }
    }
}

/// What a certificate will say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Which kind; it decides constraints and usages.
    pub profile: Profile,
    /// Its number under the issuer.
    pub serial: Serial,
    /// Its life.
    pub validity: Validity,
    /// The key it certifies.
    pub public_key: PublicKey,
    /// Organization and common name, for authorities only; the subject of a leaf is empty.
    pub subject: Option<(String, String)>,
    /// The one URI name: the SPIFFE ID of a leaf, the trust domain of an authority.
    pub uri: String,
    /// Further DNS names, for our own server.
    pub dns_names: Vec<String>,
    /// Further addresses, for our own server.
    pub ip_addresses: Vec<IpAddr>,
}

/// Why a certificate was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// A name does not fit into the certificate.
    #[error("name {0:?} cannot stand in a certificate")]
    Name(String),
    /// The template breaks a rule of its profile.
    #[error("template breaks its profile: {0}")]
    Template(&'static str),
    /// The issuer's certificate cannot issue.
    #[error("issuer certificate cannot be used: {0}")]
    Issuer(String),
    /// The key did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What was made does not read back.
    #[error("issued certificate does not read back: {0}")]
    Output(#[from] CertificateError),
}

/// Builds what `template` says and signs it. `issuer` is the signer's certificate; `None` makes a self-signed
/// root, whose signer must hold the template's own key.
///
/// This is the assembly only: who may ask for what is `ca`'s to decide, and what may come out is checked by
/// the lint.
///
/// # Errors
/// See [`IssueError`].
pub fn sign(
    template: &Template,
    issuer: Option<&Certificate>,
    signer: &dyn Signer,
) -> Result<Certificate, IssueError> {
    match issuer {
        None if signer.public() != &template.public_key => {
            Err(IssueError::Template("a self-signed certificate certifies its own key"))
        }
        Some(certificate) if certificate.spki_der() != signer.public().spki_der() => {
            Err(IssueError::Issuer("its key is not the signer's".to_owned()))
        }
        _ => assemble(template, params(template)?, issuer, signer),
    }
}

/// As [`sign`], with the name and key id of `twin`, a certificate for the same key by another issuer: what the key
/// signs must find its issuer in either of the two.
///
/// # Errors
/// See [`IssueError`]; also when the name of `twin` cannot be written again octet by octet.
pub fn sign_twin(
    template: &Template,
    twin: &Certificate,
    issuer: &Certificate,
    signer: &dyn Signer,
) -> Result<Certificate, IssueError> {
    if issuer.spki_der() != signer.public().spki_der() {
        return Err(IssueError::Issuer("its key is not the signer's".to_owned()));
    }
    assemble(template, twin_params(template, twin)?, Some(issuer), signer)
}

/// As [`rehearse`], of what [`sign_twin`] would make.
///
/// # Errors
/// See [`sign_twin`].
pub fn rehearse_twin(
    template: &Template,
    twin: &Certificate,
    issuer: &Certificate,
) -> Result<Certificate, IssueError> {
    let throwaway = throwaway(template, Some(issuer))?;
    assemble(template, twin_params(template, twin)?, Some(issuer), &throwaway)
}

fn twin_params(template: &Template, twin: &Certificate) -> Result<CertificateParams, IssueError> {
    if twin.spki_der() != template.public_key.spki_der() {
        return Err(IssueError::Template("a twin certifies the same key"));
    }
    let mut params = params(template)?;
    let unrepeatable = || IssueError::Name(twin.subject().to_owned());
    params.distinguished_name = distinguished_name(twin).ok_or_else(unrepeatable)?;
    if let Some(id) = twin.subject_key_id() {
        params.key_identifier_method = KeyIdMethod::PreSpecified(id.to_vec());
    }
    Ok(params)
}

/// A request (PKCS#10, DER) for the authority that `template` describes, which somebody else is to sign: its name, its
/// trust domain, and the extensions of its profile. Serial number and validity are the signer's to choose.
///
/// # Errors
/// See [`IssueError`].
pub fn request(template: &Template, signer: &dyn Signer) -> Result<Vec<u8>, IssueError> {
    if signer.public() != &template.public_key {
        return Err(IssueError::Template("a request is signed by the key that it names"));
    }
    let mut params = params(template)?;
    params.serial_number = None;
    params.use_authority_key_identifier_extension = false;
    let request = params.serialize_request(&RcgenSigner(signer));
    Ok(request.map_err(|error| SignError::Failed(error.to_string()))?.der().to_vec())
}

/// What [`sign`] would make, byte for byte, but signed by a key that is thrown away: for [`crate::lint`], before
/// the authority's key is used at all. A root's own key is replaced too. Of authorities, which are few; for leaves
/// there is [`crate::Rehearser`].
///
/// # Errors
/// See [`IssueError`].
pub fn rehearse(template: &Template, issuer: Option<&Certificate>) -> Result<Certificate, IssueError> {
    let throwaway = throwaway(template, issuer)?;
    assemble(template, params(template)?, issuer, &throwaway)
}

/// A new key of the kind that would sign.
fn throwaway(template: &Template, issuer: Option<&Certificate>) -> Result<SoftwareSigner, IssueError> {
    let kind = match issuer {
        None => template.public_key.kind(),
        Some(issuer) => PublicKey::from_spki_der(issuer.spki_der())
            .map_err(|error| IssueError::Issuer(error.to_string()))?
            .kind(),
    };
    Ok(SoftwareSigner::try_new(&SecretKey::generate(kind)).expect("a generated key signs"))
}

fn assemble(
    template: &Template,
    params: CertificateParams,
    issuer: Option<&Certificate>,
    signer: &dyn Signer,
) -> Result<Certificate, IssueError> {
    let key = RcgenSigner(signer);
    let der = match issuer {
        None => params.self_signed(&key),
        Some(certificate) => {
            let der = CertificateDer::from(certificate.der());
            let issuer =
                Issuer::from_ca_cert_der(&der, key).map_err(|error| IssueError::Issuer(error.to_string()))?;
            params.signed_by(&RcgenPublic(&template.public_key), &issuer)
        }
    }
    .map_err(|error| SignError::Failed(error.to_string()))?;
    Ok(Certificate::from_der(der.der())?)
}

fn params(template: &Template) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some((organization, common_name)) = &template.subject {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
        params.distinguished_name.push(DnType::CommonName, common_name.as_str());
    }
    let ia5 = |name: &String| Ia5String::try_from(name.as_str()).map_err(|_| IssueError::Name(name.clone()));
    params.subject_alt_names.push(SanType::URI(ia5(&template.uri)?));
    for name in &template.dns_names {
        params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
    }
    params.subject_alt_names.extend(template.ip_addresses.iter().copied().map(SanType::IpAddress));
    params.serial_number = Some(SerialNumber::from_slice(template.serial.as_bytes()));
    params.not_before = date(template.validity.not_before)?;
    params.not_after = date(template.validity.not_after)?;
    params.use_authority_key_identifier_extension = template.profile != Profile::Root;
    match template.profile.path_length() {
        Some(length) => {
            if template.subject.is_none() {
                return Err(IssueError::Template("an authority has a subject"));
            }
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        None => {
            if template.subject.is_some() {
                return Err(IssueError::Template("a leaf has an empty subject"));
            }
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        }
    }
    Ok(params)
}

pub(crate) fn date(at: Timestamp) -> Result<OffsetDateTime, IssueError> {
    OffsetDateTime::from_unix_timestamp(at.unix_secs())
        .map_err(|_| IssueError::Template("validity is out of range"))
}

/// Lets rcgen sign through the [`Signer`] port.
pub(crate) struct RcgenSigner<'a>(pub(crate) &'a dyn Signer);

impl rcgen::PublicKeyData for RcgenSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        point(self.0.public())
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.public().kind().rcgen()
    }
}

impl rcgen::SigningKey for RcgenSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

struct RcgenPublic<'a>(&'a PublicKey);

impl rcgen::PublicKeyData for RcgenPublic<'_> {
    fn der_bytes(&self) -> &[u8] {
        point(self.0)
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.kind().rcgen()
    }
}

/// The uncompressed point: what follows the fixed prefix that [`PublicKey`] checked.
fn point(key: &PublicKey) -> &[u8] {
    let length = match key.kind() {
        crate::KeyKind::P256 => 65,
        crate::KeyKind::P384 => 97,
    };
    &key.spki_der()[key.spki_der().len() - length..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Chain, Csr, KeyKind, SecretKey, SoftwareSigner, SubjectAltName, Usage, VerifyOptions, lint,
        verify_chain,
    };

    #[test]
    fn a_leaf_says_what_its_template_says() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let root_key = SecretKey::generate(Profile::Root.key_kind());
        let root_signer = SoftwareSigner::try_new(&root_key).unwrap();
        let root = sign(
            &Template {
                profile: Profile::Root,
                serial: Serial::random(),
                validity: Validity::starting(now, Profile::Root.default_lifetime(), None),
                public_key: root_key.public().clone(),
                subject: Some(("Credence".into(), "td root".into())),
                uri: "spiffe://td".into(),
                dns_names: vec![],
                ip_addresses: vec![],
            },
            None,
            &root_signer,
        )
        .unwrap();
        assert!(root.is_ca());

        let key = SecretKey::generate(Profile::Workload.key_kind());
        let csr = Csr::from_der(&Csr::build(&key)).unwrap();
        let template = Template {
            profile: Profile::Workload,
            serial: Serial::random(),
            validity: Validity::starting(now, Duration::from_secs(3600), None),
            public_key: csr.public_key().clone(),
            subject: None,
            uri: "spiffe://td/web".into(),
            dns_names: vec!["localhost".into()],
            ip_addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        };
        let leaf = sign(&template, Some(&root), &root_signer).unwrap();
        assert_eq!(leaf.serial(), &template.serial);
        assert_eq!(leaf.not_after(), template.validity.not_after);
        assert_eq!(leaf.subject(), "");
        assert_eq!(leaf.spki_der(), key.public().spki_der());
        assert_eq!(leaf.authority_key_id(), root.subject_key_id());
        assert_eq!(
            leaf.subject_alt_names(),
            [
                SubjectAltName::Uri("spiffe://td/web".into()),
                SubjectAltName::Dns("localhost".into()),
                SubjectAltName::Ip("127.0.0.1".parse().unwrap()),
                SubjectAltName::Ip("::1".parse().unwrap()),
            ]
        );
        assert!(!leaf.is_ca());
        assert!(leaf.is_signed_by(&root));
    }

    /// Root, issuing authority with its signer, all valid at `now`.
    fn authorities(now: Timestamp) -> (Certificate, Certificate, SoftwareSigner) {
        let make = |profile: Profile, issuer: Option<(&Certificate, &SoftwareSigner)>| {
            let key = SecretKey::generate(profile.key_kind());
            let signer = SoftwareSigner::try_new(&key).unwrap();
            let above =
                issuer.map(|(c, _)| Validity { not_before: c.not_before(), not_after: c.not_after() });
            let template = Template {
                profile,
                serial: Serial::random(),
                validity: Validity::starting(now, profile.default_lifetime(), above),
                public_key: key.public().clone(),
                subject: Some(("Credence".into(), format!("td {profile:?}"))),
                uri: "spiffe://td".into(),
                dns_names: vec![],
                ip_addresses: vec![],
            };
            let certificate =
                sign(&template, issuer.map(|(c, _)| c), issuer.map_or(&signer, |(_, s)| s)).unwrap();
            assert_eq!(lint(&certificate, issuer.map(|(c, _)| c), profile), []);
            (certificate, signer)
        };
        let (root, root_signer) = make(Profile::Root, None);
        let (issuing, signer) = make(Profile::Issuing, Some((&root, &root_signer)));
        (root, issuing, signer)
    }

    #[test]
    fn every_profile_passes_its_lint_and_the_verifier() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let (root, issuing, signer) = authorities(now);
        for profile in [Profile::Node, Profile::Workload, Profile::Server, Profile::Operator] {
            let key = SecretKey::generate(profile.key_kind());
            let within = Validity { not_before: issuing.not_before(), not_after: issuing.not_after() };
            let template = Template {
                profile,
                serial: Serial::random(),
                validity: Validity::starting(now, profile.default_lifetime(), Some(within)),
                public_key: key.public().clone(),
                subject: None,
                uri: "spiffe://td/web".into(),
                dns_names: if profile == Profile::Server { vec!["localhost".into()] } else { vec![] },
                ip_addresses: vec![],
            };
            let rehearsal = rehearse(&template, Some(&issuing)).unwrap();
            assert_eq!(lint(&rehearsal, Some(&issuing), profile), []);
            assert!(!rehearsal.is_signed_by(&issuing));
            let leaf = sign(&template, Some(&issuing), &signer).unwrap();
            assert_eq!(lint(&leaf, Some(&issuing), profile), []);
            assert!(leaf.is_signed_by(&issuing));
            let chain = Chain::new(leaf.clone(), vec![issuing.clone()]);
            let verified =
                verify_chain(&chain, std::slice::from_ref(&root), &VerifyOptions::new(now, Usage::Client))
                    .unwrap();
            assert_eq!(verified.path(), [leaf, issuing.clone(), root.clone()]);
        }
    }

    #[test]
    fn a_twin_leads_to_another_root_and_its_leaves_find_either() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let (_, issuing, signer) = authorities(now);
        let (other, _, _) = authorities(now);
        let key = SecretKey::generate(KeyKind::P384);
        let root_signer = SoftwareSigner::try_new(&key).unwrap();
        let template = |profile, key: &PublicKey, name: &str, lifetime| Template {
            profile,
            serial: Serial::random(),
            validity: Validity::starting(now, lifetime, None),
            public_key: key.clone(),
            subject: Some(("Elsewhere".into(), name.into())),
            uri: "spiffe://td".into(),
            dns_names: vec![],
            ip_addresses: vec![],
        };
        let day = Duration::from_secs(86_400);
        let root =
            sign(&template(Profile::Root, key.public(), "root", 100 * day), None, &root_signer).unwrap();
        let public = PublicKey::from_spki_der(issuing.spki_der()).unwrap();
        let wanted = template(Profile::Issuing, &public, "another name", 10 * day);
        let twin = sign_twin(&wanted, &issuing, &root, &root_signer).unwrap();
        assert_eq!(twin.subject(), issuing.subject());
        assert_eq!(twin.subject_key_id(), issuing.subject_key_id());
        let rehearsed = rehearse_twin(&wanted, &issuing, &root).unwrap();
        assert_eq!(rehearsed.to_be_signed(), twin.to_be_signed());
        assert!(!rehearsed.is_signed_by(&root));
        let leaf_key = SecretKey::generate(KeyKind::P256);
        let leaf = Template {
            profile: Profile::Workload,
            serial: Serial::random(),
            validity: Validity::starting(now, Duration::from_secs(3600), None),
            public_key: leaf_key.public().clone(),
            subject: None,
            uri: "spiffe://td/web".into(),
            dns_names: vec![],
            ip_addresses: vec![],
        };
        let leaf = sign(&leaf, Some(&issuing), &signer).unwrap();
        let chain = Chain::new(leaf, vec![twin]);
        let options = VerifyOptions::new(now, Usage::Client);
        verify_chain(&chain, std::slice::from_ref(&root), &options).unwrap();
        assert!(sign_twin(&wanted, &other, &root, &root_signer).is_err(), "another key is no twin");
    }

    #[test]
    fn a_request_asks_for_what_the_profile_says() {
        use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};
        let key = SecretKey::generate(KeyKind::P256);
        let template = Template {
            profile: Profile::Issuing,
            serial: Serial::random(),
            validity: Validity::starting(Timestamp::EPOCH, Duration::from_secs(1), None),
            public_key: key.public().clone(),
            subject: Some(("Credence".into(), "issuing 1".into())),
            uri: "spiffe://td".into(),
            dns_names: vec![],
            ip_addresses: vec![],
        };
        let der = request(&template, &SoftwareSigner::try_new(&key).unwrap()).unwrap();
        assert_eq!(Csr::from_der(&der).unwrap().public_key(), key.public(), "signed by its own key");
        let (_, parsed) = X509CertificationRequest::from_der(&der).unwrap();
        assert_eq!(parsed.certification_request_info.subject.to_string(), "O=Credence, CN=issuing 1");
        let asked = format!("{:?}", parsed.requested_extensions().unwrap().collect::<Vec<_>>());
        for words in ["ca: true", "path_len_constraint: Some(0)", "flags: 96", "spiffe://td"] {
            assert!(asked.contains(words), "{words}: {asked}");
        }
        let other = SoftwareSigner::try_new(&SecretKey::generate(KeyKind::P256)).unwrap();
        assert!(request(&template, &other).is_err());
    }

    #[test]
    fn the_lint_names_what_a_profile_does_not_allow() {
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let (root, issuing, signer) = authorities(now);
        let check = |change: &dyn Fn(&mut Template), profile: Profile, expected: &[&str]| {
            let key = SecretKey::generate(Profile::Workload.key_kind());
            let mut template = Template {
                profile: Profile::Workload,
                serial: Serial::random(),
                validity: Validity::starting(now, Duration::from_secs(3600), None),
                public_key: key.public().clone(),
                subject: None,
                uri: "spiffe://td/web".into(),
                dns_names: vec![],
                ip_addresses: vec![],
            };
            change(&mut template);
            let leaf = sign(&template, Some(&issuing), &signer).unwrap();
            let rules: Vec<_> = lint(&leaf, Some(&issuing), profile).iter().map(|f| f.rule).collect();
            assert_eq!(rules, expected, "{template:?}");
        };
        let day = Duration::from_secs(86_400);
        check(&|_| {}, Profile::Workload, &[]);
        check(&|t| t.uri = "https://td/web".into(), Profile::Workload, &["uri"]);
        check(&|t| t.uri = "spiffe://td".into(), Profile::Workload, &["uri"]);
        check(&|t| t.serial = "01".parse().unwrap(), Profile::Workload, &["serial-entropy"]);
        check(&|t| t.validity.not_after = t.validity.not_after + 2 * day, Profile::Node, &["lifetime"]);
        check(&|t| t.validity.not_after = now + Duration::from_secs(15), Profile::Node, &["lifetime"]);
        check(
            &|t| t.validity.not_before = t.validity.not_before - day,
            Profile::Operator,
            &["outlives-issuer"],
        );
        check(&|t| t.validity.not_after = now + 40 * day, Profile::Operator, &["outlives-issuer"]);
        check(&|t| t.dns_names = vec!["a".into()], Profile::Node, &["names"]);
        check(&|t| t.dns_names = vec!["a_b".into()], Profile::Server, &["name"]);
        check(
            &|t| t.public_key = PublicKey::from_spki_der(issuing.spki_der()).unwrap(),
            Profile::Workload,
            &["authority-key"],
        );
        assert!(!lint(&issuing, Some(&root), Profile::Root).is_empty());
        assert!(!lint(&root, None, Profile::Issuing).is_empty());
        assert!(!lint(&issuing, Some(&issuing), Profile::Issuing).is_empty());
    }
}
