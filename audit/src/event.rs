//! One thing that happened.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use certs::Timestamp;
use serde::{Deserialize, Serialize};
use spiffe::{RequestId, SpiffeId, Tenant};

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Actor {
    /// Credence itself, on a schedule.
    System,
    /// Whoever runs commands on the host, such as `init`.
    Host,
    /// A verified identity.
    Identity {
        /// Its SPIFFE ID.
        id: SpiffeId,
    },
    /// Somebody who proved nothing: the address is all there is.
    Stranger {
        /// Where the connection came from.
        address: String,
    },
}

impl Actor {
    /// A stranger at `remote`. Only the address counts, not the port, so that a stranger stays one stranger.
    #[must_use]
    pub fn stranger(remote: SocketAddr) -> Self {
        Self::Stranger { address: remote.ip().to_string() }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Host => f.write_str("host"),
            Self::Identity { id } => id.fmt(f),
            Self::Stranger { address } => f.write_str(address),
        }
    }
}

/// What was done or refused. The words are part of the contract: people search for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The data directory, root and issuing authority were made.
    Init,
    /// The server process started.
    Start,
    /// A draft revision of a document was stored.
    DocumentPut,
    /// A revision became effective.
    DocumentApply,
    /// A document was deleted.
    DocumentDelete,
    /// An older revision became effective again, as a new one.
    DocumentRollback,
    /// A node's binding was written, with a join token.
    ProxyEnroll,
    /// What a node is entitled to was changed.
    ProxyChange,
    /// A node's binding was removed.
    ProxyRemove,
    /// A node was told to fetch everything again.
    ProxyReload,
    /// A join token was revoked.
    TokenRevoke,
    /// A join token was burned by wrong secrets.
    TokenBurn,
    /// A node got its first certificate.
    NodeEnrol,
    /// A node whose certificate had ended came back by proof of its old key.
    NodeRecover,
    /// Operators let nodes come back with expired certificates for a while.
    RecoveryOpen,
    /// That was ended before its time.
    RecoveryClose,
    /// A certificate is about to be signed.
    CertificateIntent,
    /// A certificate was issued.
    CertificateIssue,
    /// A certificate was not issued although it was intended.
    CertificateFail,
    /// A certificate was revoked.
    CertificateRevoke,
    /// A revocation list was signed; the details say its number.
    RevocationListSign,
    /// An authority was made.
    AuthorityPrepare,
    /// An authority began to sign.
    AuthorityActivate,
    /// An authority stopped signing and only verifies.
    AuthorityRetire,
    /// An authority left, its key destroyed.
    AuthorityRemove,
    /// An authority is not to be depended on any more: what it signed is replaced at once.
    AuthorityTaint,
    /// A request was made for an issuing authority that somebody else is to sign.
    AuthorityRequest,
    /// Such a request was dropped, its key destroyed.
    AuthorityRequestDrop,
    /// An issuing authority that somebody else signed was taken.
    AuthorityInstall,
    /// The key of a root was written into a file under a passphrase, and read back from it.
    AuthorityExport,
    /// The key of a root was destroyed here: it is kept elsewhere.
    AuthorityKeyRemove,
    /// Automatic rotation of authorities was paused.
    RolloutPause,
    /// The pause was ended before its time.
    RolloutResume,
    /// An identity was blocked.
    IdentityBlock,
    /// A block was lifted.
    IdentityUnblock,
    /// A connection was refused, before or after its handshake.
    ConnectionRefuse,
    /// A discovery stream was refused or ended by us.
    StreamRefuse,
    /// A secret was asked for by a node that may not have it.
    SecretRefuse,
    /// An enrolment was refused.
    EnrolRefuse,
    /// A renewal of a node certificate was refused.
    RenewalRefuse,
    /// A management call was refused.
    CallRefuse,
    /// An operator's certificate was issued again on the host.
    OperatorReissue,
    /// A key slot was added: another key-encryption key opens the store.
    KekSlotAdd,
    /// A key slot was removed.
    KekSlotRemove,
    /// A key slot holds the root key anew, wrapped by the latest version of its key.
    KekSlotRewrap,
    /// The root key was replaced and every data key wrapped anew.
    RootKeyRotate,
    /// A new data key was made, to follow the one in use.
    DataKeyPrepare,
    /// A data key began to seal; records of the one before are sealed anew.
    DataKeyActivate,
    /// A data key that sealed nothing any more was destroyed.
    DataKeyDestroy,
    /// A sealed record was written; the details say its version and the hash of its bytes.
    RecordSeal,
    /// A sealed record was destroyed.
    RecordDestroy,
    /// The store is not what the audit log says it was: signing stops.
    StoreRollback,
    /// An operator took the store as it is.
    StoreAccept,
    /// The system's clock cannot be believed: signing stops.
    ClockStop,
    /// The system's clock is believed again: signing goes on.
    ClockResume,
    /// An operator took the clock as it is, although records are newer.
    ClockAccept,
    /// An imported secret was written.
    SecretSet,
    /// An imported secret was removed.
    SecretRemove,
    /// An issuer beside the built-in one was named, or its settings were changed.
    IssuerSet,
    /// Such an issuer was removed, its credentials destroyed.
    IssuerRemove,
    /// Somebody outside was asked to sign our next issuing authority.
    IssuerAsk,
    /// An issuer signs leaves in the place of one that rests after failures, by an operator's leave; or no longer.
    IssuerFallback,
    /// A certificate for public names was wanted: an edge was added.
    EdgeSet,
    /// An edge was removed, its key destroyed.
    EdgeRemove,
    /// An operator wants an edge's certificate before its time.
    EdgeRenew,
    /// An edge's order went on by a step, or brought its certificate.
    EdgeObtain,
    /// A hook was told something, or did not take it.
    HookTell,
    /// An operator tested a hook.
    HookTest,
}

