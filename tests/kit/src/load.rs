//! Requests in a stream, each counted: an answer other than 200, a reset, or more than two seconds is a failure.
//! Nothing is retried.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::within;

const PATIENCE: Duration = Duration::from_secs(2);
/// How long a load goes on at most until there is enough to tell by.
const ENOUGH: Duration = Duration::from_secs(60);
const KEPT_FAILURES: usize = 20;
/// A client that keeps an HTTP/2 connection opens another one after this, as clients do: so no request is ever sent
/// at the moment in which a server ends a connection by its age.
const HTTP2_AGE: Duration = Duration::from_secs(40);

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct LoadPlan {
    /// Workers that open a connection for each request.
    pub fresh: u32,
    /// Workers that keep theirs open, and speak HTTP/1.1.
    pub kept: u32,
    /// Workers that keep theirs open, and speak HTTP/2.
    pub http2: u32,
    /// Between two requests of one worker.
    pub pace: Duration,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self { fresh: 4, kept: 4, http2: 0, pace: Duration::from_millis(80) }
    }
}

/// What a load saw.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// All requests.
    pub total: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those on connections of their own.
    pub fresh: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    total: AtomicU64,
    failed: AtomicU64,
    fresh: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Counts {
    pub(crate) fn done(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, reason: String) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < KEPT_FAILURES {
            failures.push(reason);
        }
    }

    pub(crate) fn report(&self) -> LoadReport {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LoadReport {
            total: read(&self.total),
            failed: read(&self.failed),
            fresh: read(&self.fresh),
            failures: self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Nothing,
    Http1,
    Http2,
}

/// A load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    counts: Arc<Counts>,
    stop: CancellationToken,
    workers: JoinSet<()>,
}

impl Load {
    /// Sends `GET path` to `front`.
    #[must_use]
    pub fn start(front: SocketAddr, path: &'static str, plan: LoadPlan) -> Self {
        let (counts, stop) = (Arc::new(Counts::default()), CancellationToken::new());
        let mut workers = JoinSet::new();
        for (count, keeps) in
            [(plan.fresh, Keeps::Nothing), (plan.kept, Keeps::Http1), (plan.http2, Keeps::Http2)]
        {
            for _ in 0..count {
                let (counts, stop) = (counts.clone(), stop.clone());
                workers.spawn(async move { worker(front, path, keeps, plan.pace, &counts, &stop).await });
            }
        }
        Self { counts, stop, workers }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn so_far(&self) -> LoadReport {
        self.counts.report()
    }

    /// Lets requests that were begun finish; what was seen in all.
    pub async fn finish(mut self) -> LoadReport {
        self.stop.cancel();
        while self.workers.join_next().await.is_some() {}
        self.so_far()
    }

    /// [`Load::finish`], once there were `least` requests to tell by; none of all may have failed.
    ///
    /// # Panics
    /// When one has, or they do not come.
    pub async fn finish_unharmed(self, least: u64) -> LoadReport {
        let enough = async || if self.so_far().total >= least { Ok(()) } else { Err(self.so_far()) };
        within(ENOUGH, "there are enough requests to tell by", enough).await;
        let report = self.finish().await;
        assert_eq!(report.failed, 0, "requests failed: {report:#?}");
        report
    }
}

async fn worker(
    front: SocketAddr,
    path: &str,
    keeps: Keeps,
    pace: Duration,
    counts: &Counts,
    stop: &CancellationToken,
) {
    let mut kept: Option<Connection> = None;
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let reuse = kept.take().filter(Connection::is_usable);
        counts.fresh.fetch_add(u64::from(reuse.is_none()), Ordering::Relaxed);
        match timeout(PATIENCE, exchange(front, path, reuse, keeps)).await {
            Ok(Ok((StatusCode::OK, _, connection))) => {
                kept = connection.filter(|_| keeps != Keeps::Nothing);
                counts.done();
            }
            Ok(Ok((status, body, _))) => counts.failed(format!("status {status}: {body}")),
            Ok(Err(error)) => counts.failed(error),
            Err(_) => counts.failed(format!("no answer within {PATIENCE:?}")),
        }
    }
}

/// One request over plain HTTP on a connection of its own.
///
/// # Errors
/// In words: no connection, no answer in time, or a broken one.
pub async fn get(front: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let (status, body, _) = timeout(PATIENCE * 3, exchange(front, path, None, Keeps::Nothing))
        .await
        .map_err(|_| format!("no answer within {:?}", PATIENCE * 3))??;
    Ok((status, body))
}

async fn exchange(
    front: SocketAddr,
    path: &str,
    reuse: Option<Connection>,
    keeps: Keeps,
) -> Result<(StatusCode, String, Option<Connection>), String> {
    let mut connection = match reuse {
        Some(connection) => connection,
        None => Connection::open(front, keeps == Keeps::Http2).await?,
    };
    let response = connection.ask(path).await?;
    let status = response.status();
    let closes = response.headers().get(header::CONNECTION).is_some_and(|value| value.as_bytes() == b"close");
    let body = response.into_body().collect().await.map_err(|error| format!("body: {error}"))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned(), (!closes).then_some(connection)))
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// Plain HTTP to the front of a proxy.
pub(crate) struct Connection {
    send: Sender,
    opened: Instant,
    _driver: JoinSet<()>,
}

impl Connection {
    pub(crate) async fn open(front: SocketAddr, http2: bool) -> Result<Self, String> {
        let tcp = TcpStream::connect(front).await.map_err(|error| format!("connect: {error}"))?;
        let words = |error| format!("handshake: {error}");
        let mut driver = JoinSet::new();
        let send = if http2 {
            let (send, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.map_err(words)?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Http2(send)
        } else {
            let (send, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(words)?;
            driver.spawn(async move { drop(connection.await) });
            Sender::Http1(send)
        };
        Ok(Self { send, opened: Instant::now(), _driver: driver })
    }

    fn is_usable(&self) -> bool {
        match &self.send {
            Sender::Http1(send) => !send.is_closed(),
            Sender::Http2(send) => !send.is_closed() && self.opened.elapsed() < HTTP2_AGE,
        }
    }

    pub(crate) async fn ask(&mut self, path: &str) -> Result<http::Response<hyper::body::Incoming>, String> {
        // Proxies of the suites answer to any host; one that does not is asked for by the name of its document.
        let request = match &self.send {
            Sender::Http1(_) => Request::get(path).header(header::HOST, "example.com"),
            Sender::Http2(_) => Request::get(format!("http://example.com{path}")),
        };
        let request = request.body(Empty::new()).map_err(|error| format!("request: {error}"))?;
        let ready = |error| format!("connection: {error}");
        match &mut self.send {
            Sender::Http1(send) => {
                send.ready().await.map_err(ready)?;
                send.send_request(request).await
            }
            Sender::Http2(send) => {
                send.ready().await.map_err(ready)?;
                send.send_request(request).await
            }
        }
        .map_err(|error| format!("request: {error:?}"))
    }
}
