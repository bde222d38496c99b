//! Issuers beside the built-in one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AcmeServer, Hidden, Installed, Laggard};
use crate::ports::VaultLogin;

/// Where a Vault is, and which of its authorities is to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultIssuer {
    /// `https://HOST:PORT`, each a node of the same cluster; tried in this order.
    pub addresses: Vec<String>,
    /// A file of the server's host with the authorities that vouch for these addresses.
    #[schema(value_type = String)]
    pub ca_file: PathBuf,
    /// The namespace, where Vault has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Where the PKI engine is mounted.
    pub mount: String,
    /// The issuer of it that signs, by its id.
    pub issuer: String,
    /// The role by which it signs leaves of workloads; absent where it signs our issuing authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// How long an authority that it signs shall live, such as 30d; absent for what an issuing authority lives here,
    /// and with a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<String>,
    /// Who we are there.
    pub login: VaultLogin,
}

/// Names an issuer beside the built-in one.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddIssuer {
    /// Its name.
    pub name: String,
    /// Where and what it is.
    pub vault: VaultIssuer,
    /// The token or the secret id, as the login needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub credential: Option<Hidden>,
    /// Whether that is a wrapping token, which is unwrapped once, here.
    #[serde(default)]
    pub is_wrapped: bool,
    /// The root that whatever it signs must lead to, as PEM.
    pub anchor: String,
    /// Who signs leaves in its place while it rests after failures: `builtin`, or an issuer with a role; nobody if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only try it and say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Changes an issuer. What is absent stays.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateIssuer {
    /// Other addresses of the same cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// Another authority of the same mount, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Another life, such as 30d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<String>,
    /// Another root that whatever it signs must lead to, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
    /// Another one that signs leaves in its place while it rests after failures; empty for nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Another token or secret id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub credential: Option<Hidden>,
    /// Whether that is a wrapping token.
    #[serde(default)]
    pub is_wrapped: bool,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only try it and say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// One thing that was tried with an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuerCheck {
    /// The stable name of it.
    pub rule: String,
    /// `passed`, `failed`, `warning`, or `skipped` because something before it failed.
    pub verdict: String,
    /// What was found.
    pub found: String,
    /// What to do, and on which side.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

/// An issuer, without its credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Issuer {
    /// Its name.
    pub name: String,
    /// `builtin`, `vault` or `acme`.
    pub kind: String,
    /// `signs`: the issuing authority of now, or with a role the leaves of workloads, are of this issuer. `idle`: they
    /// are not. Of the built-in one also `offline`: the issuing authority of now signs as long as it lasts, and the key of
    /// its root is kept elsewhere. With a role also `prepared`: it signs when every connected node has acknowledged its root; and
    /// `retired`: another signs, and leaves of it may be in use. Of an ACME server, which signs nothing here:
    /// `ready`; `registering` and `changing-key` while it is not known whether our account is made, or has another key.
    pub state: String,
    /// Where and what it is; for a Vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultIssuer>,
    /// Where and what it is, and our account; for an ACME server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<AcmeServer>,
    /// The subject of the authority that signs ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// When that ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer_expires: Option<String>,
    /// SHA-256 over the root that whatever it signs must lead to, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_sha256: Option<String>,
    /// The issuing authority of now, if it is of this issuer; with a role, the authority whose leaves it gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// When its successor is asked for; of an ACME server, when what is not done yet is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last one said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether the authority of now has passed 70 % of its life without a successor.
    pub is_at_risk: bool,
    /// What somebody should look at before it becomes a problem.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What there is of the leaves that it signs by its role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<IssuerLeaves>,
    /// Whether it signs the leaves whose bindings name no issuer, or those of them that have not moved to another.
    pub is_default: bool,
    /// How many of a hundred of these are of it.
    pub percent: u8,
    /// How leaves move to it, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// How many bindings name it.
    pub named_by: usize,
    /// Who signs leaves in its place while it rests after failures, if an operator named somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// Who does so now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_in: Option<String>,
    /// Grows with each change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

impl Issuer {
    /// Whether anybody is to have leaves of it.
    #[must_use]
    pub fn leaves_wanted(&self) -> bool {
        matches!(self.state.as_str(), "signs" | "prepared")
    }
}

/// Leaves on their way from one issuer to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Migration {
    /// From whom.
    pub from: String,
    /// How many of a hundred identities move with each stage; none for all at once.
    pub stages: Vec<u8>,
    /// The stage that is under way, counted from 0.
    pub stage: usize,
    /// Since when.
    pub since: String,
    /// How long each stands, complete and without trouble, before the next.
    pub hold: String,
    /// Why it goes no further: then the stage is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Leaves that connected nodes want of the issuer.
    pub total: usize,
    /// Those of them that their nodes have not acknowledged yet.
    pub behind: usize,
    /// Some of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
}

/// Leaves of workloads that an issuer beside the built-in one signs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuerLeaves {
    /// How many may be valid now: those that were issued, and those of unknown outcome.
    pub unexpired: u64,
    /// When the last of them ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Who would refuse them, while it is `prepared`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Laggard>,
    /// What it was asked for without anybody knowing what became of it, at most 100. Nobody has the keys any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<UnknownLeaf>,
}

/// A leaf that an issuer was asked for, and no answer came: it may have been signed, and nobody can show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnknownLeaf {
    /// Follows the request through logs and audit.
    pub request_id: String,
    /// Whose it would be.
    pub id: String,
    /// For which node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// By which role it was asked for.
    pub role: String,
    /// SHA-256 over its public key, in hexadecimal digits.
    pub spki_sha256: String,
    /// When it was asked for.
    pub asked: String,
}

/// What trying an issuer led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuerTest {
    /// Which.
    pub name: String,
    /// Whether it could sign our next authority, or a leaf, now.
    pub passed: bool,
    /// Everything that was tried, in order.
    pub checks: Vec<IssuerCheck>,
}

/// What writing an issuer did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuerChange {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// In a sentence.
    pub summary: String,
    /// The issuer as it is, or would be.
    pub issuer: Issuer,
    /// Everything that was tried with it.
    pub checks: Vec<IssuerCheck>,
}

/// Has an issuer sign our next authority, or with a role the leaves of workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateIssuer {
    /// Whose name.
    pub to: String,
    /// Who signs now; refused if somebody else does. With `now` the issuer that is left, by default or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// With a role: how many of a hundred identities move with each stage, ascending; none for all at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<u8>,
    /// How long each stage stands, complete and without trouble, before the next; 60s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Leave an issuer with a role whose authority is stolen: leaves are replaced at once, and its root leaves the bundles
    /// as soon as no connected node shows one.
    #[serde(default)]
    pub now: bool,
    /// Under another root: whether the further steps of its rotation follow by themselves as their gates open.
    #[serde(default)]
    pub automatic: bool,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Calls a migration of leaves off, or has one go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TurnMigration {
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What having another issuer sign led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IssuerMigration {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// In a sentence.
    pub summary: String,
    /// What was installed, and what comes next; absent when nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<Installed>,
}
