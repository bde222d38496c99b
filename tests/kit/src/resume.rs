//! A TLS client that would resume if it could, to show that it cannot.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, HandshakeKind, NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{Identity, Outcome, tls::config};

const PATIENCE: Duration = Duration::from_secs(10);
/// How long tickets are waited for when nobody answers.
const TICKETS: Duration = Duration::from_millis(500);

/// What came of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shook {
    /// Whether the client had a ticket to offer.
    pub offered: bool,
    /// Whether the server took it, and so verified nobody's certificate.
    pub resumed: bool,
    /// How many tickets the server gave.
    pub tickets: usize,
}

/// One client with one memory of sessions, whichever server they are from: all are 127.0.0.1 to it.
#[derive(Debug)]
pub struct Resumer {
    config: Arc<ClientConfig>,
    store: Arc<Counting>,
}

impl Resumer {
    /// A client with this certificate.
    #[must_use]
    pub fn new(identity: &Identity, alpn: &[&[u8]]) -> Self {
        let store = Arc::new(Counting::default());
        let mut config = config(Some(identity), alpn, Arc::default());
        config.resumption = Resumption::store(store.clone());
        Self { config: Arc::new(config), store }
    }

    /// Connects, asks for something, and reads until nothing more comes.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn connect(&self, address: SocketAddr) -> Result<Shook, Outcome> {
        let (taken, given) =
            (self.store.taken.load(Ordering::SeqCst), self.store.given.load(Ordering::SeqCst));
        let attempt = async {
            let tcp =
                TcpStream::connect(address).await.map_err(|error| Outcome::Nothing(error.to_string()))?;
            let name = ServerName::IpAddress(address.ip().into());
            let connector = TlsConnector::from(self.config.clone());
            let mut tls = connector.connect(name, tcp).await.map_err(|error| Outcome::of(&error))?;
            let asked = tls.write_all(b"GET / HTTP/1.1\r\nHost: kit\r\nConnection: close\r\n\r\n").await;
            asked.map_err(|error| Outcome::of(&error))?;
            let mut octets = [0; 4096];
            // Tickets come with the first octets after the handshake; a refusal comes there too.
            while let Ok(read) = timeout(TICKETS, tls.read(&mut octets)).await {
                match read {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if Outcome::of(&error).is_alert() => return Err(Outcome::of(&error)),
                    Err(_) => break,
                }
            }
            Ok(tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed))
        };
        let resumed =
            timeout(PATIENCE, attempt).await.map_err(|_| Outcome::Nothing("not in time".into()))??;
        Ok(Shook {
            offered: self.store.taken.load(Ordering::SeqCst) > taken,
            resumed,
            tickets: self.store.given.load(Ordering::SeqCst) - given,
        })
    }
}

/// Remembers sessions, and counts them.
#[derive(Debug)]
struct Counting {
    sessions: ClientSessionMemoryCache,
    given: AtomicUsize,
    taken: AtomicUsize,
}

impl Default for Counting {
    fn default() -> Self {
        let sessions = ClientSessionMemoryCache::new(32);
        Self { sessions, given: AtomicUsize::new(0), taken: AtomicUsize::new(0) }
    }
}

impl ClientSessionStore for Counting {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.sessions.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.sessions.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.sessions.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.given.fetch_add(1, Ordering::SeqCst);
        self.sessions.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.sessions.take_tls13_ticket(server_name);
        self.taken.fetch_add(usize::from(ticket.is_some()), Ordering::SeqCst);
        ticket
    }
}
