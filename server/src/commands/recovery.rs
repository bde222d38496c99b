//! `recover`: who has expired, who may come back, and who did.

use api::wire;

use super::{
    dash, done, may_go_on,
    watch::{LOOK, Watch, bar},
};
use crate::{
    cli::RecoverArgs,
    client::{Client, encode},
    output::{self, Exit, Failure, left},
};

const PATH: &str = "/recovery";

pub(super) async fn run(args: &RecoverArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    if args.close {
        let dry = args.change.dry_run;
        let path = format!("{PATH}?dry_run={dry}&reason={}", encode(&args.reason));
        return done(&args.change, &client.delete(&path).await?);
    }
    if let Some(window) = &args.window {
        let mut wanted = wire::OpenRecovery {
            window: window.clone(),
            reach: args.reach.clone(),
            reason: args.reason.clone(),
            dry_run: true,
        };
        let planned: wire::Recovery = client.post(PATH, &wanted).await?;
        if args.change.dry_run {
            output::show(args.change.output, &planned, |planned| format!("would open\n{}", text(planned)))?;
            return Ok(Exit::Ok);
        }
        if !args.change.yes {
            output::note(&text(&planned));
            let nodes = output::count(planned.waiting_count, "expired node", "expired nodes");
            may_go_on(
                &args.change,
                &format!("let {nodes}, and those that expire meanwhile, come back once?"),
            )?;
        }
        wanted.dry_run = false;
        let opened: wire::Recovery = client.post(PATH, &wanted).await?;
        if !args.watch {
            output::show(args.change.output, &opened, text)?;
            return Ok(Exit::Ok);
        }
    }
    let look = async || client.get::<wire::Recovery>(PATH).await;
    let watch = Watch { format: args.change.output, every: LOOK };
    let is_over = |now: &wire::Recovery| !args.watch || !now.open || now.waiting_count == 0;
    watch.run(look, text, is_over).await
}

fn text(now: &wire::Recovery) -> String {
    let mut text = match &now.window {
        None => "no recovery window was ever opened: nodes stay away once their certificates have ended"
            .to_owned(),
        Some(window) => standing(window, now.open),
    };
    text.push('\n');
    if now.recovered_count + now.waiting_count > 0 {
        let all = now.recovered_count + now.waiting_count;
        text.push_str(&format!("  came back {}\n", bar(now.recovered_count, all)));
    }
    text.push_str(&format!("\n{}\n", output::count(now.expired_count, "expired node", "expired nodes")));
    if !now.expired.is_empty() {
        let rows = now.expired.iter().map(|one| {
            let ago = left(i64::try_from(one.ago_secs).unwrap_or(i64::MAX));
            let state = if one.may_come_back { "may come back" } else { "stays away" };
            vec![one.node.clone(), format!("{ago} ago"), state.to_owned(), dash(one.because.as_deref())]
        });
        text.push_str(&output::table(&["node", "expired", "state", "because"], rows));
        text.push('\n');
    }
    if !now.recovered.is_empty() {
        text.push_str(&format!("\n{} came back\n", output::count(now.recovered_count, "node", "nodes")));
        let rows = now.recovered.iter().map(|one| vec![one.node.clone(), one.at.clone(), one.until.clone()]);
        text.push_str(&output::table(&["node", "came back", "certificate until"], rows));
        text.push('\n');
    }
    text
}

/// How a window stands, in one line.
pub(super) fn standing(window: &wire::RecoveryWindow, is_open: bool) -> String {
    let why = if window.reason.is_empty() { String::new() } else { format!(": {}", window.reason) };
    let (by, reach) = (&window.by, &window.reach);
    match (&window.closed, is_open) {
        (None, true) => format!(
            "recovery window is OPEN for {} more, until {}, reaching back {reach}, by {by}{why}",
            left(window.in_secs),
            window.until
        ),
        (Some(closed), _) => format!("recovery window closed at {closed}, opened by {by}{why}"),
        (None, false) if window.in_secs > 0 => {
            format!("recovery window until {}, reaching back {reach}, by {by}{why}", window.until)
        }
        (None, false) => format!("recovery window ended at {}, opened by {by}{why}", window.until),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_who_is_awaited_who_came_back_and_until_when() {
        let window = wire::RecoveryWindow {
            reason: "power cut".into(),
            by: "spiffe://td/credence/operator/ann".into(),
            opened: "O".into(),
            until: "U".into(),
            closed: None,
            in_secs: 3600,
            reach: "7d".into(),
        };
        let expired = |node: &str, because: Option<&str>| wire::ExpiredNode {
            node: node.into(),
            expired: "E".into(),
            ago_secs: 7200,
            may_come_back: because.is_none(),
            because: because.map(str::to_owned),
        };
        let recovered = wire::RecoveredNode { node: "web-3".into(), at: "A".into(), until: "B".into() };
        let now = wire::Recovery {
            open: true,
            window: Some(window.clone()),
            expired: vec![expired("web-1", None), expired("web-2", Some("it is revoked"))],
            expired_count: 2,
            waiting_count: 1,
            recovered: vec![recovered],
            recovered_count: 1,
        };
        let text = text(&now);
        for words in [
            "recovery window is OPEN for 1h more, until U, reaching back 7d, by spiffe://td/credence/operator/ann: power cut",
            "came back [##########..........] 1/2",
            "2 expired nodes",
            "may come back",
            "stays away     it is revoked",
            "1 node came back",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let closed = wire::RecoveryWindow { closed: Some("C".into()), ..window.clone() };
        assert!(standing(&closed, false).starts_with("recovery window closed at C"));
        let ended = wire::RecoveryWindow { in_secs: -5, ..window };
        assert!(standing(&ended, false).starts_with("recovery window ended at U"));
    }
}
