//! The sealed record: what every secret at rest looks like, and the only place that turns private keys into bytes
//! to be sealed. Pure: keys, place and salt come in, bytes go out. The format is written down for independent
//! readers in `docs/reference/sealing.md`.
//!
//! ```text
//! magic 4 | format 1 | suite 1 | key id 16 | salt 32 | commitment 32 | ciphertext | tag 16
//! ```

use std::fmt;

use certs::{KeyError, SecretBytes, SecretKey};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf, hmac,
};
use thiserror::Error;
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

pub(crate) const MAGIC: &[u8; 4] = b"CRDS";
pub(crate) const FORMAT: u8 = 1;
/// AES-256-GCM under a one-use key and a fixed nonce. 2 is reserved for AES-256-GCM-SIV, 3 for post-quantum wrapping;
/// 4 is that of tokens (`kek::token`), 5 that of keys that somebody else holds (`kek::remote`).
const SUITE: u8 = 1;
const KEY_ID: usize = 6;
const SALT: usize = KEY_ID + 16;
const COMMITMENT: usize = SALT + 32;
const CIPHERTEXT: usize = COMMITMENT + 32;
const TAG: usize = 16;

/// Why a sealed record does not open, or something could not be sealed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// Too short, or it does not begin like a sealed record.
    #[error("not a sealed record")]
    Malformed,
    /// A format this version does not know.
    #[error("sealed record has format {0}, this version knows 1")]
    Format(u8),
    /// A suite this version does not know.
    #[error("sealed record has suite {0}, this version knows 1")]
    Suite(u8),
    /// Sealed under a key that is not the one for this place, or that does not exist.
    #[error("sealed record names key {0}, which is not a key for its place")]
    UnknownKey(Uuid),
    /// The key does not fit: the commitment differs.
    #[error("key {0} does not fit the sealed record")]
    WrongKey(Uuid),
    /// The bytes or the place (store, tenant, class, kind, id, version) are not those that were sealed.
    #[error("sealed record was altered or stands in another place than the one it was sealed for")]
    Altered,
    /// No key exists for this tenant and class.
    #[error("tenant {tenant} has no {class} key")]
    NoKey {
        /// Whose.
        tenant: String,
        /// Which class.
        class: &'static str,
    },
    /// What was sealed is not a private key.
    #[error("sealed record does not hold a private key: {0}")]
    NotAKey(#[from] KeyError),
}

/// 32 secret bytes with a name.
pub(crate) struct SealingKey {
    pub(crate) id: Uuid,
    bytes: Zeroizing<[u8; 32]>,
}

impl SealingKey {
    pub(crate) fn new(id: Uuid, bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { id, bytes }
    }

    /// Takes what [`open`] answered.
    pub(crate) fn from_plaintext(id: Uuid, plaintext: &[u8]) -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0; 32]);
        if plaintext.len() != bytes.len() {
            return Err(SealError::Malformed);
        }
        bytes.copy_from_slice(plaintext);
        Ok(Self { id, bytes })
    }

    /// Takes what somebody else unwrapped for us.
    pub(crate) fn from_secret(id: Uuid, secret: &SecretBytes) -> Result<Self, SealError> {
        Self::from_plaintext(id, secret.expose_secret())
    }

    /// A copy for somebody else, who wraps it.
    pub(crate) fn to_secret(&self) -> SecretBytes {
        SecretBytes::new(Zeroizing::new(self.bytes.to_vec()))
    }

    /// Whether `plaintext` is this key, in constant time.
    pub(crate) fn is(&self, plaintext: &[u8]) -> bool {
        equal(plaintext, &self.bytes)
    }

    /// Its bytes, for a token that wraps them and for a copy of it.
    pub(crate) fn expose(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Seals this key itself, under `wrapping`.
    pub(crate) fn wrap(&self, wrapping: &Self, place: &Place<'_>) -> Vec<u8> {
        seal(wrapping, place, self.bytes.as_slice(), &random())
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

/// Where a record stands. All of it is authenticated: a record moved elsewhere does not open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) store: Uuid,
    pub(crate) tenant: &'a str,
    pub(crate) class: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) id: &'a str,
    pub(crate) version: u64,
}

impl Place<'_> {
    /// A list of length-prefixed fields (u32, big endian), so that no two places have the same bytes.
    pub(crate) fn authenticated(&self, key_id: Uuid) -> Vec<u8> {
        let fields: [&[u8]; 8] = [
            &[FORMAT],
            self.store.as_bytes(),
            self.tenant.as_bytes(),
            self.class.as_bytes(),
            self.kind.as_bytes(),
            self.id.as_bytes(),
            &self.version.to_be_bytes(),
            key_id.as_bytes(),
        ];
        let mut bytes = Vec::with_capacity(128);
        for field in fields {
            bytes.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }
}

/// Bytes from the system's random generator.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .expect("the system random generator answers");
    bytes
}

