//! How the whole stands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Paused, Proxy, RecoveryWindow, StillRevoked, StoreState};

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
    /// What a listener is that says nothing of mtls: `strict`, `permissive` or `off`.
    #[serde(default)]
    pub default_mtls: String,
    /// When this was seen.
    pub at: String,
    /// Why the process is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// The pause of automatic rotation, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// The recovery window, if one is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryWindow>,
    /// What needs somebody's attention and does not make the process unready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Revoked certificates of workloads that have not ended, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still_revoked: Option<StillRevoked>,
    /// The numbers.
    pub stats: Stats,
    /// The next end of each class.
    pub expiries: Vec<Expiry>,
    /// Renewals that failed and have not succeeded since.
    pub failing_renewals: Vec<FailedRenewal>,
    /// How far the system's clock is to be believed.
    #[serde(default)]
    pub clock: ClockState,
    /// Whether the store is what it was, and how it is sealed.
    #[serde(default)]
    pub store: StoreState,
    /// The nodes.
    pub proxies: Vec<Proxy>,
}

/// How the system's clock stands against the time since the machine started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClockState {
    /// `good`, `drifting` (an alarm), or `stopped`: nothing is signed.
    pub state: String,
    /// How many milliseconds it is ahead of what it should say; negative when it is behind.
    pub skew_millis: i64,
    /// Since when nothing is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
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
