//! `cert revoke`.

use api::wire;

use super::may_go_on;
use crate::{
    cli::CertRevokeArgs,
    client::{Client, encode},
    output::{self, Exit, Failure},
};

/// Fails in part when it is on no list, or a proxy has not acknowledged that list.
pub(super) async fn revoke(args: &CertRevokeArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let path = format!("/certificates/{}/revoke", encode(&args.serial));
    let wanted = |dry_run| wire::Revoke { code: args.code.clone(), reason: args.reason.clone(), dry_run };
    if !args.change.dry_run && !args.change.yes {
        let plan: wire::Revocation = client.post(&path, &wanted(true)).await?;
        output::note(&text(&plan));
        may_go_on(&args.change, &format!("revoke {}?", args.serial))?;
    }
    let outcome: wire::Revocation = client.post(&path, &wanted(args.change.dry_run)).await?;
    output::show(args.change.output, &outcome, text)?;
    let all = outcome.uptake.as_ref().is_none_or(|uptake| uptake.acknowledged == uptake.proxies);
    Ok(if all && outcome.unlisted.is_none() { Exit::Ok } else { Exit::Partial })
}

fn text(outcome: &wire::Revocation) -> String {
    let one = &outcome.certificate;
    let word = if outcome.dry_run { "would revoke" } else { "revoked" };
    let node = one.node.as_ref().map_or_else(String::new, |node| format!(" at {node}"));
    let mut text =
        format!("{word} {} of {}{node}, class {}, until {}\n", one.serial, one.id, one.class, one.expires);
    for (index, step) in outcome.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {step}\n", index + 1));
    }
    if let (Some(uptake), Some(took)) = (&outcome.uptake, outcome.took_ms) {
        let waiting = match uptake.waiting.is_empty() {
            true => String::new(),
            false => format!(" (waiting: {})", uptake.waiting.join(", ")),
        };
        text.push_str(&match &outcome.unlisted {
            Some(why) => format!("NOT on a list after {took} ms, proxies accept it: {why}\n"),
            None => format!(
                "listed, and refused by {}/{} connected proxies{waiting} in {took} ms\n",
                uptake.acknowledged, uptake.proxies
            ),
        });
    }
    for limit in &outcome.limits {
        text.push_str(&format!("  but: {limit}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_done_and_what_is_not() {
        let certificate = wire::Certificate {
            serial: "7f".into(),
            id: "spiffe://td/web".into(),
            class: "workload".into(),
            node: Some("web-1".into()),
            authority: "00".into(),
            purpose: "delivery".into(),
            issued: "a".into(),
            expires: "b".into(),
            expires_in_secs: 1,
            state: "issued".into(),
            revoked: None,
            issuer: None,
            pem: None,
            root: None,
        };
        let uptake = wire::ListUptake { proxies: 3, acknowledged: 2, waiting: vec!["web-2".into()] };
        let mut outcome = wire::Revocation {
            dry_run: true,
            certificate,
            steps: vec!["do".into(), "list".into()],
            limits: vec!["open connections last".into()],
            unlisted: None,
            uptake: None,
            took_ms: None,
        };
        assert_eq!(
            text(&outcome),
            "would revoke 7f of spiffe://td/web at web-1, class workload, until b\n  1. do\n  2. list\n  but: open \
             connections last\n"
        );
        (outcome.dry_run, outcome.uptake, outcome.took_ms) = (false, Some(uptake), Some(12));
        assert!(
            text(&outcome)
                .contains("\nlisted, and refused by 2/3 connected proxies (waiting: web-2) in 12 ms\n")
        );
        outcome.unlisted = Some("the store was put back".into());
        let text = text(&outcome);
        assert!(
            text.contains("\nNOT on a list after 12 ms, proxies accept it: the store was put back\n"),
            "{text}"
        );
        assert!(!text.contains("refused by"), "{text}");
    }
}
