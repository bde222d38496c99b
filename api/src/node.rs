//! The node door: enrolment on 18001 (server TLS and evidence) and renewal on 18000 (mTLS).
//!
//! Whoever is refused hears a status and a correlation id, and nothing else; the reason stands in audit and log
//! under that id (security reference 3.1 R12). Knows no socket: the accept loop puts the peer, its address and
//! the TLS exporter among the extensions of each request. The rules themselves are `spiffe::attestation`'s.
//!
//! ```text
//! Begin --> nonce, cookie        Finish --cookie, proof, token, binding, block--> SvidIssuer --> chain, bundle
//!                                   \\--cookie, both proofs, expired certificate, window, journal--^
//! Renew --new key, binding, block--> SvidIssuer --> chain, bundle        Sync --bundle's hash--> news, when there is
//! ```

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use audit::{Action, Actor, Event, Refusals};
use ca::{
    Anchor,
    ports::{Journal, JournalError},
};
use certs::{Certificate, CertificateError, Clock, CsrError, Profile, Timestamp};
use proto::credence::v1::{
    enrolment_service_server::EnrolmentServiceServer, renewal_service_server::RenewalServiceServer,
};
use spiffe::{
    ActiveAuthority, AuthorityId, Binding, Bindings, BlockList, IssueError, IssuedSvid, NodeId,
    RecoveryRefusal, RequestId, SpiffeId, SvidIssuer, SvidRequest, Tenant, TokenRefusal, Trust,
    attestation::{CookieError, CookieKey, JoinToken, ProofError, StoredToken, TokenError},
};
use thiserror::Error;
use tokio::sync::watch;
use tonic::Status;

use crate::{
    limit::RateLimit,
    ports::{NodeStore, RecoveryWindow, StoreError},
};

mod enrolment;
mod recovery;
mod renewal;
mod sync;

pub use self::{enrolment::Enrolment, renewal::Renewal, sync::BundleReport};
pub use spiffe::attestation::EXPORTER_LABEL;

/// A thousand nodes behind one address make two calls each, within the minute between their shortest and their longest
/// pause at the worst: who is turned away waits for another.
pub const RECOVERY_CALLS_PER_SECOND: u64 = 40;
/// How many of those at once.
pub const RECOVERY_CALLS_AT_ONCE: u64 = 200;

/// The largest message that is read.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// What both ends exported from their TLS connection under [`EXPORTER_LABEL`]. The accept loop puts it among the
/// extensions of each request; without it nothing is enrolled.
#[derive(Clone, Copy)]
pub struct TlsExporter(pub [u8; 32]);

impl fmt::Debug for TlsExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsExporter")
    }
}

/// What the node door decides with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// How long a node's certificate lives.
    pub lifetime: Duration,
    /// Where discovery and renewal are served, as `host:port`; told to nodes.
    pub xds_server: String,
    /// Calls per second that one address, or one node, may make for ever.
    pub calls_per_second: u64,
    /// Calls that one address, or one node, may make at once.
    pub calls_at_once: u64,
    /// Calls per second that one address may make for nodes that come back, while operators let them.
    pub recovery_calls_per_second: u64,
    /// How many of those at once.
    pub recovery_calls_at_once: u64,
    /// Over how long nodes renew once we sign under another root.
    pub authority_spread: Duration,
    /// Authenticates challenges; random and new in each process.
    pub cookie_key: [u8; 32],
}

/// Hears that a node was issued a certificate, and of which root.
pub type Certified = Box<dyn Fn(&NodeId, AuthorityId) + Send + Sync>;