/// Seals `plaintext` for `place`. `salt` must never repeat under one key: it makes the record key one-use.
pub(crate) fn seal(key: &SealingKey, place: &Place<'_>, plaintext: &[u8], salt: &[u8; 32]) -> Vec<u8> {
    let mut record = Vec::with_capacity(CIPHERTEXT + plaintext.len() + TAG);
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&[FORMAT, SUITE]);
    record.extend_from_slice(key.id.as_bytes());
    record.extend_from_slice(salt);
    let (cipher, commitment) = derive(key, salt, &record);
    record.extend_from_slice(commitment.as_slice());
    record.extend_from_slice(plaintext);
    let tag = cipher
        .seal_in_place_separate_tag(
            nonce(),
            Aad::from(place.authenticated(key.id)),
            &mut record[CIPHERTEXT..],
        )
        .expect("a record is far below the length limit of AES-GCM");
    record.extend_from_slice(tag.as_ref());
    record
}

/// The id of the key that a record was sealed under.
pub(crate) fn key_id(record: &[u8]) -> Result<Uuid, SealError> {
    if record.len() < CIPHERTEXT + TAG || !record.starts_with(MAGIC) {
        return Err(SealError::Malformed);
    }
    match (record[4], record[5]) {
        (FORMAT, SUITE) => {
            Ok(Uuid::from_slice(&record[KEY_ID..SALT]).expect("the header holds 16 bytes of key id"))
        }
        (FORMAT, suite) => Err(SealError::Suite(suite)),
        (format, _) => Err(SealError::Format(format)),
    }
}

/// Opens a record that was sealed under `key` for `place`. The commitment is compared before anything is decrypted,
/// because GCM alone does not bind a ciphertext to one key.
pub(crate) fn open(
    key: &SealingKey,
    place: &Place<'_>,
    record: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let id = key_id(record)?;
    if id != key.id {
        return Err(SealError::UnknownKey(id));
    }
    let (cipher, commitment) = derive(key, &record[SALT..COMMITMENT], &record[..COMMITMENT]);
    if !equal(&record[COMMITMENT..CIPHERTEXT], &commitment) {
        return Err(SealError::WrongKey(id));
    }
    let mut plaintext = Zeroizing::new(record[CIPHERTEXT..].to_vec());
    let length = cipher
        .open_in_place(nonce(), Aad::from(place.authenticated(id)), &mut plaintext)
        .map_err(|_| SealError::Altered)?
        .len();
    plaintext[length..].zeroize();
    plaintext.truncate(length);
    Ok(plaintext)
}

/// Seals the PKCS#8 bytes of a private key.
pub(crate) fn seal_secret_key(sealing: &SealingKey, place: &Place<'_>, secret: &SecretKey) -> Vec<u8> {
    seal(sealing, place, secret.expose_secret(), &random())
}

/// Opens what [`seal_secret_key`] sealed.
pub(crate) fn open_secret_key(
    sealing: &SealingKey,
    place: &Place<'_>,
    record: &[u8],
) -> Result<SecretKey, SealError> {
    Ok(SecretKey::from_pkcs8_der(open(sealing, place, record)?)?)
}

/// Seals secret bytes behind a header: its length as four bytes, big endian, the header, the bytes.
pub(crate) fn seal_secret_bytes(
    sealing: &SealingKey,
    place: &Place<'_>,
    header: &[u8],
    secret: &SecretBytes,
) -> Vec<u8> {
    let mut plaintext = Zeroizing::new(Vec::with_capacity(4 + header.len() + secret.len()));
    plaintext.extend_from_slice(&u32::try_from(header.len()).unwrap_or(u32::MAX).to_be_bytes());
    plaintext.extend_from_slice(header);
    plaintext.extend_from_slice(secret.expose_secret());
    seal(sealing, place, &plaintext, &random())
}

/// Opens what [`seal_secret_bytes`] sealed.
pub(crate) fn open_secret_bytes(
    sealing: &SealingKey,
    place: &Place<'_>,
    record: &[u8],
) -> Result<(Vec<u8>, SecretBytes), SealError> {
    let plaintext = open(sealing, place, record)?;
    let (length, rest) = plaintext.split_first_chunk::<4>().ok_or(SealError::Malformed)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (header, bytes) = rest.split_at_checked(length).ok_or(SealError::Malformed)?;
    Ok((header.to_vec(), SecretBytes::new(Zeroizing::new(bytes.to_vec()))))
}

/// HKDF-SHA-256 with the record's salt and its header as info: 32 bytes of record key, 32 bytes of commitment.
fn derive(key: &SealingKey, salt: &[u8], header: &[u8]) -> (LessSafeKey, Zeroizing<[u8; 32]>) {
    let mut derived = Zeroizing::new([0; 64]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(key.bytes.as_slice())
        .expand(&[header], Derived)
        .and_then(|okm| okm.fill(derived.as_mut_slice()))
        .expect("64 bytes are within what HKDF-SHA-256 gives");
    let cipher =
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derived[..32]).expect("32 bytes are an AES-256 key"));
    let mut commitment = Zeroizing::new([0; 32]);
    commitment.copy_from_slice(&derived[32..]);
    (cipher, commitment)
}

