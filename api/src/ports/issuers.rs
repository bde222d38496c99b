//! Issuers beside the built-in one, as they are kept.

use std::{fmt, path::PathBuf, time::Duration};

use async_trait::async_trait;
use audit::Event;
use certs::{Certificate, SecretBytes, Timestamp};
use serde::{Deserialize, Serialize};
use spiffe::IssuerName;
use utoipa::ToSchema;

use super::StoreError;

/// The most issuers that are kept.
pub const MAX_ISSUERS: usize = 16;

/// The most authorities of an issuer that are remembered beside the one that signs.
pub const MAX_EARLIER: usize = 8;

/// How we prove to a Vault who we are. What is secret of it stands apart ([`KeptIssuer::credential`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VaultLogin {
    /// A token that somebody else looks after.
    Token,
    /// A role id and a secret id.
    // By its other word in what was stored before.
    #[serde(rename = "approle", alias = "app-role")]
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// The public half.
        role_id: String,
    },
    /// A client certificate, in files of the server's host that somebody renews; read again at each login.
    Certificate {
        /// Where the method is mounted.
        mount: String,
        /// The role; Vault looks for one itself when there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<String>,
        /// The chain, leaf first.
        #[schema(value_type = String)]
        chain: PathBuf,
        /// Its key.
        #[schema(value_type = String)]
        key: PathBuf,
    },
    /// A token in a file of the server's host that somebody renews; read again at each login.
    Jwt {
        /// Where the method is mounted.
        mount: String,
        /// The role.
        role: String,
        /// The file.
        #[schema(value_type = String)]
        file: PathBuf,
    },
    /// The token of a Kubernetes service account, in a file of the server's host; read again at each login.
    Kubernetes {
        /// Where the method is mounted.
        mount: String,
        /// The role.
        role: String,
        /// The file.
        #[schema(value_type = String)]
        file: PathBuf,
    },
}

impl VaultLogin {
    /// Its word, as it is shown.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::AppRole { .. } => "approle",
            Self::Certificate { .. } => "certificate",
            Self::Jwt { .. } => "jwt",
            Self::Kubernetes { .. } => "kubernetes",
        }
    }

    /// What must be handed in beside it, if something must.
    #[must_use]
    pub fn credential(&self) -> Option<&'static str> {
        match self {
            Self::Token => Some("the token"),
            Self::AppRole { .. } => Some("the secret id"),
            Self::Certificate { .. } | Self::Jwt { .. } | Self::Kubernetes { .. } => None,
        }
    }
}

/// Where a Vault is, and which of its authorities is to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSettings {
    /// `https://HOST:PORT`, each a node of the same cluster; tried in this order.
    pub addresses: Vec<String>,
    /// A file of the server's host with the authorities that vouch for these addresses; read again when it changes.
    pub ca_file: PathBuf,
    /// The namespace, where Vault has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Where the PKI engine is mounted.
    pub mount: String,
    /// The issuer of it that signs, by its id: one that is renamed or made the default does not change who signs.
    pub issuer: String,
    /// The role by which it signs leaves of workloads. Without one it signs our issuing authorities, and those sign
    /// leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// How long an authority that it signs shall live; leaves live as long as all leaves do here.
    pub lifetime: Duration,
    /// Who we are there.
    pub login: VaultLogin,
}

/// An issuer beside the built-in one: it signs our issuing authorities, and those sign leaves; or leaves of workloads
/// itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Its name.
    pub name: IssuerName,
    /// Where and what it is.
    pub vault: VaultSettings,
    /// The root that what it signs must lead to.
    pub anchor: Certificate,
    /// The certificate of the authority that signs.
    pub signer: Certificate,
    /// Which of its roots that is, counted from 0: leaves under one before may be in use.
    pub generation: u32,
    /// Those that signed for it before its settings were changed, the newest first; at most [`MAX_EARLIER`].
    pub earlier: Vec<Earlier>,
    /// Who signs leaves in its place while it rests after failures, if an operator named somebody.
    pub fallback: Option<IssuerName>,
    /// When it was added.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
    /// Grows with each change.
    pub version: u64,
}

/// An authority that signed for an issuer before its settings were changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// Its certificate.
    pub signer: Certificate,
    /// The root above it.
    pub anchor: Certificate,
    /// Its id in its Vault.
    pub issuer: String,
    /// Which of the issuer's roots that is.
    pub generation: u32,
}

impl Issuer {
    /// Those whose signature makes an authority one of this issuer's.
    pub fn signers(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.signer).chain(self.earlier.iter().map(|one| &one.signer))
    }

    /// Every authority of its Vault that may be asked: the one that signs, and one for each root before.
    #[must_use]
    pub fn asked(&self) -> Vec<Earlier> {
        let newest = Earlier {
            signer: self.signer.clone(),
            anchor: self.anchor.clone(),
            issuer: self.vault.issuer.clone(),
            generation: self.generation,
        };
        let mut all = vec![newest];
        for one in &self.earlier {
            if !all.iter().any(|known| known.generation == one.generation) {
                all.push(one.clone());
            }
        }
        all
    }
}

/// An issuer with what it takes to be let in there.
pub struct KeptIssuer {
    /// What may be seen of it.
    pub issuer: Issuer,
    /// See [`VaultLogin::credential`]; empty where there is none.
    pub credential: SecretBytes,
}

impl fmt::Debug for KeptIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptIssuer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// Keeps issuers: everything about one stands sealed in its record, so that whoever can write the database can
/// neither read a credential nor send one elsewhere.
#[async_trait]
pub trait IssuerStore: Send + Sync {
    /// All of them, by name. One that does not open is left out and logged.
    async fn issuers(&self) -> Result<Vec<KeptIssuer>, StoreError>;

    /// Whether there is one of that name, be it that it does not open.
    async fn has_issuer(&self, name: &IssuerName) -> Result<bool, StoreError>;

    /// Writes one and answers its version. `expected` is the version that the author had seen: 0 for "must not exist".
    async fn put_issuer(&self, issuer: KeptIssuer, expected: u64, event: Event) -> Result<u64, StoreError>;

    /// Removes one, be it that it does not open; its record is destroyed. Refused while its leaves may be in use, or are
    /// to be: by default, because a binding names it, or in the place of another.
    async fn remove_issuer(&self, name: &IssuerName, event: Event) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_is_written_as_operators_say_it_and_what_was_stored_before_is_read() {
        let login = VaultLogin::AppRole { mount: "approle".into(), role_id: "r".into() };
        let text = serde_json::to_string(&login).unwrap();
        assert_eq!(text, r#"{"method":"approle","mount":"approle","role_id":"r"}"#);
        for word in ["approle", "app-role"] {
            let stored = text.replace(r#":"approle","mount"#, &format!(r#":"{word}","mount"#));
            assert_eq!(serde_json::from_str::<VaultLogin>(&stored).unwrap(), login, "{word}");
        }
    }
}
