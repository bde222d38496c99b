//! Authorities, and the replacement of one under the same root.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Laggard, RevocationList};

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Authority {
    /// Its id: 16 hexadecimal digits of its public key's hash.
    pub id: String,
    /// `root` or `intermediate`.
    pub place: String,
    /// `prepared`, `active`, `retired` or `removed`.
    pub state: String,
    /// The subject of its certificate.
    pub subject: String,
    /// When its certificate begins.
    pub not_before: String,
    /// When its certificate ends.
    pub not_after: String,
    /// Seconds until then, negative afterwards.
    pub expires_in_secs: i64,
    /// `sha256:HEX` of its public key: the pin of an agent, for a root.
    pub spki_sha256: String,
    /// Since when it is tainted: what it signed is replaced at once, and it signs nothing more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tainted_since: Option<String>,
    /// Since when its key is believed to be stolen; it is tainted then, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stolen_since: Option<String>,
    /// How many unexpired leaves depend on it, where that is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live_leaves: Option<u64>,
    /// When it is replaced by itself, for the active issuing authority of a root whose key is here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotates_at: Option<String>,
    /// Since when its key is kept elsewhere, for a root whose key is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_since: Option<String>,
    /// The subjects of the authorities between it and its root, the one that signed it first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<String>,
    /// Its newest revocation list, where there are lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_list: Option<RevocationList>,
    /// Who holds up a prepared issuing authority: connected proxies without its revocation list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Laggard>,
    /// Its certificate.
    pub pem: String,
}

/// Asks for the issuing authority to be replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What a rotation does, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rotation {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// The authority that signs until then.
    pub from: String,
    /// The one that signs now; absent for a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What happens, step by step.
    pub steps: Vec<String>,
}
