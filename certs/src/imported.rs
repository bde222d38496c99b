//! Secrets that were made elsewhere and are kept here: a key with its chain, or bytes that mean something to others.
//! Nothing half right gets in: what does not parse, match or chain is refused with the reason.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::{
    PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, pem::PemObject,
};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::{Certificate, Chain, ChainError, PemError, Timestamp, certificates_from_pem};

/// The most bytes of an imported secret, its chain included.
pub const MAX_IMPORTED_BYTES: usize = 64 * 1024;

/// Secret bytes of any meaning. Zeroed when dropped; cannot be cloned, compared, printed or serialized.
pub struct SecretBytes(pub(crate) Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same bytes once more.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// HMAC-SHA-256 of `message` under these bytes: what proves that one holds them without showing them.
    #[must_use]
    pub fn authenticate(&self, message: &[u8]) -> [u8; 32] {
        let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.0), message);
        let mut octets = [0; 32];
        octets.copy_from_slice(tag.as_ref());
        octets
    }

    /// What these bytes are the base64url of (RFC 4648 5), white space around and padding left out; `None` if they are
    /// none.
    #[must_use]
    pub fn decode_base64url(&self) -> Option<Self> {
        let mut text = self.0.trim_ascii();
        while let Some(rest) = text.strip_suffix(b"=") {
            text = rest;
        }
        let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        bytes.truncate(length);
        Some(Self(bytes))
    }

    /// Several in one, in an order that both sides know, absent ones included.
    #[must_use]
    pub fn join<const PARTS: usize>(parts: [Option<&Self>; PARTS]) -> Self {
        let length = parts.iter().map(|part| 1 + part.map_or(0, |part| 4 + part.len())).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        for part in parts {
            match part {
                None => bytes.push(0),
                Some(Self(part)) => {
                    bytes.push(1);
                    bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
                    bytes.extend_from_slice(part);
                }
            }
        }
        Self(bytes)
    }

    /// What [`SecretBytes::join`] joined; `None` if it is anything else.
    #[must_use]
    pub fn split<const PARTS: usize>(&self) -> Option<[Option<Self>; PARTS]> {
        let mut rest = self.0.as_slice();
        let mut parts = [const { None }; PARTS];
        for part in &mut parts {
            let (is_there, after) = rest.split_first()?;
            rest = match is_there {
                0 => after,
                1 => {
                    let (length, after) = after.split_first_chunk::<4>()?;
                    let (bytes, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                    *part = Some(Self(Zeroizing::new(bytes.to_vec())));
                    after
                }
                _ => return None,
            };
        }
        rest.is_empty().then_some(parts)
    }

    /// The bytes. Called in seven files of the workspace only, like [`SecretKey::expose_secret`](crate::SecretKey); a
    /// test keeps the list.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

/// How the DER of a private key is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// RFC 5958.
    Pkcs8,
    /// RSA, RFC 8017.
    Pkcs1,
    /// Elliptic curves, RFC 5915.
    Sec1,
}

impl KeyForm {
    /// The label of its PEM block.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Pkcs8 => "PRIVATE KEY",
            Self::Pkcs1 => "RSA PRIVATE KEY",
            Self::Sec1 => "EC PRIVATE KEY",
        }
    }

    /// The form of that label.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        [Self::Pkcs8, Self::Pkcs1, Self::Sec1].into_iter().find(|form| form.label() == label)
    }
}

