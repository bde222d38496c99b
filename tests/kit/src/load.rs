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
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(2);
const KEPT_FAILURES: usize = 20;

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct LoadPlan {
    /// Workers that open a connection for each request.
    pub fresh: u32,
    /// Workers that keep theirs open.
    pub kept: u32,
    /// Between two requests of one worker.
    pub pace: Duration,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self { fresh: 4, kept: 4, pace: Duration::from_millis(80) }
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
struct Counts {
    total: AtomicU64,
    failed: AtomicU64,
    fresh: AtomicU64,
    failures: Mutex<Vec<String>>,
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
        for number in 0..plan.fresh + plan.kept {
            let (counts, stop) = (counts.clone(), stop.clone());
            let keep = number >= plan.fresh;
            workers.spawn(async move { worker(front, path, keep, plan.pace, &counts, &stop).await });
        }
        Self { counts, stop, workers }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn so_far(&self) -> LoadReport {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LoadReport {
            total: read(&self.counts.total),
            failed: read(&self.counts.failed),
            fresh: read(&self.counts.fresh),
            failures: self.counts.failures.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Lets requests that were begun finish; what was seen in all.
    pub async fn finish(mut self) -> LoadReport {
        self.stop.cancel();
        while self.workers.join_next().await.is_some() {}
        self.so_far()
    }

    /// [`Load::finish`], and no request may have failed.
    ///
    /// # Panics
    /// When one has, or there were fewer than `least`.
    pub async fn finish_unharmed(self, least: u64) -> LoadReport {
        let report = self.finish().await;
        assert_eq!(report.failed, 0, "requests failed: {report:#?}");
        assert!(report.total >= least, "too few requests to say anything: {report:?}");
        report
    }
}

async fn worker(
    front: SocketAddr,
    path: &str,
    keep: bool,
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
        let reuse = kept.take().filter(|connection| !connection.send.is_closed());
        counts.fresh.fetch_add(u64::from(reuse.is_none()), Ordering::Relaxed);
        let outcome = timeout(PATIENCE, exchange(front, path, reuse)).await;
        counts.total.fetch_add(1, Ordering::Relaxed);
        let reason = match outcome {
            Ok(Ok((StatusCode::OK, _, connection))) => {
                kept = connection.filter(|_| keep);
                continue;
            }
            Ok(Ok((status, body, _))) => format!("status {status}: {body}"),
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        counts.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = counts.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < KEPT_FAILURES {
            failures.push(reason);
        }
    }
}

/// One request over plain HTTP on a connection of its own.
///
/// # Errors
/// In words: no connection, no answer in time, or a broken one.
pub async fn get(front: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let (status, body, _) = timeout(PATIENCE * 3, exchange(front, path, None))
        .await
        .map_err(|_| format!("no answer within {:?}", PATIENCE * 3))??;
    Ok((status, body))
}

async fn exchange(
    front: SocketAddr,
    path: &str,
    reuse: Option<Connection>,
) -> Result<(StatusCode, String, Option<Connection>), String> {
    let mut connection = match reuse {
        Some(connection) => connection,
        None => Connection::open(front).await?,
    };
    connection.send.ready().await.map_err(|error| format!("connection: {error}"))?;
    // Proxies of the suites answer to any host; one that does not is asked for by the name of its document.
    let request = Request::get(path)
        .header(header::HOST, "example.com")
        .body(Empty::new())
        .map_err(|error| format!("request: {error}"))?;
    let response =
        connection.send.send_request(request).await.map_err(|error| format!("request: {error:?}"))?;
    let status = response.status();
    let closes = response.headers().get(header::CONNECTION).is_some_and(|value| value.as_bytes() == b"close");
    let body = response.into_body().collect().await.map_err(|error| format!("body: {error}"))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned(), (!closes).then_some(connection)))
}

struct Connection {
    send: http1::SendRequest<Empty<Bytes>>,
    _driver: JoinSet<()>,
}

impl Connection {
    async fn open(front: SocketAddr) -> Result<Self, String> {
        let tcp = TcpStream::connect(front).await.map_err(|error| format!("connect: {error}"))?;
        let (send, connection) =
            http1::handshake(TokioIo::new(tcp)).await.map_err(|error| format!("handshake: {error}"))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { send, _driver: driver })
    }
}
