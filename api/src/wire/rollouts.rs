//! What is replaced by itself, and the pause of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is replaced by itself, and whether that is paused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollouts {
    /// The pause, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// What follows by itself, as the pause lets it.
    pub planned: Vec<PlannedRollout>,
}

/// A replacement that follows by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedRollout {
    /// `intermediate`: the issuing authority.
    pub what: String,
    /// The authority that is replaced.
    pub authority: String,
    /// When.
    pub at: String,
    /// Seconds until then.
    pub in_secs: i64,
    /// The issuer that is asked for its successor then; none where it is made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// A pause of automatic rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Paused {
    /// Why.
    pub reason: String,
    /// Who wants it.
    pub by: String,
    /// Since when.
    pub since: String,
    /// Until when.
    pub until: String,
    /// Seconds until then.
    pub in_secs: i64,
}

/// Asks for a pause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRollouts {
    /// Everything that goes on by itself; must be true.
    pub all: bool,
    /// Why, in one line.
    pub reason: String,
    /// For how long, such as 4h; at most 7d.
    #[serde(rename = "for")]
    pub length: String,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}

/// Asks for the end of the pause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeRollouts {
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}
