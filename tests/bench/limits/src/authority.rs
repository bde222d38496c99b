//! An authority of its own, and a journal that keeps nothing: what a certificate costs beside its storage.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use audit::{Actor, Event, Refusals};
use ca::{
    Deps, Lifetimes, Manager, Policy,
    ports::{
        CertificateFilter, CertificateRow, Intent, Issued, Journal, JournalError, Leaves, Remaining,
        ResultRecord, Unexpired,
    },
    testing::MemoryStore,
};
use certs::{Csr, KeyKind, ManualClock, Profile, SecretKey, Timestamp};
use spiffe::{AuthorityId, NodeId, Purpose, RequestId, Spend, SpiffeId, SvidRequest, Tenant, TrustDomain};

pub(crate) const DOMAIN: &str = "limits.test";
/// How many different requests are asked in turn.
const REQUESTS: usize = 256;

/// Takes everything, keeps nothing, and counts.
#[derive(Debug, Default)]
pub(crate) struct Forgetful {
    intents: AtomicUsize,
    results: AtomicUsize,
}

impl Forgetful {
    /// How many intents and results were written so far.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.intents.load(Ordering::Relaxed), self.results.load(Ordering::Relaxed))
    }
}

#[async_trait]
impl Journal for Forgetful {
    async fn record_intent(&self, _: Intent, _: Option<Spend>, _: Event) -> Result<(), JournalError> {
        self.intents.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn record_result(&self, _: ResultRecord, _: Event) -> Result<(), JournalError> {
        self.results.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn unexpired_leaves(&self, _: AuthorityId, _: Timestamp) -> Result<Leaves, JournalError> {
        Ok(Leaves { count: 0, last: None })
    }

    async fn unexpired(&self, _: &[AuthorityId], _: Timestamp) -> Result<Vec<Unexpired>, JournalError> {
        Ok(Vec::new())
    }

    async fn issued(&self, _: &[AuthorityId], _: Timestamp) -> Result<Vec<Issued>, JournalError> {
        Ok(Vec::new())
    }

    async fn certificates(&self, _: &CertificateFilter) -> Result<Vec<CertificateRow>, JournalError> {
        Ok(Vec::new())
    }

    async fn remaining(&self, _: Timestamp) -> Result<Vec<Remaining>, JournalError> {
        Ok(Vec::new())
    }
}

/// Nothing is refused here.
#[derive(Debug)]
pub(crate) struct Deaf;

impl Refusals for Deaf {
    fn refuse(&self, _: Event) {}
}

/// The policy of a new deployment.
pub(crate) fn policy() -> anyhow::Result<Policy> {
    Ok(Policy {
        trust_domain: TrustDomain::parse(DOMAIN)?,
        lifetimes: Lifetimes::default(),
        max_connection: Duration::from_secs(3600),
        lists: None,
        dev: false,
    })
}

/// The one moment at which all of this happens.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_500)
}

/// A manager over authorities in memory, and where they are kept.
pub(crate) async fn open(journal: Arc<Forgetful>) -> anyhow::Result<(Manager, MemoryStore)> {
    let store = MemoryStore::new();
    let deps = Deps {
        authorities: Arc::new(store.clone()),
        journal,
        revocations: Arc::new(store.clone()),
        clock: Arc::new(ManualClock::new(now())),
        refusals: Arc::new(Deaf),
        policy: policy()?,
        epoch: 1,
    };
    Manager::initialise(&deps, Actor::Host).await?;
    Ok((Manager::open(deps).await?, store))
}

/// Certificate requests as they come in, each with a key of its own.
pub(crate) struct Requests(Vec<Vec<u8>>);

impl Requests {
    pub(crate) fn new() -> Self {
        Self((0..REQUESTS).map(|_| Csr::build(&SecretKey::generate(KeyKind::P256))).collect())
    }

    /// The DER bytes of one.
    pub(crate) fn der(&self, number: usize) -> &[u8] {
        &self.0[number % self.0.len()]
    }

    /// What a door makes of one: its signature is checked, and its key is asked to be certified.
    pub(crate) fn read(&self, number: usize) -> anyhow::Result<SvidRequest> {
        Ok(SvidRequest {
            id: SpiffeId::parse(&format!("spiffe://{DOMAIN}/ns/shop/service-{}", number % self.0.len()))?,
            profile: Profile::Workload,
            public_key: Csr::from_der(self.der(number))?.public_key().clone(),
            lifetime: Profile::Workload.default_lifetime(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            tenant: Tenant::default(),
            node: Some(NodeId::parse("web-1")?),
            issuer: None,
            purpose: Purpose::Delivery,
            deadline: None,
            spend: None,
            request_id: RequestId::random(),
        })
    }
}
