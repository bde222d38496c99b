//! Leaves of workloads that a Vault signs, as a server has them: the desk, the queue and the journal of `ca`, the client
//! of `vault` with its session, and a store on a disk.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use audit::Actor;
use ca::{
    Asked, Following, LeafAsked, LeafDesk, LeafSigner, Leaves, LeavesDeps, Outsider, SignFailure,
    migration::{Begin, Followers, MigrationWish},
    ports::Source,
    testing::FakeDependents,
};
use certs::{Certificate, Chain, Clock, SecretKey};
use futures::{StreamExt, stream};
use kit::SystemClock;
use spiffe::{IssuerName, SvidIssuer, SvidRequest};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use vault::{
    Address, Addresses, Client, Credentials, Mount, Name, Policy, Secret, Settings, Trouble,
    pki::{self, Issuer},
};

use crate::{
    authority::DOMAIN,
    durable::Durable,
    stub::{ISSUER, MOUNT, ROLE, Stub},
};

/// How long a login, or the change of who signs, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who asks, and the way in.
pub(crate) struct Outside {
    pub(crate) desk: LeafDesk,
    pub(crate) vault: Arc<Vault>,
    running: JoinSet<()>,
    end: CancellationToken,
}

/// Asks the stub as the server asks a Vault: the same client and checks, in the same order.
pub(crate) struct Vault {
    client: Client,
    issuer: Issuer,
    role: Name,
    anchor: Certificate,
    signer: Certificate,
}

impl Outside {
    /// Logs in, and has the stub sign.
    pub(crate) async fn open(durable: &Durable, stub: &Stub) -> anyhow::Result<Self> {
        let end = CancellationToken::new();
        let mut running = JoinSet::new();
        let (vault, keeper) = Vault::open(stub)?;
        let vault = Arc::new(vault);
        running.spawn(keeper.run(end.clone()));
        let name = IssuerName::parse("stub")?;
        let outsider = Outsider {
            source: Source { name: name.clone(), generation: 0 },
            role: ROLE.to_owned(),
            anchor: stub.root.clone(),
            signer: stub.signer.clone(),
            earlier: Vec::new(),
            fallback: None,
        };
        let signs = outsider.authority();
        // Nobody adds another one, or wants nothing to be replaced.
        let (outsiders, pause) = (watch::Sender::new(Arc::new(vec![outsider])), watch::Sender::new(None));
        let named = watch::Sender::new(Arc::default());
        let deps = LeavesDeps {
            store: Arc::new(durable.store.clone()),
            audit: Arc::new(durable.store.clone()),
            named: named.subscribe(),
            signer: vault.clone(),
            outsiders: outsiders.subscribe(),
            pause: pause.subscribe(),
        };
        let leaves = Leaves::open(deps, &durable.deps, durable.handle.clone()).await?;
        let desk = leaves.desk();
        running.spawn(leaves.run(Arc::new(FakeDependents::default()), Arc::new(Nobody), end.clone()));
        let begin = Begin {
            from: None,
            to: name.clone(),
            stages: Vec::new(),
            hold: Duration::ZERO,
            is_hurried: false,
        };
        let asked = Asked { actor: Actor::Host, reason: "benchmark".to_owned() };
        desk.migrate(MigrationWish::Begin(begin), asked).await?;
        let mut signers = desk.signers();
        let changed =
            signers.wait_for(|one| one.division.from == name && one.authority(&name) == Some(signs));
        timeout(PATIENCE, changed).await.context("the stub does not sign in time")??;
        let mut status = vault.client.status();
        let ready = status.wait_for(|status| status.is_logged_in());
        timeout(PATIENCE, ready).await.context("the stub lets nobody in")??;
        Ok(Self { desk, vault, running, end })
    }

