//! `rollout ...`.

use api::wire;
use serde::Serialize;

use super::{
    done, may_go_on, rotation,
    watch::{LOOK, Watch},
};
use crate::{
    cli::{ListArgs, RolloutCommand},
    client::Client,
    output::{self, Exit, Failure, left},
};

pub(super) async fn run(command: RolloutCommand) -> Result<Exit, Failure> {
    match command {
        RolloutCommand::List(args) => {
            let client = Client::open(&args.server)?;
            let rollouts: wire::Rollouts = client.get("/rollouts").await?;
            output::show(args.output, &rollouts, text)?;
            Ok(Exit::Ok)
        }
        RolloutCommand::Watch(args) => watch(&args).await,
        RolloutCommand::Pause(args) if !args.all => Err(Failure::usage(
            "it is not said what is to be paused",
            "give --all: whatever goes on by itself is paused together, and a pause of less is not to be had",
        )),
        RolloutCommand::Pause(args) => {
            let client = Client::open(&args.change.server)?;
            if !args.change.dry_run {
                may_go_on(&args.change, "stop replacing authorities by itself?")?;
            }
            let wanted = wire::PauseRollouts {
                all: args.all,
                reason: args.reason.clone(),
                length: args.length.clone(),
                dry_run: args.change.dry_run,
            };
            done(&args.change, &client.post("/rollouts/pause", &wanted).await?)
        }
        RolloutCommand::Resume(args) => {
            let client = Client::open(&args.change.server)?;
            let wanted = wire::ResumeRollouts { reason: args.reason.clone(), dry_run: args.change.dry_run };
            done(&args.change, &client.post("/rollouts/resume", &wanted).await?)
        }
    }
}

/// What is under way, and what is to come.
#[derive(Serialize)]
struct Standing {
    rotation: wire::RootRotation,
    rollouts: wire::Rollouts,
}

async fn watch(args: &ListArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.server)?;
    let look = async || {
        let rotation = client.get(rotation::PATH).await?;
        Ok(Standing { rotation, rollouts: client.get("/rollouts").await? })
    };
    let shown = |now: &Standing| format!("{}\n\n{}", text(&now.rollouts), rotation::text(&now.rotation));
    let watch = Watch { format: args.output, every: LOOK };
    watch.run(look, shown, |now| rotation::is_over(&now.rotation)).await
}

fn text(rollouts: &wire::Rollouts) -> String {
    let mut text = match &rollouts.paused {
        Some(pause) => format!("{}\n\n", super::pause_line(pause)),
        None => String::new(),
    };
    let rows = rollouts.planned.iter();
    let rows = rows.map(|one| {
        let by = one.issuer.as_ref().map_or_else(|| "here".to_owned(), |issuer| format!("issuer {issuer}"));
        vec![one.what.clone(), one.authority.clone(), by, left(one.in_secs), one.at.clone()]
    });
    text.push_str(&output::table(&["replaced by itself", "authority", "by", "in", "at"], rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_stands_above_what_it_holds_back() {
        let paused = wire::Paused {
            reason: "Black Friday".into(),
            by: "spiffe://td/credence/operator/ann".into(),
            since: "S".into(),
            until: "U".into(),
            in_secs: 14_400,
        };
        let planned = wire::PlannedRollout {
            what: "intermediate".into(),
            authority: "00".into(),
            at: "T".into(),
            in_secs: 14_400,
            issuer: Some("corp".into()),
        };
        let text = text(&wire::Rollouts { paused: Some(paused), planned: vec![planned] });
        let first = "PAUSED for 4h more, until U, by spiffe://td/credence/operator/ann: Black Friday";
        assert!(text.starts_with(&format!("automatic rotation is {first}\n")), "{text}");
        assert!(text.contains("intermediate") && text.contains("issuer corp"), "{text}");
    }
}
