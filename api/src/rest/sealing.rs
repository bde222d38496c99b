//! `/kek`, `/audit/accept`.

use axum::{
    Json,
    extract::{Path, State},
};

use serde::Deserialize;

use super::{
    App,
    extract::{Body, Nothing, Params},
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

/// As the end of anything, and whether slots in Vault only may be left.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removing {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    insecure_single_slot: bool,
}

pub(super) async fn remove_slot(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(params): Params<Removing>,
) -> Answer<wire::Done> {
    let Removing { dry_run, reason, insecure_single_slot } = params;
    shared.calls.remove_slot(&caller, &name, &reason, insecure_single_slot, dry_run).await.map(Json)
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
