//! One asking: a request goes to the Vault, what it signed is installed by the same gates as any authority that
//! somebody else signed.

use std::{sync::Arc, time::Duration};

use api::{
    calls::CallError,
    ports::{Earlier, Issuer, IssuerStore, KeptIssuer},
};
use audit::Actor;
use ca::{Asked, Install, Installed, LeafAsked, RotateError};
use certs::{Certificate, Chain, Clock, Csr, format_duration};
use spiffe::{AuthorityId, IssuerName, TrustDomain};
use thiserror::Error;
use vault::{Client, Trouble, pki};

use super::{super::adapters::refused, settings};

/// Why there is no next authority.
#[derive(Debug, Error)]
pub(super) enum Failed {
    /// Vault does not sign.
    #[error("{trouble}; {}", trouble.hint())]
    Vault {
        /// What is the matter.
        trouble: Box<Trouble>,
    },
    /// What it signed is not what was asked for.
    #[error("what Vault signed is refused: {refusal}; {}", refusal.hint())]
    Refused {
        /// By which rule.
        refusal: pki::check::Refusal,
    },
    /// What it signed, or what was to be asked for, cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// Somebody's request for an authority is pending, and would be answered by this one.
    #[error(
        "a request for an authority by {by} is pending: credence ca install FILE answers it, credence ca csr --drop \
         forgets it"
    )]
    Pending {
        /// Who made it.
        by: String,
    },
    /// It is signed and kept, and signs when these have acknowledged its revocation list.
    #[error("it is signed, and signs when {0} more have acknowledged its revocation list")]
    Waits(usize),
    /// It is refused by the rules for authorities that somebody else signs.
    #[error("{0}")]
    Install(RotateError),
    /// The store did not answer.
    #[error("{0}")]
    Call(CallError),
}

impl Failed {
    /// For the operator who asked `name`.
    pub(super) fn into_call(self, name: &IssuerName) -> CallError {
        let conflict = |why: String| CallError::Conflict { what: "issuer", name: name.to_string(), why };
        match self {
            Self::Install(error) => refused(error),
            Self::Call(error) => error,
            Self::Vault { trouble } if trouble.is_transient() => {
                conflict(format!("cannot sign now: {trouble}; {}", trouble.hint()))
            }
            Self::Waits(laggards) => conflict(format!(
                "has signed our next authority, which goes on by itself: it waits for {laggards} to acknowledge its \
                 revocation list"
            )),
            other
            @ (Self::Vault { .. } | Self::Refused { .. } | Self::Unusable(_) | Self::Pending { .. }) => {
                CallError::Policy(other.to_string())
            }
        }
    }
}

/// What one asking needs.
pub(super) struct Obtaining {
    pub(super) store: Arc<dyn IssuerStore>,
    pub(super) ca: ca::Handle,
    pub(super) client: Client,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) issuer: Issuer,
    pub(super) domain: TrustDomain,
    pub(super) automatic: bool,
    pub(super) reason: String,
    /// Whether a request that is not answered is dropped: nothing half-made is left behind an operator's command, while
    /// what happens by itself is tried again with the same key.
    pub(super) drops: bool,
}

impl Obtaining {
    pub(super) async fn run(self) -> Result<Installed, Failed> {
        let outcome = self.obtain().await;
        let is_open = self.ca.status().borrow().request.as_ref().is_some_and(|request| request.by == ours());
        if outcome.is_err() && self.drops && is_open {
            // Nobody answers it any more. What is not dropped is used by the next asking.
            if let Err(error) = self.ca.drop_request(self.asked()).await {
                tracing::warn!(%error, "a request for an authority stays pending");
            }
        }
        outcome
    }

    /// Whoever wanted it: the request is the issuer's, and the row of the asking says who asked.
    fn asked(&self) -> Asked {
        let reason = match self.reason.as_str() {
            "" => format!("issuer {}", self.issuer.name),
            reason => format!("issuer {}: {reason}", self.issuer.name),
        };
        Asked { actor: Actor::System, reason }
    }

    async fn obtain(&self) -> Result<Installed, Failed> {
        self.ca.in_time().map_err(Failed::Install)?;
        let root = AuthorityId::of(self.issuer.anchor.spki_hash());
        if !self.drops && self.ca.anchor().borrow().root != Some(root) {
            let name = &self.issuer.name;
            return Err(Failed::Unusable(format!(
                "its root {root} is another than the one that signs: credence issuer migrate --to {name}"
            )));
        }
        // What is signed meanwhile would not be taken.
        self.ca.in_time().map_err(Failed::Install)?;
        let request = self.ca.request(false, self.asked()).await.map_err(Failed::Install)?;
        if request.by != ours() {
            return Err(Failed::Pending { by: request.by });
        }
        let life = self.issuer.vault.lifetime;
        let asking = sign(&self.client, self.clock.as_ref(), &self.issuer, &self.domain, &request.csr, life);
        let signed = asking.await?;
        still_there(self.store.as_ref(), &self.issuer).await?;
        let wanted = Install {
            ders: signed.iter().map(|certificate| certificate.der().to_vec()).collect(),
            automatic: self.automatic,
            dry_run: false,
        };
        match self.ca.install(wanted, self.asked()).await {
            Ok(installed) => Ok(installed),
            Err(RotateError::Behind { laggards, .. }) => Err(Failed::Waits(laggards.len())),
            Err(error) => Err(Failed::Install(error)),
        }
    }
}

