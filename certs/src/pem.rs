//! PEM in and out, for certificates only: private keys are written by the one file that may.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use thiserror::Error;

/// Why text is not a list of PEM certificates.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PemError {
    /// No certificate block was found.
    #[error("no certificate in the PEM text")]
    Empty,
    /// A block does not decode.
    #[error("PEM block {0} does not decode")]
    Malformed(usize),
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
    let mut text = String::new();
    for der in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(der);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
