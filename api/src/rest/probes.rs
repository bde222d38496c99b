//! Health, readiness, metrics: on 9090 in clear for probes and scrapers, on 8080 for operators.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};

use super::{App, Shared};
use crate::sources::{MetricsText, Readiness};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The router of 9090: `/livez` and `/health`, `/readyz` and `/ready`, `/metrics`, and nothing else.
pub fn probes(readiness: Arc<dyn Readiness>, metrics: Arc<dyn MetricsText>) -> Router {
    type Parts = (Arc<dyn Readiness>, Arc<dyn MetricsText>);
    async fn ready(State((readiness, _)): State<Parts>) -> Response {
        // Whoever is on this host may know that we are not ready; why is for operators, on the management port, unless
        // there is none yet.
        readiness_answer(&*readiness, |_| match readiness.in_public() {
            Some(why) => format!("not ready: {why}\n"),
            None => "not ready\n".to_owned(),
        })
    }
    async fn metrics_text(State((_, metrics)): State<Parts>) -> Response {
        metrics_answer(&*metrics)
    }
    Router::new()
        .route("/livez", get(live))
        .route("/health", get(live))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state((readiness, metrics))
}

/// The same paths for 8080, behind its guard.
pub(super) fn routes() -> Router<Arc<Shared>> {
    async fn ready(State(shared): App) -> Response {
        readiness_answer(&*shared.calls.readiness, |missing| format!("not ready: {}\n", missing.join("; ")))
    }
    async fn metrics_text(State(shared): App) -> Response {
        metrics_answer(&*shared.calls.metrics)
    }
    Router::new()
        .route("/livez", get(live))
        .route("/health", get(live))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
}

async fn live() -> &'static str {
    "ok\n"
}

fn readiness_answer(readiness: &dyn Readiness, body: impl FnOnce(&[String]) -> String) -> Response {
    let missing = readiness.not_ready();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, body(&missing)).into_response()
}

fn metrics_answer(metrics: &dyn MetricsText) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], metrics.render()).into_response()
}
