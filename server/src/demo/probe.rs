//! A neutral client: opens TLS handshakes and notes which certificate it was shown, without trusting or
//! presenting anything. In TLS 1.3 the server's certificate comes before ours is judged, so this needs no identity.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use certs::{Clock, Serial, SubjectAltName, Timestamp};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::tls::{Believing, Noting, provider};

/// Between two handshakes with the same proxy: the resolution of "rotation to new handshake".
const PACE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(2);

/// What a proxy showed in a handshake.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) serial: Serial,
    pub(super) spiffe_id: Option<String>,
    pub(super) not_after: Timestamp,
}

/// Every serial that each proxy showed, and when it was seen first.
#[derive(Debug, Default)]
pub(super) struct Seen {
    by_node: Mutex<BTreeMap<&'static str, Proxy>>,
}

/// What one proxy showed.
#[derive(Debug, Clone, Default)]
pub(super) struct Proxy {
    pub(super) serials: BTreeMap<Serial, Timestamp>,
    pub(super) last: Option<Shown>,
}

impl Seen {
    /// A copy of everything.
    pub(super) fn all(&self) -> BTreeMap<&'static str, Proxy> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, node: &'static str, shown: Shown, at: Timestamp) {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        let proxy = by_node.entry(node).or_default();
        proxy.serials.entry(shown.serial.clone()).or_insert(at);
        proxy.last = Some(shown);
    }
}

/// Shakes hands with one proxy again and again until `stop`.
pub(super) async fn watch(
    node: &'static str,
    address: SocketAddr,
    seen: Arc<Seen>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Some(shown) = shake_hands(address).await {
            seen.note(node, shown, clock.now());
        }
    }
}

/// One handshake; `None` when there was no certificate to see.
pub(super) async fn shake_hands(address: SocketAddr) -> Option<Shown> {
    let noting = Arc::new(Noting::default());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Believing::new(noting.clone()))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    let _ = timeout(PATIENCE, async {
        let tcp = TcpStream::connect(address).await.ok()?;
        connector.connect(ServerName::IpAddress(address.ip().into()), tcp).await.ok()
    })
    .await;
    let certificate = noting.leaf()?;
    Some(Shown {
        serial: certificate.serial().clone(),
        spiffe_id: certificate.subject_alt_names().iter().find_map(|name| match name {
            SubjectAltName::Uri(uri) => Some(uri.clone()),
            SubjectAltName::Dns(_) | SubjectAltName::Ip(_) | SubjectAltName::Other(_) => None,
        }),
        not_after: certificate.not_after(),
    })
}

/// Whether a listener refuses plain HTTP: it must end the connection without one byte of an HTTP answer.
pub(super) async fn refuses_plaintext(address: SocketAddr) -> bool {
    let attempt = timeout(PATIENCE * 3, async {
        let mut tcp = TcpStream::connect(address).await?;
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        let end = tcp.read_to_end(&mut answer).await;
        Ok::<_, std::io::Error>((answer, end.is_ok()))
    })
    .await;
    match attempt {
        // A TLS alert or nothing, and then the end.
        Ok(Ok((answer, _))) => !answer.starts_with(b"HTTP/"),
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionReset,
        Err(_) => false,
    }
}
