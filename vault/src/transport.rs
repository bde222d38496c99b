//! The way to Vault: one request on one connection, to the addresses that were configured, in turn, and to nobody else.
//!
//! Connections are TLS 1.3 against the certificates of one file, which is read at each handshake, so that it may be
//! replaced at any time. They are kept for a while, and driven by whoever calls: nothing is spawned here.

mod dial;
mod tls;

use std::{
    fmt, io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use certs::{Clock, Timestamp};
use futures::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};
use zeroize::Zeroizing;

use self::{dial::dial, tls::Connector};
use crate::{
    Address, Addresses, Answer, IdentityFiles, Mount, Remedy, Reply, Request, Trouble,
    answer::judge,
    request::{Bearer, Verb},
    secret::Secret,
    trouble::Said,
};

/// The largest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 1 << 20;
/// The most requests that are under way at a time. Further ones wait as long as for an answer, and are then
/// [`Trouble::Busy`].
pub const MAX_IN_FLIGHT: usize = 64;
/// How long a connection is used, at most: then the files that it was made with are read again.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// How long one address may keep us waiting for a connection before the next one is dialled beside it. What comes after
/// the connection is asked of one address at a time.
const STAGGER: Duration = Duration::from_millis(500);
/// How long an unused one is kept: Vault closes it after five minutes, a balancer before it sooner.
const IDLE: Duration = Duration::from_secs(20);

/// Where Vault is, and how it is called.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its addresses. More than one are the nodes of one cluster.
    pub addresses: Addresses,
    /// The certificates that vouch for it, PEM; nothing else does.
    pub ca_file: PathBuf,
    /// The namespace that all paths lie in (Vault Enterprise).
    pub namespace: Option<Mount>,
    /// How long one address has for an answer.
    pub timeout: Duration,
}