/// Why a key and its chain were not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImportError {
    /// There is no certificate, or a block does not decode.
    #[error("certificate file: {0}")]
    Pem(#[from] PemError),
    /// The certificates are no chain by themselves.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// There is no private key, or it does not decode.
    #[error("key file holds no private key in PEM")]
    NoKey,
    /// There are several private keys.
    #[error("key file holds {0} private keys, one is expected")]
    SeveralKeys(usize),
    /// The key is under a passphrase.
    #[error("private key is encrypted")]
    EncryptedKey,
    /// Neither P-256, P-384 nor RSA.
    #[error("private key is neither P-256, P-384 nor RSA of at least 2048 bits, or does not parse")]
    UnsupportedKey,
    /// The leaf certifies another key.
    #[error("private key does not belong to the first certificate ({subject})")]
    WrongKey {
        /// The leaf's subject.
        subject: String,
    },
    /// The leaf's time is over.
    #[error("certificate has expired, {0}")]
    Expired(Timestamp),
    /// A certificate of the chain is not the issuer of the one before it.
    #[error("certificate {index} ({subject}) did not issue the one before it: {why}")]
    NotIssuer {
        /// Its place, counted from 0, the leaf.
        index: usize,
        /// Its subject.
        subject: String,
        /// How that shows.
        why: &'static str,
    },
    /// All of it is longer than [`MAX_IMPORTED_BYTES`].
    #[error("secret has {0} bytes, at most {MAX_IMPORTED_BYTES} are taken")]
    TooLarge(usize),
    /// There is nothing in it.
    #[error("secret is empty")]
    Empty,
}

impl ImportError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Pem(_) | Self::Chain(_) => "give the leaf first, then its intermediates, as PEM",
            Self::NoKey | Self::SeveralKeys(_) => "give one private key as PEM, unencrypted",
            Self::EncryptedKey => "decrypt it first: openssl pkey -in KEY -out DECRYPTED",
            Self::UnsupportedKey => "Envoy takes keys on P-256 and P-384 and RSA keys of 2048 bits and more",
            Self::WrongKey { .. } => {
                "give the key that the certificate was requested with, and the leaf first"
            }
            Self::Expired(_) => "give a certificate that is valid",
            Self::NotIssuer { .. } => {
                "order the chain: each certificate is followed by the one that issued it"
            }
            Self::TooLarge(_) => "give the chain without what the other side has already",
            Self::Empty => "give the file that holds the secret",
        }
    }
}

/// What an imported secret is.
#[derive(Debug)]
pub enum Imported {
    /// A key with its chain.
    Tls {
        /// The chain, leaf first.
        chain: Chain,
        /// How the key is to be read.
        form: KeyForm,
        /// The key's DER.
        key: SecretBytes,
    },
    /// Bytes that mean something to others.
    Generic(SecretBytes),
}

impl Imported {
    /// Takes bytes of any meaning.
    ///
    /// # Errors
    /// When there are none or too many.
    pub fn generic(bytes: Zeroizing<Vec<u8>>) -> Result<Self, ImportError> {
        match bytes.len() {
            0 => Err(ImportError::Empty),
            1..=MAX_IMPORTED_BYTES => Ok(Self::Generic(SecretBytes::new(bytes))),
            length => Err(ImportError::TooLarge(length)),
        }
    }

    /// Takes a chain and its key from PEM, after checking that they belong together, that each certificate was issued
    /// by the next, and that the leaf is not over at `now`.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn tls(certificates: &[u8], key: &[u8], now: Timestamp) -> Result<Self, ImportError> {
        if certificates.len() + key.len() > MAX_IMPORTED_BYTES {
            return Err(ImportError::TooLarge(certificates.len() + key.len()));
        }
        let ders = certificates_from_pem(certificates)?;
        let chain = Chain::from_ders(ders.iter().map(Vec::as_slice))?;
        let (form, key) = private_key(key)?;
        let public = public_key(form, &key).ok_or(ImportError::UnsupportedKey)?;
        if public != chain.leaf().spki_der() {
            return Err(ImportError::WrongKey { subject: shown(chain.leaf()) });
        }
        if chain.leaf().not_after() < now {
            return Err(ImportError::Expired(chain.leaf().not_after()));
        }
        check_order(&ders, &chain)?;
        Ok(Self::Tls { chain, form, key: SecretBytes::new(key) })
    }

    /// `tls` or `generic`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Tls { .. } => "tls",
            Self::Generic(_) => "generic",
        }
    }

    /// When its certificate begins, if it has one.
    #[must_use]
    pub fn not_before(&self) -> Option<Timestamp> {
        match self {
            Self::Tls { chain, .. } => Some(chain.leaf().not_before()),
            Self::Generic(_) => None,
        }
    }

    /// When its certificate ends, if it has one.
    #[must_use]
    pub fn not_after(&self) -> Option<Timestamp> {
        match self {
            Self::Tls { chain, .. } => Some(chain.leaf().not_after()),
            Self::Generic(_) => None,
        }
    }
}

