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
        let key = request.certification_request_info.subject_pki.raw;
        let holds = || request.verify_signature().map_err(|_| CsrError::BadSignature);
        Ok(Self { public_key: PublicKey::from_signer(key, holds)? })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyKind;

    #[test]
    fn a_request_must_be_signed_by_the_key_it_names_and_that_key_lie_on_its_curve() {
        for kind in [KeyKind::P256, KeyKind::P384] {
            let key = SecretKey::generate(kind);
            let der = Csr::build(&key);
            assert_eq!(Csr::from_der(&der).unwrap().public_key(), key.public());

            let spki = key.public().spki_der();
            let end = der.windows(spki.len()).position(|at| at == spki).unwrap() + spki.len();
            let changed = |index: usize| {
                let mut changed = der.clone();
                changed[index] ^= 1;
                Csr::from_der(&changed)
            };
            assert_eq!(changed(end - 1), Err(CsrError::Key(KeyError::Malformed)), "a point off the curve");
            assert_eq!(changed(der.len() - 1), Err(CsrError::BadSignature));
            assert_eq!(Csr::from_der(&der[..der.len() - 1]), Err(CsrError::Malformed));

            let other = SecretKey::generate(kind);
            let mut forged = Csr::build(&other);
            let theirs = other.public().spki_der();
            let start = forged.windows(theirs.len()).position(|at| at == theirs).unwrap();
            forged[start..start + spki.len()].copy_from_slice(spki);
            assert_eq!(Csr::from_der(&forged), Err(CsrError::BadSignature), "another's signature");
        }
    }
}
