//! How a node gets its certificate: the first by a token, the next by the one that it replaces, also when that has
//! ended.

use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use certs::{Certificate, Chain, Clock, Csr, KeyKind, SecretKey, SoftwareSigner};
use proto::credence::v1::{
    BeginRequest, FinishRequest, RenewRequest, SyncRequest, enrolment_service_client::EnrolmentServiceClient,
    renewal_service_client::RenewalServiceClient,
};
use spiffe::{
    Tenant, TrustBundle,
    attestation::{Claim, METHOD_EXPIRED, METHOD_JOIN_TOKEN, OldKeyClaim},
};
use tonic::Code;

use crate::{
    connection::{Connection, Identity},
    material::Leaf,
};

/// What a node got.
pub(crate) struct Certified {
    pub(crate) identity: Identity,
    /// The roots, when they are others than those that the node reported.
    pub(crate) bundle: Option<TrustBundle>,
}

/// Why it got nothing.
#[derive(Debug)]
pub(crate) struct Uncertified {
    /// Whether asking again later may help.
    pub(crate) is_passing: bool,
    pub(crate) error: anyhow::Error,
}

impl From<anyhow::Error> for Uncertified {
    fn from(error: anyhow::Error) -> Self {
        Self { is_passing: true, error }
    }
}

impl From<tonic::Status> for Uncertified {
    fn from(status: tonic::Status) -> Self {
        let is_passing =
            !matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument | Code::Unauthenticated);
        Self { is_passing, error: anyhow!("{:?}: {}", status.code(), status.message()) }
    }
}

/// Enrols with a token and a key, on a connection without an identity.
pub(crate) async fn join(
    connection: &Connection,
    token: &str,
    key: &Arc<SecretKey>,
    bundle: &TrustBundle,
    clock: &Arc<dyn Clock>,
) -> Result<Certified, Uncertified> {
    let (channel, origin) = connection.channel();
    let mut client = EnrolmentServiceClient::with_origin(channel, origin);
    let tenant = Tenant::default();
    let begin = BeginRequest {
        method: METHOD_JOIN_TOKEN.to_owned(),
        tenant: tenant.to_string(),
        spki_sha256: key.public().hash().0.to_vec(),
    };
    let challenge = client.begin(begin).await?.into_inner();
    let claim = Claim {
        nonce: &challenge.nonce,
        exporter: &connection.exporter,
        spki: key.public().hash(),
        method: METHOD_JOIN_TOKEN,
        tenant: &tenant,
    };
    let signer = SoftwareSigner::try_new(key).map_err(anyhow::Error::from)?;
    let finish = FinishRequest {
        method: METHOD_JOIN_TOKEN.to_owned(),
        tenant: tenant.to_string(),
        cookie: challenge.cookie,
        join_token: token.to_owned(),
        csr_der: Csr::build(key),
        proof: claim.prove(&signer).map_err(anyhow::Error::from)?,
        ..FinishRequest::default()
    };
    let answer = client.finish(finish).await?.into_inner();
    let newer = newer(bundle, &answer.bundle_der)?;
    let identity = accept(&answer.chain_der, key, newer.as_ref().unwrap_or(bundle), clock)?;
    Ok(Certified { identity, bundle: newer })
}

