//! One certificate from request to release (security reference 5.3).
//!
//! Each step is a type that only the step before it makes and the next one consumes, so that nothing is signed
//! that was not authorized, linted and written down, in this order:
//!
//! ```text
//! SvidRequest -authorize-> Authorized -prepare-> Prepared -record-> Intended -sign-> Signed -release-> IssuedSvid
//!                                                                          \-> Failed -record-> IssueError
//! ```

mod authorize;
mod judge;

use std::time::Duration;

use audit::{Action, Actor, Event, Outcome};
use certs::{Chain, Rehearsal, Serial, Severity, Template, Timestamp, Validity};
use spiffe::{AuthorityId, IssueError, IssuedSvid, Purpose, Spend};

pub(crate) use self::authorize::{Authorized, Refusal};
pub(crate) use self::judge::Judge;
use crate::{
    authority::SigningAuthority,
    policy::Policy,
    ports::{Intent, IssueOutcome, Journal, JournalError, ResultRecord},
};

/// The longest time between deciding and signing. It keeps what a retired authority may still sign inside the
/// grace after its retirement.
const MAX_PENDING: Duration = Duration::from_secs(30);

impl Authorized {
    /// Builds the certificate that `authority` would sign, and lints it as signed by a throwaway key.
    pub(crate) fn prepare(
        self,
        authority: &SigningAuthority,
        policy: &Policy,
        serial: Serial,
        epoch: u64,
        now: Timestamp,
    ) -> Result<Prepared, IssueError> {
        let issuer = authority.certificate();
        if issuer.not_after().since(now) < policy.least_remaining() {
            return Err(IssueError::Unavailable(format!(
                "issuing authority {} ends at {} and needs a successor",
                authority.id(),
                issuer.not_after()
            )));
        }
        let bounds = Validity { not_before: issuer.not_before(), not_after: issuer.not_after() };
        let template = Template {
            profile: self.request.profile,
            serial,
            validity: self.validity(now, bounds),
            public_key: self.request.public_key.clone(),
            subject: None,
            uri: self.request.id.as_str().to_owned(),
            dns_names: self.request.dns_names.clone(),
            ip_addresses: self.request.ip_addresses.clone(),
        };
        let rehearsal =
            authority.rehearse(&template).map_err(|error| IssueError::Refused(error.to_string()))?;
        let mut findings = rehearsal.lint(template.profile).into_iter();
        if let Some(finding) = findings.find(|finding| finding.severity == Severity::Error) {
            let refusal = Refusal::Lint { rule: finding.rule, message: finding.message };
            return Err(IssueError::Refused(refusal.to_string()));
        }
        let authority = authority.id();
        let event = self.event(&template, authority, now);
        Ok(Prepared { authorized: self, template, rehearsal, authority, epoch, at: now, event })
    }

    /// What is told of the certificate, whatever becomes of it.
    fn event(&self, template: &Template, authority: AuthorityId, at: Timestamp) -> Event {
        let request = &self.request;
        let actor = match &self.node {
            Some(node) => Actor::Identity { id: request.id.trust_domain().node_id(node) },
            None => Actor::System,
        };
        let mut event = Event::done(at, actor, Action::CertificateIntent, request.id.as_str())
            .with("serial", &template.serial)
            .with("authority_id", authority)
            .with("profile", word(&request.profile))
            .with("purpose", word(&request.purpose))
            .with("not_after", template.validity.not_after)
            .for_tenant(request.tenant.clone())
            .in_request(request.request_id.clone());
        if let Some(node) = &self.node {
            event = event.with("node_id", node);
        }
        match &request.spend {
            Some(Spend::Token(spend)) => event.with("token_id", &spend.token_id),
            Some(Spend::Recovery(spend)) => {
                let event = event.with("recovery_window", spend.window).with("replaces", &spend.replaces);
                event.with("from", &spend.from)
            }
            None => event,
        }
    }
}

/// A certificate that would be good, with a serial number that is not reserved yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    authorized: Authorized,
    template: Template,
    /// It passed the lint. What is signed are these octets.
    rehearsal: Rehearsal,
    authority: AuthorityId,
    epoch: u64,
    at: Timestamp,
    event: Event,
}

/// What recording an intent led to.
#[derive(Debug)]
pub(crate) enum Recorded {
    /// It is written; it may be signed.
    Intended(Intended),
    /// The serial number is taken; prepare it again with another.
    SerialTaken(Authorized),
    /// It must not be signed.
    Refused(IssueError),
}

impl Prepared {
    /// Reserves the serial number, uses up what is to be spent and writes the intent, all in one transaction.
    pub(crate) async fn record(self, journal: &dyn Journal) -> Recorded {
        let spend = self.authorized.request.spend.clone();
        match journal.record_intent(self.intent(), spend, self.event.clone()).await {
            Ok(()) => Recorded::Intended(Intended(Box::new(self))),
            Err(JournalError::SerialTaken(_)) => Recorded::SerialTaken(self.authorized),
            Err(error) => Recorded::Refused(refusal_of(error)),
        }
    }

    fn intent(&self) -> Intent {
        let request = &self.authorized.request;
        Intent {
            serial: self.template.serial.clone(),
            authority: self.authority,
            epoch: self.epoch,
            tbs_sha256: self.rehearsal.certificate().signed_sha256(),
            id: request.id.clone(),
            profile: request.profile,
            tenant: request.tenant.clone(),
            node: self.authorized.node.clone(),
            purpose: request.purpose,
            spki: request.public_key.hash(),
            not_before: self.template.validity.not_before,
            not_after: self.template.validity.not_after,
            at: self.at,
            request_id: request.request_id.clone(),
        }
    }
}

