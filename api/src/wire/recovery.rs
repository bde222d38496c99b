//! Nodes that come back with expired certificates.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks to let nodes come back for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenRecovery {
    /// For how long, such as 24h; at most 7d.
    pub window: String,
    /// How long ago their certificates may have ended, such as 7d, which is the default; at most 90d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<String>,
    /// Why, in one line.
    #[serde(default)]
    pub reason: String,
    /// Only say who could come back.
    #[serde(default)]
    pub dry_run: bool,
}

/// A recovery window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryWindow {
    /// Why.
    pub reason: String,
    /// Who wants it.
    pub by: String,
    /// Since when.
    pub opened: String,
    /// Until when.
    pub until: String,
    /// When it was closed before its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Seconds until its end; negative afterwards.
    pub in_secs: i64,
    /// How long ago certificates may have ended.
    pub reach: String,
}

/// A node that may connect and whose newest certificate has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExpiredNode {
    /// The node.
    pub node: String,
    /// When its certificate ended.
    pub expired: String,
    /// Seconds since then.
    pub ago_secs: u64,
    /// Whether it may come back now.
    pub may_come_back: bool,
    /// Why it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// A node that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveredNode {
    /// The node.
    pub node: String,
    /// When.
    pub at: String,
    /// When the certificate ends that it got.
    pub until: String,
}

/// Whether nodes may come back, and which did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    /// Whether a window is open.
    pub open: bool,
    /// The newest window; the planned one in a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<RecoveryWindow>,
    /// Expired nodes, those first that expired first; at most 1,000, of the last 90 days.
    pub expired: Vec<ExpiredNode>,
    /// How many there are.
    pub expired_count: usize,
    /// How many of them may come back in the window.
    pub waiting_count: usize,
    /// Nodes that came back in the newest window; at most 1,000.
    pub recovered: Vec<RecoveredNode>,
    /// How many came back.
    pub recovered_count: usize,
}
