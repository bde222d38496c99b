//! What this crate asks of other parts while it answers: how delivery stands, what renewals fail, whether the
//! process is ready. `server` connects them; each has a fake in the tests of the router.

mod acme;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use audit::Event;
use ca::{
    ByHand, Install, Installed, LeafIssuerStatus, LeavesStatus, ListsStatus, Revoke, RevokeRefusal,
    RotationStatus,
    dependents::Laggard,
    migration::MigrationWish,
    ports::{AuthorityRequest, LeafRequest},
    rotation::{self, Wish},
};
use certs::{Certificate, SecretBytes, Timestamp};
use spiffe::{AuthorityId, EdgeName, IssuerName, NodeId, Tenant};

use crate::{
    calls::{CallError, Caller},
    ports::{EdgeSettings, VaultSettings},
    wire,
};

pub use self::acme::{AcmeDraft, AcmeOutcome, AcmeServers, AcmeStanding};

/// How the nodes stand.
pub trait Delivery: Send + Sync {
    /// How `node` stands, resource by resource; the default (offline) for a node never seen.
    fn status(&self, node: &NodeId) -> wire::ProxyStatus;

    /// Sends everything again on every stream of `node`. Answers how many streams that were.
    fn resync(&self, node: &NodeId) -> usize;

    /// Whether `node` holds the resources of `snapshot` that are of these types.
    fn uptake(&self, node: &NodeId, snapshot: &xds::Snapshot, types: &[xds::TypeUrl]) -> xds::Uptake;

    /// How long `node` lets connections of a replaced listener go on, if it has said so.
    fn drain_time(&self, node: &NodeId) -> Option<Duration>;

    /// Who signed the certificates with which `node` came last: to its streams, and to the calls of its agent. None if
    /// it has not come since the process began.
    fn shown_authorities(&self, node: &NodeId) -> Vec<AuthorityId>;
}

/// What the issuing authority does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextRotation {
    /// The authority that signs now.
    pub active: AuthorityId,
    /// When it is replaced by itself.
    pub at: Timestamp,
}

/// Steers the life of authorities.
#[async_trait]
pub trait Rotation: Send + Sync {
    /// What comes next, if there is an active issuing authority.
    fn next(&self) -> Option<NextRotation>;

    /// Replaces the issuing authority by one with a new key, now; every leaf is renewed under it, and the old
    /// one retires when nothing unexpired depends on it. Audited in the transaction of the change.
    ///
    /// # Errors
    /// When it cannot be made or kept, or another rotation is under way.
    async fn rotate_issuing(&self, caller: &Caller, reason: &str) -> Result<AuthorityId, CallError>;

    /// Who holds up the next issuing authority, which is prepared.
    fn laggards(&self) -> Vec<Laggard>;

    /// How the rotation of the root stands; `None` before the first look.
    fn root_status(&self) -> Option<RotationStatus>;

    /// Takes a step of the rotation of the root.
    ///
    /// # Errors
    /// When it is not due, or somebody would break: by name and reason.
    async fn rotate_root(
        &self,
        caller: &Caller,
        wish: Wish,
        reason: &str,
    ) -> Result<RotationStatus, CallError>;

    /// What such a step would do now, and where the rotation stands without it.
    ///
    /// # Errors
    /// As [`Rotation::rotate_root`].
    async fn simulate_root(&self, wish: Wish) -> Result<(RotationStatus, rotation::Action), CallError>;

    /// Treats the key of an authority as stolen; a dry run only asks whether it could.
    ///
    /// # Errors
    /// When there is no such authority, or the root's key is kept elsewhere.
    async fn emergency(
        &self,
        caller: &Caller,
        authority: AuthorityId,
        reason: &str,
        dry_run: bool,
    ) -> Result<RotationStatus, CallError>;

    /// The issuing authority that nothing replaces by itself, because the key of its root is kept elsewhere.
    fn by_hand(&self) -> Option<ByHand>;

    /// The request for an issuing authority that somebody else is to sign: the pending one, or another.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    async fn request(
        &self,
        caller: &Caller,
        renew: bool,
        reason: &str,
    ) -> Result<AuthorityRequest, CallError>;

    /// Drops the pending request and destroys its key.
    ///
    /// # Errors
    /// When none is pending.
    async fn drop_request(&self, caller: &Caller, reason: &str) -> Result<AuthorityId, CallError>;

    /// Takes what was signed for the pending request.
    ///
    /// # Errors
    /// With the ladder when the chain breaks rules; with the step that is due when no rotation may begin.
    async fn install(&self, caller: &Caller, wanted: Install, reason: &str) -> Result<Installed, CallError>;
}

/// How far proxies are with the revocation lists that are shown, or with having none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListUptake {
    /// Connected proxies that verify peers.
    pub proxies: usize,
    /// Of these, those that acknowledged what is shown now.
    pub acknowledged: usize,
    /// Those that did not, by name.
    pub waiting: Vec<String>,
}

/// Has certificates count no more.
#[async_trait]
pub trait Revoking: Send + Sync {
    /// How revocation lists stand; `None` where they are not wanted.
    fn lists(&self) -> Option<ListsStatus>;

    /// Revokes a certificate; `event` is the audit row, in the transaction of the change. Our doors refuse it when
    /// this answers.
    ///
    /// # Errors
    /// When there is no such certificate, it counts no more anyway, or the store cannot write.
    async fn revoke(&self, wanted: Revoke, event: Event) -> Result<(), RevokeRefusal>;

