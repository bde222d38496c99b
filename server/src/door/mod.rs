//! The accept loops: the only place that spawns per connection.
//!
//! A door owns one listener. It lets handshakes run beside each other, each with a deadline and all under a cap,
//! so that one silent peer cannot stall the others, and hands every connection that passed to its service with
//! the verified [`spiffe::Peer`] among the request's extensions. What came in is served by `connection`.

mod comeback;
mod connection;
mod crowd;
mod fallback;
mod registry;
mod waiting;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use audit::{Action, Actor, Event, Refusals};
use axum::body::Body;
use certs::Clock;
use http::{Request, Response};
use hyper::body::Incoming;
use rustls::AlertDescription;
use spiffe::{Bindings, BlockList, Peer, Proof};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;

use crate::{
    metrics::DoorMetrics,
    presentation::{Offer, Shown},
    tls::{Admits, CertificateRefusal, Gatekeeper},
};

use self::crowd::{Crowd, Place};
pub(crate) use self::{fallback::Fallbacks, registry::Registry, waiting::answer};

/// What a door hands requests to.
pub(crate) type Service = BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>;

/// A handshake that is not done by then is dropped (R10).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many handshakes may be under way at once, shared between addresses.
const HANDSHAKES: usize = 2_000;
/// How many open connections without a certificate one address may have at a door.
const CONNECTIONS_PER_STRANGER: usize = 256;
/// How many connections one door holds.
const CONNECTIONS: usize = 20_000;
/// How long open connections may take to end once the door closes.
const DRAIN: Duration = Duration::from_secs(10);

/// How a door protects what comes through it.
pub(crate) enum Security {
    /// TLS 1.3, admitting one class.
    Tls(Gatekeeper, Admits),
    /// None: probes and scrapers on loopback.
    Plain,
}

/// One listener and what stands behind it.
pub(crate) struct Door {
    pub(crate) name: &'static str,
    pub(crate) listener: TcpListener,
    pub(crate) security: Security,
    pub(crate) service: Service,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) refusals: Arc<dyn Refusals>,
    pub(crate) bindings: watch::Receiver<Arc<Bindings>>,
    pub(crate) blocks: watch::Receiver<Arc<BlockList>>,
    pub(crate) registry: Arc<Registry>,
    /// Who has proven which root.
    pub(crate) delivery: Arc<xds::Board>,
    /// Over how long nodes come again once we are known by another root.
    pub(crate) authority_spread: Duration,
    pub(crate) fallbacks: Mutex<Fallbacks>,
    pub(crate) metrics: Arc<DoorMetrics>,
}