/// What the node door needs from others.
pub struct NodeInputs {
    /// Makes certificates.
    pub issuer: Arc<dyn SvidIssuer>,
    /// Keeps join tokens.
    pub store: Arc<dyn NodeStore>,
    /// What may be trusted.
    pub trust: watch::Receiver<Arc<Trust>>,
    /// Under which root we sign.
    pub anchor: watch::Receiver<Arc<Anchor>>,
    /// Who signs, and whether what others signed is replaced at once.
    pub authority: watch::Receiver<Option<ActiveAuthority>>,
    /// What nodes are entitled to.
    pub bindings: watch::Receiver<Arc<Bindings>>,
    /// Who is blocked.
    pub blocks: watch::Receiver<Arc<BlockList>>,
    /// The newest recovery window, open or not.
    pub recovery: watch::Receiver<Option<Arc<RecoveryWindow>>>,
    /// What was issued.
    pub journal: Arc<dyn Journal>,
    /// Hears of refusals.
    pub refusals: Arc<dyn Refusals>,
    /// Hears of certificates.
    pub certified: Certified,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What enrolment and renewal share.
pub struct NodeDoor {
    settings: NodeSettings,
    cookies: CookieKey,
    inputs: NodeInputs,
    syncs: sync::Syncs,
}

/// Why a node was refused. The node hears none of it.
#[derive(Debug, Error)]
enum Refusal {
    #[error("too many calls from one caller")]
    TooMany,
    #[error("method {0:?} is unknown")]
    Method(String),
    #[error("tenant is malformed")]
    Tenant,
    #[error("key hash has {0} octets instead of 32")]
    KeyHash(usize),
    #[error("the connection exports no keying material")]
    NoExporter,
    #[error("the connection proved no node identity")]
    NoPeer,
    #[error("certificate of the connection has expired")]
    Expired,
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Cookie(#[from] CookieError),
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error(transparent)]
    TokenText(#[from] TokenError),
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    #[error("node {0} has no enabled binding")]
    NotBound(NodeId),
    #[error("certificate is of an earlier node {0}, which was removed")]
    Outlived(NodeId),
    #[error("identity {0} is blocked")]
    Blocked(SpiffeId),
    #[error("renewal brought the key that it should replace")]
    SameKey,
    #[error("presented certificate: {0}")]
    Certificate(#[from] CertificateError),
    #[error("presented certificate has a key of another kind")]
    OldKey,
    #[error("presented certificate is no node's of this trust domain")]
    NoNode,
    #[error("proof of the old key does not hold")]
    OldProof,
    #[error("presented certificate ends at {0}: it is renewed, not recovered")]
    NotExpired(Timestamp),
    #[error("presented certificate ended at {0}, longer ago than the recovery window reaches")]
    OutOfReach(Timestamp),
    #[error("presented certificate is not in the journal as it was presented")]
    NotJournalled,
    #[error(transparent)]
    Recovery(#[from] RecoveryRefusal),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("bundle hash has {0} octets instead of 32")]
    BundleHash(usize),
    #[error("a newer call of node {0} waits for news")]
    Superseded(NodeId),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Issue(IssueError),
}

impl Refusal {
    /// Whether the caller did nothing wrong and may come again.
    fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Store(_)
                | Self::Journal(_)
                | Self::Issue(IssueError::Unavailable(_) | IssueError::BadOutput(_))
        )
    }

    fn to_status(&self, id: &RequestId) -> Status {
        if self.is_ours() {
            Status::unavailable(format!("unavailable, id {id}"))
        } else if matches!(self, Self::Superseded(_)) {
            Status::aborted(format!("superseded, id {id}"))
        } else if matches!(self, Self::TooMany) {
            Status::resource_exhausted(format!("refused, id {id}"))
        } else {
            Status::permission_denied(format!("refused, id {id}"))
        }
    }
}

/// One call, for its traces.
struct Call {
    id: RequestId,
    action: Action,
    actor: Actor,
    now: Timestamp,
    tenant: Tenant,
    /// What it is about, as far as it is known: a node, a token.
    object: String,
}

impl NodeDoor {
    /// The node door.
    #[must_use]
    pub fn new(settings: NodeSettings, inputs: NodeInputs) -> Arc<Self> {
        let (cookies, syncs) = (CookieKey::new(&settings.cookie_key), sync::Syncs::default());
        Arc::new(Self { cookies, settings, inputs, syncs })
    }

    /// Which bundle `node` said last that it holds. `None` when it has not said since the process began: its agent
    /// is away, or of a version that does not tell.
    #[must_use]
    pub fn reported_bundle(&self, node: &NodeId) -> Option<BundleReport> {
        self.syncs.report(node)
    }

    /// Forgets what a node said that was removed; but what it said since `again`, when another one was enrolled by its
    /// name.
    pub fn forget(&self, node: &NodeId, again: Option<Timestamp>) {
        self.syncs.forget(node, again);
    }

