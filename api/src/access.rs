//! Who may call what: one table with a row for every route. A route without a row is refused, and a test holds
//! the table against the router.

use http::Method;
use spiffe::{Class, Peer};

use crate::calls::CallError;

/// What a call needs. Today every operator has all of them; roles divide them later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    /// See documents and what they would do.
    ReadConfigs,
    /// Change documents.
    WriteConfigs,
    /// See nodes and what they get.
    ReadProxies,
    /// Admit, resync and remove nodes; revoke their tokens.
    WriteProxies,
    /// See identities, authorities and certificates.
    ReadTrust,
    /// Block identities, revoke certificates, rotate authorities, issue probe certificates.
    WriteTrust,
    /// See the audit log.
    ReadAudit,
    /// See numbers, health and the description of the API.
    ReadStatus,
}

impl Permission {
    /// What it allows, in words that follow "may not".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::ReadConfigs => "read documents",
            Self::WriteConfigs => "change documents",
            Self::ReadProxies => "read proxies",
            Self::WriteProxies => "change proxies",
            Self::ReadTrust => "read identities and authorities",
            Self::WriteTrust => "change identities and authorities",
            Self::ReadAudit => "read the audit log",
            Self::ReadStatus => "read the status",
        }
    }
}

/// One row: method, path as the router knows it, and what it needs.
pub type Row = (Method, &'static str, Permission);

/// Every route on 8080.
pub const TABLE: &[Row] = &[
    (Method::GET, "/api/v1/configs", Permission::ReadConfigs),
    (Method::POST, "/api/v1/configs", Permission::WriteConfigs),
    (Method::GET, "/api/v1/configs/{id}", Permission::ReadConfigs),
    (Method::PUT, "/api/v1/configs/{id}", Permission::WriteConfigs),
    (Method::DELETE, "/api/v1/configs/{id}", Permission::WriteConfigs),
    (Method::POST, "/api/v1/configs/{id}/validate", Permission::ReadConfigs),
    (Method::POST, "/api/v1/configs/{id}/apply", Permission::WriteConfigs),
    (Method::GET, "/api/v1/configs/{id}/history", Permission::ReadConfigs),
    (Method::POST, "/api/v1/validate", Permission::ReadConfigs),
    (Method::POST, "/api/v1/apply", Permission::WriteConfigs),
    (Method::GET, "/api/v1/history", Permission::ReadConfigs),
    (Method::POST, "/api/v1/rollback", Permission::WriteConfigs),
    (Method::GET, "/api/v1/services", Permission::ReadConfigs),
    (Method::GET, "/api/v1/services/{name}", Permission::ReadConfigs),
    (Method::GET, "/api/v1/endpoints", Permission::ReadConfigs),
    (Method::GET, "/api/v1/endpoints/{service}", Permission::ReadConfigs),
    (Method::GET, "/api/v1/proxies", Permission::ReadProxies),
    (Method::POST, "/api/v1/proxies", Permission::WriteProxies),
    (Method::GET, "/api/v1/proxies/{node_id}", Permission::ReadProxies),
    (Method::DELETE, "/api/v1/proxies/{node_id}", Permission::WriteProxies),
    (Method::GET, "/api/v1/proxies/{node_id}/status", Permission::ReadProxies),
    (Method::GET, "/api/v1/proxies/{node_id}/config", Permission::ReadProxies),
    (Method::GET, "/api/v1/proxies/{node_id}/explain", Permission::ReadProxies),
    (Method::PUT, "/api/v1/proxies/{node_id}/issuer", Permission::WriteProxies),
    (Method::POST, "/api/v1/proxies/{node_id}/reload", Permission::WriteProxies),
    (Method::GET, "/api/v1/tokens", Permission::ReadProxies),
    (Method::DELETE, "/api/v1/tokens/{id}", Permission::WriteProxies),
    (Method::GET, "/api/v1/identities", Permission::ReadTrust),
    (Method::GET, "/api/v1/identities/{id}", Permission::ReadTrust),
    (Method::POST, "/api/v1/identities/block", Permission::WriteTrust),
    (Method::POST, "/api/v1/identities/unblock", Permission::WriteTrust),
    (Method::GET, "/api/v1/authorities", Permission::ReadTrust),
    (Method::POST, "/api/v1/authorities/rotate", Permission::WriteTrust),
    (Method::GET, "/api/v1/bundle", Permission::ReadStatus),
    (Method::GET, "/api/v1/authorities/root/rotation", Permission::ReadTrust),
    (Method::POST, "/api/v1/authorities/root/rotation", Permission::WriteTrust),
    (Method::POST, "/api/v1/authorities/emergency", Permission::WriteTrust),
    (Method::GET, "/api/v1/authorities/{id}/emergency", Permission::ReadTrust),
    (Method::GET, "/api/v1/authorities/{id}/signed", Permission::ReadTrust),
    (Method::GET, "/api/v1/authorities/request", Permission::ReadTrust),
    (Method::POST, "/api/v1/authorities/request", Permission::WriteTrust),
    (Method::DELETE, "/api/v1/authorities/request", Permission::WriteTrust),
    (Method::POST, "/api/v1/authorities/install", Permission::WriteTrust),
    (Method::GET, "/api/v1/certificates", Permission::ReadTrust),
    (Method::GET, "/api/v1/certificates/{serial}", Permission::ReadTrust),
    (Method::POST, "/api/v1/certificates/{serial}/revoke", Permission::WriteTrust),
    (Method::POST, "/api/v1/certificates/probe", Permission::WriteTrust),
    (Method::POST, "/api/v1/certificates/renew", Permission::ReadStatus),
    (Method::GET, "/api/v1/secrets", Permission::ReadTrust),
    (Method::POST, "/api/v1/secrets", Permission::WriteTrust),
    (Method::GET, "/api/v1/secrets/{namespace}/{name}", Permission::ReadTrust),
    (Method::DELETE, "/api/v1/secrets/{namespace}/{name}", Permission::WriteTrust),
    (Method::POST, "/api/v1/secrets/{namespace}/{name}/rotate", Permission::WriteTrust),
    (Method::GET, "/api/v1/issuers", Permission::ReadTrust),
    (Method::POST, "/api/v1/issuers", Permission::WriteTrust),
    (Method::POST, "/api/v1/issuers/acme", Permission::WriteTrust),
    (Method::POST, "/api/v1/issuers/migrate", Permission::WriteTrust),
    (Method::POST, "/api/v1/issuers/migrate/abort", Permission::WriteTrust),
    (Method::POST, "/api/v1/issuers/migrate/resume", Permission::WriteTrust),
    (Method::GET, "/api/v1/issuers/{name}", Permission::ReadTrust),
    (Method::PATCH, "/api/v1/issuers/{name}", Permission::WriteTrust),
    (Method::DELETE, "/api/v1/issuers/{name}", Permission::WriteTrust),
    (Method::POST, "/api/v1/issuers/{name}/test", Permission::WriteTrust),
    (Method::POST, "/api/v1/issuers/{name}/account-key", Permission::WriteTrust),
    (Method::POST, "/api/v1/issuers/{name}/register-again", Permission::WriteTrust),
    (Method::GET, "/api/v1/edges", Permission::ReadTrust),
    (Method::POST, "/api/v1/edges", Permission::WriteTrust),
    (Method::GET, "/api/v1/edges/{name}", Permission::ReadTrust),
    (Method::DELETE, "/api/v1/edges/{name}", Permission::WriteTrust),
    (Method::POST, "/api/v1/edges/{name}/renew", Permission::WriteTrust),
    (Method::GET, "/api/v1/kek", Permission::ReadTrust),
    (Method::POST, "/api/v1/kek/slots", Permission::WriteTrust),
    (Method::DELETE, "/api/v1/kek/slots/{name}", Permission::WriteTrust),
    (Method::POST, "/api/v1/kek/rotate", Permission::WriteTrust),
    (Method::POST, "/api/v1/audit/accept", Permission::WriteTrust),
    (Method::GET, "/api/v1/audit", Permission::ReadAudit),
    (Method::GET, "/api/v1/rollouts", Permission::ReadTrust),
    (Method::POST, "/api/v1/rollouts/pause", Permission::WriteTrust),
    (Method::POST, "/api/v1/rollouts/resume", Permission::WriteTrust),
    (Method::GET, "/api/v1/recovery", Permission::ReadProxies),
    (Method::POST, "/api/v1/recovery", Permission::WriteProxies),
    (Method::DELETE, "/api/v1/recovery", Permission::WriteProxies),
    (Method::GET, "/api/v1/hooks", Permission::ReadStatus),
    (Method::POST, "/api/v1/hooks/{name}/test", Permission::WriteTrust),
    (Method::GET, "/api/v1/expiries", Permission::ReadStatus),
    (Method::GET, "/api/v1/stats", Permission::ReadStatus),
    (Method::GET, "/api/v1/status", Permission::ReadStatus),
    (Method::GET, "/api/v1/openapi.json", Permission::ReadStatus),
    (Method::GET, "/livez", Permission::ReadStatus),
    (Method::GET, "/health", Permission::ReadStatus),
    (Method::GET, "/readyz", Permission::ReadStatus),
    (Method::GET, "/ready", Permission::ReadStatus),
    (Method::GET, "/metrics", Permission::ReadStatus),
];

/// The row of a route, if it has one.
#[must_use]
pub fn permission(method: &Method, path: &str) -> Option<Permission> {
    // The router answers HEAD by the handler of GET.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    TABLE.iter().find(|row| row.0 == *method && row.1 == path).map(|row| row.2)
}

/// Whether `peer` may call `method` on `path`.
///
/// # Errors
/// [`CallError::Forbidden`] for a class that does not operate us, and for a route without a row.
pub fn authorize(peer: &Peer, method: &Method, path: &str) -> Result<Permission, CallError> {
    let forbidden = |operation: String| CallError::Forbidden { id: peer.id().to_string(), operation };
    let Some(permission) = permission(method, path) else {
        return Err(forbidden(format!("call {method} {path}")));
    };
    match peer.svid().class() {
        Class::Operator(_) => Ok(permission),
        Class::Node(_) | Class::Workload | Class::Server => Err(forbidden(permission.words().to_owned())),
    }
}

/// Whether any method of `path` has a row.
#[must_use]
pub fn knows(path: &str) -> bool {
    TABLE.iter().any(|row| row.1 == path)
}