impl Door {
    /// Accepts until `shutdown`, then lets open connections finish within the drain time.
    ///
    /// # Errors
    /// Only when the listener itself is gone.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        let door = Arc::new(self);
        let handshakes = Crowd::new(HANDSHAKES, usize::MAX);
        let strangers = Crowd::new(CONNECTIONS, CONNECTIONS_PER_STRANGER);
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = door.listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
            };
            let (tcp, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    door.back_off(&error).await;
                    continue;
                }
            };
            let (Some(handshake), Ok(place)) =
                (handshakes.enter(remote.ip()), connections.clone().try_acquire_owned())
            else {
                door.metrics.overloaded.inc();
                continue;
            };
            let (door, strangers, shutdown) = (door.clone(), strangers.clone(), shutdown.clone());
            tasks.spawn(async move {
                let _place = place;
                door.admit(tcp, remote, handshake, &strangers, shutdown).await;
            });
        }
        let drained = async { while tasks.join_next().await.is_some() {} };
        if timeout(DRAIN, drained).await.is_err() {
            tracing::warn!(door = door.name, "connections were still open after the drain time");
        }
        Ok(())
    }

    /// Out of descriptors or memory: waiting is all that helps, and leaving the loop would close the door.
    async fn back_off(&self, error: &io::Error) {
        tracing::warn!(door = self.name, %error, "cannot accept");
        self.metrics.overloaded.inc();
        sleep(Duration::from_millis(100)).await;
    }

    async fn admit(
        &self,
        tcp: TcpStream,
        remote: SocketAddr,
        handshake: Place,
        strangers: &Arc<Crowd>,
        shutdown: CancellationToken,
    ) {
        let _ = tcp.set_nodelay(true);
        match &self.security {
            Security::Plain => {
                drop(handshake);
                let Some(_place) = strangers.enter(remote.ip()) else {
                    self.metrics.overloaded.inc();
                    return;
                };
                self.serve_plain(tcp, shutdown).await;
            }
            Security::Tls(gatekeeper, admits) => {
                let Some((tls, peer)) = self.shake_hands(gatekeeper, *admits, tcp, remote).await else {
                    return;
                };
                drop(handshake);
                let place = if peer.is_none() { strangers.enter(remote.ip()) } else { None };
                if peer.is_none() && place.is_none() {
                    self.metrics.overloaded.inc();
                    return;
                }
                self.serve_tls(tls, remote, peer, shutdown).await;
            }
        }
    }

    async fn shake_hands(
        &self,
        gatekeeper: &Gatekeeper,
        admits: Admits,
        tcp: TcpStream,
        remote: SocketAddr,
    ) -> Option<(TlsStream<TcpStream>, Option<Arc<Peer>>)> {
        let alpn: &[&[u8]] = if admits == Admits::Operators { &[b"h2", b"http/1.1"] } else { &[b"h2"] };
        let shown = self.fallbacks().choose(remote.ip(), self.clock.now());
        let (config, found, offer) = match gatekeeper.configure(admits, alpn, shown) {
            Ok(configured) => configured,
            Err(error) => {
                tracing::error!(door = self.name, %error, "cannot configure TLS");
                return None;
            }
        };
        let accepted = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(tcp)).await;
        let tls = match accepted {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                if !self.note_disbelief(remote, &offer, &error) {
                    self.give_back(&offer, remote);
                }
                let refusal = found.get().and_then(|found| found.as_ref().err());
                self.note_refusal(remote, refusal, &error.to_string());
                return None;
            }
            Err(_) => {
                self.give_back(&offer, remote);
                self.note_refusal(remote, None, "handshake was not finished within 5 s");
                return None;
            }
        };
        let peer = match found.get() {
            Some(Ok(svid)) => {
                let proof = offer.root.map(|root| Proof { root, at: self.clock.now() });
                Some(Arc::new(Peer::new(svid.clone(), remote).with_proof(proof)))
            }
            _ => None,
        };
        self.note_way_back(gatekeeper, &offer, peer.as_deref());
        if admits == Admits::Nodes && peer.is_none() {
            self.note_refusal(remote, None, "handshake ended without a verified node certificate");
            return None;
        }
        self.metrics.accepted.inc();
        Some((tls, peer))
    }

    /// The client does not believe the chain that it was shown: its next handshake may be shown the other one.
    /// Answers whether it was that.
    fn note_disbelief(&self, remote: SocketAddr, offer: &Offer, error: &io::Error) -> bool {
        let disbelieves = offer.has_way_back && is_disbelief(error);
        if disbelieves {
            let event = fallback::Event::Disbelieved { from: remote.ip(), shown: offer.shown };
            self.fallbacks().step(event, self.clock.now());
            self.metrics.disbelieved.inc();
        }
        disbelieves
    }

    /// A stranger's bare connect, or a load balancer's probe, must not use up the way back of those behind the same
    /// address.
    fn give_back(&self, offer: &Offer, remote: SocketAddr) {
        if offer.shown == Shown::Cross {
            self.fallbacks().step(fallback::Event::WasNotNeeded { from: remote.ip() }, self.clock.now());
        }
    }

    fn note_way_back(&self, gatekeeper: &Gatekeeper, offer: &Offer, peer: Option<&Peer>) {
        let (Shown::Cross, Some(peer)) = (offer.shown, peer) else { return };
        let active = *gatekeeper.own.showing().borrow();
        let knows = |node| active.is_some_and(|root| self.delivery.proven_roots(node).contains_key(&root));
        if peer.node().is_some_and(knows) {
            let event = fallback::Event::WasNotNeeded { from: peer.remote().ip() };
            self.fallbacks().step(event, self.clock.now());
        } else {
            tracing::info!(door = self.name, spiffe_id = %peer.id(), "connection verified us under the root before");
        }
    }

    fn fallbacks(&self) -> std::sync::MutexGuard<'_, Fallbacks> {
        self.fallbacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_refusal(&self, remote: SocketAddr, refusal: Option<&CertificateRefusal>, error: &str) {
        let reason = refusal.map_or_else(|| error.to_owned(), ToString::to_string);
        self.metrics.refused.inc();
        tracing::info!(door = self.name, %remote, reason, "connection refused");
        let event = Event::refused(
            self.clock.now(),
            Actor::stranger(remote),
            Action::ConnectionRefuse,
            self.name,
            reason,
        );
        self.refusals.refuse(event);
    }
}

/// Whether a handshake failed because the client does not believe our certificate.
fn is_disbelief(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(
        error,
        Some(rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
        ))
    )
}
