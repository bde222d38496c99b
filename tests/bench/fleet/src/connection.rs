//! One mTLS connection of a node, from an address of its own, to a server that must prove who it is.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use certs::{Chain, Clock, SecretKey, Usage};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    CertificateError, ClientConfig, OtherError, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use server::tls::{Belief, Believing, provider};
use spiffe::{
    Class, SvidError, Trust, TrustBundle,
    attestation::{EXPORTER_LABEL, EXPORTER_OCTETS},
    verify_svid,
};
use tokio::{net::TcpSocket, task::JoinSet, time::timeout};
use tonic::body::Body;

use crate::material::Leaf;

const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may take to end after its last stream did, when it was told to go.
const GOODBYE: Duration = Duration::from_millis(250);

/// A certificate with its key, as TLS presents it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) leaf: Leaf,
    /// For proofs, when the leaf has ended.
    pub(crate) key: Arc<SecretKey>,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Takes a leaf and its key.
    ///
    /// # Errors
    /// When the TLS library does not take the key.
    pub(crate) fn new(leaf: Leaf, key: Arc<SecretKey>) -> anyhow::Result<Self> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.expose_secret().to_vec()));
        let signer = provider().key_provider.load_private_key(der)?;
        let ders = leaf.chain.certificates().map(|one| CertificateDer::from(one.der().to_vec())).collect();
        Ok(Self { certified: Arc::new(CertifiedKey::new(ders, signer)), key, leaf })
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Where the `number`-th node connects from: an address of its own if the server is on loopback, so that what the
/// server grants to each address is granted to each node. There are 16 million.
pub(crate) fn source(server: SocketAddr, number: usize) -> IpAddr {
    match server.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => {
            let number = u32::try_from(number % 0x00fe_ffff).unwrap_or_default();
            Ipv4Addr::from_bits(0x7f01_0001 + number).into()
        }
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// An open connection, driven beside its calls until it is dropped.
pub(crate) struct Connection {
    channel: Channel,
    driver: JoinSet<()>,
    /// What both ends exported, for an enrolment.
    pub(crate) exporter: [u8; EXPORTER_OCTETS],
}

impl Connection {
    /// Connects; `bundle` must vouch for the server.
    ///
    /// # Errors
    /// How it ended instead.
    pub(crate) async fn open(
        from: IpAddr,
        to: SocketAddr,
        bundle: &TrustBundle,
        identity: Option<&Identity>,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let opening = async {
            let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.bind((from, 0).into()).with_context(|| format!("cannot bind {from}"))?;
            let tcp = socket.connect(to).await.with_context(|| format!("cannot reach {to}"))?;
            tcp.set_nodelay(true)?;
            let belief = ServerBelief { trust: Trust::new(bundle.clone()), clock: Arc::clone(clock) };
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config(belief, identity)?));
            let tls = connector.connect(ServerName::IpAddress(to.ip().into()), tcp).await?;
            let exporter =
                tls.get_ref().1.export_keying_material([0; EXPORTER_OCTETS], EXPORTER_LABEL, None)?;
            let (send, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .handshake(TokioIo::new(tls))
                .await?;
            let mut driver = JoinSet::new();
            driver.spawn(async move {
                // Why it ended is told by the call that it breaks.
                let _ = connection.await;
            });
            Ok(Self { channel: Channel(send), driver, exporter })
        };
        timeout(PATIENCE, opening).await.unwrap_or_else(|_| Err(anyhow!("no connection to {to} in time")))
    }

    /// For the constructors of generated clients.
    pub(crate) fn channel(&self) -> (Channel, http::Uri) {
        (self.channel.clone(), http::Uri::from_static("https://credence"))
    }

    /// Whether another stream may be opened on it: no, once the server has said GOAWAY or is gone.
    pub(crate) async fn is_usable(&mut self) -> bool {
        let ended = timeout(GOODBYE, self.driver.join_next()).await.is_ok();
        !ended && !self.channel.0.is_closed()
    }
}

/// What generated clients call. It never reconnects.
#[derive(Debug, Clone)]
pub(crate) struct Channel(http2::SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

fn config(belief: ServerBelief, identity: Option<&Identity>) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Believing::new(Arc::new(belief)));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity.clone())),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Believes the server of the trust domain, by its SPIFFE ID.
#[derive(Debug)]
struct ServerBelief {
    trust: Trust,
    clock: Arc<dyn Clock>,
}

impl Belief for ServerBelief {
    fn judge(&self, shown: &[&[u8]], _: UnixTime) -> Result<(), rustls::Error> {
        let refused = |error: io::Error| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        };
        let chain = Chain::from_ders(shown.iter().copied()).map_err(io::Error::other).map_err(refused)?;
        // In front of its root the server presents the root too, for nodes that only have a pin.
        let roots = self.trust.own().authorities();
        let above = chain.intermediates().iter().filter(|one| !roots.contains(one)).cloned().collect();
        let chain = Chain::new(chain.leaf().clone(), above);
        let svid = verify_svid(&chain, &self.trust, self.clock.now(), Usage::Server)
            .map_err(|error: SvidError| refused(io::Error::other(error)))?;
        if svid.class() == &Class::Server {
            Ok(())
        } else {
            Err(refused(io::Error::other(format!("{} is not the server", svid.id()))))
        }
    }
}
