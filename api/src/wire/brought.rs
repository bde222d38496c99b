//! Issuing authorities that somebody else signs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Ladder, RootRotation};

/// Asks for the request for an issuing authority that somebody else is to sign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestAuthority {
    /// Make another key and request, and destroy the key of the one that is pending.
    #[serde(default)]
    pub renew: bool,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// A request for an issuing authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuthorityRequest {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// Whether it was made just now, or would be.
    pub is_new: bool,
    /// What the authority will be called; absent when none is there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The request, PKCS#10 as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
}

/// A request that was not answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PendingRequest {
    /// What the authority will be called.
    pub authority: String,
    /// When it was made.
    pub made: String,
    /// Who asked for it.
    pub by: String,
}

/// What is not replaced here: the key that would sign its successor is kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ByHand {
    /// The issuing authority.
    pub authority: String,
    /// From when on an operator should see to a successor: half of its life. Where an issuer signs it: when that is asked
    /// by itself next.
    pub due: String,
    /// Whether an operator is waited for: that time has come; where an issuer signs it, only when 70 % of its life have
    /// passed without a successor.
    pub is_due: bool,
    /// When it ends.
    pub ends: String,
    /// Seconds until then.
    pub ends_in_secs: i64,
    /// What to do.
    pub advice: String,
    /// The issuer that signs it, and is asked for its successor by itself; none where nobody is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// Hands in the chain that somebody else signed for the pending request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallAuthority {
    /// PEM: the issuing authority first, then those above it up to the root, which may be left out when it signs
    /// already.
    pub chain: String,
    /// With another root: the further steps of its rotation follow by themselves as their gates open.
    #[serde(default)]
    pub automatic: bool,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What was installed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Installed {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The issuing authority.
    pub authority: String,
    /// When it ends.
    pub expires: String,
    /// How many authorities stand between it and its root.
    pub between: usize,
    /// Its root.
    pub root: String,
    /// Whether that root is another than the one that signs.
    pub is_new_root: bool,
    /// With another root: whether the root before vouches for the issuing authority too.
    pub has_way_back: bool,
    /// What was done, and what comes next.
    pub steps: Vec<String>,
    /// The rotation of the root after it.
    pub rotation: RootRotation,
    /// Every rule that was asked.
    pub ladder: Ladder,
}
