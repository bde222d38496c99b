//! Requests through `web` to `payments`, each counted: an answer other than 200, a reset, or more than two
//! seconds is a failure. Nothing is retried.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

/// Longer than this is a failure.
const PATIENCE: Duration = Duration::from_secs(2);
/// Two kinds of workers, and as many of each: new connections, and connections kept open.
const WORKERS: u32 = 6;
/// Between two requests of one worker: 12 workers make about 150 requests a second.
const PACE: Duration = Duration::from_millis(75);
/// How many failures are kept word for word.
const KEPT_FAILURES: usize = 20;

/// What the load has seen so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) total: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Requests that opened a connection of their own.
    pub(super) on_new_connections: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Counts {
    fn note(&self, outcome: Result<(), String>) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if let Err(reason) = outcome {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if failures.len() < KEPT_FAILURES {
                failures.push(reason);
            }
        }
    }

    /// The first failures since the last call, in words.
    pub(super) fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Sends requests to `front` until `stop`; every request that was begun is finished and counted.
pub(super) async fn run(front: SocketAddr, counts: Arc<Counts>, stop: CancellationToken) {
    let mut workers = JoinSet::new();
    for number in 0..WORKERS * 2 {
        let (counts, stop) = (counts.clone(), stop.clone());
        let keep_open = number % 2 == 0;
        workers.spawn(async move {
            // Spread the workers over one pace, so that requests do not come in bursts.
            tokio::time::sleep(PACE * number / (WORKERS * 2)).await;
            worker(front, keep_open, &counts, &stop).await;
        });
    }
    while workers.join_next().await.is_some() {}
}

async fn worker(front: SocketAddr, keep_open: bool, counts: &Counts, stop: &CancellationToken) {
    let mut kept: Option<Connection> = None;
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let reuse = kept.take().filter(|connection| !connection.sender.is_closed());
        let fresh = reuse.is_none();
        let outcome = timeout(PATIENCE, async {
            let mut connection = match reuse {
                Some(connection) => connection,
                None => Connection::open(front).await?,
            };
            let closes = connection.get("/").await?;
            Ok::<_, String>((!closes).then_some(connection))
        })
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
        if fresh {
            counts.on_new_connections.fetch_add(1, Ordering::Relaxed);
        }
        match outcome {
            Ok(connection) => {
                kept = connection.filter(|_| keep_open);
                counts.note(Ok(()));
            }
            Err(reason) => counts.note(Err(reason)),
        }
    }
}

/// One plain HTTP/1.1 connection to the front proxy.
struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    host: String,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    async fn open(front: SocketAddr) -> Result<Self, String> {
        let tcp = TcpStream::connect(front).await.map_err(|error| format!("connect: {error}"))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tcp)).await.map_err(|error| format!("handshake: {error}"))?;
        #[expect(
            clippy::disallowed_methods,
            reason = "a client of the demo drives its connection beside the requests"
        )]
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, host: front.to_string(), driver })
    }

    /// Whether the server announced that it closes the connection: then the next request opens a new one, as every
    /// HTTP client does.
    async fn get(&mut self, path: &str) -> Result<bool, String> {
        self.sender.ready().await.map_err(|error| format!("connection: {error}"))?;
        let request = Request::get(path)
            .header(HOST, &self.host)
            .body(Empty::new())
            .map_err(|error| format!("request: {error}"))?;
        let response =
            self.sender.send_request(request).await.map_err(|error| format!("request: {error}"))?;
        let (status, closes) = (
            response.status(),
            response
                .headers()
                .get(http::header::CONNECTION)
                .is_some_and(|value| value.as_bytes() == b"close"),
        );
        let body = response.into_body().collect().await.map_err(|error| format!("body: {error}"))?.to_bytes();
        if status == StatusCode::OK {
            Ok(closes)
        } else {
            Err(format!("status {status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])))
        }
    }
}

/// The service behind `payments`: answers every request with 200.
pub(super) async fn upstream(listener: tokio::net::TcpListener, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((tcp, _)) = accepted else { continue };
        connections.spawn(async move {
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::new(
                    Bytes::from_static(b"paid\n"),
                )))
            });
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}
