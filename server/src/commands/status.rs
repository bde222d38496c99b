//! `status`.

use api::wire;

use super::{
    dash, expiry,
    proxies::{NO_PROXIES, proxies_table},
};
use crate::{
    cli::StatusArgs,
    client::Client,
    output::{self, Exit, Failure, count, left},
};

pub(super) async fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    if let Some(within) = &args.expiring {
        return expiry::expiring(&args.list, within).await;
    }
    let args = &args.list;
    let client = Client::open(&args.server)?;
    let status: wire::Status = client.get("/status").await?;
    output::show(args.output, &status, text)?;
    output::remark_if_empty(args.output, &status.proxies, NO_PROXIES);
    Ok(Exit::Ok)
}

fn text(status: &wire::Status) -> String {
    let stats = &status.stats;
    let ready = if status.not_ready.is_empty() {
        "ready".to_owned()
    } else {
        format!("NOT READY: {}", status.not_ready.join("; "))
    };
    let mut text = format!(
        "credence {} of {}, {ready}\n{}: {} connected, {} synced, {} refusing; {}, {}; {}; {}; {}\n\n",
        status.version,
        status.trust_domain,
        count(stats.proxies, "proxy", "proxies"),
        stats.connected,
        stats.synced,
        stats.refusing,
        count(stats.configs, "document", "documents"),
        count(stats.drafts, "draft", "drafts"),
        count(stats.blocked, "blocked identity", "blocked identities"),
        count(stats.unused_tokens, "unused join token", "unused join tokens"),
        count(stats.failing_renewals, "failing renewal", "failing renewals"),
    );
    if let Some(pause) = &status.paused {
        text.push_str(&format!("{}\n\n", super::pause_line(pause)));
    }
    if let Some(window) = &status.recovery {
        text.push_str(&format!("{}\n\n", super::recovery::standing(window, true)));
    }
    for warning in &status.warnings {
        text.push_str(&format!("WARNING: {warning}\n\n"));
    }
    let expiries = status.expiries.iter();
    let expiries = expiries.map(|one| {
        vec![one.class.clone(), left(one.in_secs), one.in_secs.to_string(), one.at.clone(), one.name.clone()]
    });
    text.push_str(&output::table(&["next expiry of", "in", "seconds", "at", "whose"], expiries));
    if !status.failing_renewals.is_empty() {
        let rows = status.failing_renewals.iter().map(|one| {
            vec![
                one.class.clone(),
                one.name.clone(),
                dash(one.node.as_deref()),
                one.failures.to_string(),
                one.at.clone(),
                dash(one.expires.as_deref()),
                one.message.clone(),
            ]
        });
        text.push_str("\n\n");
        let headers =
            ["failing renewal of", "whose", "node", "failures", "last at", "in use until", "because"];
        text.push_str(&output::table(&headers, rows));
    }
    for finding in &status.store.findings {
        text.push_str(&format!("\n\nSTORE_ROLLBACK, nothing is signed: {finding}"));
    }
    for advice in &status.store.advice {
        text.push_str(&format!("\n{advice}"));
    }
    if !status.store.anchor.is_empty() {
        text.push_str(&format!("\n\nanchor of the store: {}", status.store.anchor));
    }
    if status.store.rows_on_old_key > 0 {
        text.push_str(&format!("\nrecords on an old data key: {}", status.store.rows_on_old_key));
    }
    text.push_str("\n\n");
    text.push_str(&proxies_table(&status.proxies));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_seconds_to_expiry_and_failed_renewals() {
        let status = wire::Status {
            version: "0.1.0".into(),
            trust_domain: "td".into(),
            default_mtls: "strict".into(),
            at: "T".into(),
            not_ready: vec!["xds".into()],
            paused: None,
            recovery: Some(wire::RecoveryWindow { until: "U".into(), in_secs: 90, ..Default::default() }),
            warnings: vec!["certificate of ann ends".into()],
            still_revoked: None,
            stats: wire::Stats::default(),
            expiries: vec![wire::Expiry {
                class: "operator".into(),
                name: "ann".into(),
                at: "T".into(),
                in_secs: 90,
            }],
            failing_renewals: vec![wire::FailedRenewal {
                class: "workload".into(),
                name: "spiffe://td/web".into(),
                node: None,
                at: "T".into(),
                failures: 3,
                message: "issuer is unavailable".into(),
                expires: None,
            }],
            clock: wire::ClockState::default(),
            store: wire::StoreState {
                findings: vec!["sealed x is missing".into()],
                advice: vec!["find out who: credence audit accept".into()],
                ..Default::default()
            },
            proxies: Vec::new(),
        };
        let text = text(&status);
        for words in [
            "NOT READY: xds",
            "WARNING: certificate of ann ends",
            "recovery window is OPEN for 1m30s more, until U",
            "1m30s",
            "90",
            "issuer is unavailable",
            "STORE_ROLLBACK",
            "credence audit accept",
        ] {
            assert!(text.contains(words), "{text}");
        }
    }
}
