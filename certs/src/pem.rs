//! PEM in and out, for certificates and revocation lists only: private keys are written by the one file that may.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{
    CertificateDer,
    pem::{PemObject, SectionKind},
};
use thiserror::Error;

use crate::Crl;

/// The largest file of certificates that people may hand in, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// The most certificates that such a file may have.
pub const MAX_FILE_CERTIFICATES: usize = 64;

/// Why text is not a list of PEM certificates.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PemError {
    /// No certificate block was found.
    #[error("no certificate in the PEM text")]
    Empty,
    /// A block does not decode.
    #[error("PEM block {0} does not decode")]
    Malformed(usize),
    /// Neither PEM nor DER.
    #[error("neither PEM nor a DER certificate")]
    Junk,
    /// Too large.
    #[error("has {0} bytes, at most {MAX_FILE_BYTES} are read")]
    TooLarge(usize),
    /// Too many certificates.
    #[error("has more than {MAX_FILE_CERTIFICATES} certificates")]
    TooMany,
}

/// What a file that somebody handed in holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The certificates, DER, in order.
    pub certificates: Vec<Vec<u8>>,
    /// How many private keys stand beside them. What they are is not kept.
    pub private_keys: usize,
}

/// Reads a file that somebody handed in: PEM with at least one certificate, or one DER certificate. Private keys in
/// it are counted and dropped.
///
/// # Errors
/// When it is neither, malformed, or larger than is good for anybody.
pub fn read_certificates(file: &[u8]) -> Result<Contents, PemError> {
    const MARK: &[u8] = b"-----BEGIN ";
    if file.len() > MAX_FILE_BYTES {
        return Err(PemError::TooLarge(file.len()));
    }
    if !file.windows(MARK.len()).any(|at| at == MARK) {
        // A DER certificate is a SEQUENCE with a length of two octets: shorter ones hold no key.
        return match file {
            [0x30, 0x81..=0x83, ..] => Ok(Contents { certificates: vec![file.to_vec()], private_keys: 0 }),
            _ => Err(PemError::Junk),
        };
    }
    let mut contents = Contents { certificates: Vec::new(), private_keys: 0 };
    for (index, block) in <(SectionKind, Vec<u8>)>::pem_slice_iter(file).enumerate() {
        let (kind, der) = block.map_err(|_| PemError::Malformed(index))?;
        match kind {
            SectionKind::Certificate if contents.certificates.len() == MAX_FILE_CERTIFICATES => {
                return Err(PemError::TooMany);
            }
            SectionKind::Certificate => contents.certificates.push(der),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                contents.private_keys += 1;
            }
            _ => {}
        }
    }
    if contents.certificates.is_empty() { Err(PemError::Empty) } else { Ok(contents) }
}

/// Reads every certificate block, in order; other blocks are passed over.
///
/// # Errors
/// When a block is malformed, or there is none.
pub fn certificates_from_pem(text: &[u8]) -> Result<Vec<Vec<u8>>, PemError> {
    let mut found = Vec::new();
    for (index, block) in CertificateDer::pem_slice_iter(text).enumerate() {
        found.push(block.map_err(|_| PemError::Malformed(index))?.to_vec());
    }
    if found.is_empty() { Err(PemError::Empty) } else { Ok(found) }
}

/// Writes certificates as PEM blocks, in order, with lines of 64 characters (RFC 7468).
#[must_use]
pub fn certificates_to_pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    certificates.into_iter().map(|der| block("CERTIFICATE", der)).collect()
}

/// Writes revocation lists as PEM blocks, in order.
#[must_use]
pub fn crls_to_pem<'a>(lists: impl IntoIterator<Item = &'a Crl>) -> String {
    lists.into_iter().map(|list| block("X509 CRL", list.der())).collect()
}

/// Writes a certificate request (PKCS#10, DER) as PEM.
#[must_use]
pub fn request_to_pem(der: &[u8]) -> String {
    block("CERTIFICATE REQUEST", der)
}

pub(crate) fn block(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pem_and_der_and_drops_private_keys() {
        let der = [&[0x30, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        let pem = certificates_to_pem([der.as_slice(), der.as_slice()]);
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let expected =
            |count, private_keys| Ok(Contents { certificates: vec![der.clone(); count], private_keys });
        assert_eq!(read_certificates(&der), expected(1, 0));
        assert_eq!(read_certificates(pem.as_bytes()), expected(2, 0));
        assert_eq!(read_certificates(format!("words\n{key}{pem}").as_bytes()), expected(2, 1));
        let windows = pem.replace('\n', "\r\n");
        assert_eq!(read_certificates(windows.as_bytes()), expected(2, 0));
    }

    #[test]
    fn refuses_junk_and_what_is_too_much() {
        let check = |file: &[u8], expected: PemError| assert_eq!(read_certificates(file), Err(expected));
        check(b"", PemError::Junk);
        check(b"hello", PemError::Junk);
        check(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", PemError::Empty);
        check(b"-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n", PemError::Malformed(0));
        check(&vec![0; MAX_FILE_BYTES + 1], PemError::TooLarge(MAX_FILE_BYTES + 1));
        let many = certificates_to_pem(std::iter::repeat_n(&[1, 2, 3][..], MAX_FILE_CERTIFICATES + 1));
        check(many.as_bytes(), PemError::TooMany);
    }
}