/// In constant time: compares MACs of both sides under a key that only this comparison knows.
fn equal(theirs: &[u8], ours: &[u8; 32]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, ours);
    hmac::verify(&key, theirs, hmac::sign(&key, ours).as_ref()).is_ok()
}

/// The nonce is fixed because no record key is used twice.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

struct Derived;

impl hkdf::KeyType for Derived {
    fn len(&self) -> usize {
        64
    }
}

#[cfg(test)]
mod tests {
    use certs::KeyKind;

    use super::*;

    const STORE: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    const PLACE: Place<'_> =
        Place { store: STORE, tenant: "default", class: "ca", kind: "authority", id: "a1", version: 3 };

    fn key(id: u128, byte: u8) -> SealingKey {
        SealingKey::new(Uuid::from_u128(id), Zeroizing::new([byte; 32]))
    }

    #[test]
    fn opens_what_it_sealed() {
        for plaintext in [&b""[..], b"x", &[7; 5000]] {
            let record = seal(&key(1, 9), &PLACE, plaintext, &random());
            assert_eq!(record.len(), 102 + plaintext.len());
            assert_eq!(open(&key(1, 9), &PLACE, &record).unwrap().as_slice(), plaintext);
        }
        let secret = SecretKey::generate(KeyKind::P384);
        let record = seal_secret_key(&key(1, 9), &PLACE, &secret);
        assert_eq!(open_secret_key(&key(1, 9), &PLACE, &record).unwrap().public(), secret.public());
    }

    #[test]
    fn format_stays_readable_for_ever() {
        let record = seal(&key(1, 9), &PLACE, b"credence", &[5; 32]);
        let expected = concat!(
            "435244530101",
            "00000000000000000000000000000001",
            "0505050505050505050505050505050505050505050505050505050505050505",
        );
        assert!(hex::encode(&record).starts_with(expected));
        assert_eq!(hex::encode(&record[54..]), include_str!("seal_vector.txt").trim());
    }

    #[test]
    fn refuses_record_in_another_place() {
        let record = seal(&key(1, 9), &PLACE, b"secret", &random());
        for place in [
            Place { store: Uuid::nil(), ..PLACE },
            Place { tenant: "other", ..PLACE },
            Place { class: "tls", ..PLACE },
            Place { kind: "token-key", ..PLACE },
            Place { id: "a2", ..PLACE },
            Place { version: 4, ..PLACE },
            Place { version: 2, ..PLACE },
            // The same bytes in a row, cut elsewhere.
            Place { tenant: "defaultc", class: "a", ..PLACE },
            Place { kind: "authoritya", id: "1", ..PLACE },
        ] {
            assert_eq!(open(&key(1, 9), &place, &record).unwrap_err(), SealError::Altered, "{place:?}");
        }
    }

    #[test]
    fn refuses_every_flipped_bit_and_every_cut() {
        let record = seal(&key(1, 9), &PLACE, b"secret", &random());
        for at in 0..record.len() {
            let mut altered = record.clone();
            altered[at] ^= 1;
            let expected = match at {
                0..4 => SealError::Malformed,
                4 => SealError::Format(0),
                5 => SealError::Suite(0),
                6..22 => SealError::UnknownKey(key_id(&altered).unwrap()),
                22..86 => SealError::WrongKey(Uuid::from_u128(1)),
                _ => SealError::Altered,
            };
            assert_eq!(open(&key(1, 9), &PLACE, &altered).unwrap_err(), expected, "byte {at}");
        }
        for length in 0..record.len() {
            assert!(open(&key(1, 9), &PLACE, &record[..length]).is_err(), "{length} bytes");
        }
        let mut longer = record;
        longer.push(0);
        assert_eq!(open(&key(1, 9), &PLACE, &longer).unwrap_err(), SealError::Altered);
    }

    #[test]
    fn refuses_unknown_suites_and_wrong_keys() {
        let record = seal(&key(1, 9), &PLACE, b"secret", &random());
        for suite in [0, 2, 3, 255] {
            let mut other = record.clone();
            other[5] = suite;
            assert_eq!(open(&key(1, 9), &PLACE, &other).unwrap_err(), SealError::Suite(suite));
        }
        assert_eq!(open(&key(1, 8), &PLACE, &record).unwrap_err(), SealError::WrongKey(Uuid::from_u128(1)));
        assert_eq!(open(&key(2, 9), &PLACE, &record).unwrap_err(), SealError::UnknownKey(Uuid::from_u128(1)));
    }

    #[test]
    fn same_plaintext_never_seals_alike() {
        let records = [(); 2].map(|()| seal(&key(1, 9), &PLACE, b"secret", &random()));
        assert_ne!(records[0][CIPHERTEXT..], records[1][CIPHERTEXT..]);
        assert!(!format!("{:?}", key(1, 9)).contains("9, 9"));
    }
}