    /// What 18001 serves.
    #[must_use]
    pub fn enrolment_service(self: &Arc<Self>) -> EnrolmentServiceServer<Enrolment> {
        EnrolmentServiceServer::new(Enrolment::new(Arc::clone(self)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// What 18000 serves beside discovery.
    #[must_use]
    pub fn renewal_service(self: &Arc<Self>) -> RenewalServiceServer<Renewal> {
        RenewalServiceServer::new(Renewal::new(Arc::clone(self))).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The binding of a node that may have a certificate now, and the identity in it.
    fn entitled(&self, node: &NodeId) -> Result<(Binding, SpiffeId), Refusal> {
        let binding = self.inputs.bindings.borrow().enabled(node).cloned();
        let binding = binding.ok_or_else(|| Refusal::NotBound(node.clone()))?;
        let id = self.inputs.trust.borrow().own().trust_domain().node_id(node);
        if self.inputs.blocks.borrow().contains(&id) { Err(Refusal::Blocked(id)) } else { Ok((binding, id)) }
    }

    /// Has it certified. What was issued before under the same token and key is issued: a lost answer burns
    /// nothing.
    async fn issue(&self, request: SvidRequest) -> Result<IssuedSvid, Refusal> {
        let node = request.node.clone();
        match self.inputs.issuer.issue(request).await {
            Ok(svid) => {
                let anchor = Arc::clone(&self.inputs.anchor.borrow());
                let root = anchor.root.filter(|_| anchor.issuing == Some(svid.authority));
                if let (Some(node), Some(root)) = (node, root) {
                    (self.inputs.certified)(&node, root);
                }
                Ok(svid)
            }
            Err(IssueError::AlreadyIssued(svid)) => Ok(*svid),
            Err(IssueError::Token(refusal)) => Err(refusal.into()),
            Err(IssueError::Recovery(refusal)) => Err(refusal.into()),
            Err(error) => Err(Refusal::Issue(error)),
        }
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.inputs.trust.borrow())
    }

    /// Leaves the reason in log and audit; answers what the caller may hear.
    fn refused(&self, call: Call, refusal: &Refusal) -> Status {
        let Call { id, action, actor, now, tenant, object } = call;
        let action_word = action.word();
        if refusal.is_ours() {
            tracing::warn!(request_id = %id, action = action_word, object, reason = %refusal, "node call failed");
        } else if matches!(refusal, Refusal::Recovery(RecoveryRefusal::Closed)) {
            tracing::debug!(request_id = %id, %actor, "expired node asks to come back");
        } else {
            tracing::info!(request_id = %id, action = action_word, %actor, object, reason = %refusal, "node call refused");
        }
        let event = Event::refused(now, actor, action, object, refusal.to_string()).for_tenant(tenant);
        let event = event.in_request(id.clone());
        let is_waiting = matches!(refusal, Refusal::Recovery(RecoveryRefusal::Closed));
        self.inputs.refusals.refuse(if is_waiting { recovery::shared(event) } else { event });
        refusal.to_status(&id)
    }
}

impl fmt::Debug for NodeDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeDoor({:?})", self.settings.xds_server)
    }
}

impl Default for NodeSettings {
    /// Certificates of 24 h, discovery on loopback, a call per second and ten at once, a new cookie key.
    fn default() -> Self {
        let mut cookie_key = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut cookie_key)
            .expect("the system random generator answers");
        Self {
            lifetime: Profile::Node.default_lifetime(),
            xds_server: "127.0.0.1:18000".to_owned(),
            calls_per_second: 1,
            calls_at_once: 10,
            recovery_calls_per_second: RECOVERY_CALLS_PER_SECOND,
            recovery_calls_at_once: RECOVERY_CALLS_AT_ONCE,
            authority_spread: Duration::from_secs(600),
            cookie_key,
        }
    }
}

/// One bucket per caller.
struct Limiter<K>(Mutex<RateLimit<K>>);

impl<K: Eq + std::hash::Hash + Clone> Limiter<K> {
    fn new(settings: &NodeSettings) -> Self {
        Self(Mutex::new(RateLimit::new(settings.calls_per_second, settings.calls_at_once)))
    }

    /// For nodes that come back, while operators let them.
    fn wide(settings: &NodeSettings) -> Self {
        let (rate, burst) = (settings.recovery_calls_per_second, settings.recovery_calls_at_once);
        Self(Mutex::new(RateLimit::new(rate, burst)))
    }

    fn take(&self, caller: &K, now: Timestamp) -> Result<(), Refusal> {
        let mut limit = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limit.take(caller, now).map_err(|_| Refusal::TooMany)
    }
}

/// Makes a join token for one node: the text for the one line that is printed, and the record to keep.
#[must_use]
pub fn new_token(
    key: &[u8; 32],
    tenant: Tenant,
    node: NodeId,
    author: String,
    life: Duration,
    now: Timestamp,
) -> (JoinToken, StoredToken) {
    let token = JoinToken::generate(tenant);
    let life = life.min(spiffe::attestation::MAX_TOKEN_LIFE);
    let stored = token.to_stored(key, node, author, now, now + life);
    (token, stored)
}

fn ders<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> Vec<Vec<u8>> {
    certificates.into_iter().map(|certificate| certificate.der().to_vec()).collect()
}

#[cfg(test)]
mod tests;
