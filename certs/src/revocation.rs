//! Making revocation lists: version 2, complete, with a number that grows (RFC 5280 5).

use std::{fmt, str::FromStr};

use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::{
    Certificate, Crl, IssueError, Serial, SignError, Signer, Timestamp,
    template::{RcgenSigner, date},
};

/// Why a certificate is revoked (RFC 5280 5.3.1), as far as an operator may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationReason {
    /// Not said.
    #[default]
    Unspecified,
    /// Its key is believed to be known to others.
    KeyCompromise,
    /// The node or workload has another one.
    Superseded,
    /// What it speaks for is no more.
    CessationOfOperation,
    /// It may no longer do what it did.
    PrivilegeWithdrawn,
}

impl RevocationReason {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::PrivilegeWithdrawn,
    ];

    /// The word that people write.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }

    /// `None` leaves the extension out, as RFC 5280 5.3.1 wants for the unspecified one.
    fn to_rcgen(self) -> Option<rcgen::RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(rcgen::RevocationReason::KeyCompromise),
            Self::Superseded => Some(rcgen::RevocationReason::Superseded),
            Self::CessationOfOperation => Some(rcgen::RevocationReason::CessationOfOperation),
            Self::PrivilegeWithdrawn => Some(rcgen::RevocationReason::PrivilegeWithdrawn),
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A word that is no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no reason for a revocation: {words}",
    words = RevocationReason::ALL.map(RevocationReason::word).join(", ")
)]
pub struct UnknownReason(pub String);

impl FromStr for RevocationReason {
    type Err = UnknownReason;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|reason| reason.word() == text);
        found.ok_or_else(|| UnknownReason(text.chars().take(64).collect()))
    }
}

/// One revoked certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Its serial number.
    pub serial: Serial,
    /// When it was revoked.
    pub at: Timestamp,
    /// Why.
    pub reason: RevocationReason,
}

/// One list about to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlTemplate {
    /// Grows with every list of the same authority, and is never zero.
    pub number: u64,
    /// When it is made.
    pub this_update: Timestamp,
    /// When it ends.
    pub next_update: Timestamp,
    /// Every certificate of the authority that is revoked and has not expired.
    pub revoked: Vec<Revocation>,
}

/// Signs a list as `issuer`, and reads back what came out: it is `issuer`'s and says what the template says.
///
/// # Errors
/// When the signer is not the issuer's, or the list cannot be made.
pub fn sign_crl(
    template: &CrlTemplate,
    issuer: &Certificate,
    signer: &dyn Signer,
) -> Result<Crl, IssueError> {
    if issuer.spki_der() != signer.public().spki_der() {
        return Err(IssueError::Issuer("its key is not the signer's".to_owned()));
    }
    let key_id =
        issuer.subject_key_id().ok_or_else(|| IssueError::Issuer("it has no key identifier".to_owned()))?;
    let revoked = template.revoked.iter().map(|one| {
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from_slice(one.serial.as_bytes()),
            revocation_time: date(one.at)?,
            reason_code: one.reason.to_rcgen(),
            invalidity_date: None,
        })
    });
    let params = CertificateRevocationListParams {
        this_update: date(template.this_update)?,
        next_update: date(template.next_update)?,
        crl_number: SerialNumber::from(template.number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect::<Result<_, IssueError>>()?,
        key_identifier_method: KeyIdMethod::PreSpecified(key_id.to_vec()),
    };
    let der = CertificateDer::from(issuer.der());
    let above = Issuer::from_ca_cert_der(&der, RcgenSigner(signer))
        .map_err(|error| IssueError::Issuer(error.to_string()))?;
    let list = params.signed_by(&above).map_err(|error| SignError::Failed(error.to_string()))?;
    let list = Crl::from_der(list.der()).map_err(|error| SignError::Failed(error.to_string()))?;
    let says_so = template.revoked.iter().all(|one| list.revokes(&one.serial));
    if list.is_of(issuer) && says_so {
        Ok(list)
    } else {
        Err(SignError::Failed("the list that came out is not the one asked for".to_owned()).into())
    }
}
