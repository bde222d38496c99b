//! `ca rotate root …`, `ca status`: the rotation of the root, with who would break by name.

use api::wire;

use super::{
    may_go_on,
    watch::{LOOK, Watch, bar},
};
use crate::{
    cli::{CaStatusArgs, RootCommand, RootStepArgs},
    client::Client,
    output::{self, Exit, Failure, left},
};

pub(super) const PATH: &str = "/authorities/root/rotation";
/// The most laggards on a screen.
pub(super) const LAGGARDS: usize = 15;

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
        output::show(args.change.output, &planned, |planned| plan_text(word, planned))?;
        return Ok(Exit::Ok);
    }
    if !args.change.yes {
        output::note(&plan_text(word, &planned));
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

/// What a step would do, who would break by it, and where the rotation stands now.
fn plan_text(word: &str, planned: &wire::RootRotation) -> String {
    let mut shown = format!("would {word}:\n");
    if let Some(plan) = &planned.plan {
        for (index, step) in plan.steps.iter().enumerate() {
            shown.push_str(&format!("  {}. {step}\n", index + 1));
        }
        match plan.left_behind_count {
            0 => shown.push_str("nobody would break by that\n"),
            left => shown.push_str(&format!("LEFT BEHIND, and would break by that: {left}\n")),
        }
        shown.push_str(&laggards_table(&plan.left_behind, plan.left_behind_count));
    }
    format!("{shown}\nnow: {}", text(planned))
}

/// How many of those that are counted as served are only awaited.
pub(super) fn awaited(tally: &wire::RotationTally) -> Option<String> {
    match tally.awaited {
        0 => None,
        1 => Some("1 is not connected now, and is awaited".to_owned()),
        more => Some(format!("{more} are not connected now, and are awaited")),
    }
}

/// The first of them: what is above the table is to stay on the screen.
fn laggards_table(laggards: &[wire::Laggard], count: usize) -> String {
    if laggards.is_empty() {
        return String::new();
    }
    let rows = laggards.iter().take(LAGGARDS).map(|one| {
        vec![one.name.clone(), if one.connected { "yes" } else { "no" }.to_owned(), one.reason.clone()]
    });
    let table = output::table(&["name", "connected", "why"], rows) + "\n";
    match count.saturating_sub(LAGGARDS) {
        0 => table,
        more => format!("{table}... and {more} more; -o json names {}\n", laggards.len()),
    }
}

/// Bars, and laggards by name.
pub(super) fn text(now: &wire::RootRotation) -> String {
    let mut text = format!("{}\n", now.standing);
    for remark in &now.remarks {
        text.push_str(&format!("look: {remark}\n"));
    }
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
        if let Some(awaited) = awaited(tally) {
            text.push_str(&format!("  {:<24}{awaited}\n", "of those"));
        }
        if let Some(settles) = &now.settles {
            let of_whom = if now.laggard_count > 0 { " (of all but the laggards)" } else { "" };
            text.push_str(&format!("  {:<24}{settles}{of_whom}\n", "old connections end by"));
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
        text.push_str(&laggards_table(&now.laggards, now.laggard_count));
    }
    text
}

/// What nothing replaces by itself, and when an operator has to see to it.
fn by_hand_text(by_hand: &wire::ByHand) -> String {
    let (authority, ends) = (&by_hand.authority, &by_hand.ends);
    let left = left(by_hand.ends_in_secs);
    if let Some(issuer) = &by_hand.issuer {
        if by_hand.is_due {
            return format!(
                "AT RISK: issuing authority {authority} ends in {left}, at {ends}, and issuer {issuer} has signed no \
                 successor: {}\n",
                by_hand.advice
            );
        }
        return format!(
            "issuer {issuer} is asked for a successor of issuing authority {authority} at {}, by itself; it ends at {ends}\n",
            by_hand.due
        );
    }
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
            issuer: None,
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
        now.by_hand = Some(wire::ByHand { is_due: false, ..by_hand.clone() });
        let early = text(&now);
        assert!(!early.contains("DUE") && early.contains("from T1 on"), "{early}");
        let of_issuer = wire::ByHand { issuer: Some("corp".into()), ..by_hand };
        now.by_hand = Some(of_issuer.clone());
        let risk = text(&now);
        assert!(risk.contains("AT RISK") && risk.contains("issuer corp has signed no successor"), "{risk}");
        now.by_hand = Some(wire::ByHand { is_due: false, ..of_issuer });
        let asked = text(&now);
        assert!(asked.contains("issuer corp is asked") && asked.contains("at T1, by itself"), "{asked}");
    }

    #[test]
    fn a_plan_says_what_happens_who_breaks_and_where_it_stands() {
        let lags = wire::Laggard { name: "web-1".into(), connected: true, reason: "lags".into() };
        let plan = |left_behind: Vec<wire::Laggard>| wire::RootRotation {
            phase: "active".into(),
            standing: "root a signs".into(),
            remarks: vec!["web-9 is in nobody's way".into()],
            plan: Some(wire::RotationPlan {
                steps: vec!["take b out".into(), "destroy its key".into()],
                left_behind_count: left_behind.len(),
                left_behind,
            }),
            ..Default::default()
        };
        let text = plan_text("finish", &plan(vec![lags]));
        for words in ["would finish:\n  1. take b out\n  2. destroy", "would break by that: 1", "web-1"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(text.contains("now: root a signs\nlook: web-9 is in nobody's way"), "{text}");
        let text = plan_text("finish", &plan(Vec::new()));
        assert!(text.contains("nobody would break by that"), "{text}");
    }

    #[test]
    fn shows_so_many_laggards_that_the_rest_stays_on_the_screen() {
        let named = |count: usize| -> Vec<wire::Laggard> {
            let one = |number| wire::Laggard {
                name: format!("web-{number}"),
                connected: true,
                reason: "lags".into(),
            };
            (0..count).map(one).collect()
        };
        let table = laggards_table(&named(LAGGARDS), LAGGARDS);
        assert!(table.contains("web-14") && !table.contains("more"), "{table}");
        let table = laggards_table(&named(200), 213);
        assert_eq!(table.lines().count(), 1 + LAGGARDS + 1, "{table}");
        assert!(table.ends_with("... and 198 more; -o json names 200\n"), "{table}");
        assert_eq!(laggards_table(&[], 0), "");
    }

    #[test]
    fn shows_bars_and_laggards_by_name() {
        let laggard =
            wire::Laggard { name: "web-1".into(), connected: false, reason: "is not connected".into() };
        let now = wire::RootRotation {
            phase: "active".into(),
            standing: "root a signs, b still verifies".into(),
            due: vec!["finish".into()],
            tally: wire::RotationTally {
                connected: 4,
                awaited: 1,
                bundle: 3,
                holders: 5,
                renewed: 5,
                proven: 0,
            },
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
            "1 is not connected now, and is awaited",
            "web-1",
            "due: finish",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
