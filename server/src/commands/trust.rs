//! `ca …`, `cert …`, `identity …`, `token …`, `audit …`.

use api::wire;
use certs::Clock;

use super::{brought, dash, done, dry, emergency, expiry, ladders, may_go_on, revoke, root_key, rotation};
use crate::{
    cli::{
        AuditCommand, AuditListArgs, BlockArgs, CaCommand, CertCommand, CertListArgs, ChangeArgs, Format,
        IdentityCommand, RotateArgs, RotateCommand, TokenCommand,
    },
    client::{Client, encode},
    clock::SystemClock,
    output::{self, Exit, Failure, left, say},
};

pub(super) async fn ca(command: CaCommand) -> Result<Exit, Failure> {
    match command {
        CaCommand::Show(args) => {
            let client = Client::open(&args.server)?;
            let page: wire::Page<wire::Authority> = client.get("/authorities").await?;
            output::show(args.output, &page.items, |items| authorities_table(items))?;
            Ok(Exit::Ok)
        }
        CaCommand::Rotate(RotateCommand::Intermediate(args)) => rotate(&args).await,
        CaCommand::Rotate(RotateCommand::Root(command)) => rotation::root(command).await,
        CaCommand::Status(args) => rotation::status(&args).await,
        CaCommand::Emergency(args) => emergency::run(&args).await,
        CaCommand::Csr(args) => brought::csr(&args).await,
        CaCommand::Install(args) => brought::install(&args).await,
        CaCommand::Root(command) => root_key::run(command).await,
    }
}

fn authorities_table(authorities: &[wire::Authority]) -> String {
    let rows = authorities.iter().map(|one| {
        vec![
            one.id.clone(),
            one.place.clone(),
            state_text(one),
            left(one.expires_in_secs),
            one.live_leaves.map_or_else(|| "-".into(), |count| count.to_string()),
            dash(one.rotates_at.as_deref()),
            if one.offline_since.is_some() { "elsewhere" } else { "here" }.to_owned(),
            dash(one.revocation_list.as_ref().map(list_text).as_deref()),
            one.spki_sha256.clone(),
        ]
    });
    let headers = [
        "authority",
        "place",
        "state",
        "expires in",
        "live leaves",
        "rotates at",
        "key",
        "revocation list",
        "pin",
    ];
    let mut text = output::table(&headers, rows);
    let all: Vec<_> = authorities.iter().flat_map(|one| &one.waits_for).collect();
    for laggard in all.iter().take(rotation::LAGGARDS) {
        text.push_str(&format!("{} {}\n", laggard.name, laggard.reason));
    }
    if all.len() > rotation::LAGGARDS {
        text.push_str(&format!("... and {} more; -o json names them\n", all.len() - rotation::LAGGARDS));
    }
    text
}

/// Where it stands, whether it is tainted, and whom it waits for.
fn state_text(one: &wire::Authority) -> String {
    let mut text = one.state.clone();
    match (&one.stolen_since, &one.tainted_since) {
        (Some(since), _) => text.push_str(&format!(", STOLEN since {since}")),
        (None, Some(since)) => text.push_str(&format!(", tainted since {since}")),
        (None, None) => {}
    }
    if !one.waits_for.is_empty() {
        text.push_str(&format!(", waits for {}", one.waits_for.len()));
    }
    text
}

fn list_text(list: &wire::RevocationList) -> String {
    let shown = if list.is_shown { "" } else { ", WITHDRAWN" };
    format!("{} ({} revoked) until {}{shown}", list.number, list.revoked, list.ends)
}

async fn rotate(args: &RotateArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let mut wanted = wire::Rotate { dry_run: true, reason: args.reason.clone() };
    let planned: wire::Rotation = client.post("/authorities/rotate", &wanted).await?;
    if args.change.dry_run {
        output::show(args.change.output, &planned, rotation_text)?;
        return Ok(Exit::Ok);
    }
    if !args.change.yes {
        output::note(&rotation_text(&planned));
        may_go_on(&args.change, "replace the issuing authority?")?;
    }
    wanted.dry_run = false;
    let rotated: wire::Rotation = client.post("/authorities/rotate", &wanted).await?;
    output::show(args.change.output, &rotated, rotation_text)?;
    Ok(Exit::Ok)
}

fn rotation_text(rotation: &wire::Rotation) -> String {
    let mut text = match &rotation.to {
        Some(to) => format!("issuing authority {to} signs now; {} retires\n", rotation.from),
        None => format!("would replace issuing authority {}\n", rotation.from),
    };
    for (index, step) in rotation.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {step}\n", index + 1));
    }
    text
}