/// An authority of an issuer that was removed while it signed would have nobody to ask for its successor.
async fn still_there(store: &dyn IssuerStore, issuer: &Issuer) -> Result<(), Failed> {
    let kept = store.issuers().await.map_err(|error| Failed::Call(error.into()))?;
    let is_it = |one: &KeptIssuer| (&one.issuer.name, one.issuer.created) == (&issuer.name, issuer.created);
    if kept.iter().any(is_it) {
        return Ok(());
    }
    Err(Failed::Unusable(format!("issuer {} was removed while it was asked", issuer.name)))
}

/// Who makes requests of issuers.
fn ours() -> String {
    Actor::System.to_string()
}

/// Has the Vault sign a request; answers the chain, the root that was agreed on at its end.
pub(super) async fn sign(
    client: &Client,
    clock: &dyn Clock,
    issuer: &Issuer,
    domain: &TrustDomain,
    csr: &[u8],
    lifetime: Duration,
) -> Result<Vec<Certificate>, Failed> {
    let at = settings::issuer(&issuer.vault).map_err(Failed::Unusable)?;
    let key = Csr::from_der(csr).map_err(|error| Failed::Unusable(error.to_string()))?.public_key().clone();
    // As authorities that Credence signs itself are called: by their place and id.
    let name = format!("issuing {}", AuthorityId::of(key.hash()));
    let uri = domain.to_uri();
    let request = at.sign_intermediate(csr, &name, &uri, lifetime);
    let asked = pki::check::Asked { uri: &uri, key: &key, at: clock.now(), lifetime };
    let failed = |trouble: Trouble| Failed::Vault { trouble: Box::new(trouble) };
    let answer = client.call(&request).await.map_err(failed)?;
    let signed = pki::read_signed(&answer).map_err(failed)?;
    for warning in &signed.warnings {
        tracing::debug!(issuer = %issuer.name, warning, lifetime = format_duration(lifetime), "Vault signed, and warns");
    }
    let refused = |refusal| Failed::Refused { refusal };
    let anchors = std::slice::from_ref(&issuer.anchor);
    pki::check::authority(&signed, &asked, &name, anchors, clock.now()).map_err(refused)?;
    pki::check::path(&signed.certificate, &signed.above, &issuer.anchor).map_err(refused)
}

/// Has the Vault sign a leaf by its role; answers the chain, the root left out. What comes back is exactly what was
/// asked for; whoever takes it holds it against the root and the authority that were agreed on.
pub(super) async fn leaf(
    client: &Client,
    issuer: &Issuer,
    under: &Earlier,
    asked: &LeafAsked,
) -> Result<Chain, Failed> {
    let at = settings::authority(&issuer.vault, &under.issuer).map_err(Failed::Unusable)?;
    let role = settings::role(&issuer.vault).map_err(Failed::Unusable)?;
    let role = role.ok_or_else(|| Failed::Unusable("it signs no leaves".to_owned()))?;
    let failed = |trouble: Trouble| Failed::Vault { trouble: Box::new(trouble) };
    let answer =
        client.call(&at.sign(&role, &asked.csr, &asked.uri, asked.lifetime)).await.map_err(failed)?;
    let signed = pki::read_signed(&answer).map_err(failed)?;
    for warning in &signed.warnings {
        tracing::debug!(issuer = %issuer.name, warning, "Vault signed, and warns");
    }
    let wanted =
        pki::check::Asked { uri: &asked.uri, key: &asked.key, at: asked.at, lifetime: asked.lifetime };
    pki::check::leaf(&signed, &wanted, &under.signer, &under.anchor)
        .map_err(|refusal| Failed::Refused { refusal })
}

#[cfg(test)]
mod tests {
    use api::{
        ports::{VaultLogin, VaultSettings},
        testing::MemoryIssuers,
    };
    use audit::{Action, Event};
    use certs::{SecretBytes, Timestamp};
    use fixtures::TestAuthority;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

    fn issuer(created: Timestamp) -> Issuer {
        let root = TestAuthority::root("td", NOW).certificate().clone();
        let vault = VaultSettings {
            addresses: vec!["https://127.0.0.1:8200".into()],
            ca_file: "/etc/credence/vault-ca.pem".into(),
            namespace: None,
            mount: "pki".into(),
            issuer: "0bd4d8ba".into(),
            role: None,
            lifetime: Duration::from_secs(86_400),
            login: VaultLogin::AppRole { mount: "approle".into(), role_id: "credence".into() },
        };
        Issuer {
            name: IssuerName::parse("corp").unwrap(),
            vault,
            anchor: root.clone(),
            signer: root,
            generation: 0,
            earlier: Vec::new(),
            fallback: None,
            created,
            updated: NOW,
            version: 0,
        }
    }

    #[tokio::test]
    async fn what_an_issuer_signed_that_was_removed_meanwhile_is_not_installed() {
        let (store, asked) = (MemoryIssuers::default(), issuer(NOW));
        let event = || Event::done(NOW, Actor::System, Action::IssuerSet, "corp");
        let gone = still_there(&store, &asked).await.unwrap_err();
        assert_eq!(gone.to_string(), "issuer corp was removed while it was asked");
        let put = |issuer| KeptIssuer { issuer, credential: SecretBytes::new(Vec::new().into()) };
        store.put_issuer(put(asked.clone()), 0, event()).await.unwrap();
        still_there(&store, &asked).await.unwrap();
        // Another one of its name did not sign.
        store.remove_issuer(&asked.name, event()).await.unwrap();
        store.put_issuer(put(issuer(NOW + Duration::from_secs(1))), 0, event()).await.unwrap();
        assert!(still_there(&store, &asked).await.is_err());
    }
}
