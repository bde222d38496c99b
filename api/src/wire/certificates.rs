//! Certificates in the journal.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Whose.
    pub id: String,
    /// `node`, `workload`, `server`, `operator`.
    pub class: String,
    /// The node it is for, if for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Who signed it.
    pub authority: String,
    /// Why it was issued.
    pub purpose: String,
    /// When it was issued.
    pub issued: String,
    /// When it ends.
    pub expires: String,
    /// Seconds until then, negative afterwards.
    pub expires_in_secs: i64,
    /// `issued`, `intended`, `failed` or `revoked`.
    pub state: String,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
    /// The issuer beside the built-in one whose authority signed it. It alone can revoke it for others than us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The chain, leaf first; listings leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
    /// The root of that issuer, by which workloads believe it; listings leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
}

/// Asks for a certificate: of the probe identity for `credence verify`, or the caller's own again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// A certificate signing request in DER, as base64. Only its public key is read.
    pub csr: String,
}

/// A certificate that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Probed {
    /// Whose it is.
    pub id: String,
    /// The chain, leaf first.
    pub pem: String,
    /// The roots to verify the other side against.
    pub bundle: String,
    /// When it ends.
    pub expires: String,
}
