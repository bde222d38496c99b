//! A key slot whose key is in Vault's Transit engine: the store's port [`RemoteKey`], by the crate `vault`.
//!
//! Each use logs in, does its work and gives its token back, or lets it end: between two uses none lies in memory, and the files of
//! the login are read anew. The root key goes to Vault and back as what it is; that it is of this store and this slot,
//! Vault checks by the associated data.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use certs::{Clock, SecretBytes, format_duration};
use store::{Outlook, RemoteError, RemoteKey, RemoteState, Unwrapped, Wrapped};
use vault::{
    Breadth, Client, Credentials, IdentityFiles, Keeper, NotLoggedIn, Policy, Secret, SecretId, Settings,
    Trouble,
    transit::{self, Ciphertext, KeyState, Slot, SlotRefusal},
};

use crate::config::{TransitConfig, TransitLogin};

/// How long a use may take to wrap or unwrap where nobody waits for it.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);
/// How long it may take of a call, which has ten seconds for it and what follows.
pub(crate) const BRISK: Duration = Duration::from_secs(4);
/// How long one address has for an answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to say what the key is, once it has decrypted.
const BESIDE: Duration = Duration::from_secs(2);
/// The word for a token that may do more than its work takes.
const OVER_GRANTED: &str = "over-granted";

/// A key in Transit, and how we log in to its Vault.
pub(crate) struct TransitKey {
    config: TransitConfig,
    slot: Slot,
    clock: Arc<dyn Clock>,
    patience: Duration,
}

impl TransitKey {
    /// Nothing is read or asked yet. To wrap or unwrap may take as long as `patience`.
    pub(crate) fn new(config: TransitConfig, clock: Arc<dyn Clock>, patience: Duration) -> Self {
        let slot = Slot { mount: config.mount.clone(), key: config.key.clone() };
        Self { config, slot, clock, patience }
    }

    /// As it stands in a slot: which key of the Vault it is.
    fn key_id(&self) -> String {
        let namespace = self.config.namespace.as_ref().map(|namespace| format!("{namespace}/"));
        format!("{}{}/{}", namespace.unwrap_or_default(), self.slot.mount, self.slot.key)
    }

    fn error(&self, code: &'static str, reason: String, hint: String, outlook: Outlook) -> RemoteError {
        RemoteError { key: self.to_string(), code, reason, hint, outlook, is_of_wrapped: false }
    }

    async fn credentials(&self) -> Result<Credentials, RemoteError> {
        Ok(match &self.config.login {
            TransitLogin::AppRole { mount, role_id, secret_id_file } => Credentials::AppRole {
                mount: mount.clone(),
                role: None,
                role_id: Secret::of_text(role_id).map_err(|error| {
                    let hint = "correct role_id in secrets.slots".to_owned();
                    self.error("login", format!("the role id {error}"), hint, Outlook::Lasting)
                })?,
                secret_id: SecretId::Plain(self.secret("secret id", secret_id_file).await?),
            },
            TransitLogin::Certificate { mount, role, chain_file, key_file } => Credentials::Certificate {
                mount: mount.clone(),
                role: role.clone(),
                files: IdentityFiles { chain: chain_file.clone(), key: key_file.clone() },
            },
            TransitLogin::Kubernetes { mount, role, token_file } => {
                Credentials::Kubernetes { mount: mount.clone(), role: role.clone(), file: token_file.clone() }
            }
            TransitLogin::Token { token_file } => {
                Credentials::Token(Arc::new(self.secret("token", token_file).await?))
            }
        })
    }

    async fn secret(&self, what: &str, path: &std::path::Path) -> Result<Secret, RemoteError> {
        vault::read_secret(path, TIMEOUT).await.map_err(|trouble| {
            let hint = format!("put the {what} into that file, and nothing else");
            self.error("file", format!("the {what} cannot be read: {trouble}"), hint, Outlook::Passing)
        })
    }