impl Action {
    /// The word, as it is stored and searched.
    #[must_use]
    pub fn word(self) -> String {
        serde_json::to_value(self).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Done.
    Done,
    /// Not allowed.
    Refused,
    /// Allowed, and failed.
    Failed,
}

/// The most characters of the object and of the reason of a refusal.
pub const MAX_REASON: usize = 512;

fn cut(text: String) -> String {
    match text.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// One thing that happened. Its fields are names and numbers; no type that holds a secret fits in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// On whose account.
    pub tenant: Tenant,
    /// To what: a SPIFFE ID, `Kind namespace/name`, an authority or token id.
    pub object: String,
    /// Why, in one sentence; empty where the action says it all.
    pub reason: String,
    /// Further names and numbers, by key, in the keys of the log fields.
    pub details: BTreeMap<String, String>,
    /// The request that it belongs to.
    pub request_id: Option<RequestId>,
    /// How often it happened within its minute: 1 for changes, more for repeated refusals.
    pub count: u64,
}

impl Event {
    /// Something that was done.
    #[must_use]
    pub fn done(at: Timestamp, actor: Actor, action: Action, object: impl Into<String>) -> Self {
        Self {
            at,
            actor,
            action,
            outcome: Outcome::Done,
            tenant: Tenant::default(),
            object: object.into(),
            reason: String::new(),
            details: BTreeMap::new(),
            request_id: None,
            count: 1,
        }
    }

    /// Something that was refused, with the reason. Both may quote the one who was refused, so both are cut at
    /// [`MAX_REASON`] characters.
    #[must_use]
    pub fn refused(
        at: Timestamp,
        actor: Actor,
        action: Action,
        object: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        let (object, reason) = (cut(object.into()), cut(reason.into()));
        Self { outcome: Outcome::Refused, reason, ..Self::done(at, actor, action, object) }
    }

    /// The same with one more detail.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.details.insert(key.to_owned(), value.to_string());
        self
    }

    /// The same on account of `tenant`.
    #[must_use]
    pub fn for_tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = tenant;
        self
    }

    /// The same as part of `request`.
    #[must_use]
    pub fn in_request(mut self, request: RequestId) -> Self {
        self.request_id = Some(request);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_quotes_no_more_than_its_bound() {
        let long = "ä".repeat(100_000);
        let event = Event::refused(Timestamp::EPOCH, Actor::System, Action::StreamRefuse, long.clone(), long);
        assert_eq!(event.reason.chars().count(), MAX_REASON + 1);
        assert_eq!(event.object.chars().count(), MAX_REASON + 1);
    }
}
