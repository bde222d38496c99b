//! ACME servers in memory, and one that does what it is told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use audit::{Action, Event};
use certs::{KeyKind, SecretBytes, SecretKey};
use spiffe::IssuerName;

use crate::{
    calls::{CallError, Caller},
    ports::{AcmeIssuer, AcmeStore, KeptAcme, StoreError},
    sources::{AcmeDraft, AcmeOutcome, AcmeServers, AcmeStanding},
    wire,
};

/// What is kept of one.
#[derive(Debug)]
struct Record {
    issuer: AcmeIssuer,
    key: SecretBytes,
    next_key: Option<SecretBytes>,
    external_key: Option<SecretBytes>,
}

/// ACME servers in memory.
#[derive(Debug, Default)]
pub struct MemoryAcme(Mutex<BTreeMap<IssuerName, Record>>);

impl MemoryAcme {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IssuerName, Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the author had seen what there is.
fn expect(actual: Option<&AcmeIssuer>, name: &IssuerName, expected: u64) -> Result<(), StoreError> {
    let (what, name) = ("issuer", name.to_string());
    match (expected, actual.map(|issuer| issuer.version)) {
        (0, None) => Ok(()),
        (0, Some(_)) => Err(StoreError::Exists { what, name }),
        (_, None) => Err(StoreError::NotFound { what, name }),
        (expected, Some(actual)) if expected == actual => Ok(()),
        (expected, Some(actual)) => Err(StoreError::Conflict { what, name, expected, actual }),
    }
}

#[async_trait]
impl AcmeStore for MemoryAcme {
    async fn acme_issuers(&self) -> Result<Vec<KeptAcme>, StoreError> {
        let kept = |record: &Record| KeptAcme {
            issuer: record.issuer.clone(),
            key: record.key.duplicate(),
            next_key: record.next_key.as_ref().map(SecretBytes::duplicate),
            external_key: record.external_key.as_ref().map(SecretBytes::duplicate),
        };
        Ok(self.lock().values().map(kept).collect())
    }

    async fn has_acme_issuer(&self, name: &IssuerName) -> Result<bool, StoreError> {
        Ok(self.lock().contains_key(name))
    }

    async fn put_acme_issuer(&self, kept: KeptAcme, expected: u64, event: Event) -> Result<u64, StoreError> {
        let KeptAcme { issuer, key, next_key, external_key } = kept;
        let mut all = self.lock();
        expect(all.get(&issuer.name).map(|record| &record.issuer), &issuer.name, expected)?;
        let version = expected + 1;
        let issuer = AcmeIssuer { is_changing_key: next_key.is_some(), updated: event.at, version, ..issuer };
        all.insert(issuer.name.clone(), Record { issuer, key, next_key, external_key });
        Ok(version)
    }

    async fn remove_acme_issuer(
        &self,
        name: &IssuerName,
        expected: Option<u64>,
        _: Event,
    ) -> Result<(), StoreError> {
        let mut all = self.lock();
        let known = all.get(name).map(|record| &record.issuer);
        expect(known, name, expected.or(known.map(|one| one.version)).unwrap_or(1))?;
        all.remove(name);
        Ok(())
    }
}

/// How an ACME server behaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Mood {
    /// It does what it is asked.
    #[default]
    Willing,
    /// Its directory is not what is wanted, in these words.
    Unfit(String),
    /// It refuses what it is asked, in these words.
    Refusing(String),
    /// It says nothing, and nobody knows what became of it.
    Silent,
    /// It has lost our account, and does what it is asked.
    Forgetful,
}

/// An ACME server that makes accounts as it is told, over what is kept in memory.
#[derive(Debug, Clone, Default)]
pub struct StillAcme {
    /// What it keeps.
    pub store: Arc<MemoryAcme>,
    /// How it behaves.
    pub mood: Arc<Mutex<Mood>>,
}

fn check(rule: &str, verdict: &str, found: &str) -> wire::IssuerCheck {
    let advice = if verdict == "passed" { "" } else { "ask who runs it" };
    wire::IssuerCheck {
        rule: rule.into(),
        verdict: verdict.into(),
        found: found.into(),
        advice: advice.into(),
    }
}