    /// A session. One that is `narrow` uses no token that may do more than a slot takes.
    async fn open(&self, narrow: bool) -> Result<(Client, Keeper), RemoteError> {
        let mut settings = Settings::new(self.config.addresses.clone(), self.config.ca_file.clone());
        settings.namespace.clone_from(&self.config.namespace);
        settings.timeout = TIMEOUT;
        let policy = Policy::slot(&self.slot.mount, &self.slot.key);
        let narrow = narrow.then(|| (policy, vec![self.slot.mount.clone()]));
        Ok(Client::new(settings, self.credentials().await?, narrow, Arc::clone(&self.clock)))
    }

    /// Does `work`, but for no longer than `limit`.
    async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let until = self.clock.now() + limit;
        tokio::select! {
            done = work => done,
            () = self.clock.sleep_until(until) => Err(self.late(limit)),
        }
    }

    fn late(&self, limit: Duration) -> RemoteError {
        let reason = format!("no answer within {}", format_duration(limit));
        let hint = "look at Vault, and at what is between".to_owned();
        self.error("late", reason, hint, Outlook::Passing)
    }

    /// Reads what the key is.
    async fn read(&self, client: &Client) -> Result<KeyState, RemoteError> {
        let answer = client.call(&self.slot.read()).await;
        let read = answer.map_err(SlotRefusal::of).and_then(|answer| transit::read_key(&answer));
        read.map_err(|refusal| self.refused(client, &refusal))
    }

    /// In the words of the port.
    fn refused(&self, client: &Client, refusal: &SlotRefusal) -> RemoteError {
        let (outlook, code) = judge(refusal);
        let is_of_wrapped = matches!(refusal, SlotRefusal::TooOld | SlotRefusal::TooNew);
        let (mut reason, mut hint) = (refusal.to_string(), refusal.hint());
        let status = client.status().borrow().clone();
        match refusal {
            // What Vault said to the login, not only that it said no.
            SlotRefusal::Trouble(Trouble::NotLoggedIn(_)) => {
                if let Some(trouble) = &status.trouble {
                    reason = format!("{reason}: {trouble}");
                }
            }
            SlotRefusal::Trouble(Trouble::Forbidden { .. }) => {
                let lacking = lacking(status.breadth.as_ref());
                if !lacking.is_empty() {
                    reason = lacks(&lacking);
                }
                hint = self.policy_hint();
            }
            SlotRefusal::Trouble(Trouble::OverGranted(_)) => hint = self.policy_hint(),
            SlotRefusal::NoKey => {
                let path = format!("{}/keys/{}", self.slot.mount, self.slot.key);
                hint = format!(
                    "make it: vault write -f {path} type=aes256-gcm96; for a slot that is there, \
                                bring back the key that made it"
                );
            }
            _ => {}
        }
        RemoteError { is_of_wrapped, ..self.error(code, reason, hint, outlook) }
    }

    fn policy_hint(&self) -> String {
        let (mount, key) = (&self.slot.mount, &self.slot.key);
        format!(
            "give it this policy and no other, beside default: credence kek add-slot NAME --print-policy \
             --mount {mount} --key {key}"
        )
    }

    async fn wrap_by(
        &self,
        client: &Client,
        root: &SecretBytes,
        place: &[u8],
    ) -> Result<Wrapped, RemoteError> {
        let key = self.read(client).await?;
        // All of it, before anything is made: what cannot be opened again is no slot.
        let lacking = lacking(client.status().borrow().breadth.as_ref());
        if !lacking.is_empty() {
            return Err(self.error("forbidden", lacks(&lacking), self.policy_hint(), Outlook::Passing));
        }
        let answer = client.call(&self.slot.encrypt(&key, root, place)).await;
        let made = answer.map_err(SlotRefusal::of).and_then(|answer| transit::read_ciphertext(&answer));
        let made = made.map_err(|refusal| self.refused(client, &refusal))?;
        let (bytes, version) = (made.as_str().as_bytes().to_vec(), made.version());
        Ok(Wrapped { bytes, version, key_id: self.key_id() })
    }

    async fn unwrap_by(
        &self,
        client: &Client,
        wrapped: &Ciphertext,
        place: &[u8],
    ) -> Result<Unwrapped, RemoteError> {
        let root = self.within(self.patience, self.decrypt(client, wrapped, place)).await?;
        // It opens whatever is said of the key beside, or not said.
        let (key, mut warnings) = match self.within(BESIDE, self.read(client)).await {
            Ok(key) => {
                let state = RemoteState { key_id: self.key_id(), latest: key.latest, minimum: key.minimum };
                let deletable = key.is_deletable.then(|| {
                    let path = format!("{}/keys/{}/config", self.slot.mount, self.slot.key);
                    format!("the key may be deleted: vault write {path} deletion_allowed=false")
                });
                (Some(state), deletable.into_iter().collect())
            }
            Err(error) => {
                (None, vec![format!("what the key is was not read: {}; {}", error.reason, error.hint)])
            }
        };
        if let Some(Breadth::NotProvable { why, .. }) = &client.status().borrow().breadth {
            warnings.push(format!("what the token may do is not provable: {why}"));
        }
        Ok(Unwrapped { root, key, warnings })
    }

    /// `None` where it was made by another key, or for another slot.
    async fn decrypt(
        &self,
        client: &Client,
        wrapped: &Ciphertext,
        place: &[u8],
    ) -> Result<Option<SecretBytes>, RemoteError> {
        let answer = client.call(&self.slot.decrypt(wrapped, place)).await;
        match answer.map_err(SlotRefusal::of).and_then(|answer| transit::read_plain(&answer)) {
            Ok(root) => Ok(Some(root)),
            Err(SlotRefusal::WrongPurpose | SlotRefusal::Malformed) => Ok(None),
            Err(SlotRefusal::TooOld) => {
                // How old it may be at most, where that can be read.
                let minimum = self.within(BESIDE, self.read(client)).await.ok().map(|key| key.minimum);
                Err(self.too_old(wrapped.version(), minimum))
            }
            Err(refusal) => Err(self.refused(client, &refusal)),
        }
    }

    fn too_old(&self, version: u32, minimum: Option<u32>) -> RemoteError {
        let least =
            minimum.map_or_else(String::new, |minimum| format!(", the oldest that does is {minimum}"));
        let reason =
            format!("version {version} of the key made this slot and does not decrypt any more{least}");
        let path = format!("{}/keys/{}/config", self.slot.mount, self.slot.key);
        let hint = format!(
            "vault write {path} min_decryption_version={version}; then credence kek rotate slot NAME, and raise it \
             again"
        );
        let error = self.error("too-old", reason, hint, Outlook::Passing);
        RemoteError { is_of_wrapped: true, ..error }
    }
}

