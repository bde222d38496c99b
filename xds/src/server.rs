//! The shell around sessions: gRPC discovery services over HTTP/2, below no RPC framework.
//!
//! A request becomes a [`Session`] only with an `Arc<Peer>` in its extensions, which the accept loop puts there
//! after the handshake. Nothing is spawned here: a stream is one future, handed to its connection
//! ([`ConnectionDrain`]) or, without one, polled by the response body.
//!
//! ```text
//! request body --Deframer--> Session <--watch-- views, bindings, blocks, secrets, clock, drain
//!                               `--Rope--> bounded channel --> response body
//! ```

mod admission;
mod body;
mod connection;
mod registry;
mod stream;

use std::{
    convert::Infallible,
    fmt::Display,
    future::{Ready, ready},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use audit::{Actor, Refusals};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use spiffe::{Bindings, BlockList, Clock, Peer, RequestId};
use tokio::sync::watch;

use self::{
    admission::{Admission, Admitted},
    connection::Driver,
    registry::Registry,
    stream::Stream,
};
pub use self::{
    body::{Aborted, XdsBody},
    connection::{ConnectionDrain, Driving},
};
use crate::{
    Board, Code, Limits, Method, Opening, Refusal, SecretSource, Session, Traffic, TypeUrl, Views, hub::Count,
};

/// What the server needs from others.
#[derive(Debug, Clone)]
pub struct XdsDeps {
    /// What each node may have.
    pub views: watch::Receiver<Arc<Views>>,
    /// Who may connect.
    pub bindings: watch::Receiver<Arc<Bindings>>,
    /// Who may not.
    pub blocks: watch::Receiver<Arc<BlockList>>,
    /// Secrets, per peer.
    pub secrets: Arc<dyn SecretSource>,
    /// Where delivery is noted.
    pub status: Arc<Board>,
    /// Where refusals go.
    pub audit: Arc<dyn Refusals>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where work is counted.
    pub traffic: Arc<Traffic>,
    /// The bounds.
    pub limits: Limits,
    /// What this control plane calls itself towards nodes; no names of hosts.
    pub identifier: Arc<str>,
}

/// The discovery services. Cheap to clone.
#[derive(Debug, Clone)]
pub struct XdsServer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    deps: XdsDeps,
    registry: Registry,
    next_stream: AtomicU64,
    admission: Mutex<Admission>,
}

impl XdsServer {
    /// A server of discovery streams.
    #[must_use]
    pub fn new(deps: XdsDeps) -> Self {
        // Nonces carry the stream's number: begin where no earlier process was (xds.md 11).
        let first = u64::try_from(deps.clock.now().unix_millis()).unwrap_or(1) << 8;
        let admission = Mutex::new(Admission::new(&deps.limits));
        Self {
            shared: Arc::new(Shared {
                deps,
                registry: Registry::default(),
                next_stream: AtomicU64::new(first),
                admission,
            }),
        }
    }

    /// Whether `path` belongs to Envoy's services, served or not: for the router of the listener.
    #[must_use]
    pub fn serves(path: &str) -> bool {
        path.starts_with("/envoy.service.")
    }

    /// Answers one call: a stream, or a refusal that carries a code and a correlation id.
    pub fn call<B>(&self, request: Request<B>) -> Response<XdsBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Display,
    {
        let deps = &self.shared.deps;
        let request_id = RequestId::random();
        let (parts, inbound) = request.into_parts();
        if !is_grpc(&parts.headers) {
            let mut response = Response::new(XdsBody::empty());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return response;
        }
        let Some(peer) = parts.extensions.get::<Arc<Peer>>().cloned() else {
            let actor = parts.extensions.get::<SocketAddr>().map_or(Actor::System, |at| Actor::stranger(*at));
            self.report(actor, parts.uri.path(), &Refusal::NoPeer, &request_id);
            return refused(&Refusal::NoPeer, &request_id);
        };
        let actor = Actor::Identity { id: peer.id().clone() };
        let refuse = |refusal: &Refusal| {
            self.report(actor.clone(), parts.uri.path(), refusal, &request_id);
            refused(refusal, &request_id)
        };
        let Some(method) = method_of(parts.uri.path()) else {
            return refuse(&Refusal::NoMethod(parts.uri.path().chars().take(256).collect()));
        };
        let stream = self.shared.next_stream.fetch_add(1, Ordering::Relaxed);
        let session = match Session::open(self.opening(peer, method, stream)) {
            Ok(session) => session,
            Err(refusal) => return refuse(&refusal),
        };
        let admitted = self.shared.admission().admit(deps.clock.now());
        let wait = match admitted {
            Admitted::After(wait) => wait,
            Admitted::Refused(pause) => {
                let mut response = refuse(&Refusal::Crowded);
                pushback(response.headers_mut(), pause, stream);
                return response;
            }
        };
        deps.traffic.streams_opened().add(1);
        let connection = parts.extensions.get::<ConnectionDrain>().cloned();
        let (frames, body) = XdsBody::channel();
        let stream = Stream::new(self.shared.clone(), session, stream, request_id, connection.clone());
        let driver: Driver = Box::pin(stream.run(wait, inbound, frames));
        // Polled by the connection, the stream goes on reading and watching while its peer does not read.
        let driver = match &connection {
            Some(connection) => connection.drive(driver).err(),
            None => Some(driver),
        };
        let body = match driver {
            Some(driver) => body.driven_by(driver),
            None => body,
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
        response
    }

    fn opening(&self, peer: Arc<Peer>, method: Method, stream: u64) -> Opening {
        let deps = &self.shared.deps;
        let node = peer.node();
        Opening {
            method,
            stream,
            now: deps.clock.now(),
            is_blocked: deps.blocks.borrow().contains(peer.id()),
            binding: deps.bindings.borrow().of(&peer).cloned(),
            view: node.and_then(|node| deps.views.borrow().get(node).cloned()),
            limits: deps.limits.clone(),
            peer,
        }
    }

    fn report(&self, actor: Actor, object: &str, refusal: &Refusal, request_id: &RequestId) {
        self.shared.report(actor, object.chars().take(256).collect(), refusal, request_id);
    }

    /// Ends every stream of `node`, which comes again and asks for everything; answers how many there were.
    pub fn end_streams_of(&self, node: &spiffe::NodeId) -> usize {
        self.shared.registry.end(node)
    }

    /// How many streams each node has open; for tests and metrics.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.shared.registry.len()
    }
}

