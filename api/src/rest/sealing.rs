//! `/kek`, `/audit/accept`.

use axum::{
    Json,
    extract::{Path, State},
};

use super::{
    App,
    extract::{Body, Ending, Nothing, Params},
};
use crate::{
    calls::{CallError, Caller},
    wire,
};

type Answer<T> = Result<Json<T>, CallError>;

pub(super) async fn show(State(shared): App, Params(Nothing {}): Params<Nothing>) -> Answer<wire::Sealing> {
    shared.calls.sealing().await.map(Json)
}

pub(super) async fn add_slot(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::AddSlot>,
) -> Answer<wire::Done> {
    shared.calls.add_slot(&caller, &wanted).await.map(Json)
}

pub(super) async fn remove_slot(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(params): Params<Ending>,
) -> Answer<wire::Done> {
    shared.calls.remove_slot(&caller, &name, &params.reason, params.dry_run).await.map(Json)
}

pub(super) async fn rotate(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::RotateKey>,
) -> Answer<wire::KeyRotation> {
    shared.calls.rotate_key(&caller, &wanted).await.map(Json)
}

pub(super) async fn accept(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::AcceptStore>,
) -> Answer<wire::Done> {
    shared.calls.accept_store(&caller, &wanted).await.map(Json)
}
