//! Certificate revocation lists, as far as verifying and renewing them needs.

use std::fmt;

use thiserror::Error;
use webpki::{BorrowedCertRevocationList, CertRevocationList, OwnedCertRevocationList};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use crate::{
    Certificate, Serial, Timestamp,
    anatomy::{self, oid},
    der::{self, NotDer, Reader},
};

/// Why bytes are no revocation list that Credence reads.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CrlError {
    /// Not DER, or not a version 2 list.
    #[error("revocation list does not parse: {0}")]
    Malformed(String),
    /// No CRLNumber (RFC 5280 5.2.3).
    #[error("revocation list has no number")]
    NoNumber,
    /// A critical CRLNumber (RFC 5280 5.2.3).
    #[error("revocation list has a critical number")]
    CriticalNumber,
}

/// A list of revoked serial numbers, parsed; its signature is checked when a path uses it.
pub struct Crl {
    issuer: Vec<u8>,
    list: CertRevocationList<'static>,
    der: Vec<u8>,
    this_update: Timestamp,
    next_update: Timestamp,
}

impl Crl {
    /// Parses DER.
    ///
    /// # Errors
    /// See [`CrlError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CrlError> {
        let (issuer, number) =
            issuer_and_number(der).map_err(|NotDer| CrlError::Malformed("not DER".into()))?;
        match number {
            None => return Err(CrlError::NoNumber),
            Some(true) => return Err(CrlError::CriticalNumber),
            Some(false) => {}
        }
        let list: OwnedCertRevocationList = BorrowedCertRevocationList::from_der(der)
            .and_then(|list| list.to_owned())
            .map_err(|error| CrlError::Malformed(format!("{error:?}")))?;
        let (_, dates) = CertificateRevocationList::from_der(der)
            .map_err(|error| CrlError::Malformed(error.to_string()))?;
        let next_update = dates
            .next_update()
            .ok_or_else(|| CrlError::Malformed("it has no end (RFC 5280 5.1.2.5)".into()))?;
        Ok(Self {
            issuer,
            list: list.into(),
            der: der.to_vec(),
            this_update: Timestamp::from_unix_secs(dates.last_update().timestamp()),
            next_update: Timestamp::from_unix_secs(next_update.timestamp()),
        })
    }

    /// As it was signed.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// When it was made.
    #[must_use]
    pub fn this_update(&self) -> Timestamp {
        self.this_update
    }

    /// When it ends: from then on Envoy refuses every certificate of its issuer.
    #[must_use]
    pub fn next_update(&self) -> Timestamp {
        self.next_update
    }

    /// Whether it revokes this serial number.
    #[must_use]
    pub fn revokes(&self, serial: &Serial) -> bool {
        self.list.find_serial(serial.as_bytes()).is_ok_and(|found| found.is_some())
    }

    /// Whether it is `issuer`'s: by name, and by its signature.
    #[must_use]
    pub fn is_of(&self, issuer: &Certificate) -> bool {
        let parsed = CertificateRevocationList::from_der(&self.der);
        let above = x509_parser::certificate::X509Certificate::from_der(issuer.der());
        let (Ok((_, list)), Ok((_, above))) = (parsed, above) else { return false };
        list.tbs_cert_list.issuer.as_raw() == above.tbs_certificate.subject.as_raw()
            && list.verify_signature(above.public_key()).is_ok()
    }

    /// The content octets of the issuer's name.
    pub(crate) fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    pub(crate) fn list(&self) -> &CertRevocationList<'static> {
        &self.list
    }
}

impl PartialEq for Crl {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Crl {}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl").field("issuer", &hex::encode(&self.issuer)).finish_non_exhaustive()
    }
}

/// The issuer's name, and whether CRLNumber is critical, if there is one (RFC 5280 5.1).
fn issuer_and_number(der: &[u8]) -> Result<(Vec<u8>, Option<bool>), NotDer> {
    let mut list = der::open(der, der::SEQUENCE)?;
    let mut tbs = Reader::new(list.expect(der::SEQUENCE)?.value);
    tbs.optional(der::INTEGER)?;
    tbs.expect(der::SEQUENCE)?;
    let issuer = tbs.expect(der::SEQUENCE)?.value.to_vec();
    let mut number = None;
    while !tbs.is_empty() {
        let element = tbs.next()?;
        if element.tag == 0xa0 {
            number = anatomy::extensions(der::open(element.value, der::SEQUENCE)?)?
                .into_iter()
                .find(|extension| extension.oid == oid::CRL_NUMBER)
                .map(|extension| extension.critical);
        }
    }
    Ok((issuer, number))
}
