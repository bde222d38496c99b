//! What follows a stolen key.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Drain, Enforcement, RootRotation};

/// An authority whose key is believed to be stolen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Emergency {
    /// Its id.
    pub authority: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// How far the answer to a stolen key is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmergencyStatus {
    /// The authority that was named.
    pub authority: String,
    /// Its root, which is replaced with everything below it.
    pub root: String,
    /// Whether it was only looked at.
    #[serde(default)]
    pub dry_run: bool,
    /// `none` when its key is not known to be stolen, `replacing` until its root has left the bundle, `draining` until
    /// every connected proxy has acknowledged that connections are to end, then `done`.
    pub stage: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How the replacement of the root stands.
    pub rotation: RootRotation,
    /// What is, or would be, replaced so that connections end.
    pub drain: Drain,
    /// How many proxies have acknowledged that, once they were told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drained: Option<Enforcement>,
    /// How many unexpired certificates it and its root's other authorities signed; `GET /authorities/{id}/signed` lists
    /// them all.
    pub unexpired: usize,
    /// Whose certificates were not replaced although they are still entitled to them, at most 1,000 names.
    pub left_behind: Vec<String>,
    /// How many that are.
    pub left_behind_count: usize,
}

/// A certificate that an authority of one root signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedCertificate {
    /// Its serial number.
    pub serial: String,
    /// Who signed it.
    pub authority: String,
    /// The issuer beside the built-in one whose authority that is. It alone can revoke it for others than us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// `node`, `workload`, `server` or `operator`.
    pub class: String,
    /// Whose.
    pub id: String,
    /// For which node, if for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it was issued.
    pub issued: String,
    /// Its last second.
    pub not_after: String,
    /// Whether that has passed.
    pub expired: bool,
    /// Whether its owner has a newer one from an authority of another root; that of a node counts when the node has come
    /// with it, or is not known to have come with another since.
    pub replaced: bool,
}
