//! What must not break while trust changes: five kinds of traffic through the fronts of a mesh, each counted apart.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Load, LoadPlan, LoadReport,
    load::{Connection, Counts},
    upstream::BEAT,
};

/// How long one streamed answer lasts.
pub const STREAM: Duration = Duration::from_secs(60);
/// How long one TCP session lasts: less than the greatest age of a connection, a minute at least, by which a proxy
/// ends it.
pub const SESSION: Duration = Duration::from_secs(45);
/// The longest silence of a stream or session that is not a failure.
const SILENCE: Duration = Duration::from_secs(3);
const PACE: Duration = Duration::from_millis(150);

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Requests on HTTP/1.1 connections that are kept.
    KeptHttp1,
    /// Requests on HTTP/2 connections that are kept.
    Http2,
    /// Answers that last [`STREAM`].
    Stream,
    /// TCP sessions of [`SESSION`], echoed all the time.
    Session,
    /// Requests, each on a connection of its own.
    NewConnections,
}

/// Where one proxy takes traffic.
#[derive(Debug, Clone, Copy)]
pub struct Front {
    /// Plain HTTP; must lead to an [`crate::Upstream`].
    pub http: SocketAddr,
    /// Plain TCP; must lead to an [`Echo`].
    pub tcp: SocketAddr,
}

/// All five kinds, through each of some fronts, until it is stopped.
#[derive(Debug)]
pub struct Traffic {
    loads: Vec<(Kind, Load)>,
    streams: Arc<Counts>,
    sessions: Arc<Counts>,
    stop: CancellationToken,
    workers: JoinSet<()>,
}

impl Traffic {
    /// Begins.
    #[must_use]
    pub fn start(fronts: &[Front]) -> Self {
        let (streams, sessions) = (Arc::<Counts>::default(), Arc::<Counts>::default());
        let (stop, mut workers, mut loads) = (CancellationToken::new(), JoinSet::new(), Vec::new());
        let plan = LoadPlan { fresh: 0, kept: 0, http2: 0, pace: PACE };
        for front in fronts.iter().copied() {
            loads.push((Kind::KeptHttp1, Load::start(front.http, "/", LoadPlan { kept: 1, ..plan })));
            loads.push((Kind::Http2, Load::start(front.http, "/", LoadPlan { http2: 1, ..plan })));
            loads.push((Kind::NewConnections, Load::start(front.http, "/", LoadPlan { fresh: 1, ..plan })));
            workers.spawn(again_and_again(streams.clone(), stop.clone(), move || stream(front.http)));
            workers.spawn(again_and_again(sessions.clone(), stop.clone(), move || session(front.tcp)));
        }
        Self { loads, streams, sessions, stop, workers }
    }

    /// What was seen so far, in all.
    #[must_use]
    pub fn so_far(&self) -> BTreeMap<Kind, LoadReport> {
        let mut reports = BTreeMap::<Kind, LoadReport>::new();
        for (kind, load) in &self.loads {
            reports.entry(*kind).or_default().add(load.so_far());
        }
        reports.insert(Kind::Stream, self.streams.report());
        reports.insert(Kind::Session, self.sessions.report());
        reports
    }

    /// Ends it. Streams and sessions that are under way, unbroken so far, do not count.
    pub async fn finish(mut self) -> BTreeMap<Kind, LoadReport> {
        self.stop.cancel();
        while self.workers.join_next().await.is_some() {}
        let loads = std::mem::take(&mut self.loads);
        let mut finished = Vec::new();
        for (kind, load) in loads {
            finished.push((kind, load.finish().await));
        }
        let mut reports = self.so_far();
        for (kind, report) in finished {
            reports.entry(kind).or_default().add(report);
        }
        reports
    }
}

impl LoadReport {
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.failed += other.failed;
        self.fresh += other.fresh;
        self.failures.extend(other.failures);
    }
}

async fn again_and_again<F>(counts: Arc<Counts>, stop: CancellationToken, once: impl Fn() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = once() => outcome,
        };
        match outcome {
            Ok(()) => counts.done(),
            Err(reason) => {
                counts.failed(reason);
                // Whoever refuses at once is not asked ten thousand times.
                tokio::time::sleep(PACE).await;
            }
        }
    }
}

/// One answer of [`STREAM`], to its last line.
async fn stream(front: SocketAddr) -> Result<(), String> {
    let began = Instant::now();
    let after = |words: String| format!("{words}, after {:.1} s", began.elapsed().as_secs_f32());
    let mut connection = Connection::open(front, false).await?;
    let response = connection.ask(&format!("/stream/{}", STREAM.as_secs())).await?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
    let mut body = response.into_body();
    let mut text = Vec::new();
    loop {
        let frame = timeout(SILENCE, body.frame()).await.map_err(|_| after("silence".to_owned()))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| after(format!("broken: {error}")))?;
        text.extend_from_slice(frame.data_ref().unwrap_or(&bytes::Bytes::new()));
    }
    let (lines, wanted) =
        (text.split(|octet| *octet == b'\n').count() - 1, STREAM.as_millis() / BEAT.as_millis());
    if lines as u128 == wanted { Ok(()) } else { Err(after(format!("{lines} of {wanted} lines"))) }
}

/// One TCP session of [`SESSION`].
async fn session(front: SocketAddr) -> Result<(), String> {
    let began = Instant::now();
    let after = |words: String| format!("{words}, after {:.1} s", began.elapsed().as_secs_f32());
    let mut tcp = TcpStream::connect(front).await.map_err(|error| format!("connect: {error}"))?;
    let mut ticks = interval(PACE);
    let mut number = 0_u64;
    while began.elapsed() < SESSION {
        ticks.tick().await;
        number += 1;
        let exchange = async {
            tcp.write_all(&number.to_be_bytes()).await?;
            tcp.read_u64().await
        };
        match timeout(SILENCE, exchange).await {
            Ok(Ok(echoed)) if echoed == number => {}
            Ok(Ok(other)) => return Err(after(format!("{other} came back instead of {number}"))),
            Ok(Err(error)) => return Err(after(format!("broken: {error}"))),
            Err(_) => return Err(after("silence".to_owned())),
        }
    }
    Ok(())
}

/// A server that says back what it is told. Dropping it closes it.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Echo {
    /// On loopback, at a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("bind: {error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    Some(_) = connections.join_next() => continue,
                };
                let Ok((mut tcp, _)) = accepted else { continue };
                connections.spawn(async move {
                    let (mut read, mut write) = tcp.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