fn shown(certificate: &Certificate) -> String {
    let subject = certificate.subject();
    if subject.is_empty() { format!("serial {}", certificate.serial()) } else { subject.to_owned() }
}

fn private_key(pem: &[u8]) -> Result<(KeyForm, Zeroizing<Vec<u8>>), ImportError> {
    const ENCRYPTED: &[u8] = b"ENCRYPTED";
    if pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
        return Err(ImportError::EncryptedKey);
    }
    let keys: Vec<_> =
        PrivateKeyDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| ImportError::NoKey)?;
    let mut keys = keys.into_iter();
    let (first, others) = (keys.next().ok_or(ImportError::NoKey)?, keys.len());
    if others > 0 {
        return Err(ImportError::SeveralKeys(others + 1));
    }
    let form = match &first {
        PrivateKeyDer::Pkcs8(_) => KeyForm::Pkcs8,
        PrivateKeyDer::Pkcs1(_) => KeyForm::Pkcs1,
        PrivateKeyDer::Sec1(_) => KeyForm::Sec1,
        _ => return Err(ImportError::UnsupportedKey),
    };
    Ok((form, Zeroizing::new(first.secret_der().to_vec())))
}

/// The public half, if Envoy takes keys of this kind.
fn public_key(form: KeyForm, der: &[u8]) -> Option<Vec<u8>> {
    let key = match form {
        KeyForm::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)),
        KeyForm::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
        KeyForm::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
    };
    [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256]
        .into_iter()
        .find_map(|algorithm| KeyPair::from_der_and_sign_algo(&key, algorithm).ok())
        .map(|pair| pair.subject_public_key_info())
}

/// Names and signatures: each certificate was issued by the next.
fn check_order(ders: &[Vec<u8>], chain: &Chain) -> Result<(), ImportError> {
    let parsed: Vec<X509Certificate<'_>> =
        ders.iter().filter_map(|der| X509Certificate::from_der(der).ok()).map(|(_, one)| one).collect();
    for (index, pair) in parsed.windows(2).enumerate() {
        let issuer = &chain.intermediates()[index];
        let refuse = |why| Err(ImportError::NotIssuer { index: index + 1, subject: shown(issuer), why });
        if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
            return refuse("the names differ");
        }
        if !issuer.is_ca() {
            return refuse("it is no authority");
        }
        if pair[0].verify_signature(Some(pair[1].public_key())).is_err() {
            return refuse("the signature is not its");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(bytes: &[u8]) -> SecretBytes {
        SecretBytes::new(Zeroizing::new(bytes.to_vec()))
    }

    #[test]
    fn what_was_joined_comes_apart_and_nothing_else_does() {
        let (one, none) = (secret(b"one"), secret(b""));
        let joined = SecretBytes::join([Some(&one), None, Some(&none)]);
        let [first, second, third] = joined.split::<3>().unwrap();
        assert_eq!(first.unwrap().expose_secret(), b"one");
        assert!(second.is_none());
        assert_eq!(third.unwrap().expose_secret(), b"");
        assert!(joined.split::<2>().is_none() && joined.split::<4>().is_none());

        let bytes = joined.expose_secret();
        for length in 0..bytes.len() {
            assert!(secret(&bytes[..length]).split::<3>().is_none(), "cut after {length}");
        }
        for strange in
            [[bytes, &[0]].concat(), [&[2], &bytes[1..]].concat(), [&[1, 255], &bytes[2..]].concat()]
        {
            assert!(secret(&strange).split::<3>().is_none(), "{strange:?}");
        }
    }
}
