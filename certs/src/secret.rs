//! The only home of private bytes.

mod encrypted;

use std::fmt;

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    error::Unspecified,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        KeyPair as _,
    },
};
use rcgen::KeyPair;
use ring::digest;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

pub use self::encrypted::EncryptedKeyError;
use crate::SecretBytes;

/// The kinds of key Credence makes and accepts. P-256 is the default: Envoy refuses Ed25519 and P-521.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyKind {
    /// ECDSA on P-256, signing with SHA-256.
    P256,
    /// ECDSA on P-384, signing with SHA-384.
    P384,
}

impl KeyKind {
    pub(crate) fn rcgen(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }

    fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        })
    }
}

/// SHA-256 over a SubjectPublicKeyInfo: the name of a public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpkiHash(pub [u8; 32]);

impl SpkiHash {
    /// Of a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn of(spki_der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, spki_der).as_ref());
        Self(hash)
    }
}

impl fmt::Display for SpkiHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SpkiHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A public key that may be certified: kind and DER SubjectPublicKeyInfo, checked to belong together.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    spki_der: Vec<u8>,
}

/// Why bytes are not a key that Credence works with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Neither P-256 nor P-384, the two that every peer accepts.
    #[error("key is neither P-256 nor P-384")]
    UnsupportedKind,
    /// Not a well-formed PKCS#8 private key or SubjectPublicKeyInfo.
    #[error("key is malformed")]
    Malformed,
}

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo with a named curve and an uncompressed point.
    ///
    /// # Errors
    /// When the key is of another kind, or not well formed.
    pub fn from_spki_der(spki_der: &[u8]) -> Result<Self, KeyError> {
        let (kind, point) = Self::form(spki_der)?;
        let algorithm = match kind {
            KeyKind::P256 => &aws_lc_rs::agreement::ECDH_P256,
            KeyKind::P384 => &aws_lc_rs::agreement::ECDH_P384,
        };
        let mut encoded = vec![0x04];
        encoded.extend_from_slice(point);
        // A point off the curve must never be certified; parsing it as an agreement key checks that.
        aws_lc_rs::agreement::ParsedPublicKey::try_from(aws_lc_rs::agreement::UnparsedPublicKey::new(
            algorithm, encoded,
        ))
        .map_err(|_| KeyError::Malformed)?;
        Ok(Self { kind, spki_der: spki_der.to_vec() })
    }

    /// Takes a key that made a signature which `holds` answers for. The library that checks signatures takes no point
    /// off the curve either, so that it need not be looked at twice; of a key that did not sign, it is.
    pub(crate) fn from_signer<E: From<KeyError>>(
        spki_der: &[u8],
        holds: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self, E> {
        let (kind, _) = Self::form(spki_der)?;
        match holds() {
            Ok(()) => Ok(Self { kind, spki_der: spki_der.to_vec() }),
            // The key itself may be the reason.
            Err(error) => Self::from_spki_der(spki_der).map_err(E::from).and(Err(error)),
        }
    }

    /// The kind of a SubjectPublicKeyInfo, and the coordinates in it.
    fn form(spki_der: &[u8]) -> Result<(KeyKind, &[u8]), KeyError> {
        // Prefixes of RFC 5480 SubjectPublicKeyInfo: named curve, then an uncompressed point.
        const P256: &[u8] = &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
        ];
        const P384: &[u8] = &[
            0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
            0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00, 0x04,
        ];
        let (kind, octets, point) = if let Some(rest) = spki_der.strip_prefix(P256) {
            (KeyKind::P256, 32, rest)
        } else if let Some(rest) = spki_der.strip_prefix(P384) {
            (KeyKind::P384, 48, rest)
        } else {
            return Err(KeyError::UnsupportedKind);
        };
        if point.len() == 2 * octets { Ok((kind, point)) } else { Err(KeyError::Malformed) }
    }

    /// Which kind of key.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// Its name: SHA-256 over the SubjectPublicKeyInfo.
    #[must_use]
    pub fn hash(&self) -> SpkiHash {
        SpkiHash::of(&self.spki_der)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, {})", self.kind, self.hash())
    }
}

