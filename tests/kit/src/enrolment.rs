//! A node that enrols by hand, step by step, and may do so wrongly.

use std::net::SocketAddr;

use agent::ending::{Ending, Watched};
use bytes::Bytes;
use certs::{Csr, SecretKey, SoftwareSigner};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::credence::v1::{
    BeginRequest, BeginResponse, FinishRequest, FinishResponse, RenewRequest, RenewResponse,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::{
    Tenant,
    attestation::{Claim, EXPORTER_LABEL, EXPORTER_OCTETS, METHOD_JOIN_TOKEN},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{Identity, Outcome, connect, tls::or_end};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);
const RESOURCE_EXHAUSTED: i32 = 8;

/// What a node got.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Its certificate and key.
    pub identity: Identity,
    /// The roots.
    pub bundle: Vec<Vec<u8>>,
    /// Its SPIFFE ID.
    pub spiffe_id: String,
}

/// The answer to an enrolment.
pub type JoinAnswer = Result<Enrolled, Outcome>;

/// One connection to the enrolment port.
pub struct Enrolment {
    channel: Channel,
    exporter: [u8; EXPORTER_OCTETS],
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").finish_non_exhaustive()
    }
}

impl Enrolment {
    /// Connects, believing whoever answers.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn open(address: SocketAddr) -> Result<Self, Outcome> {
        let tls = connect(address, None, &[b"h2"]).await?;
        let exporter = tls.get_ref().1.export_keying_material([0; EXPORTER_OCTETS], EXPORTER_LABEL, None);
        let exporter = exporter.map_err(|error| Outcome::of(&error))?;
        Ok(Self { channel: Channel::over(tls).await?, exporter })
    }

    /// Asks for a challenge for `key`.
    ///
    /// # Errors
    /// What was answered instead.
    pub async fn begin(&mut self, key: &SecretKey) -> Result<BeginResponse, Outcome> {
        let request = BeginRequest {
            method: METHOD_JOIN_TOKEN.to_owned(),
            tenant: Tenant::default().to_string(),
            spki_sha256: key.public().hash().0.to_vec(),
        };
        self.channel.unary("/credence.v1.EnrolmentService/Begin", &request).await
    }

    /// Answers the challenge.
    ///
    /// # Errors
    /// What was answered instead.
    pub async fn finish(&mut self, key: &SecretKey, token: &str, challenge: &BeginResponse) -> JoinAnswer {
        let signer = SoftwareSigner::try_new(key).unwrap_or_else(|error| panic!("{error}"));
        let tenant = Tenant::default();
        let claim = Claim {
            nonce: &challenge.nonce,
            exporter: &self.exporter,
            spki: key.public().hash(),
            method: METHOD_JOIN_TOKEN,
            tenant: &tenant,
        };
        let request = FinishRequest {
            method: METHOD_JOIN_TOKEN.to_owned(),
            tenant: tenant.to_string(),
            cookie: challenge.cookie.clone(),
            join_token: token.to_owned(),
            csr_der: Csr::build(key),
            proof: claim.prove(&signer).unwrap_or_else(|error| panic!("{error}")),
            ..FinishRequest::default()
        };
        let answer: FinishResponse =
            self.channel.unary("/credence.v1.EnrolmentService/Finish", &request).await?;
        let chain = answer.chain_der.iter().map(|der| der.to_vec()).collect();
        Ok(Enrolled {
            identity: Identity { chain, key: rustls_key(key) },
            bundle: answer.bundle_der.iter().map(|der| der.to_vec()).collect(),
            spiffe_id: answer.spiffe_id,
        })
    }

    /// Both steps on a connection of their own. Asks again, for a while, when it is told that one address may
    /// only ask so often.
    ///
    /// # Errors
    /// What was answered instead.
    pub async fn join(address: SocketAddr, token: &str, key: &SecretKey) -> JoinAnswer {
        let end = Instant::now() + PATIENCE * 2;
        loop {
            match Self::attempt(address, token, key).await {
                Err(Outcome::Grpc { code: RESOURCE_EXHAUSTED, .. }) if Instant::now() < end => {
                    // Two calls make a join, and each second earns one.
                    sleep(PATIENCE / 5).await;
                }
                answer => return answer,
            }
        }
    }

    async fn attempt(address: SocketAddr, token: &str, key: &SecretKey) -> JoinAnswer {
        let mut enrolment = Self::open(address).await?;
        let challenge = enrolment.begin(key).await?;
        enrolment.finish(key, token, &challenge).await
    }
}

