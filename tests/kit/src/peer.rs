//! A TLS 1.3 server made of rustls alone, with its own verifier and nothing of ours: what others run. It tells why
//! it refused.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use certs::{Certificate, Timestamp};
use fixtures::Credential;
use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_cert_signed_by_trust_anchor,
    server::{
        ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use server::tls::provider;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::Identity;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nrustls";

/// One rustls server. Dropping it closes it.
#[derive(Debug)]
pub struct RustlsPeer {
    address: SocketAddr,
    refusals: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl RustlsPeer {
    /// Shows `identity`; admits whoever leads to `anchors`, and everybody when there are none.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start(identity: &Identity, anchors: &[Certificate]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("bind: {error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let acceptor = TlsAcceptor::from(Arc::new(config(identity, anchors)));
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor, refusals.clone()));
        Self { address, refusals, _tasks: tasks }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Why handshakes failed since this was last asked, in the words of rustls.
    #[must_use]
    pub fn take_refusals(&self) -> Vec<String> {
        std::mem::take(&mut *self.refusals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn config(identity: &Identity, anchors: &[Certificate]) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap_or_else(|error| panic!("{error}"));
    let builder = if anchors.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_verifier(verifier(anchors))
    };
    let key = provider().key_provider.load_private_key(identity.key.clone_key());
    let key = key.unwrap_or_else(|error| panic!("{error}"));
    let chain = identity.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    builder.with_cert_resolver(Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key)))))
}

fn verifier(anchors: &[Certificate]) -> Arc<dyn ClientCertVerifier> {
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(anchors)), provider()).build();
    built.unwrap_or_else(|error| panic!("verifier: {error}"))
}

fn roots(anchors: &[Certificate]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        let added = roots.add(CertificateDer::from(anchor.der().to_vec()));
        added.unwrap_or_else(|error| panic!("anchor: {error}"));
    }
    roots
}

/// Shows a chain that rustls's own resolver would not take.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, refusals: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((tcp, _)) = accepted else { continue };
        let (acceptor, refusals) = (acceptor.clone(), refusals.clone());
        connections.spawn(async move {
            let served = timeout(Duration::from_secs(8), serve(acceptor, tcp)).await;
            if let Ok(Err(error)) = served {
                refusals.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
            }
        });
    }
}

async fn serve(acceptor: TlsAcceptor, tcp: TcpStream) -> std::io::Result<()> {
    let mut tls = acceptor.accept(tcp).await?;
    // Whatever is asked, up to the end of the head.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        let mut octet = [0];
        if tls.read(&mut octet).await? == 0 {
            return Ok(());
        }
        head.push(octet[0]);
    }
    tls.write_all(ANSWER).await?;
    tls.shutdown().await
}

/// Why rustls, as a client, would not believe a server with this credential, its name not being asked about.
///
/// # Panics
/// When an anchor is none.
#[must_use]
pub fn rustls_refuses_server(
    credential: &Credential,
    anchors: &[Certificate],
    now: Timestamp,
) -> Option<String> {
    let ders: Vec<CertificateDer<'_>> =
        credential.ders().iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, above) = ders.split_first()?;
    let leaf = match ParsedCertificate::try_from(leaf) {
        Ok(leaf) => leaf,
        Err(error) => return Some(error.to_string()),
    };
    let seconds = u64::try_from(now.unix_secs()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, &roots(anchors), above, now, algorithms)
        .err()
        .map(|error| error.to_string())
}