    /// Has a leaf signed for each key, `in_flight` at a time.
    pub(crate) async fn issue(
        &self,
        asked: Vec<(SvidRequest, SecretKey)>,
        in_flight: usize,
    ) -> anyhow::Result<()> {
        let mut answers = stream::iter(asked)
            .map(async |(request, key)| self.desk.issue_for_key(request, &key).await)
            .buffer_unordered(in_flight);
        while let Some(answer) = answers.next().await {
            let authority = answer?.authority;
            ensure!(authority == ca_id(&self.vault.signer), "{authority} signed, and not the stub");
        }
        Ok(())
    }

    /// Ends everything.
    pub(crate) async fn close(mut self) {
        self.end.cancel();
        while self.running.join_next().await.is_some() {}
    }
}

/// All leaves move at once: nobody looks how they do.
struct Nobody;

impl Following for Nobody {
    fn followers(&self, _: &IssuerName) -> Followers {
        Followers::default()
    }
}

fn ca_id(certificate: &Certificate) -> spiffe::AuthorityId {
    spiffe::AuthorityId::of(certificate.spki_hash())
}

impl Vault {
    fn open(stub: &Stub) -> anyhow::Result<(Self, vault::Keeper)> {
        let addresses = Addresses::try_new(vec![Address::parse(&format!("https://{}", stub.address))?])?;
        let settings = Settings::new(addresses, stub.file("ca.pem"));
        let issuer = Issuer { mount: Mount::parse(MOUNT)?, id: Name::parse(ISSUER)? };
        let role = Name::parse(ROLE)?;
        let policy = Policy::leaves(&issuer.mount, [&issuer.id], &role, DOMAIN);
        let narrow = Some((policy, vec![issuer.mount.clone()]));
        let credentials = Credentials::Token(Arc::new(Secret::of_text("stub")?));
        let (client, keeper) = Client::new(settings, credentials, narrow, Arc::new(SystemClock));
        let (anchor, signer) = (stub.root.clone(), stub.signer.clone());
        Ok((Self { client, issuer, role, anchor, signer }, keeper))
    }

    /// What came back, as it came.
    async fn ask(&self, csr: &[u8], uri: &str, lifetime: Duration) -> Result<pki::Signed, Trouble> {
        pki::read_signed(&self.client.call(&self.issuer.sign(&self.role, csr, uri, lifetime)).await?)
    }

    /// Calls alone, `in_flight` at a time: nothing is checked and nothing kept.
    pub(crate) async fn call(
        &self,
        asked: &[(SvidRequest, Vec<u8>)],
        in_flight: usize,
    ) -> anyhow::Result<Vec<pki::Signed>> {
        let mut answers = stream::iter(asked)
            .map(async |(request, csr)| self.ask(csr, request.id.as_str(), request.lifetime).await)
            .buffered(in_flight);
        let mut signed = Vec::with_capacity(asked.len());
        while let Some(answer) = answers.next().await {
            signed.push(answer?);
        }
        Ok(signed)
    }

    /// Whether what came back is what was asked for; the chain without the root.
    pub(crate) fn check(&self, signed: pki::Signed, asked: &LeafAsked) -> Result<Chain, String> {
        let wanted =
            pki::check::Asked { uri: &asked.uri, key: &asked.key, at: asked.at, lifetime: asked.lifetime };
        pki::check::leaf(&signed, &wanted, &self.signer, &self.anchor).map_err(|refusal| refusal.to_string())
    }
}

#[async_trait]
impl LeafSigner for Vault {
    async fn sign(&self, _: &Source, asked: LeafAsked) -> Result<Chain, SignFailure> {
        let signed = self.ask(&asked.csr, &asked.uri, asked.lifetime).await;
        let signed = signed.map_err(|trouble| SignFailure::Unavailable(trouble.to_string()))?;
        self.check(signed, &asked).map_err(SignFailure::Refused)
    }
}

/// What is asked for at this moment.
pub(crate) fn asked(request: &SvidRequest, csr: Vec<u8>) -> LeafAsked {
    LeafAsked {
        csr,
        key: request.public_key.clone(),
        uri: request.id.as_str().to_owned(),
        lifetime: request.lifetime,
        at: SystemClock.now(),
    }
}
