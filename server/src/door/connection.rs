//! One connection from its first request to its end.
//!
//! A connection of a node never outlives the node's certificate: at 80 % of the time it has, it gets its own
//! GOAWAY and its streams end, so that Envoy opens a *new TCP connection* with the certificate it renewed
//! meanwhile; at the end it is cut (security reference 3.2). Ending the streams alone would not do: Envoy
//! reopens them on the same connection, with the old certificate. It is told to go in the same way when it verified
//! us under another root than the one that signs now: a new handshake proves what it knows.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use api::node::TlsExporter;
use certs::Timestamp;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rand::RngExt;
use spiffe::{AuthorityId, Class, Peer, Standing};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use xds::ConnectionDrain;

use super::{Door, Security, Service, comeback};
use crate::metrics::DoorMetrics;

/// The longest life of a node's connection, before jitter.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// How long a stranger or an operator may keep a connection without a certificate.
const MAX_STRANGER_AGE: Duration = Duration::from_secs(60);
/// How long a connection that was told to go may take before it is cut.
const GRACE: Duration = Duration::from_secs(10);
/// Between the GOAWAY and the end of the streams: the peer must read them in this order.
const GOAWAY_LEAD: Duration = Duration::from_millis(20);

/// Counts a connection as open for as long as this lives: also one whose future is dropped, as when a newer connection of
/// the same node takes its place.
struct Open<'a>(&'a DoorMetrics);

impl<'a> Open<'a> {
    fn count(metrics: &'a DoorMetrics) -> Self {
        metrics.open.inc();
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.dec();
    }
}

impl Door {
    pub(super) async fn serve_plain(&self, tcp: TcpStream, shutdown: CancellationToken) {
        let ends = Ends {
            go_away: self.clock.now() + MAX_STRANGER_AGE,
            cut: self.clock.now() + MAX_STRANGER_AGE + GRACE,
        };
        self.drive(TokioIo::new(tcp), self.service.clone(), None, ends, shutdown).await;
    }

    pub(super) async fn serve_tls(
        &self,
        tls: TlsStream<TcpStream>,
        remote: SocketAddr,
        peer: Option<Arc<Peer>>,
        shutdown: CancellationToken,
    ) {
        let exporter = exporter(&tls);
        let going_away = CancellationToken::new();
        let (drain, streams) = ConnectionDrain::new(going_away.clone());
        let stalled = drain.stalled().clone();
        let service = with_extensions(self.service.clone(), remote, peer.clone(), exporter, drain);
        let ends = self.ends(peer.as_deref());
        let connection = Connected { peer: peer.clone(), going_away, stalled, streams };
        let replaced = CancellationToken::new();
        let node = peer.as_ref().and_then(|peer| peer.node().cloned());
        let entered = node.as_ref().map(|node| self.registry.enter(node, replaced.clone()));
        tokio::select! {
            () = self.drive(TokioIo::new(tls), service, Some(connection), ends, shutdown) => {}
            () = replaced.cancelled() => {
                tracing::info!(node_id = node.as_ref().map(tracing::field::display), "connection gave way to a newer one");
            }
        }
        if let (Some(node), Some(number)) = (node, entered) {
            self.registry.leave(&node, number);
        }
    }

    /// When a connection of `peer` gets its GOAWAY and when it is cut.
    fn ends(&self, peer: Option<&Peer>) -> Ends {
        let now = self.clock.now();
        let age = match peer {
            None => MAX_STRANGER_AGE,
            // Spread over a fifth either way, so that a fleet that connected at once does not reconnect at once.
            Some(_) => MAX_AGE.mul_f64(rand::rng().random_range(0.8..1.2)),
        };
        let end = peer.map_or(now + age, |peer| (now + age).min(peer.svid().not_after()));
        let left = end.since(now);
        Ends { go_away: now + left.mul_f64(0.8), cut: end }
    }

