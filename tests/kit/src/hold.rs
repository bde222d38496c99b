//! What a node may hold open beside its streams: a connection that says nothing, a call that waits for news.

use std::net::SocketAddr;

use certs::Certificate;
use proto::credence::v1::{SyncRequest, SyncResponse};
use spiffe::{SpiffeId, TrustBundle};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::client::TlsStream;

use crate::{Identity, Outcome, connect, enrolment::Channel};

/// The client's preface of HTTP/2 and an empty SETTINGS frame (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// An HTTP/2 connection to the xDS port on which nothing is asked, and nothing is answered: not even the question
/// whether it has heard that it should go.
#[derive(Debug)]
pub struct IdleConnection(TlsStream<TcpStream>);

impl IdleConnection {
    /// Connects, and waits until the server has let it in.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn open(address: SocketAddr, identity: &Identity) -> Result<Self, Outcome> {
        let mut tls = connect(address, Some(identity), &[b"h2"]).await?;
        tls.write_all(PREFACE).await.map_err(|error| Outcome::of(&error))?;
        // The server's SETTINGS come only after it has judged the certificate.
        tls.read_u8().await.map_err(|error| Outcome::of(&error))?;
        Ok(Self(tls))
    }

    /// Waits until the server ends it.
    pub async fn ended(mut self) -> Instant {
        let mut octets = [0; 1024];
        while let Ok(1..) = self.0.read(&mut octets).await {}
        Instant::now()
    }
}

/// A node's call that is held until there is news for it.
#[derive(Debug)]
pub struct HeldSync(JoinSet<Result<SyncResponse, Outcome>>);

impl HeldSync {
    /// Asks for the bundle, and then for news with that bundle in hand.
    ///
    /// # Errors
    /// What was answered instead.
    pub async fn open(address: SocketAddr, identity: &Identity) -> Result<Self, Outcome> {
        const SYNC: &str = "/credence.v1.RenewalService/Sync";
        let tls = connect(address, Some(identity), &[b"h2"]).await?;
        let mut channel = Channel::over(tls).await?;
        let first: SyncResponse = channel.unary(SYNC, &SyncRequest::default()).await?;
        let roots = first.bundle_der.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
        let leaf = identity.leaf();
        let id = leaf.uri_names().first().and_then(|uri| SpiffeId::parse(&String::from_utf8_lossy(uri)).ok());
        let id = id.unwrap_or_else(|| panic!("no SPIFFE ID"));
        let bundle = TrustBundle::new(id.trust_domain().clone(), roots, 0);
        let request = SyncRequest { bundle_sha256: bundle.content_hash().to_vec() };
        let mut held = JoinSet::new();
        held.spawn(async move { channel.exchange(SYNC, &request).await });
        Ok(Self(held))
    }

    /// Waits until it is answered, which must not be with news, or cut off.
    ///
    /// # Panics
    /// When there was news: then it did not end with what it stands on.
    pub async fn ended(mut self) -> Instant {
        if let Some(Ok(Ok(news))) = self.0.join_next().await {
            assert!(!news.renew && news.bundle_der.is_empty(), "it was answered: {news:?}");
        }
        Instant::now()
    }
}
