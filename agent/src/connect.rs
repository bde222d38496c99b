//! One TLS 1.3 connection to Credence, and calls over it.
//!
//! Who answers is decided by the SPIFFE ID in the server's certificate, never by the DNS name that was dialled. A
//! node that has no bundle yet holds the server against a [`Pin`]: the server presents its root beside its chain,
//! the root must have the pinned key, and the chain must lead to it.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin as StdPin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use certs::{Chain, ChainError, Clock, SecretKey, Signer, SoftwareSigner, Timestamp, Usage};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureAlgorithm, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use spiffe::{Class, NodeId, SpiffeId, SvidError, Trust, TrustBundle, attestation, verify_svid};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tonic::{Status, body::Body};

use crate::{
    Pin, ServerAddress,
    dial::dial,
    ending::{Ending, Watched},
};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read: a chain and a bundle.
pub(crate) const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why the server's certificate was not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServerRefusal {
    /// Too many or too large certificates, or one that does not parse.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// None of the presented certificates is a root with the pinned key.
    #[error("server presents no root with the pinned key {wanted}, but {presented:?}")]
    Pin {
        /// The pin that was given.
        wanted: Pin,
        /// The key of the last certificate that it presents.
        presented: Pin,
    },
    /// A certificate of the chain is not valid at this machine's time.
    #[error("server certificate is valid from {not_before} to {not_after}, this machine's clock says {now}")]
    Clock {
        /// This machine's time.
        now: Timestamp,
        /// When its validity begins.
        not_before: Timestamp,
        /// When it ends.
        not_after: Timestamp,
    },
    /// Not an SVID that the pinned root or the stored bundle vouches for.
    #[error("server certificate is not trusted")]
    Svid(#[from] SvidError),
    /// A good certificate, of somebody else.
    #[error("server proves to be {got}, not {wanted}")]
    Identity {
        /// Who it is.
        got: SpiffeId,
        /// Who it should be.
        wanted: String,
    },
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody answers.
    #[error("cannot reach {server}")]
    Unreachable {
        /// Who was dialled.
        server: ServerAddress,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody answers, whose certificate is not believed.
    #[error("{server} is not believed")]
    Refused {
        /// Who was dialled.
        server: ServerAddress,
        /// Why.
        source: ServerRefusal,
    },
    /// The TLS handshake failed for another reason.
    #[error("TLS handshake with {server} failed")]
    Handshake {
        /// Who was dialled.
        server: ServerAddress,
        /// What the TLS library says.
        source: io::Error,
    },
    /// The server says that it does not let this node in.
    #[error("{server} does not let this node in: {why}")]
    NotLetIn {
        /// Who was dialled.
        server: ServerAddress,
        /// Why, as its alert says.
        why: String,
    },
    /// The connection ended before the first call.
    #[error("{server} does not speak HTTP/2")]
    Http {
        /// Who was dialled.
        server: ServerAddress,
        /// What the HTTP library says.
        source: hyper::Error,
    },
}

impl ConnectError {
    /// What to do about it, if more can be said than the error says.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { server, .. } => format!(
                "is `credence serve` running, does it listen on {server}, and does a firewall stand between? \
                 The addresses are `enrolment` and `server.grpc` in credence.yaml"
            ),
            Self::Refused { source: ServerRefusal::Pin { .. }, .. } => {
                "the pin or the server is wrong: compare with the line that `credence proxy enroll` prints; if the \
                 pin is right, somebody else answers at this address"
                    .to_owned()
            }
            Self::Refused { source: ServerRefusal::Clock { .. }, .. } => {
                "set this machine's clock (or the server's), then try again".to_owned()
            }
            Self::Refused { source: ServerRefusal::Identity { .. }, .. } => {
                "something other than Credence answers at this address with a certificate of the same authority"
                    .to_owned()
            }
            Self::Refused { .. } => {
                "the server's trust domain has another root than this node knows: ask for a new `agent join` line"
                    .to_owned()
            }
            Self::Handshake { server, .. } => {
                format!("is {server} the right port, and a Credence server?")
            }
            Self::NotLetIn { .. } | Self::Http { .. } => return None,
        })
    }

    /// The same for a node that has joined, and then knew the server.
    pub(crate) fn hint_of_member(&self, node: &NodeId) -> Option<String> {
        match self {
            Self::Refused { source: ServerRefusal::Svid(_), .. } => Some(format!(
                "if it lasts, the server's root was replaced while this node was away: stop this agent, and join again \
                 with the line that `credence proxy enroll {node} --replace` prints"
            )),
            _ => self.hint(),
        }
    }
}

