//! `issuer add acme`, and `issuer credentials` with `--new-account-key` or `--register-again`.

use api::wire;

use super::issuer::{change_text, hidden};
use crate::{
    cli::{AddAcmeArgs, CredentialsArgs},
    client::{Client, encode},
    output::{self, Exit, Failure},
};

pub(super) async fn add(args: AddAcmeArgs) -> Result<Exit, Failure> {
    let wanted = wire::AddAcme {
        name: args.name,
        directory: args.directory,
        ca_file: args.ca_file,
        contacts: args.contacts,
        agree_terms: args.agree_terms,
        external_key_id: args.external_key_id,
        external_key: args.external_key_file.as_deref().map(hidden).transpose()?,
        profile: args.profile,
        reason: args.reason,
        dry_run: args.change.dry_run,
    };
    let client = Client::open(&args.change.server)?;
    let made: wire::IssuerChange = client.post("/issuers/acme", &wanted).await?;
    output::show(args.change.output, &made, change_text)?;
    Ok(exit(&made))
}

pub(super) async fn change_key(args: &CredentialsArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let wanted = wire::ChangeAccountKey { reason: args.reason.clone(), dry_run: args.change.dry_run };
    let path = format!("/issuers/{}/account-key", encode(&args.name));
    let made: wire::IssuerChange = client.post(&path, &wanted).await?;
    output::show(args.change.output, &made, change_text)?;
    Ok(exit(&made))
}

pub(super) async fn register_again(args: &CredentialsArgs) -> Result<Exit, Failure> {
    let wanted = wire::RegisterAgain {
        agree_terms: args.agree_terms.clone(),
        external_key_id: args.external_key_id.clone(),
        external_key: args.external_key_file.as_deref().map(hidden).transpose()?,
        reason: args.reason.clone(),
        dry_run: args.change.dry_run,
    };
    let client = Client::open(&args.change.server)?;
    let path = format!("/issuers/{}/register-again", encode(&args.name));
    let made: wire::IssuerChange = client.post(&path, &wanted).await?;
    output::show(args.change.output, &made, change_text)?;
    Ok(exit(&made))
}

/// Whether it was done, or the server goes on with it: what was asked for is the last that was tried, and the state of
/// the issuer does not say how it ended.
fn exit(made: &wire::IssuerChange) -> Exit {
    let is_done = made.checks.last().is_some_and(|check| check.verdict == "passed");
    if made.dry_run || is_done { Exit::Ok } else { Exit::Partial }
}
