//! `/issuers`.

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
    _: Caller,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Page<wire::Issuer>> {
    shared.calls.list_issuers().await.map(Json)
}

pub(super) async fn add(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::AddIssuer>,
) -> Answer<wire::IssuerChange> {
    shared.calls.add_issuer(&caller, wanted).await.map(Json)
}

pub(super) async fn migrate(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::MigrateIssuer>,
) -> Answer<wire::IssuerMigration> {
    shared.calls.migrate_issuer(&caller, &wanted).await.map(Json)
}

pub(super) async fn abort(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::TurnMigration>,
) -> Answer<wire::IssuerMigration> {
    shared.calls.turn_migration(&caller, &wanted, true).await.map(Json)
}

pub(super) async fn resume(
    State(shared): App,
    caller: Caller,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::TurnMigration>,
) -> Answer<wire::IssuerMigration> {
    shared.calls.turn_migration(&caller, &wanted, false).await.map(Json)
}

pub(super) async fn show(
    State(shared): App,
    _: Caller,
    Path(name): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::Issuer> {
    shared.calls.show_issuer(&name).await.map(Json)
}

pub(super) async fn update(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(Nothing {}): Params<Nothing>,
    Body(wanted): Body<wire::UpdateIssuer>,
) -> Answer<wire::IssuerChange> {
    shared.calls.update_issuer(&caller, &name, wanted).await.map(Json)
}

pub(super) async fn remove(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(removal): Params<Ending>,
) -> Answer<wire::Done> {
    shared.calls.remove_issuer(&caller, &name, &removal.reason, removal.dry_run).await.map(Json)
}

pub(super) async fn test(
    State(shared): App,
    caller: Caller,
    Path(name): Path<String>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<wire::IssuerTest> {
    shared.calls.test_issuer(&caller, &name).await.map(Json)
}