pub(super) async fn cert(command: CertCommand) -> Result<Exit, Failure> {
    match command {
        CertCommand::List(args) => cert_list(&args).await,
        CertCommand::Show(args) => {
            let client = Client::open(&args.list.server)?;
            let one: wire::Certificate =
                client.get(&format!("/certificates/{}", encode(&args.serial))).await?;
            output::show(args.list.output, &one, |one| {
                let pem = one.pem.clone().unwrap_or_default();
                format!("{}\n\n{pem}", certificates_table(std::slice::from_ref(one)))
            })?;
            Ok(Exit::Ok)
        }
        CertCommand::Revoke(args) => revoke::revoke(&args).await,
        CertCommand::Explain(args) => ladders::explain(&args).await,
        CertCommand::Lint(args) => ladders::lint(&args),
    }
}

async fn cert_list(args: &CertListArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let mut path = format!("/certificates?all={}", args.all);
    for (name, value) in
        [("id", &args.id), ("node", &args.node), ("class", &args.class), ("authority", &args.authority)]
    {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    let found: Vec<wire::Certificate> = client.get_all(&path).await?;
    output::show(args.list.output, &found, |found| certificates_table(found))?;
    output::remark_if_empty(args.list.output, &found, "no such certificates; --all shows past ones too");
    Ok(Exit::Ok)
}

fn certificates_table(certificates: &[wire::Certificate]) -> String {
    let rows = certificates.iter().map(|one| {
        vec![
            one.serial.clone(),
            one.class.clone(),
            one.id.clone(),
            dash(one.node.as_deref()),
            match &one.issuer {
                Some(issuer) => format!("{} of {issuer}", one.authority),
                None => one.authority.clone(),
            },
            one.state.clone(),
            left(one.expires_in_secs),
            one.purpose.clone(),
        ]
    });
    output::table(
        &["serial", "class", "identity", "node", "authority", "state", "expires in", "purpose"],
        rows,
    )
}

pub(super) async fn identity(command: IdentityCommand) -> Result<Exit, Failure> {
    match command {
        IdentityCommand::List(args) => {
            let client = Client::open(&args.server)?;
            let page: wire::Page<wire::Identity> = client.get("/identities").await?;
            output::show(args.output, &page.items, |items| identities_table(items))?;
            output::remark_if_empty(
                args.output,
                &page.items,
                "none yet; credence proxy enroll NODE grants one",
            );
            Ok(Exit::Ok)
        }
        IdentityCommand::Show(args) => expiry::identity(&args).await,
        IdentityCommand::Block(args) => block(&args).await,
        IdentityCommand::Unblock(args) => {
            let client = Client::open(&args.change.server)?;
            let wanted = wire::Unblock {
                id: args.id.clone(),
                reason: args.reason.clone(),
                dry_run: args.change.dry_run,
            };
            let outcome = client.post("/identities/unblock", &wanted).await?;
            block_outcome(&args.change, &outcome)
        }
    }
}

async fn block(args: &BlockArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let wanted = |dry_run| wire::Block {
        id: args.id.clone(),
        reason: args.reason.clone(),
        now: args.now,
        evict: args.evict,
        dry_run,
    };
    if !args.change.dry_run && !args.change.yes {
        let plan: wire::BlockOutcome = client.post("/identities/block", &wanted(true)).await?;
        may_go_on(&args.change, &format!("{}\nblock {}?", plan.summary, args.id))?;
    }
    let outcome = client.post("/identities/block", &wanted(args.change.dry_run)).await?;
    block_outcome(&args.change, &outcome)
}

/// Fails in part when a proxy has not acknowledged what it must refuse.
fn block_outcome(change: &ChangeArgs, outcome: &wire::BlockOutcome) -> Result<Exit, Failure> {
    output::show(change.output, outcome, |outcome| outcome.summary.clone())?;
    let all = outcome.enforcement.as_ref().is_none_or(|found| found.acknowledged == found.proxies);
    Ok(if all { Exit::Ok } else { Exit::Partial })
}

pub(super) fn identities_table(identities: &[wire::Identity]) -> String {
    let rows = identities.iter().map(|one| {
        vec![
            one.id.clone(),
            one.class.clone(),
            dash(Some(&one.nodes.join(", "))),
            dash(one.blocked_since.as_deref()),
            dash(one.enforcement.as_ref().map(ToString::to_string).as_deref()),
            dash(one.blocked_reason.as_deref()),
        ]
    });
    output::table(&["identity", "class", "nodes", "blocked since", "refused on", "because"], rows)
}

pub(super) async fn token(command: TokenCommand) -> Result<Exit, Failure> {
    match command {
        TokenCommand::List(args) => {
            let client = Client::open(&args.server)?;
            let page: wire::Page<wire::Token> = client.get("/tokens").await?;
            output::remark_if_empty(
                args.output,
                &page.items,
                "none yet; credence proxy enroll NODE makes one",
            );
            output::show(args.output, &page.items, |items| {
                let rows = items.iter().map(|one| {
                    let failures = one.failures.to_string();
                    let made = (one.author.clone(), one.created.clone());
                    vec![
                        one.id.clone(),
                        one.node.clone(),
                        one.state.clone(),
                        one.expires.clone(),
                        made.0,
                        made.1,
                        failures,
                    ]
                });
                output::table(&["token", "node", "state", "ends", "author", "made", "wrong secrets"], rows)
            })?;
            Ok(Exit::Ok)
        }
        TokenCommand::Revoke(args) => {
            let client = Client::open(&args.change.server)?;
            let path = format!("/tokens/{}{}", encode(&args.id), dry(&args.change));
            done(&args.change, &client.delete(&path).await?)
        }
    }
}

pub(super) async fn audit(command: AuditCommand) -> Result<Exit, Failure> {
    let args = match command {
        AuditCommand::List(args) => args,
        AuditCommand::Accept(args) => return super::kek::accept(&args).await,
    };
    let client = Client::open(&args.list.server)?;
    let rows = audit_rows(&client, &args).await?;
    if args.list.output != Format::Table {
        output::show(args.list.output, &rows, |_| String::new())?;
        return Ok(Exit::Ok);
    }
    let lines = rows.iter().map(|row| {
        let details: Vec<String> = row.details.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let why = [row.reason.clone(), details.join(" ")].join(" ").trim().to_owned();
        let (sequence, count) = (row.sequence.to_string(), row.count.to_string());
        let what = (row.actor.clone(), row.action.clone(), row.outcome.clone(), row.object.clone());
        vec![sequence, row.at.clone(), what.0, what.1, what.2, what.3, count, why]
    });
    say(&output::table(&["row", "at", "actor", "action", "outcome", "object", "count", "why"], lines));
    Ok(Exit::Ok)
}

async fn audit_rows(client: &Client, args: &AuditListArgs) -> Result<Vec<wire::AuditRow>, Failure> {
    let since = args.since.as_deref().map(since).transpose()?;
    let mut path = String::from("/audit?");
    let filters = [
        ("since", &since),
        ("action", &args.action),
        ("actor", &args.actor),
        ("object", &args.object),
        ("text", &args.text),
    ];
    for (name, value) in filters {
        if let Some(value) = value {
            path.push_str(&format!("{name}={}&", encode(value)));
        }
    }
    let (mut rows, mut after) = (Vec::new(), String::new());
    while rows.len() < args.limit {
        let limit = (args.limit - rows.len()).min(500);
        let page: wire::Page<wire::AuditRow> = client.get(&format!("{path}limit={limit}{after}")).await?;
        rows.extend(page.items);
        let Some(next) = page.next else { return Ok(rows) };
        after = format!("&after={next}");
    }
    output::note(&format!(
        "these are the last {}, there are more: --limit shows them, --since fewer",
        rows.len()
    ));
    Ok(rows)
}

/// A point in time, the beginning of a day in UTC, or how long ago.
fn since(text: &str) -> Result<String, Failure> {
    for time in [text.to_owned(), format!("{text}T00:00:00Z")] {
        if certs::Timestamp::parse_rfc3339(&time).is_some() {
            return Ok(time);
        }
    }
    let ago = certs::parse_duration(text).ok_or_else(|| {
        Failure::usage(
            format!("--since {text:?} is neither a time nor a duration"),
            "write 2026-07-31T12:00:00Z, 2026-07-31, or how long ago, such as 2h",
        )
    })?;
    Ok((SystemClock.now() - ago).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_log_is_read_from_a_time_a_day_or_so_long_ago() {
        assert_eq!(since("2026-07-31T12:00:00Z").unwrap(), "2026-07-31T12:00:00Z");
        assert_eq!(since("2026-07-31").unwrap(), "2026-07-31T00:00:00Z");
        assert!(certs::Timestamp::parse_rfc3339(&since("2h").unwrap()).unwrap() < SystemClock.now());
        assert!(since("yesterday").err().unwrap().message.contains("neither a time nor a duration"));
    }

    #[test]
    fn an_authority_that_is_not_believed_any_more_says_so_beside_its_state() {
        let authority = |more: &str| -> wire::Authority {
            let text = format!(
                r#"{{"id": "aa", "place": "root", "state": "retired", "subject": "s", "not_before": "T0",
                    "not_after": "T9", "expires_in_secs": 90, "spki_sha256": "p", "pem": ""{more}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let check = |more: &str, expected: &str| {
            let one = authority(more);
            assert_eq!(state_text(&one), expected);
            assert!(authorities_table(&[one]).contains(expected));
        };
        check("", "retired");
        check(r#", "tainted_since": "T1""#, "retired, tainted since T1");
        check(r#", "tainted_since": "T1", "stolen_since": "T2""#, "retired, STOLEN since T2");
        let laggard = r#", "waits_for": [{"name": "web-1", "connected": true, "reason": "lags"}]"#;
        check(laggard, "retired, waits for 1");
    }
}
