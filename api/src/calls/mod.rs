//! One function per operation, for every front: REST now, gRPC beside it later. No HTTP here.
//!
//! Start at [`Calls`]. Whatever changes what nodes get or may do goes through [`configs::Manager`], the one owner
//! of documents, bindings and blocks.

use std::{sync::Arc, time::Duration};

use audit::{Action, Actor, AuditLog, Event};
use ca::Anchor;
use certs::{Clock, Serial, Timestamp};
use spiffe::{RequestId, SvidIssuer, Tenant, Trust, TrustDomain};
use tokio::sync::watch;
use xds::model::MtlsMode;

use crate::{
    expiry::{Expiries, LeafFacts},
    ports::{AcmeStore, DocumentStore, EdgeStore, IssuerStore, NodeStore, SecretStore},
    sealing::Sealing,
    sources::{
        AcmeServers, Delivery, Edges, Hooks, MetricsText, Readiness, Renewals, Revoking, Rotation, Upstreams,
    },
};

mod acme;
mod brought;
pub mod configs;
mod documents;
mod drains;
mod edges;
mod emergency;
mod error;
mod expiry;
mod hooks;
mod identities;
mod issuers;
mod moved;
mod proxies;
mod reason;
mod recovery;
mod revocation;
mod rollouts;
mod rotation;
mod sealing;
mod secrets;
mod services;
mod status;
mod tokens;
mod trail;
mod trust;

pub(crate) use self::brought::{BRING_INTERMEDIATE, BRING_ROOT};
pub use self::documents::{ConfigFilter, HistoryPage, TextChange};
pub use self::edges::MAX_EDGE_NAMES;
pub use self::error::CallError;
pub(crate) use self::issuers::upstream_of_now;
pub use self::proxies::{MAX_TTL, ProxyFilter, Standing};
pub use self::reason::check_reason;
pub use self::recovery::{DEFAULT_REACH, MAX_REACH, MAX_WINDOW, Recoveries};
pub use self::revocation::still_revoked;
pub use self::rollouts::{MAX_PAUSE, Pauses};
pub use self::rotation::reason_text;
pub use self::trust::{CertificateQuery, PROBE_LIFETIME, class_word};
pub(crate) use self::trust::{unavailable, word};

/// On whose account a call happens.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub actor: Actor,
    /// The certificate by which an operator comes; nothing where none is needed.
    pub certificate: Option<Serial>,
    /// Whose things it sees.
    pub tenant: Tenant,
    /// Follows the call through log, answer and audit.
    pub request_id: RequestId,
}

impl Caller {
    /// The event that this caller did `action` to `object`.
    #[must_use]
    pub fn event(&self, at: Timestamp, action: Action, object: impl Into<String>) -> Event {
        Event::done(at, self.actor.clone(), action, object)
            .for_tenant(self.tenant.clone())
            .in_request(self.request_id.clone())
    }
}

/// What does not change while the process runs.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Our version.
    pub version: String,
    /// `HOST:18001`, as nodes reach it: stands in the line that `proxy enroll` prints.
    pub enrolment_address: String,
    /// When this process began.
    pub began: Timestamp,
    /// How long certificates of operators live.
    pub operator_lifetime: Duration,
    /// How long a join token is good unless asked otherwise.
    pub token_ttl: Duration,
    /// What a listener is that says nothing of it.
    pub default_mtls: MtlsMode,
}

/// Everything that operations need. Cheap to clone.
#[derive(Clone)]
pub struct Calls {
    /// Our one trust domain.
    pub domain: TrustDomain,
    /// What does not change.
    pub facts: Arc<Facts>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How far it is to be believed.
    pub time: watch::Receiver<ca::clock::Reading>,
    /// The owner of documents, bindings and blocks.
    pub configs: configs::Handle,
    /// Documents, for reading.
    pub documents: Arc<dyn DocumentStore>,
    /// Tokens.
    pub nodes: Arc<dyn NodeStore>,
    /// Events that change nothing else, and all of them for reading.
    pub audit: Arc<dyn AuditLog>,
    /// Takes note of refusals without waiting.
    pub refusals: Arc<dyn audit::Refusals>,
    /// What was issued, for reading.
    pub journal: Arc<dyn ca::ports::Journal>,
    /// Authorities, for reading.
    pub authorities: Arc<dyn ca::ports::Authorities>,
    /// Steers the issuing authority.
    pub rotation: Arc<dyn Rotation>,
    /// Revokes certificates.
    pub revoking: Arc<dyn Revoking>,
    /// Issues probe certificates.
    pub issuer: Arc<dyn SvidIssuer>,
    /// The roots.
    pub trust: watch::Receiver<Arc<Trust>>,
    /// What workloads believe of each other: the same, and the roots of issuers that sign their leaves.
    pub workload_trust: watch::Receiver<Arc<Trust>>,
    /// Under which of them we sign.
    pub anchor: watch::Receiver<Arc<Anchor>>,
    /// How nodes stand.
    pub delivery: Arc<dyn Delivery>,
    /// What renewals fail.
    pub renewals: Arc<dyn Renewals>,
    /// The pause of automatic rotation.
    pub pauses: Pauses,
    /// Whether nodes may come back with expired certificates.
    pub recoveries: Recoveries,
    /// Everything that ends.
    pub expiries: Expiries,
    /// What connected nodes make of their leaves.
    pub leaves: Arc<dyn LeafFacts>,
    /// Whether the process is ready.
    pub readiness: Arc<dyn Readiness>,
    /// The metrics.
    pub metrics: Arc<dyn MetricsText>,
    /// The keys that seal the store.
    pub sealing: Arc<dyn Sealing>,
    /// Imported secrets.
    pub secrets: Arc<dyn SecretStore>,
    /// Issuers beside the built-in one.
    pub issuers: Arc<dyn IssuerStore>,
    /// The same at work.
    pub upstreams: Arc<dyn Upstreams>,
    /// ACME servers, as they are kept.
    pub acme_store: Arc<dyn AcmeStore>,
    /// The same, as they are asked.
    pub acme: Arc<dyn AcmeServers>,
    /// Certificates for public names.
    pub edges: Arc<dyn EdgeStore>,
    /// The same at work.
    pub edges_at_work: Arc<dyn Edges>,
    /// Who is told of what must surprise nobody.
    pub hooks: Arc<dyn Hooks>,
}
