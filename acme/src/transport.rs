//! The way to an ACME server: one request on one connection, to the URL that was asked for. Nothing is followed.
//!
//! Connections are TLS 1.3 against the certificates of one file, which is read at each handshake, so that it may be
//! replaced at any time. A few are kept for a while, and driven by whoever calls: nothing is spawned here.

mod dial;
mod tls;

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use certs::{Clock, Timestamp};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use self::{dial::dial, tls::Connector};
use crate::{MAX_ANSWER, Reply, Trouble, Url, answer::judge};

/// How long a connection is used, at most: then the file that vouches is read again.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// How long an unused one is kept.
const IDLE: Duration = Duration::from_secs(15);
/// How many unused ones are kept, of all hosts together.
const MAX_IDLE: usize = 4;
/// How much of the heads of answers is read.
const MAX_HEAD: usize = 64 * 1024;

/// Where the server is, and how it is called.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its directory.
    pub directory: Url,
    /// The certificates that vouch for it, PEM; nothing else does. For a public authority the system's file of roots.
    pub ca_file: PathBuf,
    /// How long one request has for an answer, and one handshake to come about.
    pub timeout: Duration,
}

impl Settings {
    /// With thirty seconds for an answer.
    #[must_use]
    pub fn new(directory: Url, ca_file: PathBuf) -> Self {
        Self { directory, ca_file, timeout: Duration::from_secs(30) }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

struct Connection {
    url: Url,
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<Driver>>,
    opened: Timestamp,
    used: Timestamp,
}

impl Connection {
    /// Reads what came while nobody called: most often that the other side has closed it.
    fn is_open(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.driver.as_mut().poll(&mut context).is_pending() && !self.sender.is_closed()
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) enum Sent {
    /// A public read.
    Get,
    /// For a nonce.
    Head,
    /// Something signed.
    Jws(Bytes),
}

/// Carries requests. Knows no account and no nonce.
pub(crate) struct Transport {
    connector: Connector,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    idle: Mutex<Vec<Connection>>,
}

impl Transport {
    pub(crate) fn new(settings: &Settings, clock: Arc<dyn Clock>) -> Self {
        let connector = Connector::new(settings.ca_file.clone(), settings.timeout, clock.clone());
        Self { connector, timeout: settings.timeout, clock, idle: Mutex::default() }
    }

    /// One request, and what it was answered. Nothing is sent twice, unless the first never left.
    pub(crate) async fn send(&self, url: &Url, sent: &Sent) -> Result<Reply, Trouble> {
        let limit = self.timeout;
        let mut kept = self.take(url);
        loop {
            let was_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => timeout(2 * limit, self.open(url)).await.unwrap_or_else(|_| {
                    Err(unreachable(url, format!("no connection within {:?}", 2 * limit)))
                })?,
            };
            let lost = |reason: String| Trouble::Lost { origin: url.origin(), reason };
            match timeout(limit, round(&mut connection, build(url, sent))).await {
                Err(_) => return Err(lost(format!("nothing within {limit:?}"))),
                // It was closed while nobody used it: the request never left. One that is new has no such excuse.
                Ok(Err(Broken::Unsent(_))) if was_kept => {}
                Ok(Err(Broken::Unsent(reason))) => return Err(unreachable(url, reason)),
                Ok(Err(Broken::Lost(reason))) => return Err(lost(reason)),
                Ok(Err(Broken::TooLong)) => {
                    return Err(Trouble::not_acme(
                        0,
                        format!("the answer has more than {MAX_ANSWER} octets"),
                    ));
                }
                Ok(Ok(reply)) => {
                    self.keep(connection);
                    return Ok(reply);
                }
            }
        }
    }

    /// As [`Transport::send`], and decides what the answer is.
    pub(crate) async fn ask(&self, url: &Url, sent: &Sent) -> Result<Reply, Trouble> {
        judge(self.send(url, sent).await?, url)
    }

    async fn open(&self, url: &Url) -> Result<Connection, Trouble> {
        let config = if url.is_tls() { Some(self.connector.config().await?) } else { None };
        let tcp = dial(url.host(), url.port(), self.timeout)
            .await
            .map_err(|error| unreachable(url, error.to_string()))?;
        let stream: Box<dyn Stream> = match config {
            Some(config) => Box::new(self.connector.connect(url, config, tcp).await?),
            None => Box::new(tcp),
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(url, error.to_string()))?;
        let now = self.clock.now();
        Ok(Connection { url: url.clone(), sender, driver: Box::pin(driver), opened: now, used: now })
    }

    /// One that is still good, as far as can be known.
    fn take(&self, url: &Url) -> Option<Connection> {
        let now = self.clock.now();
        let mut idle = lock(&self.idle);
        idle.retain_mut(|one| {
            now.since(one.opened) < CONNECTION_LIFE && now.since(one.used) < IDLE && one.is_open()
        });
        let place = idle.iter().position(|one| one.url.is_beside(url))?;
        Some(idle.swap_remove(place))
    }

    fn keep(&self, mut connection: Connection) {
        connection.used = self.clock.now();
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE && connection.is_open() {
            idle.push(connection);
        }
    }
}

pub(crate) fn build(url: &Url, sent: &Sent) -> http::Request<Full<Bytes>> {
    let (method, body) = match sent {
        Sent::Get => (Method::GET, Bytes::new()),
        Sent::Head => (Method::HEAD, Bytes::new()),
        Sent::Jws(body) => (Method::POST, body.clone()),
    };
    let is_post = method == Method::POST;
    let mut built = http::Request::new(Full::new(body));
    *built.method_mut() = method;
    *built.uri_mut() = url.target().parse().expect("a URL that was read has a target");
    let headers = built.headers_mut();
    let host = HeaderValue::from_str(&url.authority()).expect("a host that was read makes a header");
    headers.insert(header::HOST, host);
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("credence/", env!("CARGO_PKG_VERSION"))),
    );
    if is_post {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jose+json"));
    }
    built
}