/// What becomes of it when nobody changes anything here, and a word for it.
fn judge(refusal: &SlotRefusal) -> (Outlook, &'static str) {
    match refusal {
        // Vault locks out who is refused a login too often.
        SlotRefusal::Trouble(
            trouble @ (Trouble::NotLoggedIn(
                NotLoggedIn::CredentialsRefused
                | NotLoggedIn::WrappedSpent
                | NotLoggedIn::TokenRevoked
                | NotLoggedIn::TokenEnded,
            )
            | Trouble::InvalidToken { .. }
            | Trouble::Refused { .. }),
        ) => (Outlook::Refused, trouble.code()),
        SlotRefusal::Trouble(Trouble::OverGranted(_)) => (Outlook::Passing, OVER_GRANTED),
        SlotRefusal::Trouble(trouble) => (Outlook::Passing, trouble.code()),
        SlotRefusal::NoKey => (Outlook::Passing, "no-key"),
        SlotRefusal::TooOld => (Outlook::Passing, "too-old"),
        SlotRefusal::TooNew => (Outlook::Lasting, "too-new"),
        SlotRefusal::Kind { .. } | SlotRefusal::Derived | SlotRefusal::Exportable => {
            (Outlook::Lasting, "unfit-key")
        }
        SlotRefusal::WrongPurpose | SlotRefusal::Malformed => (Outlook::Lasting, "wrong-key"),
    }
}

