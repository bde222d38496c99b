//! ACME servers, as they are kept: each is an issuer of certificates for edges, with an account of ours.

use std::{fmt, path::PathBuf};

use async_trait::async_trait;
use audit::Event;
use certs::{SecretBytes, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::IssuerName;

use super::StoreError;

/// The most of a list of whom a server may write to.
pub const MAX_CONTACTS: usize = 8;

/// Where an ACME server is, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeSettings {
    /// The URL of its directory, `https`.
    pub directory: String,
    /// A file of the server's host with the certificates that vouch for it; read again when it changes.
    pub ca_file: PathBuf,
    /// Whom it may write to, such as `mailto:ops@example.com`; at most [`MAX_CONTACTS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<String>,
    /// The terms that an operator agreed to, by the URL that its directory names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<String>,
    /// The key id of an account with who runs the server, where it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
    /// By which of its profiles certificates are ordered, if an edge names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// An ACME server that is an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeIssuer {
    /// Its name.
    pub name: IssuerName,
    /// Where it is, and who we are there.
    pub acme: AcmeSettings,
    /// By what the server knows our account; absent while it is not known whether it has made one.
    pub account: Option<String>,
    /// Whether the account is getting another key, and it is not known yet whether it has.
    pub is_changing_key: bool,
    /// When it was added.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
    /// Grows with each change.
    pub version: u64,
}

/// An ACME server with what is secret of it.
pub struct KeptAcme {
    /// What may be seen of it.
    pub issuer: AcmeIssuer,
    /// The key of the account (PKCS#8).
    pub key: SecretBytes,
    /// The key that the account is getting (PKCS#8), while that is so.
    pub next_key: Option<SecretBytes>,
    /// The HMAC key of the external account, in base64url; kept until the account is made, and no longer.
    pub external_key: Option<SecretBytes>,
}

impl KeptAcme {
    /// Whether there is an account with one key, so that certificates can be ordered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.issuer.account.is_some() && self.next_key.is_none()
    }
}

impl fmt::Debug for KeptAcme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptAcme").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Keeps ACME servers: everything about one stands sealed in its record, so that whoever can write the database can
/// neither read a key nor have an account of ours used elsewhere.
#[async_trait]
pub trait AcmeStore: Send + Sync {
    /// All of them, by name. One that does not open is left out and logged.
    async fn acme_issuers(&self) -> Result<Vec<KeptAcme>, StoreError>;

    /// Whether there is one of that name, be it that it does not open.
    async fn has_acme_issuer(&self, name: &IssuerName) -> Result<bool, StoreError>;

    /// Writes one and answers its version. `expected` is the version that the author had seen: 0 for "must not exist",
    /// as an issuer of any kind.
    async fn put_acme_issuer(&self, kept: KeptAcme, expected: u64, event: Event) -> Result<u64, StoreError>;

    /// Removes one of the version that the author had seen, or whatever there is; its record, and the keys in it, are
    /// destroyed.
    async fn remove_acme_issuer(
        &self,
        name: &IssuerName,
        expected: Option<u64>,
        event: Event,
    ) -> Result<(), StoreError>;
}
