//! `/edges`.

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

pub(super) async fn list(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Page<wire::Edge>> {
    shared.calls.list_edges(&caller).await.map(Json)
}

pub(super) async fn add(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::AddEdge>,
) -> Answer<wire::EdgeChange> {
    shared.calls.add_edge(&caller, wanted).await.map(Json)
}

pub(super) async fn show(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Edge> {
    shared.calls.show_edge(&caller, &name).await.map(Json)
}

pub(super) async fn remove(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(removal): Params<Ending>,
) -> Answer<wire::Done> {
    shared.calls.remove_edge(&caller, &name, &removal.reason, removal.dry_run).await.map(Json)
}

pub(super) async fn renew(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::RenewEdge>,
) -> Answer<wire::Done> {
    shared.calls.renew_edge(&caller, &name, &wanted.reason, wanted.dry_run).await.map(Json)
}
