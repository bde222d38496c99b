//! What the API says: the shapes of answers and bodies, shared with the command line, which reads them back.
//!
//! Domain types are not serialised; a field here is a promise. Times are RFC 3339 text in UTC.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;
use uuid::Uuid;

mod brought;
mod expiry;
mod ladder;
mod revocation;
mod rollouts;
mod rotation;
mod sealing;
mod secrets;

pub use self::brought::*;
pub use self::expiry::{Expiring, HeldLeaf, IdentityShown};
pub use self::ladder::{Ladder, Link, Rung};
pub use self::revocation::{ListUptake, Revocation, RevocationList, Revoke};
pub use self::rollouts::{PauseRollouts, Paused, PlannedRollout, ResumeRollouts, Rollouts};
pub use self::rotation::*;
pub use self::sealing::*;
pub use self::secrets::*;

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Pass this as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T: Serialize + DeserializeOwned> Page<T> {
    /// A listing that is complete.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// One revision of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// The document, over all its revisions.
    pub id: Uuid,
    /// In which namespace.
    pub namespace: String,
    /// `ProxyConfig` or `Endpoints`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The revision; its ETag is this number in quotes.
    pub revision: u64,
    /// `draft`, `applied` or `deleted`.
    pub state: String,
    /// Who wrote it.
    pub author: String,
    /// Why, as the author said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When.
    pub at: String,
    /// The source text; listings leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What becomes of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlanAction {
    /// It is new.
    Create,
    /// Its text changes.
    Update,
    /// Nothing changes.
    Unchanged,
    /// It ends.
    Delete,
}

/// One document of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanItem {
    /// What becomes of it.
    pub action: PlanAction,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The effective text now, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The effective text afterwards, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What a change does, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// Document by document.
    pub items: Vec<PlanItem>,
    /// The nodes whose configuration changes.
    pub nodes: Vec<String>,
    /// What an operator should know before saying yes, such as plaintext to an address that is not loopback.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The revisions that were made; empty for a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<Config>,
}

/// The verdict on a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Validation {
    /// Whether it could be applied now.
    pub valid: bool,
    /// What applying it would do, when it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
}

/// Asks for an older revision to be effective again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Whose namespace; `default` if absent.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The kind.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The revision whose text becomes effective, as a new revision.
    pub to: u64,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Asks for a node to be admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Enroll {
    /// The node's id.
    pub node: String,
    /// Its namespace; `default` if absent.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Its labels, which selectors match.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The workload identities it speaks for, the first being its default; absent: `spiffe://TD/NAMESPACE/NODE`.
    #[serde(default)]
    pub identities: Vec<String>,
    /// How long the join token is good, in seconds; 600 if absent, at most 86400.
    #[serde(default)]
    pub ttl_secs: Option<u64>,
    /// Overwrite the binding of a node that is enrolled already, and revoke its older tokens.
    #[serde(default)]
    pub replace: bool,
    /// Only check, and make nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a new node needs: shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrolled {
    /// The binding as it was written.
    pub proxy: Proxy,
    /// The join token in clear; absent for a dry run. No later call shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The end of the token.
    pub expires: String,
    /// Where to enrol.
    pub server: String,
    /// `sha256:HEX` of the root's public key.
    pub pin: String,
}

impl fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolled")
            .field("proxy", &self.proxy.node_id)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// One node: what it is entitled to, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proxy {
    /// Its id.
    pub node_id: String,
    /// Whose it is.
    pub tenant: String,
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The workload identities it speaks for; the first is its default.
    pub identities: Vec<String>,
    /// `enabled` or `disabled`.
    pub state: String,
    /// When its binding was written first.
    pub created: String,
    /// How it stands.
    pub status: ProxyStatus,
}

/// How a node stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProxyStatus {
    /// Whether it has a stream open.
    pub connected: bool,
    /// How many streams it has open.
    pub streams: usize,
    /// When the first stream that is open began, or the last one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Where it connected from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// What it says of itself, such as `envoy 1.40.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the node certificate of its newest stream ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
    /// `SYNCED`, `STALE`, `NACK` or `OFFLINE`, over all types.
    pub sync: String,
    /// Type by type.
    pub types: Vec<TypeStatus>,
    /// The bundle file beside its certificate, by which its proxy knows us. Absent when no agent has reported it
    /// since the control plane started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<HeldBundle>,
    /// The root under which the connection of its newest stream verified us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_root: Option<String>,
    /// The roots under which it has verified us since the control plane started, each with the time of the last
    /// handshake that proves it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proven_roots: BTreeMap<String, String>,
}

/// The bundle that a node holds on disk, as its agent reported last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldBundle {
    /// SHA-256 over its sorted roots; absent when it holds none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Whether it is the one that is in force now.
    pub is_current: bool,
    /// When it was reported.
    pub reported: String,
}

