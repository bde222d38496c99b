//! Identities, and blocking them.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Drain;

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
    /// With `now`: end its open TCP sessions too, and with them everybody's on the same listeners' chains.
    #[serde(default)]
    pub evict: bool,
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
    /// What is, or would be, replaced to end TCP sessions, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}
