//! `/configs`, `/validate`, `/apply`, `/history`, `/rollback`, `/services`, `/endpoints`.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::{
    App,
    extract::{Body, DryRun, IfMatch, Limit, MAX_PAGE, Nothing, Params, Text, namespace, page, uuid},
    insert_etag,
};
use crate::{
    calls::{CallError, Caller, ConfigFilter, HistoryPage, TextChange},
    wire,
};

type Answer<T> = Result<Json<T>, CallError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    namespace: Option<String>,
    kind: Option<String>,
    name: Option<String>,
    #[serde(default)]
    text: bool,
    limit: Option<Limit>,
    after: Option<String>,
}

pub(super) async fn list(
    State(shared): App,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<wire::Page<wire::Config>> {
    let filter = ConfigFilter {
        namespace: namespace(params.namespace.as_deref())?,
        kind: params.kind,
        name: params.name,
        text: params.text,
        limit: page(params.limit)?,
        after: params.after.as_deref().map(uuid).transpose()?,
    };
    shared.calls.list_configs(&caller, &filter).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateParams {
    namespace: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn create(
    State(shared): App,
    caller: Caller,
    Params(params): Params<CreateParams>,
    Text(text): Text,
) -> Result<Response, CallError> {
    let namespace = namespace(params.namespace.as_deref())?.unwrap_or_default();
    let plan = shared.calls.create_config(&caller, &namespace, &text, params.dry_run).await?;
    let Some(config) = plan.revisions.first() else { return Ok(Json(plan).into_response()) };
    let location = HeaderValue::from_str(&format!("/api/v1/configs/{}", config.id));
    let mut response = (StatusCode::CREATED, Json(config)).into_response();
    insert_etag(response.headers_mut(), config.revision);
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

pub(super) async fn show(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Result<Response, CallError> {
    let config = shared.calls.get_config(&caller, uuid(&id)?).await?;
    Ok(tagged(config.revision, &config))
}

fn tagged(revision: u64, body: &impl serde::Serialize) -> Response {
    let mut response = Json(body).into_response();
    insert_etag(response.headers_mut(), revision);
    response
}

pub(super) async fn update(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<DryRun>,
    IfMatch(expected): IfMatch,
    Text(text): Text,
) -> Result<Response, CallError> {
    let plan = shared.calls.update_config(&caller, uuid(&id)?, &text, expected, params.dry_run).await?;
    match plan.revisions.first() {
        Some(config) => Ok(tagged(config.revision, config)),
        None => Ok(Json(plan).into_response()),
    }
}

pub(super) async fn delete(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<DryRun>,
    IfMatch(expected): IfMatch,
) -> Answer<wire::Plan> {
    shared.calls.delete_config(&caller, uuid(&id)?, expected, params.dry_run).await.map(Json)
}

pub(super) async fn validate(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Validation> {
    shared.calls.validate_config(&caller, uuid(&id)?).await.map(Json)
}

pub(super) async fn apply(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<DryRun>,
    IfMatch(expected): IfMatch,
) -> Result<Response, CallError> {
    let plan = shared.calls.apply_config(&caller, uuid(&id)?, expected, params.dry_run).await?;
    let mut response = Json(&plan).into_response();
    if let Some(config) = plan.revisions.first() {
        insert_etag(response.headers_mut(), config.revision);
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryOfParams {
    limit: Option<Limit>,
    after: Option<String>,
}

pub(super) async fn history_of(
    State(shared): App,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<HistoryOfParams>,
) -> Answer<wire::Page<wire::Config>> {
    let part = history_page(false, params.limit, params.after.as_deref())?;
    shared.calls.history_of(&caller, uuid(&id)?, part).await.map(Json)
}

/// The page of a history; unless another size is asked for, the longest.
fn history_page(text: bool, limit: Option<Limit>, after: Option<&str>) -> Result<HistoryPage, CallError> {
    let revision = |text: &str| {
        let why = format!("{text:?} is not the number of a revision");
        text.parse().map_err(|_| CallError::Parameter { what: "after", why })
    };
    let limit = limit.map_or(Ok(MAX_PAGE), |limit| page(Some(limit)))?;
    Ok(HistoryPage { text, limit, after: after.map(revision).transpose()? })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TextParams {
    namespace: Option<String>,
    /// What problems call the text: the name of the file that it came from.
    file: Option<String>,
}

pub(super) async fn validate_text(
    State(shared): App,
    caller: Caller,
    Params(params): Params<TextParams>,
    Text(text): Text,
) -> Answer<wire::Validation> {
    let namespace = namespace(params.namespace.as_deref())?.unwrap_or_default();
    shared.calls.validate_text(&caller, &namespace, &file(params.file), &text).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyParams {
    namespace: Option<String>,
    file: Option<String>,
    #[serde(default)]
    prune: bool,
    prune_up_to: Option<u64>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    reason: String,
}

pub(super) async fn apply_text(
    State(shared): App,
    caller: Caller,
    Params(params): Params<ApplyParams>,
    Text(text): Text,
) -> Answer<wire::Plan> {
    let change = TextChange {
        text,
        file: file(params.file),
        namespace: namespace(params.namespace.as_deref())?.unwrap_or_default(),
        prune: params.prune,
        prune_up_to: params.prune_up_to,
        dry_run: params.dry_run,
        reason: params.reason,
    };
    shared.calls.apply_text(&caller, &change).await.map(Json)
}

fn file(given: Option<String>) -> String {
    let given = given.unwrap_or_default();
    if given.is_empty() { "body".into() } else { given.chars().take(200).collect() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryParams {
    namespace: Option<String>,
    kind: String,
    name: String,
    #[serde(default)]
    text: bool,
    limit: Option<Limit>,
    after: Option<String>,
}

pub(super) async fn history(
    State(shared): App,
    caller: Caller,
    Params(params): Params<HistoryParams>,
) -> Answer<wire::Page<wire::Config>> {
    let namespace = namespace(params.namespace.as_deref())?.unwrap_or_default();
    let part = history_page(params.text, params.limit, params.after.as_deref())?;
    let found = shared.calls.config_history(&caller, &namespace, &params.kind, &params.name, part);
    found.await.map(Json)
}

pub(super) async fn rollback(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::Rollback>,
) -> Answer<wire::Plan> {
    shared.calls.rollback(&caller, &wanted).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceParams {
    namespace: Option<String>,
}

pub(super) async fn services(
    State(shared): App,
    caller: Caller,
    Params(params): Params<ServiceParams>,
) -> Answer<wire::Page<wire::Service>> {
    let namespace = namespace(params.namespace.as_deref())?;
    shared.calls.list_services(&caller, namespace.as_ref()).await.map(wire::Page::whole).map(Json)
}

pub(super) async fn service(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(params): Params<ServiceParams>,
) -> Answer<wire::Page<wire::Service>> {
    let namespace = namespace(params.namespace.as_deref())?;
    shared.calls.get_service(&caller, &name, namespace.as_ref()).await.map(wire::Page::whole).map(Json)
}

pub(super) async fn endpoints(
    State(shared): App,
    caller: Caller,
    Params(params): Params<ServiceParams>,
) -> Answer<wire::Page<wire::Endpoint>> {
    let namespace = namespace(params.namespace.as_deref())?;
    shared.calls.list_services(&caller, namespace.as_ref()).await.map(addresses)
}

pub(super) async fn endpoints_of(
    State(shared): App,
    caller: Caller,
    Path(service): Path<String>,
    Params(params): Params<ServiceParams>,
) -> Answer<wire::Page<wire::Endpoint>> {
    let namespace = namespace(params.namespace.as_deref())?;
    shared.calls.get_service(&caller, &service, namespace.as_ref()).await.map(addresses)
}

fn addresses(services: Vec<wire::Service>) -> Json<wire::Page<wire::Endpoint>> {
    Json(wire::Page::whole(services.into_iter().flat_map(|service| service.endpoints).collect()))
}
