//! `/recovery`.

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

pub(super) async fn show(State(shared): App, Params(Nothing {}): Params<Nothing>) -> Answer<wire::Recovery> {
    shared.calls.recovery().await.map(Json)
}

pub(super) async fn open(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::OpenRecovery>,
) -> Answer<wire::Recovery> {
    shared.calls.open_recovery(&caller, &wanted).await.map(Json)
}

pub(super) async fn close(
    State(shared): App,
    caller: Caller,
    Params(closing): Params<Ending>,
) -> Answer<wire::Done> {
    shared.calls.close_recovery(&caller, &closing.reason, closing.dry_run).await.map(Json)
}
