//! Hooks: who is told of what must surprise nobody.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A hook as it is configured, and how it stands since the process started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// What it hears of: `expiry`, `barrier`, `issuer`.
    pub on: Vec<String>,
    /// `command` or `https`.
    pub way: String,
    /// How much waits for it.
    pub waiting: usize,
    /// How often it took something.
    pub told: u64,
    /// How often it did not take what it was told.
    pub failed: u64,
    /// When it took something last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Why it did not take what it was told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What a hook made of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HookTested {
    /// Its name.
    pub name: String,
    /// Whether it took it.
    pub taken: bool,
    /// How long that took, in milliseconds.
    pub took_ms: u64,
    /// Why it did not take it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
