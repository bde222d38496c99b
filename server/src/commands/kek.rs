//! `kek …`, `audit accept`: no key passes here, only names of slots.

use api::wire::{self, RotatedKey};

use super::{dash, done, may_go_on};
use crate::{
    cli::{AcceptArgs, AddSlotArgs, ChangeArgs, KekCommand, KekRotateCommand, RemoveSlotArgs},
    client::{Client, encode},
    output::{self, Exit, Failure},
};

pub(super) async fn run(command: KekCommand) -> Result<Exit, Failure> {
    match command {
        KekCommand::Status(args) => {
            let client = Client::open(&args.server)?;
            let sealing: wire::Sealing = client.get("/kek").await?;
            output::show(args.output, &sealing, table)?;
            Ok(Exit::Ok)
        }
        KekCommand::AddSlot(args) if args.print_policy => print_policy(&args),
        KekCommand::AddSlot(args) => {
            let client = Client::open(&args.change.server)?;
            let wanted = wire::AddSlot {
                name: args.name.clone(),
                reason: args.reason.clone(),
                dry_run: args.change.dry_run,
            };
            done(&args.change, &client.post("/kek/slots", &wanted).await?)
        }
        KekCommand::RemoveSlot(args) => remove(&args).await,
        KekCommand::Rotate(command) => {
            let (key, insecure_single_slot, reason, change) = match command {
                KekRotateCommand::Slot(args) => {
                    let key = RotatedKey::Slot { from: args.name, to: args.to };
                    (key, args.insecure_single_slot, args.reason, args.change)
                }
                KekRotateCommand::Root(args) => {
                    let key = RotatedKey::Root { leave_behind: args.leave_behind };
                    (key, args.insecure_single_slot, args.reason, args.change)
                }
                KekRotateCommand::Data(args) => {
                    (RotatedKey::Data { class: args.class }, false, args.reason, args.change)
                }
            };
            let wanted = wire::RotateKey { key, insecure_single_slot, reason, dry_run: true };
            rotate(wanted, &change).await
        }
    }
}

/// Asks nobody: what a slot takes is the same everywhere.
fn print_policy(args: &AddSlotArgs) -> Result<Exit, Failure> {
    let wrong = |error: vault::NameError| Failure::usage(error.to_string(), "write it as Vault shows it");
    let mount = vault::Mount::parse(&args.mount).map_err(wrong)?;
    let key = vault::Name::parse(args.key.as_deref().unwrap_or_default()).map_err(wrong)?;
    output::say(vault::Policy::slot(&mount, &key).to_hcl().trim_end());
    Ok(Exit::Ok)
}

async fn remove(args: &RemoveSlotArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let (name, reason) = (encode(&args.name), encode(&args.reason));
    let path =
        format!("/kek/slots/{name}?reason={reason}&insecure_single_slot={}", args.insecure_single_slot);
    if args.change.dry_run {
        return done(&args.change, &client.delete(&format!("{path}&dry_run=true")).await?);
    }
    let _: wire::Done = client.delete(&format!("{path}&dry_run=true")).await?;
    may_go_on(&args.change, &format!("remove key slot {}: its key opens the store no more?", args.name))?;
    done(&args.change, &client.delete(&path).await?)
}

async fn rotate(mut wanted: wire::RotateKey, change: &ChangeArgs) -> Result<Exit, Failure> {
    let client = Client::open(&change.server)?;
    let planned: wire::KeyRotation = client.post("/kek/rotate", &wanted).await?;
    if change.dry_run {
        output::show(change.output, &planned, steps)?;
        return Ok(Exit::Ok);
    }
    may_go_on(change, &format!("{}\nreplace it?", steps(&planned)))?;
    wanted.dry_run = false;
    let made: wire::KeyRotation = client.post("/kek/rotate", &wanted).await?;
    output::show(change.output, &made, steps)?;
    Ok(Exit::Ok)
}

pub(super) async fn accept(args: &AcceptArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let mut wanted = wire::AcceptStore { reason: args.reason.clone(), dry_run: true };
    let planned: wire::Done = client.post("/audit/accept", &wanted).await?;
    if args.change.dry_run {
        return done(&args.change, &planned);
    }
    may_go_on(&args.change, &format!("{}\naccept?", planned.summary))?;
    wanted.dry_run = false;
    done(&args.change, &client.post("/audit/accept", &wanted).await?)
}

fn steps(rotation: &wire::KeyRotation) -> String {
    let word = if rotation.dry_run { "would" } else { "done or under way" };
    let steps = rotation.steps.iter().enumerate();
    let lines = steps.map(|(index, step)| format!("  {}. {step}", index + 1));
    format!("{word}:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// The version that wraps a slot, with the latest and the oldest one that the key has.
fn versions(slot: &wire::KeySlot) -> String {
    let text = |version: Option<u32>| version.map_or_else(|| "?".to_owned(), |version| version.to_string());
    match slot.version {
        None => dash(None),
        Some(version) => {
            let (latest, minimum) = (text(slot.latest_version), text(slot.minimum_version));
            format!("{version} (latest {latest}, oldest {minimum})")
        }
    }
}

fn table(sealing: &wire::Sealing) -> String {
    let slots = sealing.slots.iter().map(|slot| {
        let state = if slot.stale { format!("{}, stale", slot.state) } else { slot.state.clone() };
        vec![
            slot.name.clone(),
            slot.kind.clone(),
            state,
            dash(Some(&slot.key_id)),
            versions(slot),
            slot.created.clone(),
            dash(slot.ends.as_deref()),
            dash(slot.problem.as_deref()),
        ]
    });
    let slots = output::table(&["slot", "kind", "state", "key", "version", "made", "ends", "because"], slots);
    let keys = sealing.data_keys.iter().map(|key| {
        let (version, records) = (key.version.to_string(), key.records.to_string());
        vec![key.tenant.clone(), key.class.clone(), version, key.state.clone(), records, key.id.clone()]
    });
    let keys = output::table(&["tenant", "data key of", "version", "state", "records", "id"], keys);
    let mut text = format!(
        "{slots}\n\n{keys}\n\nroot key {}; {} records on an old data key",
        sealing.root_key, sealing.rows_on_old_key
    );
    for warning in &sealing.warnings {
        text.push_str(&format!("\nlook: {warning}"));
    }
    text
}