/// The word that serde writes for a unit variant.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(crate) fn refusal_of(error: JournalError) -> IssueError {
    match error {
        JournalError::Token(refusal) => IssueError::Token(refusal),
        JournalError::Recovery(refusal) => IssueError::Recovery(refusal),
        JournalError::AlreadyIssued { chain, authority, issued } => {
            match Chain::from_ders(chain.iter().map(Vec::as_slice)) {
                Ok(chain) => IssueError::AlreadyIssued(Box::new(IssuedSvid { chain, authority, issued })),
                Err(error) => IssueError::Unavailable(format!("the journal holds a damaged chain: {error}")),
            }
        }
        error @ (JournalError::SerialTaken(_)
        | JournalError::NoIntent(_)
        | JournalError::NoRequest(_)
        | JournalError::NoIssuer(_)
        | JournalError::NotReserved { .. }
        | JournalError::Unavailable(_)) => IssueError::Unavailable(error.to_string()),
    }
}

/// A certificate whose intent is in the journal. The only thing that an authority signs for a leaf.
#[derive(Debug)]
pub(crate) struct Intended(Box<Prepared>);

impl Intended {
    /// Signs, and holds the result against what was linted, what was asked for and what is trusted.
    pub(crate) fn sign(
        self,
        authority: &SigningAuthority,
        judge: &Judge,
        now: Timestamp,
    ) -> Result<Signed, Failed> {
        let signed = if now.since(self.0.at) > MAX_PENDING {
            Err(IssueError::Unavailable("the journal took too long to record the intent".to_owned()))
        } else {
            authority.sign(&self.0.rehearsal).map_err(|error| IssueError::Unavailable(error.to_string()))
        };
        let checked = signed.and_then(|leaf| {
            let chain = authority.chain(leaf);
            match self.0.fault(&chain, judge, now) {
                None => Ok(chain),
                Some(fault) => Err(IssueError::BadOutput(fault)),
            }
        });
        match checked {
            Ok(chain) => Ok(Signed { prepared: self.0, chain }),
            Err(error) => Err(Failed { prepared: self.0, error }),
        }
    }
}

impl Prepared {
    /// What is wrong with the chain that was made for it.
    ///
    /// The lint is not run again: it looks at nothing but the octets that the signature covers and at the name of
    /// its algorithm, and those are, one by one, the octets that it passed before the authority signed.
    fn fault(&self, chain: &Chain, judge: &Judge, now: Timestamp) -> Option<String> {
        let leaf = chain.leaf();
        if !leaf.differs_in_signature_only(self.rehearsal.certificate()) {
            return Some("it is not what was intended".to_owned());
        }
        let request = &self.authorized.request;
        if leaf.spki_der() != request.public_key.spki_der() || *leaf.serial() != self.template.serial {
            return Some("its key or serial number is another".to_owned());
        }
        let validity = Validity { not_before: leaf.not_before(), not_after: leaf.not_after() };
        if validity != self.template.validity {
            return Some("its validity is another".to_owned());
        }
        match judge.verify(chain, now) {
            Ok(id) if id == request.id => None,
            Ok(id) => Some(format!("it names {id}")),
            Err(error) => Some(error.to_string()),
        }
    }

    fn result(&self, outcome: IssueOutcome, at: Timestamp) -> ResultRecord {
        let serial = self.template.serial.clone();
        ResultRecord { serial, authority: self.authority, outcome, at }
    }
}

/// A certificate that was signed and checked, and is nobody's yet.
#[derive(Debug)]
pub(crate) struct Signed {
    prepared: Box<Prepared>,
    chain: Chain,
}

impl Signed {
    /// Records the result, and only then lets the certificate out.
    pub(crate) async fn release(
        self,
        journal: &dyn Journal,
        now: Timestamp,
    ) -> Result<IssuedSvid, IssueError> {
        let ders = self.chain.certificates().map(|certificate| certificate.der().to_vec()).collect();
        let result = self.prepared.result(IssueOutcome::Issued(ders), now);
        let action = match self.prepared.authorized.request.purpose {
            Purpose::Enrolment => Action::NodeEnrol,
            Purpose::Recovery => Action::NodeRecover,
            Purpose::NodeRenewal
            | Purpose::Delivery
            | Purpose::Renewal
            | Purpose::ForcedRenewal
            | Purpose::Server
            | Purpose::Operator => Action::CertificateIssue,
        };
        let event = Event { action, at: now, ..self.prepared.event };
        journal
            .record_result(result, event)
            .await
            .map_err(|error| IssueError::Unavailable(error.to_string()))?;
        Ok(IssuedSvid { chain: self.chain, authority: self.prepared.authority, issued: self.prepared.at })
    }
}

/// An intent that did not become a certificate.
#[derive(Debug)]
pub(crate) struct Failed {
    prepared: Box<Prepared>,
    error: IssueError,
}

impl Failed {
    /// Records the failure and answers it. If that is not possible either, the row stays "unknown".
    pub(crate) async fn record(self, journal: &dyn Journal, now: Timestamp) -> IssueError {
        let reason = self.error.to_string();
        let result = self.prepared.result(IssueOutcome::Failed(reason.clone()), now);
        let action = Action::CertificateFail;
        let event = Event { action, at: now, outcome: Outcome::Failed, reason, ..self.prepared.event };
        if let Err(error) = journal.record_result(result, event).await {
            tracing::warn!(
                %error,
                serial = %self.prepared.template.serial,
                "failed issuance was not recorded, its outcome stays unknown"
            );
        }
        self.error
    }
}

#[cfg(test)]
mod tests;
