//! A private key under a passphrase, in the form that other programs read: PKCS#8 with PBES2, scrypt and AES-256-CBC
//! (RFC 5958 3, RFC 8018 6.2, RFC 7914 7). OpenSSL reads it.

use aws_lc_rs::{
    cipher::{
        AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
    },
    iv::FixedLength,
    rand,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use scrypt::{Params, scrypt};
use thiserror::Error;
use zeroize::Zeroizing;

use super::SecretKey;
use crate::{
    der::{self, NotDer, Reader},
    pem::block,
};

const LABEL: &str = "ENCRYPTED PRIVATE KEY";
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const SCRYPT: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];
const AES_256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];
/// 2^14 blocks of 1 KiB: as much memory as OpenSSL grants (32 MiB) allows for, and five times the work instead.
const LOG_N: u8 = 14;
const BLOCK: u8 = 8;
const PARALLEL: u8 = 5;
/// The largest text that is looked at.
const MAX_TEXT: usize = 64 * 1024;

/// Why an encrypted key was not opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncryptedKeyError {
    /// No such block, several, or one that does not decode.
    #[error("there is not exactly one encrypted private key in PEM")]
    NoKey,
    /// Encrypted in another way.
    #[error("private key is encrypted in another way than Credence does")]
    Foreign,
    /// The passphrase is another, or the file was changed: what came out is no key of ours.
    #[error("passphrase does not open the private key, or the file was changed")]
    Closed,
}

impl SecretKey {
    /// The key under `passphrase`, as PEM.
    ///
    /// # Panics
    /// When the system gives no random bytes.
    #[must_use]
    pub fn to_encrypted_pem(&self, passphrase: &[u8]) -> String {
        let mut salt = [0; 16];
        rand::fill(&mut salt).expect("the system gives random bytes");
        let key = UnboundCipherKey::new(&AES_256, derive(passphrase, &salt).as_slice());
        let key = key.and_then(PaddedBlockEncryptingKey::cbc_pkcs7).expect("AES-256 takes 32 octets");
        // Large enough from the beginning: what grows leaves copies behind. It is encrypted in place.
        let mut octets = Vec::with_capacity(self.pkcs8_der.len() + 32);
        octets.extend_from_slice(&self.pkcs8_der);
        let context = key.encrypt(&mut octets).expect("a key of ours is short enough to be encrypted");
        let iv: &[u8] = (&context).try_into().expect("CBC has an initialization vector");
        let whole = sequence(&[&identifier(&salt, iv), &der::encode(der::OCTET_STRING, &[&octets])]);
        block(LABEL, &whole)
    }

    /// Opens what [`SecretKey::to_encrypted_pem`] made; other blocks of the text are passed over.
    ///
    /// # Errors
    /// See [`EncryptedKeyError`].
    pub fn from_encrypted_pem(text: &[u8], passphrase: &[u8]) -> Result<Self, EncryptedKeyError> {
        let der = decode(text).ok_or(EncryptedKeyError::NoKey)?;
        let Parts { salt, iv, octets } = parse(&der).map_err(|NotDer| EncryptedKeyError::Foreign)?;
        let closed = |_| EncryptedKeyError::Closed;
        let key = UnboundCipherKey::new(&AES_256, derive(passphrase, salt).as_slice()).map_err(closed)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(closed)?;
        let iv = FixedLength::try_from(iv).map_err(closed)?;
        let mut octets = Zeroizing::new(octets.to_vec());
        let opened = key.decrypt(&mut octets, DecryptionContext::Iv128(iv)).map_err(closed)?;
        // One wrong passphrase in 256 leaves a padding that looks right.
        Self::from_pkcs8_der(Zeroizing::new(opened.to_vec())).map_err(|_| EncryptedKeyError::Closed)
    }
}

fn derive(passphrase: &[u8], salt: &[u8]) -> Zeroizing<[u8; 32]> {
    let params = Params::new(LOG_N, BLOCK.into(), PARALLEL.into()).expect("constants that scrypt takes");
    let mut key = Zeroizing::new([0; 32]);
    scrypt(passphrase, salt, &params, key.as_mut_slice()).expect("scrypt makes 32 octets");
    key
}

/// The one block of the text, decoded.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text.get(..text.len().min(MAX_TEXT))?).ok()?;
    let (begin, end) = (format!("-----BEGIN {LABEL}-----"), format!("-----END {LABEL}-----"));
    let (_, rest) = text.split_once(&begin)?;
    let (body, after) = rest.split_once(&end)?;
    if after.contains(&begin) {
        return None;
    }
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(body).ok()
}

