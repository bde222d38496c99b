//! `status --expiring`, `identity show`.

use api::wire;

use super::{dash, trust::identities_table};
use crate::{
    cli::{IdentityShowArgs, ListArgs},
    client::{Client, encode},
    output::{self, Exit, Failure, left},
};

pub(super) async fn expiring(args: &ListArgs, within: &str) -> Result<Exit, Failure> {
    super::parse_duration("--expiring", within)?;
    let client = Client::open(&args.server)?;
    let found: Vec<wire::Expiring> = client.get_all(&format!("/expiries?within={}", encode(within))).await?;
    output::show(args.output, &found, |found| expiring_table(found))?;
    output::remark_if_empty(args.output, &found, &format!("nothing expires within {within}"));
    Ok(Exit::Ok)
}

fn expiring_table(found: &[wire::Expiring]) -> String {
    let rows = found.iter().map(|one| {
        vec![
            one.kind.clone(),
            left(one.in_secs),
            one.at.clone(),
            format!("{}%", one.used_percent),
            dash(one.state.as_deref()),
            dash(one.node.as_deref()),
            one.name.clone(),
        ]
    });
    let mut text = output::table(&["kind", "in", "at", "used", "state", "node", "name"], rows);
    for one in found {
        if let Some(advice) = &one.advice {
            let (kind, name) = (&one.kind, &one.name);
            text.push_str(&format!("\nDUE: nothing replaces {kind} {name} by itself: {advice}"));
        }
    }
    text
}

pub(super) async fn identity(args: &IdentityShowArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let shown: wire::IdentityShown = client.get(&format!("/identities/{}", encode(&args.id))).await?;
    output::show(args.list.output, &shown, identity_text)?;
    Ok(Exit::Ok)
}

fn identity_text(shown: &wire::IdentityShown) -> String {
    let mut text = format!("{}\n\n", identities_table(std::slice::from_ref(&shown.identity)));
    match (&shown.survives_until, shown.survives_secs) {
        (Some(until), Some(secs)) => text.push_str(&format!(
            "survives {} without its issuer: until {until} every node that speaks for it has a valid leaf\n\n",
            left(secs)
        )),
        _ => text.push_str("no node has a valid leaf of it\n\n"),
    }
    let rows = shown.leaves.iter().map(|leaf| {
        let basis = if leaf.acknowledged { "acknowledged" } else { "issued" };
        vec![leaf.node.clone(), left(leaf.in_secs), leaf.until.clone(), basis.to_owned()]
    });
    text.push_str(&output::table(&["node", "holds for", "until", "leaf"], rows));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_until_when_an_identity_survives() {
        let identity = wire::Identity {
            id: "spiffe://td/web".into(),
            class: "workload".into(),
            nodes: vec!["web-1".into()],
            blocked_since: None,
            blocked_reason: None,
            enforcement: None,
        };
        let leaf =
            wire::HeldLeaf { node: "web-1".into(), until: "T".into(), in_secs: 3600, acknowledged: true };
        let held = wire::IdentityShown {
            identity,
            survives_until: Some("T".into()),
            survives_secs: Some(3600),
            leaves: vec![leaf],
        };
        let text = identity_text(&held);
        for words in ["survives 1h without its issuer", "web-1", "acknowledged"] {
            assert!(text.contains(words), "{text}");
        }
        let none =
            wire::IdentityShown { survives_until: None, survives_secs: None, leaves: Vec::new(), ..held };
        assert!(identity_text(&none).contains("no node has a valid leaf of it"));
    }

    #[test]
    fn lists_what_expires_with_its_share_of_life() {
        let one = wire::Expiring {
            kind: "node".into(),
            name: "spiffe://td/credence/node/web-1".into(),
            node: Some("web-1".into()),
            state: None,
            began: "T".into(),
            at: "T".into(),
            in_secs: -60,
            used_percent: 100,
            advice: Some("credence ca csr".into()),
        };
        let text = expiring_table(&[one]);
        assert!(text.contains("DUE: nothing replaces node spiffe"), "{text}");
        assert!(text.contains("expired 1m ago") && text.contains("100%"), "{text}");
    }
}
