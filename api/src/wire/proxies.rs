//! Nodes, their proxies, and what each has been told.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for a node to be admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Enroll {
    /// The node's id.
    pub node: String,
    /// Its namespace; absent: `default`, or with `replace` the one that the binding of now has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its labels, which selectors match; absent: none, or with `replace` those of the binding of now. `{}` takes them
    /// away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The workload identities it speaks for, the first being its default; absent: `spiffe://TD/NAMESPACE/NODE`, or
    /// with `replace` those of the binding of now. `[]` is `spiffe://TD/NAMESPACE/NODE`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<Vec<String>>,
    /// The issuer that signs the leaves of these identities for this node; absent: whoever does by default, or with
    /// `replace` the one that the binding of now names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// How long the join token is good, in seconds; as the server is configured if absent (`enrolment.token_ttl`), at
    /// most 86400.
    #[serde(default)]
    pub ttl_secs: Option<u64>,
    /// Overwrite the binding of a node that is enrolled already, and revoke its older tokens.
    #[serde(default)]
    pub replace: bool,
    /// Only check, and make nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Has an issuer sign the leaves of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyIssuer {
    /// Its name; absent for whoever does by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a new node needs: shown once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrolled {
    /// The binding as it was written.
    pub proxy: Proxy,
    /// What is different from the binding that it replaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<BindingChange>,
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

/// One part of a binding that is written anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BindingChange {
    /// `namespace`, `labels`, `identities` or `issuer`.
    pub what: String,
    /// What it was: labels as `KEY=VALUE`, and more than one with commas between; empty for none.
    pub before: String,
    /// What it is now.
    pub after: String,
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
    /// The issuer that signs their leaves for this node; absent: whoever does by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `enabled` or `disabled`.
    pub state: String,
    /// When its binding was written first.
    pub created: String,
    /// How it stands.
    pub status: ProxyStatus,
    /// Why it is not let in, as far as that is known; looked up for one node that has no stream open, and not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
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
    /// When the node certificate of its newest stream ends; of a node that is not connected, the newest one that it was
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<String>,
    /// `SYNCED`, `NOT SENT`, `STALE`, `NACK` or `OFFLINE`, over all types.
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
    /// `SYNCED`, `NOT SENT`, `STALE` or `NACK`.
    pub sync: String,
    /// What it asked for and was not sent, the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// How much it asked for and was not sent.
    #[serde(default)]
    pub waiting: usize,
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
