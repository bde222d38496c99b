//! ACME servers, as they are asked.

use async_trait::async_trait;
use certs::{SecretBytes, Timestamp};
use spiffe::IssuerName;

use crate::{
    calls::{CallError, Caller},
    ports::{AcmeIssuer, AcmeSettings, KeptAcme},
    wire,
};

/// An ACME server that is to be an issuer.
#[derive(Debug)]
pub struct AcmeDraft {
    /// Its name.
    pub name: IssuerName,
    /// Where it is, and who we are there.
    pub acme: AcmeSettings,
    /// The HMAC key of the external account, in base64url.
    pub external_key: Option<SecretBytes>,
}

/// How an ACME server stands with what is not done yet: its account, or another key for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcmeStanding {
    /// Failures in a row.
    pub failures: u32,
    /// What the last one said.
    pub problem: Option<String>,
    /// When it is tried again.
    pub next: Option<Timestamp>,
}

/// How far an account, or another key for it, came.
#[derive(Debug)]
pub struct AcmeOutcome {
    /// The issuer as it is kept now.
    pub issuer: AcmeIssuer,
    /// The last thing that was tried: a warning where it is not known what came of it, and it is tried again.
    pub check: wire::IssuerCheck,
}

/// ACME servers and the accounts there.
#[async_trait]
pub trait AcmeServers: Send + Sync {
    /// Holds the settings against the server's directory. Only that is read, and nothing of ours is sent.
    async fn examine(&self, draft: &AcmeDraft) -> Vec<wire::IssuerCheck>;

    /// The same for one that is kept, and whether its account is found by its key.
    async fn test(&self, kept: KeptAcme) -> Vec<wire::IssuerCheck>;

    /// Makes an account there, with a key that is stored before; or goes on with what was begun by the same settings.
    ///
    /// # Errors
    /// [`CallError::Issuer`] when the server refuses, and nothing is kept; when the store cannot be read or written.
    async fn register(
        &self,
        caller: &Caller,
        draft: AcmeDraft,
        reason: &str,
    ) -> Result<AcmeOutcome, CallError>;

    /// Gives the account another key, which is stored before; or goes on with what was begun.
    ///
    /// # Errors
    /// [`CallError::Issuer`] when the server refuses, and the key of before stays; when there is no such account, or
    /// the store cannot be read or written.
    async fn change_key(
        &self,
        caller: &Caller,
        name: &IssuerName,
        reason: &str,
    ) -> Result<AcmeOutcome, CallError>;

    /// Makes an account anew for the key that is kept, at a server that has lost the one before; what the draft says of
    /// terms and of an external account is kept with it.
    ///
    /// # Errors
    /// [`CallError::Issuer`] when the server refuses, and everything stays as it was; [`CallError::Conflict`] when the
    /// server has the account; when there is no such account, or the store cannot be read or written.
    async fn register_again(
        &self,
        caller: &Caller,
        draft: AcmeDraft,
        reason: &str,
    ) -> Result<AcmeOutcome, CallError>;

    /// How one of them stands; the default where nothing is to be done.
    fn standing(&self, name: &IssuerName) -> AcmeStanding;
}