    async fn drive<I>(
        &self,
        io: I,
        service: Service,
        connected: Option<Connected>,
        ends: Ends,
        shutdown: CancellationToken,
    ) where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let builder = builder();
        let connection = builder.serve_connection(io, hyper_util::service::TowerToHyperService::new(service));
        tokio::pin!(connection);
        let (peer, going_away, stalled, streams) = match connected {
            Some(connected) => {
                (connected.peer, connected.going_away, connected.stalled, Some(connected.streams))
            }
            None => (None, CancellationToken::new(), CancellationToken::new(), None),
        };
        // The streams' own work is polled here, beside the connection: no task per stream.
        let streams = async {
            if let Some(streams) = streams {
                streams.await;
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(streams);
        let _open = Open::count(&self.metrics);
        let mut leaving = false;
        let mut cut = ends.cut;
        let mut refused = Box::pin(self.no_longer_welcome(peer.as_deref()));
        let mut outdated = Box::pin(self.outdated(peer.as_deref()));
        loop {
            let next = if leaving { cut } else { ends.go_away };
            tokio::select! {
                done = connection.as_mut() => {
                    if let Err(error) = done {
                        tracing::debug!(door = self.name, %error, "connection ended");
                    }
                    break;
                }
                () = streams.as_mut() => {}
                () = self.clock.sleep_until(next) => {
                    if leaving {
                        break;
                    }
                }
                () = outdated.as_mut(), if !leaving => {
                    tracing::debug!(door = self.name, "connection is to prove the root that signs now");
                }
                () = shutdown.cancelled(), if !leaving => cut = cut.min(self.clock.now() + GRACE),
                () = stalled.cancelled() => {
                    tracing::info!(door = self.name, "connection cut: its peer does not read");
                    break;
                }
                () = refused.as_mut() => break,
            }
            leaving = true;
            connection.as_mut().graceful_shutdown();
            // The GOAWAY is written before any stream ends.
            if timeout(GOAWAY_LEAD, connection.as_mut()).await.is_ok() {
                break;
            }
            going_away.cancel();
        }
    }

    /// Completes when the peer's certificate is revoked or may be a thief's, its identity is blocked, or its binding is
    /// gone: what it holds open ends at once.
    async fn no_longer_welcome(&self, peer: Option<&Peer>) {
        let (Some(peer), Security::Tls(keeper, _)) = (peer, &self.security) else {
            return std::future::pending().await;
        };
        let (mut blocks, mut bindings) = (self.blocks.clone(), self.bindings.clone());
        let mut trust = keeper.trust.clone();
        loop {
            let now = Arc::clone(&trust.borrow_and_update());
            if peer.svid().is_revoked(&now) {
                tracing::info!(
                    door = self.name, spiffe_id = %peer.id(), serial = %peer.svid().serial(),
                    "connection ended: its certificate is revoked"
                );
                return;
            }
            if now.standing(peer.svid()) == Standing::Refused {
                tracing::warn!(door = self.name, spiffe_id = %peer.id(), "connection cut: its authority's key is stolen");
                return;
            }
            let blocked = blocks.borrow_and_update().contains(peer.id());
            let unbound = match peer.svid().class() {
                Class::Node(_) => bindings.borrow_and_update().of(peer).is_none(),
                Class::Workload | Class::Server | Class::Operator(_) => false,
            };
            // A node without a binding is answered by the session first, with a status and a correlation id;
            // the connection follows once that had time to leave.
            if blocked || unbound {
                tokio::time::sleep(Duration::from_secs(1)).await;
                return;
            }
            tokio::select! {
                changed = blocks.changed() => if changed.is_err() { return std::future::pending().await },
                changed = bindings.changed() => if changed.is_err() { return std::future::pending().await },
                changed = trust.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }
}

impl Door {
    /// Completes when the peer should come again. Spread, so that a fleet does not come at once.
    async fn outdated(&self, peer: Option<&Peer>) {
        let (Some(peer), Security::Tls(keeper, _)) = (peer, &self.security) else {
            return std::future::pending().await;
        };
        let Some(proof) = peer.proof() else { return std::future::pending().await };
        let (mut showing, mut trust) = (keeper.own.showing(), keeper.trust.clone());
        let mut issued = self.registry.issued(peer.node());
        let mut is_fresh = true;
        loop {
            let ours = *showing.borrow_and_update();
            let stay = ours.and_then(|ours| {
                let trust = trust.borrow_and_update();
                let roots = trust.own().authorities().iter();
                let facts = comeback::Facts {
                    proven: proof.root,
                    shows: AuthorityId::of(peer.svid().root()),
                    ours,
                    issued: *issued.borrow_and_update(),
                    is_emergency: roots.into_iter().any(|root| trust.tainted().contains(&root.spki_hash())),
                };
                comeback::stay(facts, self.authority_spread, is_fresh, rand::rng().random_range(0.0..1.0))
            });
            is_fresh = false;
            let due = stay.map_or(Timestamp::MAX, |stay| self.clock.now() + stay);
            tokio::select! {
                () = self.clock.sleep_until(due) => return,
                changed = showing.changed() => if changed.is_err() { return std::future::pending().await },
                changed = trust.changed() => if changed.is_err() { return std::future::pending().await },
                Ok(()) = issued.changed() => {}
            }
        }
    }
}

struct Ends {
    go_away: Timestamp,
    cut: Timestamp,
}

struct Connected {
    peer: Option<Arc<Peer>>,
    going_away: CancellationToken,
    stalled: CancellationToken,
    streams: xds::Driving,
}

pub(super) fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(32)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .max_header_list_size(16 * 1024)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_buf_size(64 * 1024)
        .max_headers(64);
    builder
}

fn exporter(tls: &TlsStream<TcpStream>) -> Option<TlsExporter> {
    let mut value = [0; 32];
    tls.get_ref().1.export_keying_material(&mut value, api::node::EXPORTER_LABEL, None).ok()?;
    Some(TlsExporter(value))
}

fn with_extensions(
    service: Service,
    remote: SocketAddr,
    peer: Option<Arc<Peer>>,
    exporter: Option<TlsExporter>,
    drain: ConnectionDrain,
) -> Service {
    Service::new(tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        let extensions = request.extensions_mut();
        extensions.insert(remote);
        extensions.insert(drain.clone());
        if let Some(peer) = &peer {
            extensions.insert(peer.clone());
        }
        if let Some(exporter) = exporter {
            extensions.insert(exporter);
        }
        let answer: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(service.clone().oneshot(request));
        answer
    }))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use certs::ManualClock;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use tokio::{net::TcpListener, sync::watch};

