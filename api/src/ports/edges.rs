//! Certificates for public names, which proxies show at the edge, as they are kept.

use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use audit::Event;
use certs::{Chain, SecretBytes, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::{EdgeName, IssuerName, Namespace, Tenant};
use utoipa::ToSchema;

use super::StoreError;

/// The most edges of a tenant.
pub const MAX_EDGES: usize = 1000;
/// The most bytes of the chain of an edge as PEM, and of each text of its [`EdgeWork`].
pub const MAX_EDGE_TEXT: usize = 128 * 1024;
/// The most bytes of each of its keys.
pub const MAX_EDGE_SECRET: usize = 16 * 1024;

/// How the names are shown to be ours (RFC 8555 8, RFC 8737).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", deny_unknown_fields)]
pub enum EdgeChallenge {
    /// A text at a path, by plain HTTP: proxies answer at this listener.
    #[serde(rename = "http-01")]
    Http01 {
        /// The listener, which takes plain HTTP.
        listener: String,
    },
    /// A certificate, which proxies show at the listener of the edge itself.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record.
    #[serde(rename = "dns-01")]
    Dns01 {
        /// Who publishes it.
        publisher: DnsPublisher,
    },
}

impl EdgeChallenge {
    /// Its word, as ACME and operators write it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Http01 { .. } => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Dns01 { .. } => "dns-01",
        }
    }
}

/// Who publishes TXT records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DnsPublisher {
    /// A program of the server's host: `PROGRAM publish|withdraw RECORD VALUE`.
    Command {
        /// Its absolute path.
        #[schema(value_type = String)]
        program: PathBuf,
    },
    /// A name server that takes updates (RFC 2136), signed by a key (RFC 8945).
    Update {
        /// `ADDRESS:PORT` of the server.
        server: String,
        /// The zone that the records stand in.
        zone: String,
        /// The name of the key.
        key: String,
        /// Its algorithm: `hmac-sha256`, `hmac-sha384` or `hmac-sha512`.
        algorithm: String,
    },
}

/// Which certificate is wanted, for whom and from whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeSettings {
    /// Whose proxies show it.
    pub namespace: Namespace,
    /// The listener of theirs that shows it (`tls: {edge: NAME}`).
    pub listener: String,
    /// Who is asked for it.
    pub issuer: IssuerName,
    /// For which names, in canonical form.
    pub names: Vec<String>,
    /// How they are shown to be ours.
    pub challenge: EdgeChallenge,
    /// By which profile of the server, if not by that of the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// A certificate that was obtained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeCertificate {
    /// The leaf and those above it.
    pub chain: Chain,
    /// When it was obtained.
    pub obtained: Timestamp,
}

/// What is known of an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Whose.
    pub tenant: Tenant,
    /// Its name.
    pub name: EdgeName,
    /// What is wanted.
    pub settings: EdgeSettings,
    /// What proxies show now.
    pub certificate: Option<EdgeCertificate>,
    /// When it was added.
    pub created: Timestamp,
    /// When an operator changed it last.
    pub updated: Timestamp,
    /// Grows with each change, of settings and of work alike.
    pub version: u64,
}

/// How far the next certificate is, in the words of who obtains it: stored before each step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeWork {
    /// The order under way, as JSON.
    pub order: Option<String>,
    /// When the certificate is renewed, as JSON.
    pub renewal: Option<String>,
    /// What of an order that is over may still be published, as JSON.
    pub leftover: Option<String>,
}

/// An edge with what is secret of it.
pub struct KeptEdge {
    /// What may be seen of it.
    pub edge: Edge,
    /// The key of the certificate (PKCS#8).
    pub key: Option<SecretBytes>,
    /// The key of the order under way (PKCS#8).
    pub next_key: Option<SecretBytes>,
    /// The key by which updates of a name server are signed, as octets.
    pub dns_key: Option<SecretBytes>,
    /// How far the next one is.
    pub work: EdgeWork,
}

impl fmt::Debug for KeptEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptEdge").field("edge", &self.edge).field("work", &self.work).finish_non_exhaustive()
    }
}

/// Keeps edges: everything about one stands sealed in its record, with bounds ([`MAX_EDGES`], [`MAX_EDGE_TEXT`],
/// [`MAX_EDGE_SECRET`]) that are refused as [`StoreError::Full`].
#[async_trait]
pub trait EdgeStore: Send + Sync {
    /// All of them, by tenant and name. One that does not open is left out and logged.
    async fn edges(&self) -> Result<Vec<KeptEdge>, StoreError>;

    /// Whether there is one of that name, be it that it does not open.
    async fn has_edge(&self, tenant: &Tenant, name: &EdgeName) -> Result<bool, StoreError>;

    /// Writes one and answers its version. `expected` is the version that the author had seen: 0 for "must not exist".
    async fn put_edge(&self, edge: KeptEdge, expected: u64, event: Event) -> Result<u64, StoreError>;

    /// Removes one, be it that it does not open; its record is destroyed.
    async fn remove_edge(&self, tenant: &Tenant, name: &EdgeName, event: Event) -> Result<(), StoreError>;
}
