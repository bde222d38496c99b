//! Keys that sign certificates: making a root, making an issuing authority under it, and signing with one.

use std::sync::Arc;

use audit::{Action, Actor, Event};
use certs::{
    Brought, Certificate, Chain, IssueError, KeyError, Profile, PublicKey, Rehearsal, Rehearser, SecretKey,
    Serial, Severity, Signer, SoftwareSigner, Template, Timestamp, Validity, lint, rehearse, rehearse_twin,
    sign, sign_twin,
};
use spiffe::AuthorityId;
use thiserror::Error;

use crate::{
    clock::Reading,
    policy::Policy,
    ports::{AuthorityError, AuthorityRecord, AuthorityRequest, AuthorityState, Place},
};

/// Why there is no new authority.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrepareError {
    /// There is no root to sign it.
    #[error("no root is active")]
    NoRoot,
    /// The clock cannot be believed.
    #[error("{0}")]
    Clock(Reading),
    /// The root has too little life left.
    #[error("root {root} ends at {not_after}, too soon for another issuing authority")]
    RootNearItsEnd {
        /// Which root.
        root: AuthorityId,
        /// Its last second.
        not_after: Timestamp,
    },
    /// Proxies check against revocation lists, and a new issuing authority has none that they acknowledged.
    #[error(
        "root {0} has no issuing authority with enough of its life left, and proxies have not acknowledged the \
         revocation list of another"
    )]
    NoListedAuthority(AuthorityId),
    /// What would come out breaks a rule.
    #[error("authority certificate breaks rule {rule}: {message}")]
    Lint {
        /// The rule's name.
        rule: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The key could not be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It was not signed.
    #[error(transparent)]
    Sign(#[from] IssueError),
    /// It was not kept, or the root's key was not found.
    #[error(transparent)]
    Keep(#[from] AuthorityError),
}

/// Makes a self-signed root, prepared.
pub(crate) fn make_root(
    policy: &Policy,
    now: Timestamp,
) -> Result<(AuthorityRecord, SecretKey), PrepareError> {
    let key = SecretKey::generate(Profile::Root.key_kind());
    let validity = Validity::starting(now, policy.lifetimes.root, None);
    let template = template(policy, Profile::Root, key.public(), validity);
    check(&rehearse(&template, None)?, None, Profile::Root)?;
    let certificate = sign(&template, None, &SoftwareSigner::try_new(&key)?)?;
    check(&certificate, None, Profile::Root)?;
    Ok((record(certificate, Place::Root, None, now), key))
}

/// A certificate for the issuing authority of `record`, signed by another root: for verifiers that do not trust its
/// own root yet. A cross-signed *root* would exceed the path length that the old root allows.
pub(crate) fn cross_sign(
    policy: &Policy,
    record: &AuthorityRecord,
    root: &AuthorityRecord,
    root_key: &SecretKey,
    now: Timestamp,
) -> Result<Certificate, PrepareError> {
    let (above, below) = (&root.certificate, &record.certificate);
    let bounds = Validity { not_before: above.not_before(), not_after: above.not_after() };
    let validity = Validity::starting(now, below.not_after().since(now), Some(bounds));
    let public_key = PublicKey::from_spki_der(below.spki_der())?;
    let template = template(policy, Profile::Issuing, &public_key, validity);
    check(&rehearse_twin(&template, below, above)?, Some(above), Profile::Issuing)?;
    let certificate = sign_twin(&template, below, above, &SoftwareSigner::try_new(root_key)?)?;
    check(&certificate, Some(above), Profile::Issuing)?;
    Ok(certificate)
}

/// Makes a key for an issuing authority, and the request for its certificate.
pub(crate) fn make_request(
    policy: &Policy,
    by: &Actor,
    now: Timestamp,
) -> Result<(AuthorityRequest, SecretKey), PrepareError> {
    let key = SecretKey::generate(Profile::Issuing.key_kind());
    let validity = Validity::starting(now, policy.lifetimes.issuing, None);
    let template = template(policy, Profile::Issuing, key.public(), validity);
    let csr = certs::request(&template, &SoftwareSigner::try_new(&key)?)?;
    let id = AuthorityId::of(key.public().hash());
    Ok((AuthorityRequest { id, csr, created: now, by: by.to_string() }, key))
}

/// The records of what was brought, prepared: the issuing authority, and its root.
pub(crate) fn records(brought: Brought, now: Timestamp) -> (AuthorityRecord, AuthorityRecord) {
    let root = record(brought.root, Place::Root, None, now);
    let root = AuthorityRecord { offline: Some(now), automatic: false, ..root };
    let issuing = record(brought.issuing, Place::Issuing, Some(root.id), now);
    (AuthorityRecord { between: brought.intermediates, ..issuing }, root)
}

/// Makes an issuing authority under `root`, prepared.
pub(crate) fn make_issuing(
    policy: &Policy,
    root: &AuthorityRecord,
    root_key: &SecretKey,
    now: Timestamp,
) -> Result<(AuthorityRecord, SecretKey), PrepareError> {
    let above = &root.certificate;
    let bounds = Validity { not_before: above.not_before(), not_after: above.not_after() };
    let validity = Validity::starting(now, policy.lifetimes.issuing, Some(bounds));
    // At half of its life it must still have the two leaf lifetimes that signing needs.
    if validity.not_after.since(now) < 2 * policy.least_remaining() {
        return Err(PrepareError::RootNearItsEnd { root: root.id, not_after: above.not_after() });
    }
    let key = SecretKey::generate(Profile::Issuing.key_kind());
    let template = template(policy, Profile::Issuing, key.public(), validity);
    check(&rehearse(&template, Some(above))?, Some(above), Profile::Issuing)?;
    let certificate = sign(&template, Some(above), &SoftwareSigner::try_new(root_key)?)?;
    check(&certificate, Some(above), Profile::Issuing)?;
    if !certificate.is_signed_by(above) {
        let message = "the root's key did not make its signature".to_owned();
        return Err(PrepareError::Lint { rule: "signature", message });
    }
    Ok((record(certificate, Place::Issuing, Some(root.id), now), key))
}

fn template(policy: &Policy, profile: Profile, key: &PublicKey, validity: Validity) -> Template {
    let id = AuthorityId::of(key.hash());
    let place = if profile == Profile::Root { "root" } else { "issuing" };
    Template {
        profile,
        serial: Serial::random(),
        validity,
        public_key: key.clone(),
        subject: Some(("Credence".to_owned(), format!("{place} {id}"))),
        uri: policy.trust_domain.to_uri(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    }
}

fn check(
    certificate: &Certificate,
    issuer: Option<&Certificate>,
    profile: Profile,
) -> Result<(), PrepareError> {
    let findings = lint(certificate, issuer, profile);
    match findings.into_iter().find(|finding| finding.severity == Severity::Error) {
        Some(finding) => Err(PrepareError::Lint { rule: finding.rule, message: finding.message }),
        None => Ok(()),
    }
}

fn record(
    certificate: Certificate,
    place: Place,
    parent: Option<AuthorityId>,
    now: Timestamp,
) -> AuthorityRecord {
    AuthorityRecord {
        id: AuthorityId::of(certificate.spki_hash()),
        place,
        state: AuthorityState::Prepared,
        certificate,
        parent,
        created: now,
        activated: None,
        retired: None,
        removed: None,
        automatic: true,
        tainted: None,
        stolen: None,
        cross: None,
        offline: None,
        between: Vec::new(),
        arrivals: 1,
    }
}

/// The event of a step in the life of `record`.
pub(crate) fn event(
    action: Action,
    record: &AuthorityRecord,
    at: Timestamp,
    actor: Actor,
    reason: &str,
) -> Event {
    let mut event = Event::done(at, actor, action, record.id.to_string())
        .with("place", if record.place == Place::Root { "root" } else { "issuing" })
        .with("serial", record.certificate.serial())
        .with("not_after", record.certificate.not_after());
    if let Some(parent) = record.parent {
        event = event.with("parent", parent);
    }
    reason.clone_into(&mut event.reason);
    event
}

/// An issuing authority with its key at hand.
#[derive(Debug)]
pub(crate) struct SigningAuthority {
    id: AuthorityId,
    certificate: Certificate,
    between: Vec<Certificate>,
    /// Why nothing can be rehearsed shows when something is to be.
    rehearser: Result<Arc<Rehearser>, IssueError>,
    signer: Box<dyn Signer>,
}

impl SigningAuthority {
    /// The authority of `record`, whose key is `key`.
    pub(crate) fn try_new(record: &AuthorityRecord, key: &SecretKey) -> Result<Self, KeyError> {
        let signer = Box::new(SoftwareSigner::try_new(key)?);
        let rehearser = Rehearser::try_new(&record.certificate).map(Arc::new);
        let (certificate, between) = (record.certificate.clone(), record.between.clone());
        Ok(Self { id: record.id, certificate, between, rehearser, signer })
    }

    pub(crate) fn id(&self) -> AuthorityId {
        self.id
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The leaf that `template` says, signed by a throwaway key. It needs no journal.
    pub(crate) fn rehearse(&self, template: &Template) -> Result<Rehearsal, IssueError> {
        self.rehearser.as_ref().map_err(Clone::clone)?.rehearse(template)
    }

    /// `leaf` with every authority above it but the root.
    pub(crate) fn chain(&self, leaf: Certificate) -> Chain {
        let above = std::iter::once(&self.certificate).chain(&self.between);
        Chain::new(leaf, above.cloned().collect())
    }

    /// Signs a leaf. Only `issuance` calls it, with what its journal holds.
    pub(crate) fn sign(&self, rehearsal: &Rehearsal) -> Result<Certificate, IssueError> {
        rehearsal.sign(self.signer.as_ref())
    }

    /// The same certificate over another signer, to see what bad output leads to.
    #[cfg(test)]
    pub(crate) fn with_signer(&self, signer: Box<dyn Signer>) -> Self {
        let (certificate, between) = (self.certificate.clone(), self.between.clone());
        let rehearser = self.rehearser.clone();
        Self { id: self.id, certificate, between, rehearser, signer }
    }
}
