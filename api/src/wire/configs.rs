//! Documents and their revisions, and what a change of them does.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

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
    /// What an operator should know before saying yes, such as plaintext to an address that is not loopback, or
    /// a draft of somebody else that is superseded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The revisions that were made; empty for a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<Config>,
    /// Of a plan that prunes: the newest revision among the documents that it ends, 0 if it ends none. Given back with
    /// the change, none ends that was changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune_up_to: Option<u64>,
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
