//! The ports through which events are kept, found again, and refusals are reported.

use async_trait::async_trait;
use certs::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Action, Event};

/// An event as it was kept, in its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// Its number; the first is 1, and none is left out.
    pub sequence: u64,
    /// What happened.
    pub event: Event,
    /// [`chain_hash`](crate::chain_hash) of it.
    #[serde(with = "hex_hash")]
    pub hash: [u8; 32],
}

mod hex_hash {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let mut hash = [0; 32];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut hash).map_err(D::Error::custom)?;
        Ok(hash)
    }
}

/// Which rows to list. Absent fields do not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// At or after this time.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Of this action.
    pub action: Option<Action>,
    /// By this actor, as its text reads (`system`, `host`, a SPIFFE ID, an address).
    pub actor: Option<String>,
    /// To exactly this object.
    pub object: Option<String>,
    /// With this text in actor, object, reason or a detail, letter case not counted.
    pub text: Option<String>,
    /// At most this many; 0 for as many as the log is willing to answer at once.
    pub limit: usize,
    /// Older than this row: the sequence that the last page ended with.
    pub before_sequence: Option<u64>,
}

impl AuditFilter {
    /// Whether `row` is among those asked for. The limit is not looked at.
    #[must_use]
    pub fn matches(&self, row: &AuditRow) -> bool {
        let event = &row.event;
        self.since.is_none_or(|since| since <= event.at)
            && self.until.is_none_or(|until| event.at < until)
            && self.action.is_none_or(|action| action == event.action)
            && self.actor.as_ref().is_none_or(|actor| *actor == event.actor.to_string())
            && self.object.as_ref().is_none_or(|object| *object == event.object)
            && self.before_sequence.is_none_or(|before| row.sequence < before)
            && self.text.as_ref().is_none_or(|text| mentions(event, &text.to_lowercase()))
    }
}

fn mentions(event: &Event, text: &str) -> bool {
    let actor = event.actor.to_string();
    [&actor, &event.object, &event.reason]
        .into_iter()
        .chain(event.details.values())
        .any(|field| field.to_lowercase().contains(text))
}

/// Why rows were neither kept nor found.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuditError {
    /// The store cannot write or read now.
    #[error("audit log is unavailable: {0}")]
    Unavailable(String),
}

/// Keeps events that change nothing else, and finds all of them. Events of changes are written by the change.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Keeps all of `events` or none, in this order.
    async fn append(&self, events: Vec<Event>) -> Result<(), AuditError>;

    /// The rows that `filter` asks for, newest first.
    async fn list(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, AuditError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Actor, Head};

    #[test]
    fn filters_narrow_by_every_field() {
        let actor = Actor::Stranger { address: "192.0.2.7".into() };
        let at = Timestamp::from_unix_secs(100);
        let event = Event::refused(at, actor, Action::EnrolRefuse, "web-1", "join token has expired")
            .with("token", "TK9");
        let row = Head::GENESIS.next(event);
        let none = AuditFilter::default;
        let check = |filter: AuditFilter, expected: bool| {
            assert_eq!(filter.matches(&row), expected, "{filter:?}");
        };
        check(none(), true);
        check(AuditFilter { since: Some(at), ..none() }, true);
        check(AuditFilter { until: Some(at), ..none() }, false);
        check(AuditFilter { action: Some(Action::EnrolRefuse), ..none() }, true);
        check(AuditFilter { action: Some(Action::Init), ..none() }, false);
        check(AuditFilter { actor: Some("192.0.2.7".into()), ..none() }, true);
        check(AuditFilter { actor: Some("192.0.2".into()), ..none() }, false);
        check(AuditFilter { object: Some("web-1".into()), ..none() }, true);
        check(AuditFilter { object: Some("web".into()), ..none() }, false);
        check(AuditFilter { text: Some("EXPIRED".into()), ..none() }, true);
        check(AuditFilter { text: Some("tk9".into()), ..none() }, true);
        check(AuditFilter { text: Some("revoked".into()), ..none() }, false);
        check(AuditFilter { before_sequence: Some(1), ..none() }, false);
        check(AuditFilter { before_sequence: Some(2), ..none() }, true);
    }

    #[test]
    fn rows_read_back_from_json() {
        let row = Head::GENESIS.next(Event::done(Timestamp::EPOCH, Actor::Host, Action::Init, "td"));
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<AuditRow>(&text).unwrap(), row);
    }
}