impl Settings {
    /// Without namespace, and ten seconds for an answer.
    #[must_use]
    pub fn new(addresses: Addresses, ca_file: PathBuf) -> Self {
        Self { addresses, ca_file, namespace: None, timeout: Duration::from_secs(10) }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

struct Connection {
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

/// A connection to ask over.
struct Reached {
    connection: Connection,
    /// Whether it was opened for an earlier request, and may have been closed since.
    was_kept: bool,
}

/// Carries requests. Knows no session: it is told the token.
pub(crate) struct Transport {
    settings: Settings,
    connector: Connector,
    clock: Arc<dyn Clock>,
    idle: Vec<Mutex<Vec<Connection>>>,
    /// The address that is asked first: that which answered last, or the one after that which kept an answer to itself.
    preferred: AtomicUsize,
    in_flight: Semaphore,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("addresses", &self.settings.addresses).finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let connector = Connector::new(settings.ca_file.clone(), settings.timeout, clock.clone());
        let idle = settings.addresses.as_slice().iter().map(|_| Mutex::default()).collect();
        let (preferred, in_flight) = (AtomicUsize::new(0), Semaphore::new(MAX_IN_FLIGHT));
        Self { settings, connector, clock, idle, preferred, in_flight }
    }

    /// What connections present from now on.
    pub(crate) fn present(&self, identity: Option<IdentityFiles>) {
        self.connector.present(identity);
        for pool in &self.idle {
            lock(pool).clear();
        }
    }

    pub(crate) fn namespace(&self) -> Option<&Mount> {
        self.settings.namespace.as_ref()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Asks the addresses in turn, beginning with the one that answered last, until one can say something about it. What
    /// may not be sent twice ends where its answer is lost; the next request then begins with the next address.
    /// A standby that names the active node is followed once, if that is one of the addresses.
    pub(crate) async fn send(&self, request: &Request, token: Option<&Secret>) -> Result<Answer, Trouble> {
        // The session does not wait behind those that wait for it.
        let _permit = match request.is_own {
            true => None,
            false => Some(self.permit().await?),
        };
        let (count, first) = (self.idle.len(), self.preferred.load(Ordering::Relaxed));
        let mut left: Vec<usize> = (0..count).map(|step| (first + step) % count).collect();
        let mut worst = None;
        while let Some((place, reached)) = self.reach(&mut left, request.is_fresh, &mut worst).await? {
            let trouble = match self.ask(place, reached, request, token).await {
                Ok((answered, answer)) => {
                    self.preferred.store(answered, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            if trouble.remedy() != Remedy::AnotherNode {
                return Err(trouble);
            }
            if trouble.is_outcome_unknown() && !request.is_repeatable {
                // The next call begins elsewhere, unless another one has found out meanwhile where it is better.
                let next = (place + 1) % count;
                let _ = self.preferred.compare_exchange(first, next, Ordering::Relaxed, Ordering::Relaxed);
                return Err(trouble);
            }
            worst = Some(worse(worst, trouble));
        }
        Err(worst.expect("there is at least one address"))
    }

    /// The first address of `left` that a connection is open to. Nothing is sent, so the next one is begun beside it as
    /// soon as one is silent for [`STAGGER`]. Takes it out of `left`, and those that failed, whose trouble is told in
    /// `worst`; none if all did.
    async fn reach(
        &self,
        left: &mut Vec<usize>,
        is_fresh: bool,
        worst: &mut Option<Trouble>,
    ) -> Result<Option<(usize, Reached)>, Trouble> {
        let (mut waiting, mut opening) = (left.clone().into_iter(), FuturesUnordered::new());
        loop {
            if let Some(place) = waiting.next() {
                opening.push(async move { (place, self.reached(place, is_fresh).await) });
            }
            match timeout(STAGGER, opening.next()).await {
                Err(_) => {}
                Ok(None) => return Ok(None),
                Ok(Some((place, reached))) => {
                    left.retain(|one| *one != place);
                    match reached {
                        Ok(reached) => return Ok(Some((place, reached))),
                        Err(trouble) if trouble.remedy() != Remedy::AnotherNode => return Err(trouble),
                        Err(trouble) => *worst = Some(worse(worst.take(), trouble)),
                    }
                }
            }
        }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, Trouble> {
        let limit = self.settings.timeout;
        let permit = timeout(limit, self.in_flight.acquire()).await.map_err(|_| {
            let words = format!("{MAX_IN_FLIGHT} calls of ours were under way for {limit:?}");
            Trouble::Busy { retry_after: None, said: Said::new([words.as_str()]) }
        })?;
        Ok(permit.expect("the semaphore is never closed"))
    }

    /// One address, and the one that it names.
    async fn ask(
        &self,
        place: usize,
        reached: Reached,
        request: &Request,
        token: Option<&Secret>,
    ) -> Result<(usize, Answer), Trouble> {
        match self.exchange(place, reached, request, token).await {
            Err(Trouble::Elsewhere { to }) => {
                let active = self.settings.addresses.place_of(&to).filter(|active| *active != place);
                let active = active.ok_or(Trouble::Elsewhere { to })?;
                let reached = self.reached(active, request.is_fresh).await?;
                self.exchange(active, reached, request, token).await.map(|answer| (active, answer))
            }
            other => other.map(|answer| (place, answer)),
        }
    }

    async fn exchange(
        &self,
        place: usize,
        reached: Reached,
        request: &Request,
        token: Option<&Secret>,
    ) -> Result<Answer, Trouble> {
        let address = &self.settings.addresses.as_slice()[place];
        let limit = self.settings.timeout;
        let Reached { mut connection, mut was_kept } = reached;
        loop {
            let asked = self.build(address, request, token);
            let lost = |reason: String| Trouble::Lost { address: address.clone(), reason };
            match timeout(limit, round(&mut connection, asked)).await {
                Err(_) => return Err(lost(format!("nothing within {limit:?}"))),
                // It was closed while nobody used it: the request never left. One that is new has no such excuse.
                Ok(Err(Broken::Unsent(_))) if was_kept => {}
                Ok(Err(Broken::Lost(_))) if was_kept && request.is_repeatable => {}
                Ok(Err(Broken::Unsent(reason))) => {
                    return Err(Trouble::Unreachable { address: address.clone(), reason });
                }
                Ok(Err(Broken::Lost(reason))) => return Err(lost(reason)),
                Ok(Ok(raw)) => {
                    self.keep(place, connection);
                    return raw.judge();
                }
            }
            (connection, was_kept) = (self.connect(place).await?, false);
        }
    }

    /// A connection that was kept, or a new one.
    async fn reached(&self, place: usize, is_fresh: bool) -> Result<Reached, Trouble> {
        let kept = if is_fresh { None } else { self.take(place) };
        Ok(match kept {
            Some(connection) => Reached { connection, was_kept: true },
            None => Reached { connection: self.connect(place).await?, was_kept: false },
        })
    }

    async fn connect(&self, place: usize) -> Result<Connection, Trouble> {
        let address = &self.settings.addresses.as_slice()[place];
        let limit = self.settings.timeout;
        // Apart from the handshake: each file has its own time, and is named when it takes longer.
        let config = if address.is_tls() { Some(self.connector.config().await?) } else { None };
        timeout(limit, self.open(address, config)).await.unwrap_or_else(|_| {
            let reason = format!("no connection within {limit:?}");
            Err(Trouble::Unreachable { address: address.clone(), reason })
        })
    }

    fn build(
        &self,
        address: &Address,
        request: &Request,
        token: Option<&Secret>,
    ) -> http::Request<Full<Bytes>> {
        let (method, query) = match request.verb {
            Verb::Get => (Method::GET, ""),
            Verb::List => (Method::GET, "?list=true"),
            Verb::Post => (Method::POST, ""),
        };
        let body = request.body.as_ref().map(|body| body.to_bytes()).unwrap_or_default();
        let mut built = http::Request::new(Full::new(body));
        *built.method_mut() = method;
        let target = format!("/v1/{}{query}", request.path);
        *built.uri_mut() = target.parse().expect("names and mounts make a path");
        let headers = built.headers_mut();
        let text = |text: &str| HeaderValue::from_str(text).expect("hosts, names and mounts make a header");
        headers.insert(header::HOST, text(&address.authority()));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("credence"));
        headers.insert("x-vault-request", HeaderValue::from_static("true"));
        if request.verb == Verb::Post {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(namespace) = &self.settings.namespace {
            headers.insert("x-vault-namespace", text(namespace.as_str()));
        }
        let token = match &request.bearer {
            Bearer::Session => token,
            Bearer::Nobody => None,
            Bearer::Own(token) => Some(token),
        };
        if let Some(token) = token {
            headers.insert("x-vault-token", token.to_header());
        }
        built
    }

    /// With a configuration over TLS, without in the clear.
    async fn open(&self, address: &Address, config: Option<ClientConfig>) -> Result<Connection, Trouble> {
        let unreachable = |reason: String| Trouble::Unreachable { address: address.clone(), reason };
        let tcp = dial(address.host(), address.port(), self.settings.timeout)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let stream: Box<dyn Stream> = match config {
            Some(config) => Box::new(self.connector.connect(address, config, tcp).await?),
            None => Box::new(tcp),
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let now = self.clock.now();
        Ok(Connection { sender, driver: Box::pin(driver), opened: now, used: now })
    }

    /// One that is still good, as far as can be known.
    fn take(&self, place: usize) -> Option<Connection> {
        let now = self.clock.now();
        let mut pool = lock(&self.idle[place]);
        while let Some(mut one) = pool.pop() {
            let is_young = now.since(one.opened) < CONNECTION_LIFE && now.since(one.used) < IDLE;
            if is_young && one.is_open() {
                return Some(one);
            }
        }
        None
    }

    fn keep(&self, place: usize, mut connection: Connection) {
        connection.used = self.clock.now();
        let mut pool = lock(&self.idle[place]);
        if pool.len() < MAX_IN_FLIGHT && connection.is_open() {
            pool.push(connection);
        }
    }
}

/// Of several nodes that could not help, the one that says most about why is quoted.
fn worse(before: Option<Trouble>, trouble: Trouble) -> Trouble {
    match before {
        Some(before) if weight(&before) >= weight(&trouble) => before,
        _ => trouble,
    }
}

fn weight(trouble: &Trouble) -> u8 {
    match trouble {
        Trouble::Unreachable { .. } => 0,
        Trouble::Lost { .. } => 1,
        Trouble::Standby | Trouble::Elsewhere { .. } | Trouble::CutOff => 2,
        _ => 3,
    }
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
}

/// An answer as it came, all of it.
struct Raw {
    status: u16,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

impl Raw {
    fn judge(self) -> Result<Answer, Trouble> {
        let text = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        judge(Reply {
            status: self.status,
            location: text(header::LOCATION),
            retry_after: text(header::RETRY_AFTER),
            body: self.body,
        })
    }
}

/// One request and its answer, driving the connection meanwhile.
async fn round(connection: &mut Connection, request: http::Request<Full<Bytes>>) -> Result<Raw, Broken> {
    let Connection { sender, driver, .. } = connection;
    let exchange = async {
        sender.ready().await.map_err(|error| Broken::Unsent(chain(&error)))?;
        let response =
            sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
                Some(_) => Broken::Unsent(chain(error.error())),
                None => Broken::Lost(chain(error.error())),
            })?;
        let (head, body) = response.into_parts();
        let body = whole(body).await.map_err(Broken::Lost)?;
        Ok(Raw { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // The connection may end first, with the answer read. How it ended is told by the exchange.
        _ = driver.as_mut() => exchange.await,
    }
}

async fn whole(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| chain(&error))?.into_data() else { continue };
        if bytes.len() + data.len() > MAX_ANSWER {
            return Err(format!("the answer has more than {MAX_ANSWER} bytes"));
        }
        if bytes.len() + data.len() > bytes.capacity() {
            // Moved by hand: a buffer that grows by itself leaves the old one behind.
            let mut grown = Vec::with_capacity(2 * (bytes.len() + data.len()));
            grown.extend_from_slice(&bytes);
            bytes = Zeroizing::new(grown);
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

#[cfg(test)]
mod tests;
