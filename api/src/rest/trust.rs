//! `/identities`, `/authorities`, `/certificates`, `/audit`, `/stats`, `/status`.

use audit::{Action, AuditFilter};
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use certs::{Profile, Timestamp};
use http::{StatusCode, header};
use serde::Deserialize;
use spiffe::{NodeId, SpiffeId};

use super::{
    App,
    extract::{Body, Limit, Nothing, Params, page},
};
use crate::{
    calls::{CallError, Caller, CertificateQuery},
    wire,
};

type Answer<T> = Result<Json<T>, CallError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityParams {
    id: Option<String>,
}

pub(super) async fn identities(
    State(shared): App,
    caller: Caller,
    Params(params): Params<IdentityParams>,
) -> Answer<wire::Page<wire::Identity>> {
    shared.calls.list_identities(&caller, params.id.as_deref()).map(Json)
}

pub(super) async fn identity(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::IdentityShown> {
    shared.calls.show_identity(&caller, &id).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpiryParams {
    within: Option<String>,
    limit: Option<Limit>,
    after: Option<usize>,
}

pub(super) async fn expiries(
    State(shared): App,
    caller: Caller,
    Params(params): Params<ExpiryParams>,
) -> Answer<wire::Page<wire::Expiring>> {
    let within = params.within.as_deref().map(|text| {
        certs::parse_duration(text).ok_or_else(|| CallError::Parameter {
            what: "within",
            why: format!("{text:?} is not a duration such as 7d"),
        })
    });
    let (within, limit, offset) = (within.transpose()?, page(params.limit)?, params.after.unwrap_or(0));
    shared.calls.list_expiries(&caller, within, limit, offset).await.map(Json)
}

pub(super) async fn block(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Block>,
) -> Answer<wire::BlockOutcome> {
    shared.calls.block(&caller, &wanted).await.map(Json)
}

pub(super) async fn unblock(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Unblock>,
) -> Answer<wire::BlockOutcome> {
    shared.calls.unblock(&caller, &wanted).await.map(Json)
}

pub(super) async fn authorities(
    State(shared): App,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Page<wire::Authority>> {
    shared.calls.list_authorities().await.map(Json)
}

pub(super) async fn bundle(State(shared): App, Params(Nothing {}): Params<Nothing>) -> Response {
    let pem = shared.calls.bundle_pem();
    ([(header::CONTENT_TYPE, "application/x-pem-file")], pem).into_response()
}

pub(super) async fn rotate(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Rotate>,
) -> Answer<wire::Rotation> {
    shared.calls.rotate_issuing(&caller, &wanted).await.map(Json)
}

pub(super) async fn root_rotation(
    State(shared): App,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::RootRotation> {
    shared.calls.root_rotation().await.map(Json)
}

pub(super) async fn rotate_root(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::RotateRoot>,
) -> Answer<wire::RootRotation> {
    shared.calls.rotate_root(&caller, &wanted).await.map(Json)
}

pub(super) async fn emergency(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Emergency>,
) -> Answer<wire::EmergencyStatus> {
    shared.calls.emergency(&caller, &wanted).await.map(Json)
}

pub(super) async fn emergency_status(
    State(shared): App,
    Path(id): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::EmergencyStatus> {
    shared.calls.emergency_status(&id).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    limit: Option<Limit>,
    after: Option<usize>,
}

pub(super) async fn signed(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<PageParams>,
) -> Answer<wire::Page<wire::SignedCertificate>> {
    let (limit, offset) = (page(params.limit)?, params.after.unwrap_or(0));
    shared.calls.list_signed(&caller, &id, limit, offset).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateParams {
    id: Option<String>,
    node: Option<String>,
    class: Option<String>,
    authority: Option<String>,
    #[serde(default)]
    all: bool,
    limit: Option<Limit>,
    after: Option<usize>,
}

pub(super) async fn certificates(
    State(shared): App,
    caller: Caller,
    Params(params): Params<CertificateParams>,
) -> Answer<wire::Page<wire::Certificate>> {
    let query = CertificateQuery {
        id: parameter("id", params.id.as_deref().map(SpiffeId::parse))?,
        node: parameter("node", params.node.as_deref().map(NodeId::parse))?,
        class: params.class.as_deref().map(class).transpose()?,
        authority: parameter("authority", params.authority.as_deref().map(str::parse))?,
        all: params.all,
        limit: page(params.limit)?,
        offset: params.after.unwrap_or(0),
    };
    shared.calls.list_certificates(&caller, &query).await.map(Json)
}

fn class(word: &str) -> Result<Profile, CallError> {
    match word {
        "node" => Ok(Profile::Node),
        "workload" => Ok(Profile::Workload),
        "server" => Ok(Profile::Server),
        "operator" => Ok(Profile::Operator),
        _ => Err(CallError::Parameter {
            what: "class",
            why: format!("{word:?} is none of node, workload, server, operator"),
        }),
    }
}

fn parameter<T, E: ToString>(what: &'static str, read: Option<Result<T, E>>) -> Result<Option<T>, CallError> {
    read.transpose().map_err(|error| CallError::Parameter { what, why: error.to_string() })
}

pub(super) async fn certificate(
    State(shared): App,
    caller: Caller,
    Path(serial): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Certificate> {
    shared.calls.get_certificate(&caller, &serial).await.map(Json)
}

pub(super) async fn revoke(
    State(shared): App,
    caller: Caller,
    Path(serial): Path<String>,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Revoke>,
) -> Answer<wire::Revocation> {
    shared.calls.revoke(&caller, &serial, &wanted).await.map(Json)
}

pub(super) async fn probe(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Probe>,
) -> Result<Response, CallError> {
    let probed = shared.calls.issue_probe(&caller, &wanted).await?;
    Ok((StatusCode::CREATED, Json(probed)).into_response())
}

pub(super) async fn renew(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Probe>,
) -> Result<Response, CallError> {
    let renewed = shared.calls.renew_operator(&caller, &wanted).await?;
    Ok((StatusCode::CREATED, Json(renewed)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditParams {
    since: Option<String>,
    until: Option<String>,
    action: Option<String>,
    actor: Option<String>,
    object: Option<String>,
    text: Option<String>,
    limit: Option<Limit>,
    after: Option<u64>,
}

pub(super) async fn audit(
    State(shared): App,
    caller: Caller,
    Params(params): Params<AuditParams>,
) -> Answer<wire::Page<wire::AuditRow>> {
    let filter = AuditFilter {
        since: params.since.as_deref().map(time).transpose()?,
        until: params.until.as_deref().map(time).transpose()?,
        action: params.action.as_deref().map(action).transpose()?,
        actor: params.actor,
        object: params.object,
        text: params.text,
        limit: page(params.limit)?,
        before_sequence: params.after,
    };
    shared.calls.list_audit(&caller, filter).await.map(Json)
}

fn time(text: &str) -> Result<Timestamp, CallError> {
    Timestamp::parse_rfc3339(text).ok_or_else(|| CallError::Parameter {
        what: "since or until",
        why: format!("{text:?} is not a time such as 2026-01-31T12:00:00Z"),
    })
}

fn action(word: &str) -> Result<Action, CallError> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).map_err(|error: serde_json::Error| {
        // It lists every word that there is.
        let text = error.to_string().replace('`', "");
        let known = text.split_once("expected one of ").map_or("", |(_, known)| known);
        CallError::Parameter { what: "action", why: format!("{word:?} is no action; there are {known}") }
    })
}

pub(super) async fn stats(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Stats> {
    shared.calls.stats(&caller).await.map(Json)
}

pub(super) async fn status(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Status> {
    shared.calls.status(&caller).await.map(Json)
}