/// Renews a node certificate on the xDS port, with a new key.
///
/// # Errors
/// What was answered instead.
pub async fn renew(address: SocketAddr, identity: &Identity) -> Result<Identity, Outcome> {
    let key = SecretKey::generate(certs::KeyKind::P256);
    let chain = Renewals::open(address, identity).await?.renew(Csr::build(&key)).await?;
    Ok(Identity { chain, key: rustls_key(&key) })
}

/// One connection of a node, on which it renews as often as it likes.
pub struct Renewals(Channel);

impl std::fmt::Debug for Renewals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewals").finish_non_exhaustive()
    }
}

impl Renewals {
    /// Connects to the xDS port.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn open(address: SocketAddr, identity: &Identity) -> Result<Self, Outcome> {
        let tls = connect(address, Some(identity), &[b"h2"]).await?;
        Ok(Self(Channel::over(tls).await?))
    }

    /// Asks for a certificate for the key of a request: its chain.
    ///
    /// # Errors
    /// What was answered instead.
    pub async fn renew(&mut self, csr_der: Vec<u8>) -> Result<Vec<Vec<u8>>, Outcome> {
        let request = RenewRequest { csr_der, bundle_sha256: Vec::new() };
        let answer: RenewResponse = self.0.unary("/credence.v1.RenewalService/Renew", &request).await?;
        Ok(answer.chain_der.iter().map(|der| der.to_vec()).collect())
    }
}

pub(crate) fn rustls_key(key: &SecretKey) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose_secret().to_vec()))
}

/// Calls on one HTTP/2 connection, which is what an enrolment is bound to.
pub(crate) struct Channel {
    send: http2::SendRequest<Full<Bytes>>,
    driver: JoinSet<Option<hyper::Error>>,
    ending: Ending,
}

impl Channel {
    pub(crate) async fn over(
        tls: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    ) -> Result<Self, Outcome> {
        let (tls, ending) = Watched::new(tls);
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .map_err(|error| Outcome::of(&error))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { connection.await.err() });
        Ok(Self { send, driver, ending })
    }

    pub(crate) async fn unary<A: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Outcome> {
        timeout(PATIENCE, or_end(self.ending.clone(), self.exchange(method, request)))
            .await
            .unwrap_or_else(|_| Err(Outcome::Nothing("no answer in time".into())))
    }

    pub(crate) async fn exchange<A: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Outcome> {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
        let frame = [&[0], length.as_slice(), &message].concat();
        let request = http::Request::post(format!("https://credence{method}"))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(frame)))
            .unwrap_or_else(|error| panic!("{error}"));
        let response = match self.send.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                let cause = timeout(std::time::Duration::from_secs(1), self.driver.join_next()).await;
                return Err(match cause {
                    Ok(Some(Ok(Some(cause)))) => Outcome::of(&cause),
                    _ => Outcome::of(&error),
                });
            }
        };
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.map_err(|error| Outcome::of(&error))?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let text = |name: &str| {
            let value = parts.headers.get(name).or_else(|| trailers.get(name));
            value.and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let code = text("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(-1);
        if code != 0 {
            return Err(Outcome::Grpc { code, message: text("grpc-message").unwrap_or_default() });
        }
        let body = collected.to_bytes();
        let message = body.get(5..).unwrap_or_default();
        A::decode(message).map_err(|error| Outcome::of(&error))
    }
}
