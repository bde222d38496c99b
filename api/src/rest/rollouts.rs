//! `/rollouts`.

use axum::{Json, extract::State};

use super::{
    App,
    extract::{Body, Nothing, Params},
};
use crate::{
    calls::{CallError, Caller},
    wire,
};

type Answer<T> = Result<Json<T>, CallError>;

pub(super) async fn list(State(shared): App, Params(Nothing {}): Params<Nothing>) -> Answer<wire::Rollouts> {
    Ok(Json(shared.calls.list_rollouts().await?))
}

pub(super) async fn pause(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::PauseRollouts>,
) -> Answer<wire::Done> {
    shared.calls.pause_rollouts(&caller, &wanted).await.map(Json)
}

pub(super) async fn resume(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::ResumeRollouts>,
) -> Answer<wire::Done> {
    shared.calls.resume_rollouts(&caller, &wanted).await.map(Json)
}
