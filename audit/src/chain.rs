//! The canonical bytes of an event, and the hash chain over rows that makes edits visible.
//!
//! The bytes are a format of their own and not JSON: what a later serializer orders or escapes otherwise must
//! not change a hash that was written years ago. The vectors in the tests are frozen.

use certs::Timestamp;
use ring::digest;
use thiserror::Error;

use crate::{Actor, AuditRow, Event, Outcome};

/// The first octet of the canonical bytes.
const FORMAT: u8 = 1;
/// Keeps the hash of a row apart from any other SHA-256 that Credence computes.
const DOMAIN: &[u8] = b"credence audit row v1\0";

impl Event {
    /// The bytes that are hashed: a format number, then every field in the order of the struct, integers as
    /// big-endian, texts and lists behind their length as 32 bits. Two events have equal bytes only if they are
    /// equal.
    #[must_use]
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        instant(&mut bytes, self.at);
        match &self.actor {
            Actor::System => bytes.push(0),
            Actor::Host => bytes.push(1),
            Actor::Identity { id } => {
                bytes.push(2);
                text(&mut bytes, id.as_str());
            }
            Actor::Stranger { address } => {
                bytes.push(3);
                text(&mut bytes, address);
            }
        }
        text(&mut bytes, &self.action.word());
        bytes.push(match self.outcome {
            Outcome::Done => 0,
            Outcome::Refused => 1,
            Outcome::Failed => 2,
        });
        text(&mut bytes, self.tenant.as_str());
        text(&mut bytes, &self.object);
        text(&mut bytes, &self.reason);
        length(&mut bytes, self.details.len());
        for (key, value) in &self.details {
            text(&mut bytes, key);
            text(&mut bytes, value);
        }
        match &self.request_id {
            None => bytes.push(0),
            Some(id) => {
                bytes.push(1);
                text(&mut bytes, id.as_str());
            }
        }
        bytes.extend_from_slice(&self.count.to_be_bytes());
        bytes
    }
}

fn instant(bytes: &mut Vec<u8>, at: Timestamp) {
    bytes.extend_from_slice(&at.unix_millis().to_be_bytes());
}

fn length(bytes: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("fields of events are far below 4 GiB");
    bytes.extend_from_slice(&length.to_be_bytes());
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    length(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

/// The hash of a row: over the row before it, its own number and its event. The first row has sequence 1 and
/// follows [`Head::GENESIS`].
#[must_use]
pub fn chain_hash(previous: &[u8; 32], sequence: u64, event_bytes: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(DOMAIN);
    context.update(previous);
    context.update(&sequence.to_be_bytes());
    context.update(event_bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The end of a chain: the last row's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The number of the last row.
    pub sequence: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl Head {
    /// The end of a chain without rows.
    pub const GENESIS: Self = Self { sequence: 0, hash: [0; 32] };

    /// The row that records `event` after this one.
    #[must_use]
    pub fn next(&self, event: Event) -> AuditRow {
        let sequence = self.sequence + 1;
        let hash = chain_hash(&self.hash, sequence, &event.canonical_bytes());
        AuditRow { sequence, event, hash }
    }
}

/// A row that does not follow from the one before it: it or its predecessor was edited, moved or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("audit chain is broken at row {sequence}")]
pub struct Broken {
    /// The number of the first row that does not follow.
    pub sequence: u64,
}

/// Checks that `rows`, oldest first, follow `from` without a gap, and answers the end that they lead to. Rows
/// cut off at the end show only against a head kept elsewhere.
///
/// # Errors
/// [`Broken`] with the first row that does not follow.
pub fn verify_chain<'a>(from: Head, rows: impl IntoIterator<Item = &'a AuditRow>) -> Result<Head, Broken> {
    let mut head = from;
    for row in rows {
        let hash = chain_hash(&head.hash, row.sequence, &row.event.canonical_bytes());
        if row.sequence != head.sequence + 1 || row.hash != hash {
            return Err(Broken { sequence: row.sequence });
        }
        head = Head { sequence: row.sequence, hash };
    }
    Ok(head)
}

#[cfg(test)]
mod tests;