/// The paths that a token should be able to use, and may not.
fn lacking(breadth: Option<&Breadth>) -> Vec<String> {
    match breadth {
        Some(Breadth::Narrow { missing } | Breadth::NotProvable { missing, .. }) => missing.clone(),
        Some(Breadth::Wide(_)) | None => Vec::new(),
    }
}

fn lacks(paths: &[String]) -> String {
    format!("the token may not use {}", paths.join(", "))
}

#[async_trait]
impl RemoteKey for TransitKey {
    async fn wrap(&self, root: &SecretBytes, place: &[u8]) -> Result<Wrapped, RemoteError> {
        let (client, keeper) = self.open(true).await?;
        let work = self.within(self.patience, self.wrap_by(&client, root, place));
        keeper.during(Box::pin(work)).await
    }

    /// A token that may do too much opens all the same, with a warning: whoever widens a policy in Vault must not keep
    /// this server from its store.
    async fn unwrap(&self, wrapped: &[u8], place: &[u8]) -> Result<Unwrapped, RemoteError> {
        let parsed = std::str::from_utf8(wrapped).ok().and_then(|text| Ciphertext::parse(text).ok());
        let Some(ciphertext) = parsed else {
            return Ok(Unwrapped { root: None, key: None, warnings: Vec::new() });
        };
        let (client, keeper) = self.open(true).await?;
        let narrow = keeper.during(Box::pin(self.unwrap_by(&client, &ciphertext, place))).await;
        let too_wide = match narrow {
            Err(error) if error.code == OVER_GRANTED => format!("{}; {}", error.reason, error.hint),
            other => return other,
        };
        tracing::warn!(key = %self, reason = too_wide, "a token that opens the store may do more than it should");
        let (client, keeper) = self.open(false).await?;
        let mut opened = keeper.during(Box::pin(self.unwrap_by(&client, &ciphertext, place))).await?;
        opened.warnings.push(too_wide);
        Ok(opened)
    }
}

impl fmt::Display for TransitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = &self.config.addresses.as_slice()[0];
        write!(f, "key {} of Vault at {first}", self.key_id())
    }
}

impl fmt::Debug for TransitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransitKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_waited_for_and_a_refused_login_slowly() {
        let check = |refusal: SlotRefusal, outlook, code| {
            assert_eq!(judge(&refusal), (outlook, code), "{refusal:?}");
        };
        let trouble = SlotRefusal::Trouble;
        check(trouble(Trouble::Sealed), Outlook::Passing, "sealed");
        check(trouble(Trouble::Uninitialised), Outlook::Passing, "uninitialised");
        check(trouble(Trouble::NotLoggedIn(NotLoggedIn::NotYet)), Outlook::Passing, "not-logged-in");
        for reason in [NotLoggedIn::CredentialsRefused, NotLoggedIn::TokenRevoked, NotLoggedIn::TokenEnded] {
            check(trouble(Trouble::NotLoggedIn(reason)), Outlook::Refused, "not-logged-in");
        }
        check(trouble(Trouble::OverGranted(Vec::new())), Outlook::Passing, OVER_GRANTED);
        check(SlotRefusal::NoKey, Outlook::Passing, "no-key");
        check(SlotRefusal::TooOld, Outlook::Passing, "too-old");
        check(SlotRefusal::TooNew, Outlook::Lasting, "too-new");
        check(SlotRefusal::Exportable, Outlook::Lasting, "unfit-key");
        check(SlotRefusal::WrongPurpose, Outlook::Lasting, "wrong-key");
    }
}
