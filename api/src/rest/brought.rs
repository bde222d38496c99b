//! `/authorities/request`, `/authorities/install`.

use axum::{Json, extract::State};

use super::{
    App,
    extract::{Body, Ending, Nothing, Params},
};
use crate::{
    calls::{CallError, Caller},
    wire,
};

type Answer<T> = Result<Json<T>, CallError>;

pub(super) async fn show(
    State(shared): App,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::AuthorityRequest> {
    shared.calls.authority_request().await.map(Json)
}

pub(super) async fn request(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::RequestAuthority>,
) -> Answer<wire::AuthorityRequest> {
    shared.calls.request_authority(&caller, &wanted).await.map(Json)
}

pub(super) async fn drop_request(
    State(shared): App,
    caller: Caller,
    Params(params): Params<Ending>,
) -> Answer<wire::Done> {
    shared.calls.drop_request(&caller, &params.reason, params.dry_run).await.map(Json)
}

pub(super) async fn install(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::InstallAuthority>,
) -> Answer<wire::Installed> {
    shared.calls.install_authority(&caller, &wanted).await.map(Json)
}
