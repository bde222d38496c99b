//! `/hooks`.

use axum::{
    Json,
    extract::{Path, State},
};

use super::{
    App,
    extract::{Nothing, Params},
};
use crate::{
    calls::{CallError, Caller},
    wire,
};

type Answer<T> = Result<Json<T>, CallError>;

pub(super) async fn list(
    State(shared): App,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Page<wire::Hook>> {
    Ok(Json(wire::Page { items: shared.calls.list_hooks(), next: None }))
}

pub(super) async fn test(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::HookTested> {
    shared.calls.test_hook(&caller, &name).await.map(Json)
}
