//! A connection that is kept open, to ask on it again: what happens to connections that were there before a change.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{Identity, connect, tls::Outcome};

const PATIENCE: Duration = Duration::from_secs(3);

/// What is spoken on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1, kept alive.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/1.1 without ALPN, as through a proxy that sees TCP only.
    Tcp,
}

/// One connection. It is never opened again.
#[derive(Debug)]
pub struct Kept {
    sender: Sender,
    _driver: JoinSet<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Kept {
    /// Over TLS, with an identity.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn open(address: SocketAddr, identity: &Identity, speaks: Speaks) -> Result<Self, Outcome> {
        Self::tls(address, Some(identity), speaks).await
    }

    /// Over TLS, without a certificate.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn anonymous(address: SocketAddr, speaks: Speaks) -> Result<Self, Outcome> {
        Self::tls(address, None, speaks).await
    }

    async fn tls(address: SocketAddr, identity: Option<&Identity>, speaks: Speaks) -> Result<Self, Outcome> {
        let alpn: &[&[u8]] = match speaks {
            Speaks::Http1 => &[b"http/1.1"],
            Speaks::Http2 => &[b"h2"],
            Speaks::Tcp => &[],
        };
        let tls = connect(address, identity, alpn).await?;
        Self::over(tls, speaks == Speaks::Http2).await
    }

    /// Plain HTTP/1.1.
    ///
    /// # Errors
    /// How it ended instead.
    pub async fn plain(address: SocketAddr) -> Result<Self, Outcome> {
        let tcp = TcpStream::connect(address).await.map_err(|error| Outcome::Nothing(error.to_string()))?;
        Self::over(tcp, false).await
    }

    async fn over(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        http2: bool,
    ) -> Result<Self, Outcome> {
        let mut driver = JoinSet::new();
        let io = TokioIo::new(io);
        let sender = if http2 {
            let made = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = made.map_err(|error| Outcome::of(&error))?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(|error| Outcome::of(&error))?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Http1(sender)
        };
        Ok(Self { sender, _driver: driver })
    }

    /// Whether neither end has closed it, as far as we heard.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// `GET path`: status and body.
    ///
    /// # Errors
    /// How the connection ended instead.
    ///
    /// # Panics
    /// When the path is none.
    pub async fn ask(&mut self, path: &str) -> Result<(u16, String), Outcome> {
        let uri = format!("http://example.com{path}");
        let request = match &self.sender {
            Sender::Http1(_) => Request::get(path).header(header::HOST, "example.com"),
            Sender::Http2(_) => Request::get(uri),
        };
        let request = request.body(Full::new(Bytes::new())).unwrap_or_else(|error| panic!("{error}"));
        let exchange = async {
            let answer = match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await.map_err(|error| Outcome::of(&error))?;
                    sender.send_request(request).await
                }
                Sender::Http2(sender) => {
                    sender.ready().await.map_err(|error| Outcome::of(&error))?;
                    sender.send_request(request).await
                }
            };
            read(answer.map_err(|error| Outcome::of(&error))?).await
        };
        timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err(Outcome::Nothing("no answer in time".into())))
    }
}

async fn read(response: http::Response<Incoming>) -> Result<(u16, String), Outcome> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| Outcome::of(&error))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