impl StillAcme {
    fn mood(&self) -> Mood {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn find(&self, name: &IssuerName) -> Result<Option<KeptAcme>, StoreError> {
        Ok(self.store.acme_issuers().await?.into_iter().find(|kept| kept.issuer.name == *name))
    }

    /// Whether it does what it is asked: `None` when nobody knows.
    fn answers(&self, name: &IssuerName) -> Result<Option<()>, CallError> {
        match self.mood() {
            Mood::Willing | Mood::Unfit(_) | Mood::Forgetful => Ok(Some(())),
            Mood::Silent => Ok(None),
            Mood::Refusing(why) => Err(CallError::Issuer {
                name: name.to_string(),
                checks: vec![check("account", "failed", &why)],
            }),
        }
    }

    async fn put(&self, mut kept: KeptAcme, caller: &Caller) -> Result<AcmeIssuer, CallError> {
        let event = caller.event(kept.issuer.updated, Action::IssuerSet, kept.issuer.name.as_str());
        let (mut issuer, expected) = (kept.issuer.clone(), kept.issuer.version);
        kept.issuer = issuer.clone();
        issuer.is_changing_key = kept.next_key.is_some();
        issuer.version = self.store.put_acme_issuer(kept, expected, event).await?;
        Ok(issuer)
    }
}

#[async_trait]
impl AcmeServers for StillAcme {
    async fn examine(&self, draft: &AcmeDraft) -> Vec<wire::IssuerCheck> {
        match self.mood() {
            Mood::Unfit(why) => vec![check("directory", "failed", &why)],
            _ => vec![check("directory", "passed", &draft.acme.directory)],
        }
    }

    async fn test(&self, kept: KeptAcme) -> Vec<wire::IssuerCheck> {
        let verdict = if self.mood() == Mood::Willing { "passed" } else { "failed" };
        vec![check("account", verdict, kept.issuer.account.as_deref().unwrap_or("none"))]
    }

    async fn register(&self, caller: &Caller, draft: AcmeDraft, _: &str) -> Result<AcmeOutcome, CallError> {
        let answered = self.answers(&draft.name)?;
        let at = certs::Timestamp::from_unix_secs(1_800_000_000);
        let kept = match self.find(&draft.name).await? {
            Some(kept) => kept,
            None => KeptAcme {
                issuer: AcmeIssuer {
                    name: draft.name,
                    acme: draft.acme,
                    account: None,
                    is_changing_key: false,
                    created: at,
                    updated: at,
                    version: 0,
                },
                key: SecretKey::generate(KeyKind::P256).to_bytes(),
                next_key: None,
                external_key: draft.external_key,
            },
        };
        let is_made = answered.is_some();
        let account = is_made.then(|| format!("{}/account/1", kept.issuer.acme.directory));
        let issuer = AcmeIssuer { account, ..kept.issuer };
        let issuer = self.put(KeptAcme { issuer, ..kept }, caller).await?;
        let verdict = if is_made { "passed" } else { "warning" };
        Ok(AcmeOutcome { issuer, check: check("account", verdict, "asked for") })
    }

    async fn change_key(
        &self,
        caller: &Caller,
        name: &IssuerName,
        _: &str,
    ) -> Result<AcmeOutcome, CallError> {
        let missing = || CallError::NotFound { what: "issuer", name: name.to_string() };
        let kept = self.find(name).await?.ok_or_else(missing)?;
        let next = SecretKey::generate(KeyKind::P256).to_bytes();
        let (kept, verdict) = match self.answers(name)? {
            Some(()) => (KeptAcme { key: next, next_key: None, ..kept }, "passed"),
            None => (KeptAcme { next_key: Some(next), ..kept }, "warning"),
        };
        let issuer = self.put(kept, caller).await?;
        Ok(AcmeOutcome { issuer, check: check("account-key", verdict, "asked for") })
    }

    async fn register_again(
        &self,
        caller: &Caller,
        draft: AcmeDraft,
        _: &str,
    ) -> Result<AcmeOutcome, CallError> {
        let missing = || CallError::NotFound { what: "issuer", name: draft.name.to_string() };
        let kept = self.find(&draft.name).await?.ok_or_else(missing)?;
        let Some(()) = self.answers(&draft.name)? else {
            return Ok(AcmeOutcome { issuer: kept.issuer, check: check("account", "warning", "asked for") });
        };
        let account = Some(format!("{}/account/2", draft.acme.directory));
        let issuer = AcmeIssuer { acme: draft.acme, account, ..kept.issuer };
        let issuer = self.put(KeptAcme { issuer, ..kept }, caller).await?;
        Ok(AcmeOutcome { issuer, check: check("account", "passed", "asked for") })
    }

    fn standing(&self, _: &IssuerName) -> AcmeStanding {
        match self.mood() {
            Mood::Silent => AcmeStanding { failures: 1, problem: Some("no answer".into()), next: None },
            _ => AcmeStanding::default(),
        }
    }
}