/// By what a server is known.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    /// By its root's key: the node has nothing else yet.
    Pinned(Pin),
    /// By the bundle that the node holds, and by name.
    Trusted { trust: Trust, server: SpiffeId },
}

/// The node's own certificate and key, as the TLS client presents them.
#[derive(Debug)]
pub(crate) struct ClientIdentity(Arc<CertifiedKey>);

impl ClientIdentity {
    /// The key never leaves its [`SecretKey`]: TLS signs through it.
    pub(crate) fn new(chain: &Chain, key: &SecretKey) -> Self {
        let signer = SoftwareSigner::try_new(key).expect("a SecretKey holds a key the provider takes");
        let ders = chain.certificates().map(|one| CertificateDer::from(one.der().to_vec())).collect();
        Self(Arc::new(CertifiedKey::new(ders, Arc::new(NodeKey(Arc::new(signer))))))
    }
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct NodeKey(Arc<SoftwareSigner>);

impl NodeKey {
    fn scheme(&self) -> SignatureScheme {
        match self.0.public().kind() {
            certs::KeyKind::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            certs::KeyKind::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        }
    }
}

impl SigningKey for NodeKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered
            .contains(&self.scheme())
            .then(|| Box::new(Self(self.0.clone())) as Box<dyn rustls::sign::Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign(message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        Self::scheme(self)
    }
}

/// One connection to a server that was believed.
pub(crate) struct Connection {
    channel: Channel,
    driver: StdPin<Box<dyn Future<Output = ()> + Send>>,
    driver_ended: bool,
    ending: Ending,
    server: SpiffeId,
    exporter: [u8; attestation::EXPORTER_OCTETS],
    origin: http::Uri,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Connection {
    /// Dials `address` and holds whoever answers against `expected`.
    pub(crate) async fn open(
        address: &ServerAddress,
        expected: Expected,
        client: Option<ClientIdentity>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, ConnectError> {
        let server = || address.clone();
        let unreachable = |source| ConnectError::Unreachable { server: server(), source };
        let tcp = timeout(DIAL_TIMEOUT, dial(address.host(), address.port(), DIAL_TIMEOUT))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        let verifier = Arc::new(ServerVerifier { expected, clock: clock.clone(), found: OnceLock::new() });
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config(verifier.clone(), client)));
        let name = ServerName::try_from(address.host().to_owned()).expect("a ServerAddress has a valid host");
        let tls = timeout(HANDSHAKE_TIMEOUT, Box::pin(connector.connect(name, tcp)))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (tls, proven) = match (tls, verifier.found.get()) {
            (_, Some(Err(refusal))) => {
                return Err(ConnectError::Refused { server: server(), source: refusal.clone() });
            }
            (Err(source), _) => return Err(ConnectError::Handshake { server: server(), source }),
            (Ok(tls), Some(Ok(proven))) => (tls, proven.clone()),
            (Ok(_), None) => {
                let source = io::Error::other("the server was not verified");
                return Err(ConnectError::Handshake { server: server(), source });
            }
        };
        let exporter = tls
            .get_ref()
            .1
            .export_keying_material([0; attestation::EXPORTER_OCTETS], attestation::EXPORTER_LABEL, None)
            .map_err(|error| ConnectError::Handshake { server: server(), source: io::Error::other(error) })?;
        Self::over(tls, address, proven, exporter).await
    }

