//! `/issuers/acme`, `/issuers/{name}/account-key` and `/issuers/{name}/register-again`.

use axum::{
    Json,
    extract::{Path, State},
};

use super::{
    App,
    extract::{Body, Nothing, Params},
};
use crate::{
    calls::{CallError, Caller},
    wire,
};

type Answer<T> = Result<Json<T>, CallError>;

pub(super) async fn add(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::AddAcme>,
) -> Answer<wire::IssuerChange> {
    shared.calls.add_acme(&caller, wanted).await.map(Json)
}

pub(super) async fn change_key(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::ChangeAccountKey>,
) -> Answer<wire::IssuerChange> {
    shared.calls.change_account_key(&caller, &name, &wanted).await.map(Json)
}

pub(super) async fn register_again(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::RegisterAgain>,
) -> Answer<wire::IssuerChange> {
    shared.calls.register_again(&caller, &name, wanted).await.map(Json)
}
