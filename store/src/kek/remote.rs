//! A key-encryption key that somebody else holds and works with for us, over a network of which nothing is known here:
//! the root key goes there to be wrapped and unwrapped, the key itself never comes here.
//!
//! ```text
//! magic 4 | format 1 | suite 5 | slot id 16 | version of the key 4, big endian | what its holder made of the root key
//! ```
//!
//! The holder authenticates the place of the slot with it, like any sealed record. The version stands there to be shown
//! and compared; what it was wrapped with, the holder knows from its own bytes.

use std::fmt;

use async_trait::async_trait;
use certs::SecretBytes;
use thiserror::Error;
use uuid::Uuid;

use crate::seal::{FORMAT, MAGIC};

const SUITE: u8 = 5;
const SLOT: usize = 6;
const VERSION: usize = SLOT + 16;
const WRAPPED: usize = VERSION + 4;

/// Whoever holds the key. `server` implements it; its text names the key and where it is.
#[async_trait]
pub trait RemoteKey: fmt::Debug + fmt::Display + Send + Sync {
    /// Wraps a root key with the latest version of the key. It comes out again only where `place` is given again.
    ///
    /// # Errors
    /// See [`RemoteError`]; also when whoever we are there may do more than this takes.
    async fn wrap(&self, root: &SecretBytes, place: &[u8]) -> Result<Wrapped, RemoteError>;

    /// Unwraps what [`RemoteKey::wrap`] made.
    ///
    /// # Errors
    /// See [`RemoteError`].
    async fn unwrap(&self, wrapped: &[u8], place: &[u8]) -> Result<Unwrapped, RemoteError>;
}

/// A wrapped root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// What the holder made of it.
    pub bytes: Vec<u8>,
    /// The version of the key that did it.
    pub version: u32,
    /// How the holder names the key.
    pub key_id: String,
}

/// An unwrapped root key, and what its holder says of the key beside.
#[derive(Debug)]
pub struct Unwrapped {
    /// The root key; `None` where it was not wrapped by this key, for this place.
    pub root: Option<SecretBytes>,
    /// How the key stands, as far as the holder says so.
    pub key: Option<RemoteState>,
    /// What somebody should hear of, although it opened.
    pub warnings: Vec<String>,
}

/// How a key stands at its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteState {
    /// How the holder names it.
    pub key_id: String,
    /// The version that wraps.
    pub latest: u32,
    /// The oldest version that still unwraps.
    pub minimum: u32,
}

/// What becomes of it when nobody changes anything here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// It may be over in a moment, or be mended where the key is.
    Passing,
    /// As before; but whoever asks often is locked out.
    Refused,
    /// It stays so.
    Lasting,
}

/// Why a key that somebody else holds could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key}: {reason}")]
pub struct RemoteError {
    /// Which key, and where.
    pub key: String,
    /// One word for what the matter is: it names no address, and repeats nobody's words.
    pub code: &'static str,
    /// What the matter is.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
    /// What becomes of it.
    pub outlook: Outlook,
    /// Whether it is so of what was to be unwrapped, and not of the key: what else the key wrapped may come out.
    pub is_of_wrapped: bool,
}

/// What stands in a slot of such a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    /// The version that wrapped it.
    pub(crate) version: u32,
    /// What the holder made.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Reads what stands in the slot `id`; `None` if it is something else, or was put there from another slot.
    pub(crate) fn read(id: Uuid, record: &'a [u8]) -> Option<Self> {
        let is_ours = record.len() > WRAPPED
            && record.starts_with(MAGIC)
            && record[4..SLOT] == [FORMAT, SUITE]
            && record[SLOT..VERSION] == *id.as_bytes();
        if !is_ours {
            return None;
        }
        let version = record[VERSION..WRAPPED].try_into().map(u32::from_be_bytes).ok()?;
        Some(Self { version, bytes: &record[WRAPPED..] })
    }

    /// What is to stand in the slot `id`.
    pub(crate) fn write(self, id: Uuid) -> Vec<u8> {
        let mut record = Vec::with_capacity(WRAPPED + self.bytes.len());
        record.extend_from_slice(MAGIC);
        record.extend_from_slice(&[FORMAT, SUITE]);
        record.extend_from_slice(id.as_bytes());
        record.extend_from_slice(&self.version.to_be_bytes());
        record.extend_from_slice(self.bytes);
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_that_of_its_slot_or_none() {
        let (ours, other) = (Uuid::from_bytes([1; 16]), Uuid::from_bytes([2; 16]));
        let record = Envelope { version: 258, bytes: b"vault:v258:AAAA" }.write(ours);
        let header = format!("43524453{}{}{}", "0105", "01".repeat(16), "00000102");
        assert_eq!(hex::encode(&record[..WRAPPED]), header);
        let read = Envelope::read(ours, &record).unwrap();
        assert_eq!((read.version, read.bytes), (258, &b"vault:v258:AAAA"[..]));
        assert_eq!(Envelope::read(other, &record), None);
        assert_eq!(Envelope::read(ours, &record[..WRAPPED]), None, "nothing is wrapped in it");
        for at in 0..SLOT {
            let mut altered = record.clone();
            altered[at] ^= 1;
            assert_eq!(Envelope::read(ours, &altered), None, "byte {at}");
        }
    }
}