    async fn over<S>(
        tls: S,
        address: &ServerAddress,
        server: SpiffeId,
        exporter: [u8; attestation::EXPORTER_OCTETS],
    ) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (watched, ending) = Watched::new(tls);
        let (send, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(TokioIo::new(watched))
            .await
            .map_err(|source| {
                let server = address.clone();
                match ending.refusal() {
                    Some(why) => ConnectError::NotLetIn { server, why },
                    None => ConnectError::Http { server, source },
                }
            })?;
        let origin = format!("https://{address}").parse().expect("a ServerAddress makes an authority");
        Ok(Self {
            channel: Channel(send),
            // Why a connection ended is told by the call that it breaks.
            driver: Box::pin(async move {
                let _ = driver.await.inspect_err(|error| tracing::debug!(%error, "connection ended"));
            }),
            driver_ended: false,
            ending,
            server,
            exporter,
            origin,
        })
    }

    /// Who the server proved to be.
    pub(crate) fn server(&self) -> &SpiffeId {
        &self.server
    }

    /// What this connection exports for enrolment.
    pub(crate) fn exporter(&self) -> &[u8; attestation::EXPORTER_OCTETS] {
        &self.exporter
    }

    /// What tells whether and why the bytes under it have ended.
    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// For the constructors of generated clients.
    pub(crate) fn channel(&self) -> (Channel, http::Uri) {
        (self.channel.clone(), self.origin.clone())
    }

    /// Whether another call may be made: reads first what came while nobody called, such as that the server is
    /// going away.
    pub(crate) async fn is_usable(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.driver.as_mut(), if !self.driver_ended => self.driver_ended = true,
            () = std::future::ready(()) => {}
        }
        !self.driver_ended && !self.channel.0.is_closed()
    }

    /// Carries out `call`, driving the connection meanwhile.
    pub(crate) async fn call<T>(
        &mut self,
        call: impl Future<Output = Result<T, Status>> + Send,
    ) -> Result<T, Status> {
        self.call_within(CALL_TIMEOUT, call).await
    }

    /// As [`Connection::call`], with a time of its own.
    pub(crate) async fn call_within<T>(
        &mut self,
        limit: Duration,
        call: impl Future<Output = Result<T, Status>> + Send,
    ) -> Result<T, Status> {
        let ending = self.ending.clone();
        let driven = async {
            tokio::pin!(call);
            tokio::select! {
                biased;
                answer = call.as_mut() => answer,
                () = self.driver.as_mut(), if !self.driver_ended => {
                    self.driver_ended = true;
                    call.await
                }
            }
        };
        let ended = async {
            let answer = ending.cutting_off(driven).await;
            answer.unwrap_or_else(|why| Err(Status::from_error(Box::new(io::Error::other(why)))))
        };
        timeout(limit, ended).await.unwrap_or_else(|elapsed| Err(Status::from_error(Box::new(elapsed))))
    }
}

