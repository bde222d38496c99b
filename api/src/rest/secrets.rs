//! `/secrets`.

use axum::{
    Json,
    extract::{Path, State},
};

use super::{
    App,
    extract::{Body, DryRun, Nothing, Params},
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
) -> Answer<wire::Page<wire::Secret>> {
    shared.calls.list_secrets(&caller).await.map(Json)
}

pub(super) async fn set(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::SetSecret>,
) -> Answer<wire::SecretChange> {
    shared.calls.set_secret(&caller, &wanted).await.map(Json)
}

pub(super) async fn rotate(
    State(shared): App,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::SetSecret>,
) -> Answer<wire::SecretChange> {
    let wanted = wire::SetSecret { namespace, name, ..wanted };
    shared.calls.rotate_secret(&caller, &wanted).await.map(Json)
}

pub(super) async fn show(
    State(shared): App,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Secret> {
    shared.calls.get_secret(&caller, &namespace, &name).await.map(Json)
}

pub(super) async fn remove(
    State(shared): App,
    caller: Caller,
    Path((namespace, name)): Path<(String, String)>,
    Params(DryRun { dry_run }): Params<DryRun>,
) -> Answer<wire::Done> {
    shared.calls.remove_secret(&caller, &namespace, &name, dry_run).await.map(Json)
}