/// A private key. Zeroed when dropped; cannot be cloned, compared, printed or serialized.
pub struct SecretKey {
    pkcs8_der: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl SecretKey {
    /// Makes a new key.
    #[must_use]
    pub fn generate(kind: KeyKind) -> Self {
        let made = || {
            let pair = EcdsaKeyPair::generate(kind.signing())?;
            let pkcs8_der = Zeroizing::new(pair.to_pkcs8v1()?.as_ref().to_vec());
            let spki: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
            // What the provider has just made is on its curve, and need not be read back.
            Ok::<_, Unspecified>(Self {
                pkcs8_der,
                public: PublicKey { kind, spki_der: spki.as_ref().to_vec() },
            })
        };
        made().expect("the provider generates P-256 and P-384 keys")
    }

    /// Takes a PKCS#8 private key (RFC 5958).
    ///
    /// # Errors
    /// When it is not a P-256 or P-384 key, or malformed.
    pub fn from_pkcs8_der(pkcs8_der: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let pair = load_pair(&pkcs8_der)?;
        let public = PublicKey::from_spki_der(&rcgen::PublicKeyData::subject_public_key_info(&pair))?;
        Ok(Self { pkcs8_der, public })
    }

    /// As it is stored: PKCS#8, DER.
    #[must_use]
    pub fn to_bytes(&self) -> SecretBytes {
        SecretBytes::new(self.pkcs8_der.clone())
    }

    /// From what [`SecretKey::to_bytes`] gave.
    ///
    /// # Errors
    /// As [`SecretKey::from_pkcs8_der`].
    pub fn from_bytes(bytes: &SecretBytes) -> Result<Self, KeyError> {
        Self::from_pkcs8_der(bytes.duplicate().0)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A second copy, for fakes of the store.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn copy_for_tests(&self) -> Self {
        Self { pkcs8_der: self.pkcs8_der.clone(), public: self.public.clone() }
    }

    /// The PKCS#8 DER bytes. Called in seven files of the workspace only; a test keeps the list.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.pkcs8_der
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}, public {})", self.public.kind, self.public.hash())
    }
}

pub(crate) fn load_pair(pkcs8_der: &[u8]) -> Result<KeyPair, KeyError> {
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(pkcs8_der);
    [KeyKind::P256, KeyKind::P384]
        .into_iter()
        .find_map(|kind| KeyPair::from_pkcs8_der_and_sign_algo(&der, kind.rcgen()).ok())
        .ok_or(KeyError::UnsupportedKind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_public_half_only() {
        let key = SecretKey::generate(KeyKind::P256);
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.public().hash().to_string()));
        assert!(!shown.contains(&hex::encode(key.expose_secret())));
    }

    #[test]
    fn what_was_generated_reads_back() {
        for kind in [KeyKind::P256, KeyKind::P384] {
            let key = SecretKey::generate(kind);
            let read = SecretKey::from_bytes(&key.to_bytes()).unwrap();
            assert_eq!((read.public(), read.public().kind()), (key.public(), kind));
            assert_eq!(PublicKey::from_spki_der(key.public().spki_der()).as_ref(), Ok(key.public()));
        }
    }

    #[test]
    fn refuses_a_point_off_the_curve() {
        let key = SecretKey::generate(KeyKind::P256);
        let mut spki = key.public().spki_der().to_vec();
        assert!(PublicKey::from_spki_der(&spki).is_ok());
        *spki.last_mut().unwrap() ^= 1;
        assert_eq!(PublicKey::from_spki_der(&spki), Err(KeyError::Malformed));
        assert_eq!(PublicKey::from_spki_der(&spki[..40]), Err(KeyError::Malformed));
        assert_eq!(PublicKey::from_spki_der(b"x"), Err(KeyError::UnsupportedKind));
    }
}
