//! REST on 8080: HTTP into calls, and what they answer into HTTP. No decisions here.
//!
//! Every request passes [`guard`]: it gets an id, must come from an operator, is counted, and is held against the
//! table in [`crate::access`]. Whatever goes wrong leaves as a problem document.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use audit::{Action, Actor, Event};
use axum::{
    Json, Router,
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use spiffe::{AuthorityId, Peer, RequestId, SpiffeId, Tenant};

use crate::{
    access,
    calls::{CallError, Caller, Calls},
    limit::RateLimit,
    problem::{MEDIA_TYPE, Problem},
    sources::Readiness,
};

mod acme;
mod brought;
mod configs;
mod edges;
mod extract;
mod hooks;
mod issuers;
mod probes;
mod proxies;
mod recovery;
mod rollouts;
mod sealing;
mod secrets;
mod trust;
mod unread;

#[cfg(test)]
mod tests;

pub use self::extract::{MAX_BODY_BYTES, MAX_PAGE};
pub use self::probes::probes;
use self::unread::Unread;

/// How long a call may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_ID: &str = "x-request-id";
/// SHA-256 of the bundle in force, on every answer to an operator: one that holds another fetches `/bundle`.
pub const BUNDLE_SHA256: &str = "credence-bundle-sha256";
/// On an answer to an operator whose certificate leads to another root than the one that signs now.
pub const RENEW: &str = "credence-renew";
/// Says on every answer to an operator that automatic rotation is paused, so that every screen can.
pub const PAUSED: &str = "credence-paused";
/// Says on every answer to an operator that a recovery window is open.
pub const RECOVERY: &str = "credence-recovery";

/// What every handler shares.
pub(crate) struct Shared {
    pub(crate) calls: Calls,
    limit: Mutex<RateLimit<SpiffeId>>,
}

pub(crate) type App = State<Arc<Shared>>;

/// The router of 8080. `server` puts the verified peer (`Arc<spiffe::Peer>`) and the address (`SocketAddr`) of
/// the connection into the extensions of every request.
pub fn router(calls: Calls) -> Router {
    let shared = Arc::new(Shared { calls, limit: Mutex::default() });
    routes()
        .fallback(no_route)
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

fn routes() -> Router<Arc<Shared>> {
    let v1 = Router::new()
        .route("/configs", get(configs::list).post(configs::create))
        .route("/configs/{id}", get(configs::show).put(configs::update).delete(configs::delete))
        .route("/configs/{id}/validate", post(configs::validate))
        .route("/configs/{id}/apply", post(configs::apply))
        .route("/configs/{id}/history", get(configs::history_of))
        .route("/validate", post(configs::validate_text))
        .route("/apply", post(configs::apply_text))
        .route("/history", get(configs::history))
        .route("/rollback", post(configs::rollback))
        .route("/services", get(configs::services))
        .route("/services/{name}", get(configs::service))
        .route("/endpoints", get(configs::endpoints))
        .route("/endpoints/{service}", get(configs::endpoints_of))
        .route("/proxies", get(proxies::list).post(proxies::enroll))
        .route("/proxies/{node_id}", get(proxies::show).delete(proxies::remove))
        .route("/proxies/{node_id}/status", get(proxies::status))
        .route("/proxies/{node_id}/config", get(proxies::config))
        .route("/proxies/{node_id}/explain", get(proxies::explain))
        .route("/proxies/{node_id}/reload", post(proxies::reload))
        .route("/proxies/{node_id}/issuer", axum::routing::put(proxies::issuer))
        .route("/tokens", get(proxies::tokens))
        .route("/tokens/{id}", axum::routing::delete(proxies::revoke))
        .route("/identities", get(trust::identities))
        .route("/identities/{id}", get(trust::identity))
        .route("/identities/block", post(trust::block))
        .route("/identities/unblock", post(trust::unblock))
        .route("/authorities", get(trust::authorities))
        .route("/authorities/rotate", post(trust::rotate))
        .route("/bundle", get(trust::bundle))
        .route("/authorities/root/rotation", get(trust::root_rotation).post(trust::rotate_root))
        .route("/authorities/emergency", post(trust::emergency))
        .route("/authorities/{id}/emergency", get(trust::emergency_status))
        .route("/authorities/{id}/signed", get(trust::signed))
        .route(
            "/authorities/request",
            get(brought::show).post(brought::request).delete(brought::drop_request),
        )
        .route("/authorities/install", post(brought::install))
        .route("/certificates", get(trust::certificates))
        .route("/certificates/{serial}", get(trust::certificate))
        .route("/certificates/{serial}/revoke", post(trust::revoke))
        .route("/certificates/probe", post(trust::probe))
        .route("/certificates/renew", post(trust::renew))
        .route("/secrets", get(secrets::list).post(secrets::set))
        .route("/secrets/{namespace}/{name}", get(secrets::show).delete(secrets::remove))
        .route("/secrets/{namespace}/{name}/rotate", post(secrets::rotate))
        .route("/issuers", get(issuers::list).post(issuers::add))
        .route("/issuers/acme", post(acme::add))
        .route("/issuers/migrate", post(issuers::migrate))
        .route("/issuers/migrate/abort", post(issuers::abort))
        .route("/issuers/migrate/resume", post(issuers::resume))
        .route("/issuers/{name}", get(issuers::show).patch(issuers::update).delete(issuers::remove))
        .route("/issuers/{name}/test", post(issuers::test))
        .route("/issuers/{name}/account-key", post(acme::change_key))
        .route("/issuers/{name}/register-again", post(acme::register_again))
        .route("/edges", get(edges::list).post(edges::add))
        .route("/edges/{name}", get(edges::show).delete(edges::remove))
        .route("/edges/{name}/renew", post(edges::renew))
        .route("/kek", get(sealing::show))
        .route("/kek/slots", post(sealing::add_slot))
        .route("/kek/slots/{name}", axum::routing::delete(sealing::remove_slot))
        .route("/kek/rotate", post(sealing::rotate))
        .route("/audit/accept", post(sealing::accept))
        .route("/audit", get(trust::audit))
        .route("/rollouts", get(rollouts::list))
        .route("/rollouts/pause", post(rollouts::pause))
        .route("/rollouts/resume", post(rollouts::resume))
        .route("/recovery", get(recovery::show).post(recovery::open).delete(recovery::close))
        .route("/hooks", get(hooks::list))
        .route("/hooks/{name}/test", post(hooks::test))
        .route("/expiries", get(trust::expiries))
        .route("/stats", get(trust::stats))
        .route("/status", get(trust::status))
        .route("/openapi.json", get(crate::openapi::document));
    Router::new().nest("/api/v1", v1).merge(probes::routes())
}

async fn no_route(request: Request) -> CallError {
    CallError::NoRoute(request.uri().path().to_owned())
}

/// Lets operators in, one at a time and not too often; gives everything that leaves its id and form.
async fn guard(shared: App, request: Request, next: Next) -> Response {
    let has_peer = peer(&request).is_some();
    let (request, unread) = Unread::lend(request);
    let response = answer(shared, request, next).await;
    // Strangers have no claim to more than a moment of ours.
    if has_peer {
        unread.drop_rest().await;
    }
    response
}

async fn answer(State(shared): App, mut request: Request, next: Next) -> Response {
    let request_id = RequestId::random();
    let news = peer(&request).map(|peer| shared.news_of_trust(&peer));
    match shared.admit(&request, &request_id) {
        Ok(caller) => {
            let banners = [(PAUSED, shared.calls.pause_banner()), (RECOVERY, shared.calls.recovery_banner())];
            let (object, actor) = (object_of(&request), caller.actor.clone());
            request.extensions_mut().insert(caller);
            let response = match tokio::time::timeout(TIMEOUT, next.run(request)).await {
                Ok(response) => response,
                Err(_) => CallError::TimedOut(TIMEOUT).into_response(),
            };
            if let Some(error) = response.extensions().get::<Failure>().filter(|failure| failure.is_refusal())
            {
                shared.note(object, &request_id, actor, &error.0);
            }
            let mut response = finish(response, &request_id, &*shared.calls.readiness);
            response.headers_mut().extend(news.unwrap_or_default());
            for (name, banner) in banners {
                if let Some(banner) = banner.and_then(|banner| HeaderValue::from_str(&banner).ok()) {
                    response.headers_mut().insert(name, banner);
                }
            }
            response
        }
        Err(error) => finish(error.into_response(), &request_id, &*shared.calls.readiness),
    }
}

impl Shared {
    /// What an operator should know of our trust, beside any answer.
    fn news_of_trust(&self, peer: &Peer) -> HeaderMap {
        let mut news = HeaderMap::new();
        let hash = hex::encode(self.calls.trust.borrow().own().content_hash());
        if let Ok(hash) = HeaderValue::from_str(&hash) {
            news.insert(BUNDLE_SHA256, hash);
        }
        let root = AuthorityId::of(peer.svid().root());
        if self.calls.anchor.borrow().root.is_some_and(|active| active != root) {
            news.insert(RENEW, HeaderValue::from_static("now"));
        }
        news
    }

    fn admit(&self, request: &Request, request_id: &RequestId) -> Result<Caller, CallError> {
        let Some(peer) = peer(request) else {
            let actor = request.extensions().get::<SocketAddr>().map_or_else(
                || Actor::Stranger { address: "unknown".into() },
                |remote| Actor::stranger(*remote),
            );
            self.note(object_of(request), request_id, actor, &CallError::NoCredential);
            return Err(CallError::NoCredential);
        };
        let actor = Actor::Identity { id: peer.id().clone() };
        self.judge(&peer, request)
            .inspect_err(|error| self.note(object_of(request), request_id, actor.clone(), error))?;
        Ok(Caller {
            actor,
            certificate: Some(peer.svid().serial().clone()),
            tenant: Tenant::default(),
            request_id: request_id.clone(),
        })
    }

    fn judge(&self, peer: &Peer, request: &Request) -> Result<(), CallError> {
        let now = self.calls.clock.now();
        let taken = self.limit.lock().unwrap_or_else(PoisonError::into_inner).take(peer.id(), now);
        taken.map_err(|retry_after| CallError::RateLimited { retry_after })?;
        if self.calls.configs.blocks().contains(peer.id()) {
            let id = peer.id().to_string();
            return Err(CallError::Forbidden { id, operation: "call anything, it is blocked".into() });
        }
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        match path {
            Some(path) if access::permission(request.method(), path).is_none() && access::knows(path) => {
                let (method, path) = (request.method().to_string(), path.to_owned());
                Err(CallError::NoMethod { method, path })
            }
            Some(path) => access::authorize(peer, request.method(), path).map(drop),
            // Nothing is there, and strangers to the table learn that much.
            None => access::authorize(peer, &http::Method::GET, "/livez").map(drop),
        }
    }

    /// A refusal leaves a row in the audit log.
    fn note(&self, object: String, request_id: &RequestId, actor: Actor, error: &CallError) {
        let event =
            Event::refused(self.calls.clock.now(), actor, Action::CallRefuse, object, error.to_string());
        self.calls.refusals.refuse(event.in_request(request_id.clone()));
    }
}

/// What a call is about, in words that a caller does not choose.
fn object_of(request: &Request) -> String {
    let path = request.extensions().get::<MatchedPath>().map_or("elsewhere", MatchedPath::as_str);
    format!("{} {path}", request.method())
}

fn peer(request: &Request) -> Option<Arc<Peer>> {
    let extensions = request.extensions();
    let optional = extensions.get::<Option<Arc<Peer>>>().cloned().flatten();
    optional.or_else(|| extensions.get::<Arc<Peer>>().cloned())
}

/// A call that failed, on its way to [`finish`].
#[derive(Debug, Clone)]
struct Failure(Arc<CallError>);

impl Failure {
    /// Whether a rule of ours forbade what an operator asked for: such a call is on record, as one that was done is.
    fn is_refusal(&self) -> bool {
        matches!(*self.0, CallError::Forbidden { .. } | CallError::Policy(_))
    }
}

impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Failure(Arc::new(self)));
        response
    }
}