    use super::*;
    use crate::metrics::Metrics;

    #[derive(Debug)]
    struct Deaf;

    impl audit::Refusals for Deaf {
        fn refuse(&self, _: audit::Event) {}
    }

    async fn door(metrics: &Metrics) -> Door {
        let answer = |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(Body::empty())) };
        Door {
            name: "probes",
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            security: Security::Plain,
            service: Service::new(tower::service_fn(answer)),
            clock: Arc::new(ManualClock::new(Timestamp::EPOCH)),
            refusals: Arc::new(Deaf),
            bindings: watch::channel(Arc::default()).1,
            blocks: watch::channel(Arc::default()).1,
            registry: Arc::default(),
            delivery: Arc::default(),
            authority_spread: Duration::ZERO,
            fallbacks: std::sync::Mutex::default(),
            metrics: metrics.door("probes"),
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_given_up_is_counted_as_open_no_longer() {
        let metrics = Metrics::default();
        let door = door(&metrics).await;
        let client = TcpStream::connect(door.listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = door.listener.accept().await.unwrap();
        let served = Box::pin(door.serve_plain(tcp, CancellationToken::new()));
        // As when a newer one takes its place: the future is dropped where it waits.
        assert!(timeout(Duration::from_millis(10), served).await.is_err(), "it waits for a request");
        assert_eq!(door.metrics.open.get(), 0);
        drop(client);
    }
}
