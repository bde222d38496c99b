//! `/proxies` and `/tokens`.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Deserialize;
use spiffe::NodeId;

use super::{
    App,
    extract::{Body, DryRun, Limit, Nothing, Params, namespace, page},
};
use crate::{
    calls::{CallError, Caller, ProxyFilter, Standing},
    wire,
};

type Answer<T> = Result<Json<T>, CallError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    namespace: Option<String>,
    state: Option<String>,
    limit: Option<Limit>,
    after: Option<String>,
}

pub(super) async fn list(
    State(shared): App,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<wire::Page<wire::Proxy>> {
    let after = params.after.as_deref().map(NodeId::parse).transpose();
    let filter = ProxyFilter {
        namespace: namespace(params.namespace.as_deref())?,
        standing: params.state.as_deref().map(Standing::parse).transpose()?,
        limit: page(params.limit)?,
        after: after.map_err(|error| CallError::Parameter { what: "after", why: error.to_string() })?,
    };
    Ok(Json(shared.calls.list_proxies(&caller, &filter).await))
}

pub(super) async fn enroll(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Enroll>,
) -> Result<Response, CallError> {
    let enrolled = shared.calls.enroll(&caller, wanted).await?;
    let status = if enrolled.token.is_some() { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(enrolled)).into_response())
}

pub(super) async fn show(
    State(shared): App,
    caller: Caller,
    Path(node): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Proxy> {
    shared.calls.get_proxy(&caller, &node).await.map(Json)
}

pub(super) async fn status(
    State(shared): App,
    caller: Caller,
    Path(node): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::ProxyStatus> {
    shared.calls.get_proxy(&caller, &node).await.map(|proxy| Json(proxy.status))
}

pub(super) async fn config(
    State(shared): App,
    caller: Caller,
    Path(node): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::ProxyConfig> {
    shared.calls.proxy_config(&caller, &node).map(Json)
}

pub(super) async fn explain(
    State(shared): App,
    caller: Caller,
    Path(node): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Explanation> {
    shared.calls.explain_proxy(&caller, &node).await.map(Json)
}

pub(super) async fn reload(
    State(shared): App,
    caller: Caller,
    Path(node): Path<String>,
    Params(params): Params<DryRun>,
) -> Answer<wire::Done> {
    shared.calls.reload_proxy(&caller, &node, params.dry_run).await.map(Json)
}

pub(super) async fn issuer(
    State(shared): App,
    caller: Caller,
    Path(node): Path<String>,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::ProxyIssuer>,
) -> Answer<wire::Done> {
    shared.calls.set_proxy_issuer(&caller, &node, &wanted).await.map(Json)
}

pub(super) async fn remove(
    State(shared): App,
    caller: Caller,
    Path(node): Path<String>,
    Params(params): Params<DryRun>,
) -> Answer<wire::Done> {
    shared.calls.remove_proxy(&caller, &node, params.dry_run).await.map(Json)
}

pub(super) async fn tokens(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Page<wire::Token>> {
    shared.calls.list_tokens(&caller).await.map(Json)
}

pub(super) async fn revoke(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<DryRun>,
) -> Answer<wire::Done> {
    shared.calls.revoke_token(&caller, &id, params.dry_run).await.map(Json)
}
