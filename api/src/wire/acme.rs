//! ACME servers as issuers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Hidden;

/// Where an ACME server is, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcmeServer {
    /// The URL of its directory.
    pub directory: String,
    /// A file of the server's host with the certificates that vouch for it.
    #[schema(value_type = String)]
    pub ca_file: PathBuf,
    /// Whom it may write to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// The terms that were agreed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed_terms: Option<String>,
    /// The key id of the external account that ours is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_key_id: Option<String>,
    /// By which profile certificates are ordered, if an edge names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// By what the server knows our account; absent while it is being registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// Names an ACME server, and makes an account there.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddAcme {
    /// Its name.
    pub name: String,
    /// The URL of its directory, `https`.
    pub directory: String,
    /// A file of the server's host with the certificates that vouch for it, and nothing else does; read again when it
    /// changes.
    #[schema(value_type = String)]
    pub ca_file: PathBuf,
    /// Whom it may write to, such as `mailto:ops@example.com`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// The terms of the server that are agreed to, by the URL that its directory names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agree_terms: Option<String>,
    /// The key id of an account with who runs the server, where it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_key_id: Option<String>,
    /// Its HMAC key, in base64url as it is handed out. It is kept sealed until the account is made, and never sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub external_key: Option<Hidden>,
    /// By which profile certificates are ordered, if an edge names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only read the server's directory, and say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Gives the account at an ACME server another key.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeAccountKey {
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Registers the account anew, by the key that it has, at an ACME server that has lost it.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterAgain {
    /// The terms that are agreed to, by the URL that the server's directory names; those of before if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agree_terms: Option<String>,
    /// The key id of an account with who runs the server, where it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_key_id: Option<String>,
    /// Its HMAC key, in base64url as it is handed out. It is neither kept nor sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub external_key: Option<Hidden>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only ask the server whether it has the account and what it wants, and say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}
