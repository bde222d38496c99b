//! A service behind a proxy: answers every request with 200 and its name, and counts. `/stream/N` is answered with
//! a body that lasts N seconds, a line every quarter of a second.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use server::tls::provider;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::Identity;

/// Between two lines of a long answer.
pub(crate) const BEAT: Duration = Duration::from_millis(250);

/// One upstream. Dropping it closes it.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// On loopback, at a free port.
    pub async fn start(name: &'static str) -> Self {
        Self::start_at(name, Ipv4Addr::LOCALHOST.into()).await
    }

    /// On `ip`, at a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start_at(name: &'static str, ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap_or_else(|error| panic!("bind {ip}: {error}"));
        Self::over(listener, name, None)
    }

    /// On loopback, at a free port, over TLS with this identity, and with no word from us: it asks nobody who they
    /// are, and heeds no control plane. What a thief of a certificate would run.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start_hostile(name: &'static str, identity: &Identity) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("bind: {error}"));
        Self::over(listener, name, Some(TlsAcceptor::from(Arc::new(server_config(identity)))))
    }

    fn over(listener: TcpListener, name: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let (requests, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, name, tls, requests.clone(), connections.clone()));
        Self { address, requests, connections, _tasks: tasks }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has taken, handshakes that failed apart.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many requests it has answered.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

pub(crate) fn server_config(identity: &Identity) -> ServerConfig {
    let chain = identity.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap_or_else(|error| panic!("{error}"))
        .with_no_client_auth()
        .with_single_cert(chain, identity.key.clone_key());
    let mut config = config.unwrap_or_else(|error| panic!("{error}"));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

async fn accept(
    listener: TcpListener,
    name: &'static str,
    tls: Option<TlsAcceptor>,
    requests: Arc<AtomicU64>,
    accepted_so_far: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((tcp, _)) = accepted else { continue };
        let (requests, tls, so_far) = (requests.clone(), tls.clone(), accepted_so_far.clone());
        connections.spawn(async move {
            let service = hyper::service::service_fn(|request: http::Request<_>| {
                requests.fetch_add(1, Ordering::Relaxed);
                let body = body(request.uri().path(), name);
                async move { Ok::<_, Infallible>(http::Response::new(body)) }
            });
            let auto = auto::Builder::new(TokioExecutor::new());
            let Some(tls) = tls else {
                so_far.fetch_add(1, Ordering::Relaxed);
                let _ = auto.serve_connection(TokioIo::new(tcp), service).await;
                return;
            };
            let Ok(tls) = tls.accept(tcp).await else { return };
            so_far.fetch_add(1, Ordering::Relaxed);
            let _ = auto.serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

fn body(path: &str, name: &'static str) -> BoxBody<Bytes, Infallible> {
    let seconds = path.strip_prefix("/stream/").and_then(|seconds| seconds.parse::<u64>().ok());
    let Some(seconds) = seconds else { return Full::new(Bytes::from_static(name.as_bytes())).boxed() };
    let beats = Duration::from_secs(seconds).as_millis() / BEAT.as_millis();
    let lines = stream::iter(0..beats).then(|beat| async move {
        tokio::time::sleep(BEAT).await;
        Ok(Frame::data(Bytes::from(format!("{beat}\n"))))
    });
    BodyExt::boxed(StreamBody::new(lines))
}