/// What generated clients call; belongs to one connection and never reconnects, so that the exported value of the
/// connection holds for every call.
#[derive(Debug, Clone)]
pub(crate) struct Channel(http2::SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = StdPin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Whether a status was made on this side because the connection broke, and not by the server.
pub(crate) fn is_broken_connection(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

fn config(verifier: Arc<ServerVerifier>, client: Option<ClientIdentity>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // The server is known by its SPIFFE ID; a name would only tell the network whom we call.
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    config
}

struct ServerVerifier {
    expected: Expected,
    clock: Arc<dyn Clock>,
    found: OnceLock<Result<SpiffeId, ServerRefusal>>,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").finish_non_exhaustive()
    }
}

impl ServerVerifier {
    fn judge(&self, ders: &[&[u8]]) -> Result<SpiffeId, ServerRefusal> {
        let presented = Chain::from_ders(ders.iter().copied())?;
        let now = self.clock.now();
        let (chain, trust, wanted) = match &self.expected {
            Expected::Trusted { trust, server } => {
                (without_roots(&presented, trust), trust.clone(), Some(server.clone()))
            }
            Expected::Pinned(pin) => {
                let (chain, trust) = pinned(&presented, *pin)?;
                (chain, trust, None)
            }
        };
        if let Some(bad) = chain.certificates().find(|one| now < one.not_before() || one.not_after() < now) {
            let (not_before, not_after) = (bad.not_before(), bad.not_after());
            return Err(ServerRefusal::Clock { now, not_before, not_after });
        }
        let svid = verify_svid(&chain, &trust, now, Usage::Server)?;
        let wanted = wanted.unwrap_or_else(|| trust.own().trust_domain().server_id());
        if svid.class() != &Class::Server || *svid.id() != wanted {
            return Err(ServerRefusal::Identity { got: svid.id().clone(), wanted: wanted.to_string() });
        }
        Ok(svid.id().clone())
    }
}

/// At the door of enrolment the server presents its root too, for nodes that only have a pin.
fn without_roots(presented: &Chain, trust: &Trust) -> Chain {
    let roots = trust.own().authorities();
    let above = presented.intermediates().iter().filter(|one| !roots.contains(one)).cloned().collect();
    Chain::new(presented.leaf().clone(), above)
}

/// Takes the pinned root out of what a server presents: the rest is its chain, the root alone is trusted, and for
/// the trust domain that the leaf names.
fn pinned(presented: &Chain, pin: Pin) -> Result<(Chain, Trust), ServerRefusal> {
    // Self-signed, so that its validity was set by the owner of the pinned key and not by whoever answers.
    let root = presented
        .intermediates()
        .iter()
        .find(|one| one.spki_hash() == pin.0 && one.is_signed_by(one))
        .ok_or_else(|| {
            let last = presented.certificates().last().unwrap_or(presented.leaf());
            ServerRefusal::Pin { wanted: pin, presented: Pin(last.spki_hash()) }
        })?;
    let intermediates =
        presented.intermediates().iter().filter(|one| one.spki_hash() != pin.0).cloned().collect();
    let leaf = presented.leaf().clone();
    let names = leaf.uri_names();
    let [name] = names else { return Err(SvidError::UriNames(names.len()).into()) };
    let text = String::from_utf8_lossy(name);
    let id = SpiffeId::parse(&text)
        .map_err(|reason| SvidError::Id { name: text.chars().take(256).collect(), reason })?;
    let bundle = TrustBundle::new(id.trust_domain().clone(), vec![root.clone()], 0);
    Ok((Chain::new(leaf, intermediates), Trust::new(bundle)))
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ders: Vec<&[u8]> = std::iter::once(end_entity).chain(intermediates).map(AsRef::as_ref).collect();
        let judged = self.judge(&ders);
        let answer = match &judged {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => Err(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(
                Arc::new(refusal.clone()),
            )))),
        };
        // A handshake verifies one certificate; a second value would be a bug of the TLS library.
        let _ = self.found.set(judged);
        answer
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;
    use tokio::io::duplex;

    use super::*;
    use crate::ending::testing::Refuses;

    async fn over(
        tls: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Connection, ConnectError> {
        let address = ServerAddress::parse("localhost:1").unwrap();
        let server = SpiffeId::parse("spiffe://td/credence/server").unwrap();
        Connection::over(tls, &address, server, [0; attestation::EXPORTER_OCTETS]).await
    }

    #[tokio::test]
    async fn a_node_that_is_refused_before_its_first_call_is_told_so() {
        let error = over(Refuses(AlertDescription::CertificateRevoked)).await.unwrap_err();
        let told = "localhost:1 does not let this node in: our certificate is revoked, or of an authority that is not \
                    trusted any more (alert CertificateRevoked)";
        assert_eq!((error.to_string().as_str(), error.hint()), (told, None));
        let error = over(Refuses(AlertDescription::InternalError)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Http { .. }), "{error}");
    }

    /// An HTTP/2 client may wait for ever for the answer to what it has not written yet.
    #[tokio::test(start_paused = true)]
    async fn a_call_ends_with_its_connection_even_where_its_answer_never_comes() {
        let (near, far) = duplex(1 << 16);
        let mut connection = over(near).await.unwrap();
        drop(far);
        let status = connection.call(std::future::pending::<Result<(), Status>>()).await.unwrap_err();
        assert!(is_broken_connection(&status));
        assert_eq!(status.message(), "the peer closed it", "{status}");
    }
}
