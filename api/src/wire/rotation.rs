//! The rotation of the root, and what follows a stolen key.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ByHand, PendingRequest};

/// A step of the root's rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRoot {
    /// `prepare`, `activate`, `taint`, `finish` or `rollback`.
    pub step: String,
    /// With `prepare`: the further steps follow by themselves as their gates open.
    #[serde(default)]
    pub automatic: bool,
    /// Nodes and operators that need not be waited for, by the names that `laggards` gives them. Who is in nobody's way is
    /// not left behind by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leave_behind: Vec<String>,
    /// Only say what it would do now, and who would break by it.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// Somebody who would break by the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Laggard {
    /// The node's id, or `operator/NAME`.
    pub name: String,
    /// Whether it is connected.
    pub connected: bool,
    /// Why it would break, in words.
    pub reason: String,
}

/// How far everybody is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotationTally {
    /// Nodes that are connected, or about to come back: after a break of their connection or a start of the server.
    pub connected: usize,
    /// Of these, those that are not connected now and are awaited.
    #[serde(default)]
    pub awaited: usize,
    /// Of the connected and awaited, those that acknowledged a bundle with the new root, or need none.
    pub bundle: usize,
    /// Nodes and operators that hold certificates.
    pub holders: usize,
    /// Of these, those that hold none of the old root any more.
    pub renewed: usize,
    /// Of the connected, those that completed a handshake with our certificate under the new root.
    pub proven: usize,
}

/// A step that waits for laggards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotationBarrier {
    /// `activate` or `finish`.
    pub step: String,
    /// Since when somebody has been in its way without a break, as far as this process has seen.
    pub since: String,
    /// Seconds since then.
    pub waiting_secs: u64,
}

/// What a step would do, by the judgement that the step itself goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotationPlan {
    /// What happens, in order.
    pub steps: Vec<String>,
    /// Who would break by it, because they are to be left behind or nothing waits for them any more; at most 1,000.
    pub left_behind: Vec<Laggard>,
    /// How many would break.
    pub left_behind_count: usize,
}

/// The rotation of the root as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootRotation {
    /// `steady`, `prepared` or `active`.
    pub phase: String,
    /// Where it stands, in words.
    pub standing: String,
    /// Whether it was only looked at.
    #[serde(default)]
    pub dry_run: bool,
    /// What the step would do, where it was only looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<RotationPlan>,
    /// Of a step: what should be known beside, such as whom it was not necessary to leave behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// The root that signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The prepared root, or the one that goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// Whether the steps follow by themselves.
    pub automatic: bool,
    /// Since when the old root's key is believed to be stolen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency_since: Option<String>,
    /// Whether the root passed three quarters of its life and its replacement is stuck.
    pub at_risk: bool,
    /// The steps that may be asked for.
    pub due: Vec<String>,
    /// Since when it stands in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How far everybody is.
    pub tally: RotationTally,
    /// Who would break by the next step, now; at most 1,000.
    pub laggards: Vec<Laggard>,
    /// How many would break.
    pub laggard_count: usize,
    /// The step that waits for them, and for how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barrier: Option<RotationBarrier>,
    /// When the last connection that was opened under the old root has ended by its age, those of laggards aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settles: Option<String>,
    /// In an emergency: how many unexpired certificates the old root's authorities signed. `GET /certificates` with
    /// `authority` and `all` lists each that one of them signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<usize>,
    /// The issuing authority that nothing replaces by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<ByHand>,
    /// The request for an issuing authority that was not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<PendingRequest>,
}