    /// How far proxies are with the lists.
    ///
    /// # Errors
    /// When the journal cannot read.
    async fn uptake(&self) -> Result<ListUptake, CallError>;
}

/// Renewals of leaves, ours and the nodes'.
pub trait Renewals: Send + Sync {
    /// Those that failed and have not succeeded since.
    fn failing(&self) -> Vec<wire::FailedRenewal>;
}

/// The hooks, and how they stand.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// All of them, as they are configured.
    fn hooks(&self) -> Vec<wire::Hook>;

    /// Tells one of them that this is a test, and waits for what it makes of it.
    ///
    /// # Errors
    /// When there is none of that name, or it is being told something else.
    async fn test(&self, name: &str) -> Result<wire::HookTested, CallError>;
}

/// An issuer that is to be tried.
#[derive(Debug)]
pub struct Draft {
    /// Its name.
    pub name: IssuerName,
    /// Where and what it is.
    pub vault: VaultSettings,
    /// The root that whatever it signs must lead to.
    pub anchor: Certificate,
    /// What it takes to be let in there.
    pub credential: SecretBytes,
    /// Whether that is a wrapping token, which is good for one time.
    pub is_wrapped: bool,
}

/// What trying an issuer led to.
#[derive(Debug)]
pub struct Examined {
    /// Everything that was tried, in order.
    pub checks: Vec<wire::IssuerCheck>,
    /// The certificate of the authority that signs, if it was found.
    pub signer: Option<Certificate>,
    /// The credential, unwrapped where it was wrapped.
    pub credential: SecretBytes,
}

/// How an issuer beside the built-in one stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IssuerStanding {
    /// When it is asked next, if what signs is of it.
    pub next: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last one said.
    pub problem: Option<String>,
    /// Whether the authority of now has passed 70 % of its life without a successor.
    pub is_at_risk: bool,
    /// What somebody should look at before it becomes a problem.
    pub warnings: Vec<String>,
    /// Whether it is being asked for our next authority.
    pub is_asked: bool,
    /// Where it stands with the leaves of workloads, if its root is in their bundle.
    pub leaves: Option<LeafIssuerStatus>,
}

/// Issuers beside the built-in one, as they are at work.
#[async_trait]
pub trait Upstreams: Send + Sync {
    /// How long an authority lives that is asked for without saying how long.
    fn lifetime(&self) -> Duration;

    /// How one of them stands; the default before it was looked at.
    fn standing(&self, name: &IssuerName) -> IssuerStanding;

    /// Who signs the leaves of workloads: every issuer a root of which stands in their bundle, whether its record opens
    /// or not, and where leaves move.
    fn leaves(&self) -> Arc<LeavesStatus>;

    /// Tries all that a renewal needs: reach, login, what we may do there, who signs, and a throwaway authority or
    /// leaf.
    async fn examine(&self, draft: Draft) -> Examined;

    /// Has the issuer sign our next authority, and installs it.
    ///
    /// # Errors
    /// When there is none of that name, it does not sign, or what it signed is refused; nothing is left half-made.
    async fn obtain(
        &self,
        caller: &Caller,
        name: &IssuerName,
        automatic: bool,
        reason: &str,
    ) -> Result<Installed, CallError>;

    /// Moves the leaves of workloads whose bindings name no issuer, or has them stay.
    ///
    /// # Errors
    /// When there is no issuer of that name, or proxies would refuse what it signs; nothing changed.
    async fn turn(&self, caller: &Caller, wish: MigrationWish, reason: &str) -> Result<(), CallError>;

    /// What it was asked for without anybody knowing what became of it, as far as that could be valid; newest first.
    ///
    /// # Errors
    /// When the store cannot read.
    async fn unknown(&self, name: &IssuerName) -> Result<Vec<LeafRequest>, CallError>;
}

/// How an edge stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeStanding {
    /// Connected proxies that serve its listener, with whether each has acknowledged the certificate of now.
    pub proxies: BTreeMap<NodeId, bool>,
    /// What is being done now, in a few words; empty while nothing is.
    pub doing: String,
    /// When it is renewed, or tried again.
    pub next: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last one said, and what to do about it.
    pub problem: Option<String>,
}

/// Edges, as they are at work.
#[async_trait]
pub trait Edges: Send + Sync {
    /// How one of them stands; the default before it was looked at.
    fn standing(&self, tenant: &Tenant, name: &EdgeName) -> EdgeStanding;

    /// Judges what is wanted before it is kept: names, the way that fits them, the issuer and its profile, the
    /// listeners and who serves them, and a name server by the key of its updates. Makes the names canonical.
    async fn examine_edge(
        &self,
        tenant: &Tenant,
        name: &EdgeName,
        settings: &mut EdgeSettings,
        dns_key: Option<&SecretBytes>,
    ) -> Vec<wire::IssuerCheck>;

    /// Obtains or renews it now, as far as the server lets us.
    fn hurry(&self, tenant: &Tenant, name: &EdgeName);
}

/// Whether the process can do its work.
pub trait Readiness: Send + Sync {
    /// The parts that have not served their first truth yet; none when ready.
    fn not_ready(&self) -> Vec<String>;

    /// What whoever may ask the probes is told of that; by default nothing, it is for operators.
    fn in_public(&self) -> Option<String> {
        None
    }
}

/// The metrics of the process.
pub trait MetricsText: Send + Sync {
    /// All of them in the text format of OpenMetrics.
    fn render(&self) -> String;
}