fn unreachable(url: &Url, reason: String) -> Trouble {
    Trouble::Unreachable { origin: url.origin(), reason }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How an exchange ended without an answer.
enum Broken {
    /// The request did not leave.
    Unsent(String),
    /// It may have.
    Lost(String),
    /// The answer does not end.
    TooLong,
}

/// One request and its answer, driving the connection meanwhile.
async fn round(connection: &mut Connection, request: http::Request<Full<Bytes>>) -> Result<Reply, Broken> {
    let Connection { sender, driver, .. } = connection;
    let exchange = async {
        sender.ready().await.map_err(|error| Broken::Unsent(chain(&error)))?;
        let response =
            sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
                Some(_) => Broken::Unsent(chain(error.error())),
                None => Broken::Lost(chain(error.error())),
            })?;
        let (head, body) = response.into_parts();
        Ok(reply(head.status.as_u16(), &head.headers, whole(body).await?))
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // The connection may end first, with the answer read. How it ended is told by the exchange.
        _ = driver.as_mut() => exchange.await,
    }
}

fn reply(status: u16, headers: &HeaderMap, body: Vec<u8>) -> Reply {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let one = |name: &str| headers.get(name).and_then(text);
    Reply {
        status,
        location: one("location"),
        retry_after: one("retry-after"),
        nonce: one("replay-nonce"),
        links: headers.get_all(header::LINK).iter().filter_map(text).collect(),
        body,
    }
}

async fn whole(mut body: Incoming) -> Result<Vec<u8>, Broken> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| Broken::Lost(chain(&error)))?.into_data() else { continue };
        if bytes.len() + data.len() > MAX_ANSWER {
            return Err(Broken::TooLong);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// An error with what is below it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(one) = below {
        text = format!("{text}: {one}");
        below = one.source();
    }
    text
}

/// What rustls says about a certificate, as far as an error of a handshake is about one.
fn certificate_error(error: &io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(reason) => Some(reason.to_string()),
        rustls::Error::NoCertificatesPresented => Some("it presents no certificate".to_owned()),
        _ => None,
    }
}