/// Comes back with a certificate that has ended and its key, on a connection without an identity.
pub(crate) async fn come_back(
    connection: &Connection,
    held: &Identity,
    key: &Arc<SecretKey>,
    bundle: &TrustBundle,
    clock: &Arc<dyn Clock>,
) -> Result<Certified, Uncertified> {
    let (channel, origin) = connection.channel();
    let mut client = EnrolmentServiceClient::with_origin(channel, origin);
    let (tenant, spki) = (Tenant::default(), key.public().hash());
    let begin = BeginRequest {
        method: METHOD_EXPIRED.to_owned(),
        tenant: tenant.to_string(),
        spki_sha256: spki.0.to_vec(),
    };
    let challenge = client.begin(begin).await?.into_inner();
    let (nonce, exporter) = (&challenge.nonce, &connection.exporter);
    let claim = Claim { nonce, exporter, spki, method: METHOD_EXPIRED, tenant: &tenant };
    let certificate = held.leaf.chain.leaf().der();
    let old = OldKeyClaim { nonce, exporter, spki, certificate, tenant: &tenant };
    let signer = |key: &SecretKey| SoftwareSigner::try_new(key).map_err(anyhow::Error::from);
    let finish = FinishRequest {
        method: METHOD_EXPIRED.to_owned(),
        tenant: tenant.to_string(),
        cookie: challenge.cookie.clone(),
        csr_der: Csr::build(key),
        proof: claim.prove(&signer(key)?).map_err(anyhow::Error::from)?,
        expired_certificate_der: certificate.to_vec(),
        old_proof: old.prove(&signer(&held.key)?).map_err(anyhow::Error::from)?,
        ..FinishRequest::default()
    };
    let answer = client.finish(finish).await?.into_inner();
    let newer = newer(bundle, &answer.bundle_der)?;
    let identity = accept(&answer.chain_der, key, newer.as_ref().unwrap_or(bundle), clock)?;
    Ok(Certified { identity, bundle: newer })
}

/// Exchanges the certificate of `connection` for one with a new key.
pub(crate) async fn renew(
    connection: &Connection,
    bundle: &TrustBundle,
    clock: &Arc<dyn Clock>,
) -> Result<Certified, Uncertified> {
    let (channel, origin) = connection.channel();
    let mut client = RenewalServiceClient::with_origin(channel, origin);
    let key = Arc::new(SecretKey::generate(KeyKind::P256));
    let request = RenewRequest { csr_der: Csr::build(&key), bundle_sha256: bundle.content_hash().to_vec() };
    let answer = client.renew(request).await?.into_inner();
    let newer = newer(bundle, &answer.bundle_der)?;
    let identity = accept(&answer.chain_der, &key, newer.as_ref().unwrap_or(bundle), clock)?;
    Ok(Certified { identity, bundle: newer })
}

/// What the server had to say.
pub(crate) struct News {
    /// The roots, when they are others than those that the node reported.
    pub(crate) bundle: Option<TrustBundle>,
    /// Whether the certificate is to be renewed now.
    pub(crate) renew: bool,
}

/// Says which bundle is held, and waits for news.
pub(crate) async fn news(connection: &Connection, bundle: &TrustBundle) -> Result<News, Uncertified> {
    let (channel, origin) = connection.channel();
    let mut client = RenewalServiceClient::with_origin(channel, origin);
    let request = SyncRequest { bundle_sha256: bundle.content_hash().to_vec() };
    let answer = client.sync(request).await?.into_inner();
    Ok(News { bundle: newer(bundle, &answer.bundle_der)?, renew: answer.renew })
}

fn newer(bundle: &TrustBundle, ders: &[Vec<u8>]) -> anyhow::Result<Option<TrustBundle>> {
    if ders.is_empty() {
        return Ok(None);
    }
    let roots = ders.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(TrustBundle::new(bundle.trust_domain().clone(), roots, 0)))
}

/// A chain must be for this key and hold under the bundle.
fn accept(
    ders: &[Vec<u8>],
    key: &Arc<SecretKey>,
    bundle: &TrustBundle,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Identity> {
    let chain = Chain::from_ders(ders.iter().map(Vec::as_slice))?;
    ensure!(chain.leaf().spki_der() == key.public().spki_der(), "the certificate is for another key");
    let leaf = Leaf::of(chain).map_err(|error| anyhow!(error))?;
    leaf.verify(bundle.authorities(), clock.now())
        .context("the certificate does not hold under the bundle")?;
    Identity::new(leaf, Arc::clone(key))
}