/// What varies in what was encrypted exactly as here.
struct Parts<'a> {
    salt: &'a [u8],
    /// The initialization vector.
    iv: &'a [u8],
    octets: &'a [u8],
}

fn parse(whole: &[u8]) -> Result<Parts<'_>, NotDer> {
    let mut info = der::open(whole, der::SEQUENCE)?;
    let algorithm = info.expect(der::SEQUENCE)?;
    let octets = info.expect(der::OCTET_STRING)?.value;
    info.finish()?;
    let mut scheme = Reader::new(algorithm.value);
    scheme.expect(der::OBJECT_ID)?;
    let mut parts = Reader::new(scheme.expect(der::SEQUENCE)?.value);
    let mut derivation = Reader::new(parts.expect(der::SEQUENCE)?.value);
    derivation.expect(der::OBJECT_ID)?;
    let salt = Reader::new(derivation.expect(der::SEQUENCE)?.value).expect(der::OCTET_STRING)?.value;
    let mut cipher = Reader::new(parts.expect(der::SEQUENCE)?.value);
    cipher.expect(der::OBJECT_ID)?;
    let iv = cipher.expect(der::OCTET_STRING)?.value;
    if identifier(salt, iv) == algorithm.raw { Ok(Parts { salt, iv, octets }) } else { Err(NotDer) }
}

/// The AlgorithmIdentifier.
fn identifier(salt: &[u8], iv: &[u8]) -> Vec<u8> {
    let number = |octets: &[u8]| der::encode(der::INTEGER, &[octets]);
    let name = |octets: &[u8]| der::encode(der::OBJECT_ID, &[octets]);
    let text = |octets: &[u8]| der::encode(der::OCTET_STRING, &[octets]);
    let count = (1_u16 << LOG_N).to_be_bytes();
    let costs = sequence(&[&text(salt), &number(&count), &number(&[BLOCK]), &number(&[PARALLEL])]);
    let derivation = sequence(&[&name(SCRYPT), &costs]);
    let cipher = sequence(&[&name(AES_256_CBC), &text(iv)]);
    sequence(&[&name(PBES2), &sequence(&[&derivation, &cipher])])
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    der::encode(der::SEQUENCE, parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyKind, certificates_to_pem};

    #[test]
    fn opens_with_its_passphrase_and_with_no_other() {
        for kind in [KeyKind::P256, KeyKind::P384] {
            let key = SecretKey::generate(kind);
            let text = key.to_encrypted_pem(b"correct horse battery");
            assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
            assert_ne!(text, key.to_encrypted_pem(b"correct horse battery"), "salted");
            let beside = format!("{}{text}", certificates_to_pem([&[1, 2, 3][..]]));
            let opened = SecretKey::from_encrypted_pem(beside.as_bytes(), b"correct horse battery").unwrap();
            assert_eq!(opened.public(), key.public());
            let check = |text: &str, passphrase: &[u8], expected: EncryptedKeyError| {
                let refused = SecretKey::from_encrypted_pem(text.as_bytes(), passphrase).unwrap_err();
                assert_eq!(refused, expected);
            };
            check(&text, b"another horse battery", EncryptedKeyError::Closed);
            check(&format!("{text}{text}"), b"correct horse battery", EncryptedKeyError::NoKey);
            check("", b"correct horse battery", EncryptedKeyError::NoKey);
            check(&text[..text.len() / 2], b"correct horse battery", EncryptedKeyError::NoKey);
            let foreign = block(LABEL, &[0x30, 0x00]);
            check(&foreign, b"correct horse battery", EncryptedKeyError::Foreign);
        }
    }

    #[test]
    fn every_octet_counts() {
        let key = SecretKey::generate(KeyKind::P384);
        let text = key.to_encrypted_pem(b"phrase");
        let der = decode(text.as_bytes()).unwrap();
        // Deriving a key is slow on purpose: a few places in each part.
        for index in [0, 4, 20, 40, 70, 100, 120, der.len() - 40, der.len() - 1] {
            let mut changed = der.clone();
            changed[index] ^= 1;
            let opened = SecretKey::from_encrypted_pem(block(LABEL, &changed).as_bytes(), b"phrase");
            assert!(opened.is_err_and(|error| error != EncryptedKeyError::NoKey), "octet {index}");
        }
    }
}
