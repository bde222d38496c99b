//! How secrets are sealed on the disk: key slots, data keys, and whether the store is what it was.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How sealing stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sealing {
    /// What opens the store; any one of them is enough.
    pub slots: Vec<KeySlot>,
    /// The id of the root key.
    pub root_key: String,
    /// The data keys, by tenant, class and version.
    pub data_keys: Vec<DataKey>,
    /// How many records are sealed by a key that is no longer the active one; they are sealed anew by themselves.
    pub rows_on_old_key: u64,
    /// What is not as it should be, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One key slot: the root key, wrapped by one key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeySlot {
    /// Its name.
    pub name: String,
    /// `key-file`, `passphrase`, `pkcs11` or `transit`.
    pub kind: String,
    /// The key that wraps it, as its source names it; empty where sources do not name keys.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key_id: String,
    /// When it was made.
    pub created: String,
    /// `opens`, `fails` or `offline`.
    pub state: String,
    /// Why it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether its source has another key by now, or a newer version of it: add it anew under another name, or replace
    /// the slot by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// When its key ends, if its source says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<String>,
    /// The version of the key that wraps it, where keys have versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The latest version of that key, as its source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_version: Option<u32>,
    /// The oldest version that still opens anything, as its source says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<u32>,
}

/// One data key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataKey {
    /// Its id.
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// `ca`, `tls`, `backend` or `audit-mac`.
    pub class: String,
    /// The how-manieth of its class.
    pub version: u64,
    /// `pending`, `active` or `retiring`.
    pub state: String,
    /// How many records it seals.
    pub records: u64,
}

/// Adds a key slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddSlot {
    /// The slot, as `secrets.slots` of the server's configuration names it. No key is ever sent.
    pub name: String,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Replaces a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// Which.
    pub key: RotatedKey,
    /// Slots of Vault's Transit engine only may be left: whoever loses that Vault loses everything.
    #[serde(default)]
    pub insecure_single_slot: bool,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// A key that is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RotatedKey {
    /// A key-encryption key: the new slot is added, proven, and the old one removed.
    Slot {
        /// The slot to be removed.
        from: String,
        /// The slot to be added, as `secrets.slots` of the server's configuration names it. Absent: the slot stays, and
        /// is wrapped anew by the latest version of its key, where keys have versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<String>,
    },
    /// The root key.
    Root {
        /// Slots that are not at hand and are removed.
        #[serde(default)]
        leave_behind: Vec<String>,
    },
    /// The data keys.
    Data {
        /// One class; absent for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<String>,
    },
}

/// What replacing a key does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRotation {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// What happens, in order.
    pub steps: Vec<String>,
}

/// Takes the store as it is after findings stopped signing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptStore {
    /// Why, for the audit log; required.
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Whether the store is what its audit log, and the anchor outside, say it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreState {
    /// How it differs. While there is any, nothing is signed; serving goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// What to do about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
    /// How the outside anchor stands, in a sentence.
    pub anchor: String,
    /// How many key slots open the store.
    pub slots: usize,
    /// How many records are sealed by a key that is no longer the active one.
    pub rows_on_old_key: u64,
}
