//! `ca rotate root …`, `ca status`, `ca emergency`: the rotation of the root, with who would break by name.

use api::wire;

use super::{
    may_go_on,
    watch::{LOOK, Watch},
};
use crate::{
    cli::{CaStatusArgs, EmergencyArgs, RootCommand, RootStepArgs},
    client::Client,
    output::{self, Exit, Failure, left},
};

pub(super) const PATH: &str = "/authorities/root/rotation";
/// How many looks at an emergency may fail.
const MAX_MISSED: u32 = 60;
/// How wide a bar is.
const BAR: usize = 20;

pub(super) async fn root(command: RootCommand) -> Result<Exit, Failure> {
    match command {
        RootCommand::Prepare(args) => {
            let question = "make another root and put it into every bundle?";
            step("prepare", args.automatic, &args.step, question).await
        }
        RootCommand::Activate(args) => step("activate", false, &args, "let the new root sign?").await,
        RootCommand::Taint(args) => {
            step("taint", false, &args, "replace at once everything that the old root signed?").await
        }
        RootCommand::Finish(args) => {
            step("finish", false, &args, "take the old root out of every bundle and destroy its key?").await
        }
        RootCommand::Rollback(args) => step("rollback", false, &args, "go back to the old root?").await,
        RootCommand::Status(args) => status(&args).await,
    }
}

async fn step(word: &str, automatic: bool, args: &RootStepArgs, question: &str) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let mut wanted = wire::RotateRoot {
        step: word.to_owned(),
        automatic,
        leave_behind: args.leave_behind.clone(),
        dry_run: true,
        reason: args.reason.clone(),
    };
    let planned: wire::RootRotation = client.post(PATH, &wanted).await?;
    if args.change.dry_run {
        output::show(args.change.output, &planned, |planned| format!("would {word}\n{}", text(planned)))?;
        return Ok(Exit::Ok);
    }
    if !args.change.yes {
        output::note(&text(&planned));
        may_go_on(&args.change, question)?;
    }
    wanted.dry_run = false;
    let done: wire::RootRotation = client.post(PATH, &wanted).await?;
    output::show(args.change.output, &done, text)?;
    Ok(Exit::Ok)
}

pub(super) async fn status(args: &CaStatusArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let look = async || client.get::<wire::RootRotation>(PATH).await;
    let watch = Watch { format: args.list.output, every: LOOK };
    watch.run(look, text, |now| !args.watch || is_over(now)).await
}

/// Whether nothing is under way.
pub(super) fn is_over(now: &wire::RootRotation) -> bool {
    now.phase == "steady"
}

pub(super) async fn emergency(args: &EmergencyArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let mut wanted =
        wire::Emergency { authority: args.authority.clone(), dry_run: true, reason: args.reason.clone() };
    let planned: wire::RootRotation = client.post("/authorities/emergency", &wanted).await?;
    let plan = plan(&args.authority);
    if args.change.dry_run {
        output::show(args.change.output, &planned, |planned| format!("{plan}{}", text(planned)))?;
        return Ok(Exit::Ok);
    }
    if !args.change.yes && planned.emergency_since.is_none() {
        output::note(&plan);
        may_go_on(&args.change, "treat its key as stolen?")?;
    }
    wanted.dry_run = false;
    let mut now: wire::RootRotation = client.post("/authorities/emergency", &wanted).await?;
    // The answer says how far it is; whoever asked wants to see the end.
    let mut missed = 0;
    while now.emergency_since.is_some() {
        output::note(&text(&now));
        tokio::time::sleep(LOOK).await;
        now = match client.get(PATH).await {
            Ok(next) => next,
            // Certificates change on both sides in this very minute: a connection that fails is tried again.
            Err(failure) if failure.exit == Exit::Unavailable && missed < MAX_MISSED => {
                missed += 1;
                now
            }
            Err(failure) => return Err(failure),
        };
    }
    output::show(args.change.output, &now, text)?;
    output::note(&format!(
        "every certificate that it signed: credence cert list --all --authority {}",
        args.authority
    ));
    Ok(Exit::Ok)
}

fn plan(authority: &str) -> String {
    [
        format!("treats the key of {authority} as stolen:"),
        "  1. it and its root sign nothing more".to_owned(),
        "  2. a new root and issuing authority enter every bundle, and sign after 15 s at the latest"
            .to_owned(),
        "  3. every leaf is issued again at once, those that most proxies show first".to_owned(),
        "  4. the old root leaves the bundle 45 s after that at the latest; who lags then must enrol again"
            .to_owned(),
        "  5. then every connection between proxies is drained: within 5 s where the agent started Envoy, within \
         Envoy's own drain time elsewhere; TCP sessions and long streams end"
            .to_owned(),
    ]
    .join("\n")
        + "\n"
}

