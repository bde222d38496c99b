//! Issuers in memory, and a Vault that does what it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use audit::Event;
use ca::{
    LeavesStatus,
    migration::MigrationWish,
    ports::{AuthorityState, DefaultIssuer, LeafRequest},
};
use certs::SecretBytes;
use spiffe::IssuerName;
use zeroize::Zeroizing;

use crate::{
    calls::{CallError, Caller},
    ports::{Issuer, IssuerStore, KeptIssuer, StoreError},
    sources::{Draft, Examined, IssuerStanding, Upstreams},
    wire,
};

/// Issuers with the length of their credentials; those whose record is damaged apart.
#[derive(Debug, Default)]
pub struct MemoryIssuers(Mutex<BTreeMap<IssuerName, (Issuer, usize)>>, Mutex<BTreeSet<IssuerName>>);

impl MemoryIssuers {
    /// One whose record does not open.
    pub fn damage(&self, name: &IssuerName) {
        self.lock().remove(name);
        self.damaged().insert(name.clone());
    }

    fn damaged(&self) -> MutexGuard<'_, BTreeSet<IssuerName>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IssuerName, (Issuer, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl IssuerStore for MemoryIssuers {
    async fn issuers(&self) -> Result<Vec<KeptIssuer>, StoreError> {
        let kept = |(issuer, length): &(Issuer, usize)| KeptIssuer {
            issuer: issuer.clone(),
            credential: SecretBytes::new(Zeroizing::new(vec![0; *length])),
        };
        Ok(self.lock().values().map(kept).collect())
    }

    async fn has_issuer(&self, name: &IssuerName) -> Result<bool, StoreError> {
        Ok(self.lock().contains_key(name) || self.damaged().contains(name))
    }

    async fn put_issuer(&self, kept: KeptIssuer, expected: u64, _: Event) -> Result<u64, StoreError> {
        let version = expected + 1;
        let issuer = Issuer { version, ..kept.issuer };
        self.lock().insert(issuer.name.clone(), (issuer, kept.credential.len()));
        Ok(version)
    }

    async fn remove_issuer(&self, name: &IssuerName, _: Event) -> Result<(), StoreError> {
        let is_gone = self.lock().remove(name).is_some() || self.damaged().remove(name);
        let missing = || StoreError::NotFound { what: "issuer", name: name.to_string() };
        is_gone.then_some(()).ok_or_else(missing)
    }
}

/// A Vault whose every check passes, or fails with these words; it signs nothing.
#[derive(Debug, Clone, Default)]
pub struct StillVault {
    /// What is wrong with it.
    pub fault: Arc<Mutex<Option<String>>>,
    /// Where it stands with the leaves of workloads.
    pub leaves: Arc<Mutex<Option<ca::LeafIssuerStatus>>>,
    /// Who signs by default, and where leaves move, while nobody stands in [`Self::leaves`] as active.
    pub default: Arc<Mutex<DefaultIssuer>>,
    /// When it is asked next.
    pub next: Arc<Mutex<Option<certs::Timestamp>>>,
    /// Whether the authority of now is without a successor for long.
    pub is_at_risk: Arc<Mutex<bool>>,
    /// Whether it is being asked for our next authority.
    pub is_asked: Arc<Mutex<bool>>,
    /// What it was asked for in vain.
    pub unknown: Arc<Mutex<Vec<LeafRequest>>>,
}

#[async_trait]
impl Upstreams for StillVault {
    fn lifetime(&self) -> std::time::Duration {
        certs::Profile::Issuing.default_lifetime()
    }

    fn standing(&self, _: &IssuerName) -> IssuerStanding {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let is_at_risk = *self.is_at_risk.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked = *self.is_asked.lock().unwrap_or_else(PoisonError::into_inner);
        IssuerStanding { leaves, next, is_at_risk, is_asked, ..IssuerStanding::default() }
    }

    fn leaves(&self) -> Arc<LeavesStatus> {
        let issuers: Vec<_> =
            self.leaves.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let mut default = self.default.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(one) = issuers.iter().find(|one| one.state == AuthorityState::Active) {
            default.current = one.source.name.clone();
        }
        let (followers, health) = (None, BTreeMap::new());
        Arc::new(LeavesStatus { issuers, default, moved: 0, followers, health })
    }

    /// Its authority is the anchor itself.
    async fn examine(&self, draft: Draft) -> Examined {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let check = wire::IssuerCheck {
            rule: "vault-reach".into(),
            verdict: if fault.is_some() { "failed" } else { "passed" }.into(),
            advice: fault.as_ref().map(|_| "unseal it".to_owned()).unwrap_or_default(),
            found: fault.clone().unwrap_or_else(|| "it answers".into()),
        };
        let signer = fault.is_none().then_some(draft.anchor);
        Examined { checks: vec![check], signer, credential: draft.credential }
    }

    async fn obtain(&self, _: &Caller, _: &IssuerName, _: bool, _: &str) -> Result<ca::Installed, CallError> {
        Err(CallError::Unavailable { part: "issuer", why: "it is still".into() })
    }

    async fn turn(&self, _: &Caller, _: MigrationWish, _: &str) -> Result<(), CallError> {
        Err(CallError::Unavailable { part: "issuer", why: "it is still".into() })
    }

    async fn unknown(&self, _: &IssuerName) -> Result<Vec<LeafRequest>, CallError> {
        let unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(unknown.clone())
    }
}
