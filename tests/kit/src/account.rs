//! The accounts at ACME servers that the store of a world holds, in the hands of a test: it asks the server itself what
//! became of each order, and which key opens the account.

use api::ports::AcmeStore;
use certs::SecretKey;

use crate::{TestWorld, authority::open};

/// An account as it is kept.
#[derive(Debug)]
pub struct KeptAccount {
    /// The issuer.
    pub name: String,
    /// Its URL, when it is made.
    pub url: Option<String>,
    /// Its key.
    pub key: SecretKey,
    /// Whether another key is kept beside it.
    pub is_changing_key: bool,
}

impl TestWorld {
    /// All of them, by name. The control plane must not run: nothing else may have the store open.
    ///
    /// # Panics
    /// When they cannot be read.
    pub async fn accounts(&self) -> Vec<KeptAccount> {
        let path = |name: &str| self.sandbox().path(name);
        let (store, _writer) = open(&path("credence-data"), &path("credence.kek")).await;
        let kept = store.acme_issuers().await.unwrap_or_else(|error| panic!("accounts: {error}"));
        let account = |one: api::ports::KeptAcme| KeptAccount {
            name: one.issuer.name.to_string(),
            url: one.issuer.account.clone(),
            key: SecretKey::from_bytes(&one.key).unwrap_or_else(|error| panic!("key: {error}")),
            is_changing_key: one.next_key.is_some(),
        };
        kept.into_iter().map(account).collect()
    }
}