/// How a node stands with one resource type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TypeStatus {
    /// `CDS`, `EDS`, `SDS`, `LDS`, `ECDS` or `RDS`.
    pub word: String,
    /// The type URL.
    pub type_url: String,
    /// `SYNCED`, `STALE` or `NACK`.
    pub sync: String,
    /// The version of the last response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<String>,
    /// The version that was acknowledged last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<String>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked_at: Option<String>,
    /// The last refusal, in Envoy's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// Resource by resource; listings leave it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceStatus>,
}

/// What a node refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// When.
    pub at: String,
    /// Which version.
    pub version: String,
    /// Envoy's words.
    pub message: String,
}

/// One resource of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// The version that was sent last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// The version that was acknowledged last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<String>,
    /// Envoy's words, if the node refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// The exact configuration of a node, with secrets as names and versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProxyConfig {
    /// The node.
    pub node_id: String,
    /// The publication that this is.
    pub revision: u64,
    /// Resources by type word.
    pub types: BTreeMap<String, Vec<ConfigResource>>,
}

/// One resource as a node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigResource {
    /// Its name.
    pub name: String,
    /// Its content hash.
    pub version: String,
    /// Its content, with places that can hold keys redacted; absent for secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<serde_json::Value>,
}

/// Why a node gets what it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The node.
    pub node_id: String,
    /// The documents that reach it, and what each of them gave.
    pub lines: Vec<ExplainedResource>,
}

/// One resource and the document that caused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedResource {
    /// The type word.
    pub word: String,
    /// The resource.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `Kind namespace/name` and the path in it.
    pub source: String,
}

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its public half.
    pub id: String,
    /// The one node it enrols.
    pub node: String,
    /// `unused`, `spent`, `revoked` or `expired`.
    pub state: String,
    /// Who made it.
    pub author: String,
    /// When.
    pub created: String,
    /// Its end.
    pub expires: String,
    /// How many wrong secrets were tried.
    pub failures: u32,
}

/// An identity that nodes speak for, that is a node's own, or that is blocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// The SPIFFE ID.
    pub id: String,
    /// `workload`, `node`, `server` or `operator`.
    pub class: String,
    /// The nodes that speak for it.
    pub nodes: Vec<String>,
    /// Since when it is blocked, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_since: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_reason: Option<String>,
    /// How far proxies refuse it, if they must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
}

/// On how many proxies it is acknowledged whom they must refuse. It counts all blocks at once: a proxy that holds the
/// newest list refuses everybody on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enforcement {
    /// Proxies that have a listener or a cluster.
    pub proxies: usize,
    /// Those that acknowledged the newest list and the clusters that follow from it.
    pub acknowledged: usize,
    /// Those that are connected and have not, by name.
    pub waiting: Vec<String>,
    /// Those that refused it, by name.
    pub refused: Vec<String>,
    /// Those that are not connected, by name: what they hold is what they acknowledged last.
    pub offline: Vec<String>,
}

/// `38/40 proxies (waiting: a; offline: b)`.
impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proxies, acknowledged, waiting, refused, offline } = self;
        let lists = [("waiting", waiting), ("refused by", refused), ("offline", offline)];
        let left: Vec<_> = lists
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(word, names)| format!("{word}: {}", names.join(", ")))
            .collect();
        write!(f, "{acknowledged}/{proxies} {}", if *proxies == 1 { "proxy" } else { "proxies" })?;
        if left.is_empty() { Ok(()) } else { write!(f, " ({})", left.join("; ")) }
    }
}

/// Asks for an identity to be blocked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// The SPIFFE ID.
    pub id: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Make every proxy refuse it at once, on open connections too. Without it the identity gets no new certificate
    /// and no stream, and those that it has work until they end.
    #[serde(default)]
    pub now: bool,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}

/// Asks for a block to be lifted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Unblock {
    /// The SPIFFE ID.
    pub id: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}

/// What came of a block, or of lifting one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockOutcome {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// What was, or would be, done, in a few sentences.
    pub summary: String,
    /// How far proxies had acknowledged it when the answer was given, if they had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<Enforcement>,
    /// Milliseconds from the change to the last acknowledgement, or to the answer if some are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Authority {
    /// Its id: 16 hexadecimal digits of its public key's hash.
    pub id: String,
    /// `root` or `intermediate`.
    pub place: String,
    /// `prepared`, `active`, `retired`, `tainted` or `revoked`.
    pub state: String,
    /// The subject of its certificate.
    pub subject: String,
    /// When its certificate begins.
    pub not_before: String,
    /// When its certificate ends.
    pub not_after: String,
    /// Seconds until then, negative afterwards.
    pub expires_in_secs: i64,
    /// `sha256:HEX` of its public key: the pin of an agent, for a root.
    pub spki_sha256: String,
    /// How many unexpired leaves depend on it, where that is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_leaves: Option<u64>,
    /// When it is replaced by itself, for the active issuing authority of a root whose key is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotates_at: Option<String>,
    /// Since when its key is kept elsewhere, for a root whose key is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_since: Option<String>,
    /// The subjects of the authorities between it and its root, the one that signed it first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<String>,
    /// Its newest revocation list, where there are lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_list: Option<RevocationList>,
    /// Who holds up a prepared issuing authority: connected proxies without its revocation list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Laggard>,
    /// Its certificate.
    pub pem: String,
}