impl Shared {
    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, actor: Actor, object: String, refusal: &Refusal, request_id: &RequestId) {
        let deps = &self.deps;
        deps.traffic.refusals().add(1);
        tracing::debug!(request_id = %request_id, %object, reason = %refusal, "discovery stream refused");
        let event = audit::Event::refused(
            deps.clock.now(),
            actor,
            audit::Action::StreamRefuse,
            object,
            refusal.to_string(),
        );
        deps.audit.refuse(event.in_request(request_id.clone()));
    }
}

impl<B> hyper::service::Service<Request<B>> for XdsServer
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Display,
{
    type Response = Response<XdsBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        ready(Ok(self.call(request)))
    }
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    content_type.starts_with(b"application/grpc")
}

/// Headers that are trailers at once.
fn refused(refusal: &Refusal, request_id: &RequestId) -> Response<XdsBody> {
    let mut response = Response::new(XdsBody::empty());
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response.headers_mut().extend(status_of(refusal.code(), Some(request_id)));
    response
}

/// Asks a client to come again after `pause` and up to as long again, so that those who were refused together do not
/// come together (gRFC A6, pushback).
fn pushback(headers: &mut HeaderMap, pause: Duration, stream: u64) {
    let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).max(1);
    // The number of the stream is as good a spread as any, and needs no randomness here.
    let spread = stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) % millis;
    headers.insert("grpc-retry-pushback-ms", HeaderValue::from(millis.saturating_add(spread)));
}

/// The status of a stream: a code, and an id to ask us by (R12).
fn status_of(code: Code, request_id: Option<&RequestId>) -> HeaderMap {
    let mut status = HeaderMap::new();
    status.insert("grpc-status", HeaderValue::from(code as u16));
    let message = request_id.and_then(|id| HeaderValue::try_from(format!("request {id}")).ok());
    if let Some(message) = message {
        status.insert("grpc-message", message);
    }
    status
}

/// The methods that are served: streams only. Unary fetches were where other servers forgot to ask who calls
/// (CVE-2026-53714), and no client of ours needs them.
fn method_of(path: &str) -> Option<Method> {
    let (service, call) = path.strip_prefix("/envoy.service.")?.split_once('/')?;
    let (only, noun) = match service {
        "discovery.v3.AggregatedDiscoveryService" => (None, "AggregatedResources"),
        "cluster.v3.ClusterDiscoveryService" => (Some(TypeUrl::Cluster), "Clusters"),
        "endpoint.v3.EndpointDiscoveryService" => (Some(TypeUrl::Endpoints), "Endpoints"),
        "secret.v3.SecretDiscoveryService" => (Some(TypeUrl::Secret), "Secrets"),
        "listener.v3.ListenerDiscoveryService" => (Some(TypeUrl::Listener), "Listeners"),
        "extension.v3.ExtensionConfigDiscoveryService" => (Some(TypeUrl::Extension), "ExtensionConfigs"),
        "route.v3.RouteDiscoveryService" => (Some(TypeUrl::Route), "Routes"),
        _ => return None,
    };
    let delta = match call.strip_suffix(noun)? {
        "Stream" => false,
        "Delta" => true,
        _ => return None,
    };
    Some(Method { only, delta })
}

#[cfg(test)]
mod tests;