fn finish(mut response: Response, request_id: &RequestId, readiness: &dyn Readiness) -> Response {
    let failure = response.extensions_mut().remove::<Failure>().map(|failure| failure.0);
    let failure = failure.or_else(|| unexplained(&response).map(Arc::new));
    if let Some(error) = failure {
        tell(&error, request_id);
        response = problem(&error, request_id, readiness);
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
        headers.insert(REQUEST_ID, value);
    }
    response
}

/// What the framework refused by itself, such as a path that is not UTF-8.
fn unexplained(response: &Response) -> Option<CallError> {
    let status = response.status();
    let ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|found| found == MEDIA_TYPE);
    let expected = ours || status == StatusCode::SERVICE_UNAVAILABLE;
    (status.is_client_error() && !expected)
        .then(|| CallError::Parameter { what: "request", why: status.to_string() })
}

fn tell(error: &CallError, request_id: &RequestId) {
    match error {
        CallError::Unavailable { .. } | CallError::TimedOut(_) => {
            tracing::warn!(%request_id, %error, "call failed");
        }
        _ => tracing::debug!(%request_id, %error, "call refused"),
    }
}

fn problem(error: &CallError, request_id: &RequestId, readiness: &dyn Readiness) -> Response {
    let mut document = Problem::new(error, request_id.as_str());
    if let CallError::Unavailable { .. } = error {
        document = document.while_not_ready(&readiness.not_ready());
    }
    let status = StatusCode::from_u16(document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(document)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    match error {
        CallError::RateLimited { retry_after } => {
            headers.insert(header::RETRY_AFTER, retry_after.as_secs().max(1).into());
        }
        CallError::Unavailable { .. } => {
            headers.insert(header::RETRY_AFTER, 5.into());
        }
        CallError::Stale { actual, .. } => insert_etag(headers, *actual),
        _ => {}
    }
    response
}

pub(crate) fn insert_etag(headers: &mut HeaderMap, revision: u64) {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        headers.insert(header::ETAG, value);
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = CallError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, CallError> {
        parts.extensions.get::<Self>().cloned().ok_or(CallError::NoCredential)
    }
}