/// Asks for the issuing authority to be replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What a rotation does, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rotation {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// The authority that signs until then.
    pub from: String,
    /// The one that signs now; absent for a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What happens, step by step.
    pub steps: Vec<String>,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Whose.
    pub id: String,
    /// `node`, `workload`, `server`, `operator`.
    pub class: String,
    /// The node it is for, if for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Who signed it.
    pub authority: String,
    /// Why it was issued.
    pub purpose: String,
    /// When it was issued.
    pub issued: String,
    /// When it ends.
    pub expires: String,
    /// Seconds until then, negative afterwards.
    pub expires_in_secs: i64,
    /// `issued`, `intended`, `failed` or `revoked`.
    pub state: String,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
    /// The chain, leaf first; listings leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
}

/// Asks for a certificate: of the probe identity for `credence verify`, or the caller's own again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// A certificate signing request in DER, as base64. Only its public key is read.
    pub csr: String,
}

/// A certificate that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Probed {
    /// Whose it is.
    pub id: String,
    /// The chain, leaf first.
    pub pem: String,
    /// The roots to verify the other side against.
    pub bundle: String,
    /// When it ends.
    pub expires: String,
}

/// One row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRow {
    /// Its number.
    pub sequence: u64,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// On whose account.
    pub tenant: String,
    /// To what.
    pub object: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Further names and numbers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// The request it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How often within its minute.
    pub count: u64,
    /// Its link of the chain, in hexadecimal.
    pub hash: String,
}

/// A service: one EDS cluster with addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The name of the cluster.
    pub name: String,
    /// In which namespace.
    pub namespace: String,
    /// Where the addresses come from.
    pub source: String,
    /// The addresses.
    pub endpoints: Vec<Endpoint>,
    /// The nodes that have it.
    pub nodes: Vec<String>,
}

/// One address of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// The service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The address.
    pub address: String,
    /// The port.
    pub port: u32,
    /// Its weight, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// `region/zone/sub_zone`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<String>,
    /// Its priority.
    pub priority: u32,
}

/// The numbers of a front page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Nodes with a binding.
    pub proxies: usize,
    /// Nodes with an open stream.
    pub connected: usize,
    /// Nodes whose every type is acknowledged.
    pub synced: usize,
    /// Nodes that refuse something now.
    pub refusing: usize,
    /// Live documents.
    pub configs: usize,
    /// Documents with a draft that is not applied.
    pub drafts: usize,
    /// The publication that nodes get.
    pub revision: u64,
    /// Blocked identities.
    pub blocked: usize,
    /// Join tokens that can still be used.
    pub unused_tokens: usize,
    /// Renewals that failed and have not succeeded since.
    pub failing_renewals: usize,
    /// Seconds to the next expiry, by class.
    pub next_expiry_secs: BTreeMap<String, i64>,
}

/// Everything that `credence status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Our version.
    pub version: String,
    /// The trust domain.
    pub trust_domain: String,
    /// When this was seen.
    pub at: String,
    /// Why the process is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// The pause of automatic rotation, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// What needs somebody's attention and does not make the process unready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The numbers.
    pub stats: Stats,
    /// The next end of each class.
    pub expiries: Vec<Expiry>,
    /// Renewals that failed and have not succeeded since.
    pub failing_renewals: Vec<FailedRenewal>,
    /// Whether the store is what it was, and how it is sealed.
    #[serde(default)]
    pub store: StoreState,
    /// The nodes.
    pub proxies: Vec<Proxy>,
}

/// The next end within one class of certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Expiry {
    /// `root`, `intermediate`, `server`, `node`, `workload` or `operator`.
    pub class: String,
    /// Whose certificate it is.
    pub name: String,
    /// When.
    pub at: String,
    /// Seconds until then, negative afterwards.
    pub in_secs: i64,
}

/// A renewal that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailedRenewal {
    /// Which class.
    pub class: String,
    /// Whose.
    pub name: String,
    /// For which node, if for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it failed last, where that is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
    /// How often in a row.
    pub failures: u32,
    /// Why.
    pub message: String,
    /// When the certificate in use ends, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// Something that was done to a thing by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// What was, or would be, done, in one sentence.
    pub summary: String,
}
