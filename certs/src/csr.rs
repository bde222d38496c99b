//! A certificate request brings a public key and nothing else.

use rcgen::CertificateSigningRequestParams;
use rustls_pki_types::CertificateSigningRequestDer;
use thiserror::Error;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::{KeyError, PublicKey, SecretKey};

/// The largest request that is read, in bytes.
pub const MAX_CSR_BYTES: usize = 8 * 1024;

/// Why a request brings no usable key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CsrError {
    /// Larger than [`MAX_CSR_BYTES`].
    #[error("certificate request has {0} bytes, at most {MAX_CSR_BYTES} are allowed")]
    TooLarge(usize),
    /// Not a PKCS#10 request, or bytes follow it.
    #[error("certificate request does not parse")]
    Malformed,
    /// The signature does not prove possession of the key (RFC 2986 4.2).
    #[error("certificate request is not signed by the key it names")]
    BadSignature,
    /// A key that Credence does not certify.
    #[error("certificate request: {0}")]
    Key(#[from] KeyError),
}

/// A checked request: its public key, whose owner signed it. Every other field of it is dropped unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    public_key: PublicKey,
}

impl Csr {
    /// Parses a DER PKCS#10 request and checks its signature.
    ///
    /// # Errors
    /// See [`CsrError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLarge(der.len()));
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed);
        }
        let public_key = PublicKey::from_spki_der(request.certification_request_info.subject_pki.raw)?;
        request.verify_signature().map_err(|_| CsrError::BadSignature)?;
        Ok(Self { public_key })
    }

    /// Makes a request for `key` with an empty subject and no extension.
    #[must_use]
    pub fn build(key: &SecretKey) -> Vec<u8> {
        crate::signer::build_csr(key)
    }

    /// The public key whose owner signed the request.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

pub(crate) fn request_der(pair: &rcgen::KeyPair) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(pair).expect("a request without names serializes");
    let der: &CertificateSigningRequestDer<'_> = request.der();
    debug_assert!(CertificateSigningRequestParams::from_der(der).is_ok());
    der.to_vec()
}