fn bar(part: usize, whole: usize) -> String {
    let filled = (BAR * part.min(whole)).checked_div(whole).unwrap_or(BAR);
    format!("[{}{}] {part}/{whole}", "#".repeat(filled), ".".repeat(BAR - filled))
}

/// Bars, and laggards by name.
pub(super) fn text(now: &wire::RootRotation) -> String {
    let mut text = format!("{}\n", now.standing);
    if let Some(since) = &now.emergency_since {
        text.push_str(&format!("EMERGENCY since {since}: the old root's key is believed to be stolen\n"));
    }
    if now.at_risk {
        text.push_str(
            "AT RISK: the root has passed three quarters of its life and its replacement is stuck\n",
        );
    }
    if let Some(by_hand) = &now.by_hand {
        text.push_str(&by_hand_text(by_hand));
    }
    if let Some(request) = &now.request {
        text.push_str(&format!(
            "request for {} waits since {}, made by {}: have it signed, then credence ca install FILE\n",
            request.authority, request.made, request.by
        ));
    }
    if now.phase != "steady" {
        let tally = &now.tally;
        let bars = [
            ("bundle acknowledged", tally.bundle, tally.connected),
            ("certificates renewed", tally.renewed, tally.holders),
            ("know us by the new root", tally.proven, tally.connected),
        ];
        for (name, part, whole) in bars {
            text.push_str(&format!("  {name:<24}{}\n", bar(part, whole)));
        }
        if let Some(settles) = &now.settles {
            text.push_str(&format!("  {:<24}{settles}\n", "old connections end by"));
        }
        let mode = if now.automatic { "follow by themselves as gates open" } else { "wait for commands" };
        text.push_str(&format!("steps {mode}; due: {}\n", now.due.join(", ")));
    }
    if now.laggard_count > 0 {
        text.push_str(&match &now.barrier {
            Some(barrier) => {
                let waited = left(i64::try_from(barrier.waiting_secs).unwrap_or(i64::MAX));
                format!("{} has waited {waited} for {} who would break:\n", barrier.step, now.laggard_count)
            }
            None => format!("who would break by the next step now: {}\n", now.laggard_count),
        });
        let rows = now.laggards.iter().map(|one| {
            vec![one.name.clone(), if one.connected { "yes" } else { "no" }.to_owned(), one.reason.clone()]
        });
        text.push_str(&output::table(&["name", "connected", "why"], rows));
        text.push('\n');
    }
    text
}

/// What nothing replaces by itself, and when an operator has to see to it.
fn by_hand_text(by_hand: &wire::ByHand) -> String {
    let (authority, ends) = (&by_hand.authority, &by_hand.ends);
    let left = left(by_hand.ends_in_secs);
    if by_hand.is_due {
        return format!(
            "DUE: issuing authority {authority} ends in {left}, at {ends}, and nothing replaces it by itself, because the \
             key of its root is kept elsewhere: {}\n",
            by_hand.advice
        );
    }
    format!(
        "the key of the root is kept elsewhere: see to a successor of issuing authority {authority} from {} on, it ends \
         at {ends}\n",
        by_hand.due
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_waits_for_an_operator() {
        let by_hand = wire::ByHand {
            authority: "aa".into(),
            due: "T1".into(),
            is_due: true,
            ends: "T2".into(),
            ends_in_secs: 86_400,
            advice: "credence ca csr".into(),
        };
        let request = wire::PendingRequest { authority: "bb".into(), made: "T3".into(), by: "ann".into() };
        let mut now = wire::RootRotation {
            by_hand: Some(by_hand.clone()),
            request: Some(request),
            ..Default::default()
        };
        let due = text(&now);
        for words in ["DUE: issuing authority aa ends in 1d", "credence ca csr", "request for bb"] {
            assert!(due.contains(words), "{due}");
        }
        now.by_hand = Some(wire::ByHand { is_due: false, ..by_hand });
        let early = text(&now);
        assert!(!early.contains("DUE") && early.contains("from T1 on"), "{early}");
    }

    #[test]
    fn shows_bars_and_laggards_by_name() {
        let laggard =
            wire::Laggard { name: "web-1".into(), connected: false, reason: "is not connected".into() };
        let now = wire::RootRotation {
            phase: "active".into(),
            standing: "root a signs, b still verifies".into(),
            due: vec!["finish".into()],
            tally: wire::RotationTally { connected: 4, bundle: 3, holders: 5, renewed: 5, proven: 0 },
            laggards: vec![laggard],
            laggard_count: 1,
            barrier: Some(wire::RotationBarrier {
                step: "finish".into(),
                since: "S".into(),
                waiting_secs: 720,
            }),
            ..Default::default()
        };
        let text = text(&now);
        for words in [
            "finish has waited 12m for 1 who would break:",
            "[###############.....] 3/4",
            "[####################] 5/5",
            "web-1",
            "due: finish",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(bar(0, 0), "[####################] 0/0");
    }
}
