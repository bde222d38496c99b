//! What the API says: the shapes of answers and bodies, shared with the command line, which reads them back.
//!
//! Domain types are not serialised; a field here is a promise. Times are RFC 3339 text in UTC.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

mod acme;
mod authorities;
mod brought;
mod certificates;
mod configs;
mod drain;
mod edges;
mod emergency;
mod expiry;
mod hooks;
mod identities;
mod issuers;
mod ladder;
mod proxies;
mod recovery;
mod revocation;
mod rollouts;
mod rotation;
mod sealing;
mod secrets;
mod status;

pub use self::acme::*;
pub use self::authorities::*;
pub use self::brought::*;
pub use self::certificates::*;
pub use self::configs::*;
pub use self::drain::{Drain, DrainTime};
pub use self::edges::*;
pub use self::emergency::{Emergency, EmergencyStatus, SignedCertificate};
pub use self::expiry::{Expiring, HeldLeaf, IdentityShown};
pub use self::hooks::*;
pub use self::identities::*;
pub use self::issuers::*;
pub use self::ladder::{Ladder, Link, Rung};
pub use self::proxies::*;
pub use self::recovery::*;
pub use self::revocation::{ListUptake, Revocation, RevocationList, Revoke, StillRevoked};
pub use self::rollouts::{PauseRollouts, Paused, PlannedRollout, ResumeRollouts, Rollouts};
pub use self::rotation::*;
pub use self::sealing::*;
pub use self::secrets::*;
pub use self::status::*;

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Pass this as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T: Serialize + DeserializeOwned> Page<T> {
    /// A listing that is complete.
    #[must_use]
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// A join token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its public half.
    pub id: String,
    /// The one node it enrols.
    pub node: String,
    /// `unused`, `spent`, `revoked` or `expired`.
    pub state: String,
    /// Who made it.
    pub author: String,
    /// When.
    pub created: String,
    /// Its end.
    pub expires: String,
    /// How many wrong secrets were tried.
    pub failures: u32,
}

/// One row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditRow {
    /// Its number.
    pub sequence: u64,
    /// When.
    pub at: String,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// On whose account.
    pub tenant: String,
    /// To what.
    pub object: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Further names and numbers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// The request it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How often within its minute.
    pub count: u64,
    /// Its link of the chain, in hexadecimal.
    pub hash: String,
}

/// Something that was done to a thing by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Whether it was only looked at.
    pub dry_run: bool,
    /// What was, or would be, done, in one sentence.
    pub summary: String,
}
