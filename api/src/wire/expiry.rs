//! What ends, and until when identities survive.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Identity;

/// One thing that ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Expiring {
    /// `root`, `intermediate`, `server`, `node`, `workload`, `operator`, `token`, `secret`, `crl`, `kek` or `edge`.
    pub kind: String,
    /// Which: an authority's id, a SPIFFE ID, a token's public half, a secret's name.
    pub name: String,
    /// The node that it is for, if for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Where an authority stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// When its life began.
    pub began: String,
    /// When it ends.
    pub at: String,
    /// Seconds until then, negative afterwards.
    pub in_secs: i64,
    /// How much of its life is used, in percent.
    pub used_percent: u32,
    /// What an operator has to do about it, where nothing renews it by itself; from half of its life on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// One identity, and until when it survives if its issuer stays down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IdentityShown {
    /// As listings show it.
    #[serde(flatten)]
    pub identity: Identity,
    /// Until then every node that speaks for it has a valid leaf; absent while none has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survives_until: Option<String>,
    /// Seconds until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survives_secs: Option<i64>,
    /// The leaf in use at each node, the one that ends first before the others.
    pub leaves: Vec<HeldLeaf>,
}

/// The leaf that one node uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldLeaf {
    /// The node.
    pub node: String,
    /// When the leaf ends.
    pub until: String,
    /// Seconds until then.
    pub in_secs: i64,
    /// Whether the node acknowledged it; else it is the newest that was issued for it.
    pub acknowledged: bool,
}
