//! Certificates for public names, which proxies show at the edge.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Hidden, IssuerCheck};
use crate::ports::EdgeChallenge;

/// Wants a certificate for public names.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddEdge {
    /// Its name.
    pub name: String,
    /// Whose proxies show it; absent for `default`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The listener of theirs that shows it.
    pub listener: String,
    /// Who is asked for it.
    pub issuer: String,
    /// For which DNS names or addresses; absent for the DNS name that it is called by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// How they are shown to be ours.
    pub challenge: EdgeChallenge,
    /// By which profile of the server; absent for that of the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The key by which updates of a name server are signed, in base64; for such a challenge, and only then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub dns_key: Option<Hidden>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only try it and say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Wants a certificate renewed before its time.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewEdge {
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// A certificate for public names, without its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Edge {
    /// Its name.
    pub name: String,
    /// Whose proxies show it.
    pub namespace: String,
    /// The listener of theirs that shows it.
    pub listener: String,
    /// For which DNS names.
    pub domains: Vec<String>,
    /// Who is asked for it.
    pub issuer: String,
    /// How the names are shown to be ours.
    pub challenge: EdgeChallenge,
    /// By which profile of the server, if not by that of the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// `valid`: there is one, and nothing fails. `failing`: the last try to obtain or renew it failed, and it is tried
    /// again; one that is valid is shown until its end. `ordering`: the first is on its way. `waiting`: there is none,
    /// and nothing is done at the moment.
    pub state: String,
    /// What is being done now, in a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doing: String,
    /// The certificate that proxies show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<EdgeCertificate>,
    /// When it is renewed, or tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Connected proxies that serve the listener.
    pub proxies: Vec<EdgeProxy>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last one said, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When it was added.
    pub created: String,
    /// Grows with each change.
    pub version: u64,
}

/// A certificate that was obtained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EdgeCertificate {
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// SHA-256 over it, in hexadecimal digits.
    pub sha256: String,
    /// When it was obtained.
    pub obtained: String,
    /// Its beginning.
    pub not_before: String,
    /// Its end.
    pub not_after: String,
    /// Seconds until then; negative after it.
    pub expires_in_secs: i64,
}

/// A connected proxy that serves the listener of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EdgeProxy {
    /// The node.
    pub node: String,
    /// Whether it acknowledged the certificate of now.
    pub acknowledged: bool,
}

/// What adding an edge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EdgeChange {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// In a sentence.
    pub summary: String,
    /// The edge as it is, or would be.
    pub edge: Edge,
    /// Everything that was tried with it.
    pub checks: Vec<IssuerCheck>,
}
