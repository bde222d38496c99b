//! `edge …`.

use api::{
    ports::{DnsPublisher, EdgeChallenge},
    wire,
};

use super::{dash, done, issuer::checks, issuer::hidden, may_go_on};
use crate::{
    cli::{AddEdgeArgs, ChallengeKind, EdgeCommand, RemoveEdgeArgs, RenewEdgeArgs},
    client::{Client, encode},
    output::{self, Exit, Failure, left},
};

pub(super) async fn run(command: EdgeCommand) -> Result<Exit, Failure> {
    match command {
        EdgeCommand::Add(args) => add(*args).await,
        EdgeCommand::List(args) => {
            let client = Client::open(&args.server)?;
            let page: wire::Page<wire::Edge> = client.get("/edges").await?;
            output::show(args.output, &page.items, |items| table(items))?;
            output::remark_if_empty(args.output, &page.items, "none yet; credence edge add NAME wants one");
            Ok(Exit::Ok)
        }
        EdgeCommand::Show(args) => {
            let client = Client::open(&args.list.server)?;
            let edge: wire::Edge = client.get(&format!("/edges/{}", encode(&args.name))).await?;
            output::show(args.list.output, &edge, details)?;
            Ok(Exit::Ok)
        }
        EdgeCommand::Renew(args) => renew(&args).await,
        EdgeCommand::Remove(args) => remove(&args).await,
    }
}

async fn add(args: AddEdgeArgs) -> Result<Exit, Failure> {
    let wanted = wire::AddEdge {
        challenge: challenge(&args)?,
        name: args.name,
        namespace: args.namespace,
        listener: args.listener,
        issuer: args.issuer,
        domains: args.domains,
        profile: args.profile,
        dns_key: args.dns_key_file.as_deref().map(hidden).transpose()?,
        reason: args.reason,
        dry_run: args.change.dry_run,
    };
    let client = Client::open(&args.change.server)?;
    let made: wire::EdgeChange = client.post("/edges", &wanted).await?;
    output::show(args.change.output, &made, |made| format!("{}\n{}", checks(&made.checks), made.summary))?;
    Ok(Exit::Ok)
}

/// What each way takes, and nothing beside it: whoever names more means another way.
fn challenge(args: &AddEdgeArgs) -> Result<EdgeChallenge, Failure> {
    match (args.challenge, args.http_listener.clone(), publisher(args)) {
        (ChallengeKind::Http01, Some(listener), None) => Ok(EdgeChallenge::Http01 { listener }),
        (ChallengeKind::TlsAlpn01, None, None) => Ok(EdgeChallenge::TlsAlpn01),
        (ChallengeKind::Dns01, None, Some(publisher)) => Ok(EdgeChallenge::Dns01 { publisher }),
        (ChallengeKind::Http01, None, None) => Err(Failure::usage(
            "http-01 needs a listener that takes plain HTTP, to answer at",
            "give --http-listener NAME",
        )),
        (ChallengeKind::Dns01, None, None) => Err(Failure::usage(
            "dns-01 needs somebody who publishes records",
            "give --dns-command PROGRAM, or --dns-server, --dns-zone, --dns-key and --dns-key-file",
        )),
        _ => Err(Failure::usage(
            "--http-listener belongs to http-01, --dns-command or --dns-server to dns-01, and none to tls-alpn-01",
            "give what the challenge takes: credence edge add --help shows each",
        )),
    }
}

/// Who publishes records, if that is said.
fn publisher(args: &AddEdgeArgs) -> Option<DnsPublisher> {
    if let Some(program) = args.dns_command.clone() {
        return Some(DnsPublisher::Command { program });
    }
    Some(DnsPublisher::Update {
        server: args.dns_server.clone()?,
        zone: args.dns_zone.clone()?,
        key: args.dns_key.clone()?,
        algorithm: args.dns_algorithm.clone(),
    })
}

async fn renew(args: &RenewEdgeArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let wanted = wire::RenewEdge { reason: args.reason.clone(), dry_run: args.change.dry_run };
    done(&args.change, &client.post(&format!("/edges/{}/renew", encode(&args.name)), &wanted).await?)
}

async fn remove(args: &RemoveEdgeArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let path =
        |dry_run| format!("/edges/{}?dry_run={dry_run}&reason={}", encode(&args.name), encode(&args.reason));
    let planned: wire::Done = client.delete(&path(true)).await?;
    if args.change.dry_run {
        return done(&args.change, &planned);
    }
    may_go_on(&args.change, &format!("remove edge {}, its certificate and its keys?", args.name))?;
    done(&args.change, &client.delete(&path(false)).await?)
}

fn table(edges: &[wire::Edge]) -> String {
    let rows = edges.iter().map(|one| {
        vec![
            one.name.clone(),
            one.domains.join(" "),
            one.issuer.clone(),
            one.challenge.word().to_owned(),
            one.state.clone(),
            one.certificate.as_ref().map_or_else(|| "-".into(), |one| left(one.expires_in_secs)),
            dash(one.next.as_deref()),
            acknowledged(one),
        ]
    });
    let heads = ["edge", "names", "issuer", "challenge", "state", "expires in", "next", "proxies"];
    let told = edges.iter().filter_map(told).fold(String::new(), |text, line| format!("{text}\n{line}"));
    let table = output::table(&heads, rows);
    if told.is_empty() { table } else { format!("{table}\n{told}") }
}

/// How many of the proxies that serve the listener have it.
fn acknowledged(edge: &wire::Edge) -> String {
    let have = edge.proxies.iter().filter(|proxy| proxy.acknowledged).count();
    format!("{have}/{}", edge.proxies.len())
}

/// What is to be known of it beside the table, if anything is.
fn told(edge: &wire::Edge) -> Option<String> {
    let name = &edge.name;
    match &edge.problem {
        Some(problem) if edge.failures > 1 => {
            Some(format!("{name}: {problem} ({} times in a row)", edge.failures))
        }
        Some(problem) => Some(format!("{name}: {problem}")),
        None if edge.doing.is_empty() => None,
        None => Some(format!("{name}: {}", edge.doing)),
    }
}

fn details(one: &wire::Edge) -> String {
    let proxies = one.proxies.iter().map(|proxy| {
        let word = if proxy.acknowledged { "has it" } else { "not yet" };
        format!("{} ({word})", proxy.node)
    });
    let certificate = one.certificate.as_ref();
    let challenge = match &one.challenge {
        EdgeChallenge::Http01 { listener } => format!("http-01 at listener {listener}"),
        EdgeChallenge::TlsAlpn01 => "tls-alpn-01".to_owned(),
        EdgeChallenge::Dns01 { publisher: DnsPublisher::Command { program } } => {
            format!("dns-01 by {}", program.display())
        }
        EdgeChallenge::Dns01 { publisher: DnsPublisher::Update { server, zone, key, .. } } => {
            format!("dns-01 by updates of {zone} at {server}, signed by {key}")
        }
    };
    let rows = [
        ("edge", one.name.clone()),
        ("names", one.domains.join(" ")),
        ("shown by", format!("listener {} of namespace {}", one.listener, one.namespace)),
        ("issuer", one.issuer.clone()),
        ("challenge", challenge),
        ("profile", dash(one.profile.as_deref())),
        ("state", one.state.clone()),
        ("being done", dash(Some(&one.doing))),
        ("serial", dash(certificate.map(|one| one.serial.as_str()))),
        ("sha256", dash(certificate.map(|one| one.sha256.as_str()))),
        ("obtained", dash(certificate.map(|one| one.obtained.as_str()))),
        ("expires", dash(certificate.map(|one| one.not_after.as_str()))),
        ("next", dash(one.next.as_deref())),
        ("proxies", dash(Some(&proxies.collect::<Vec<_>>().join(", ")))),
        ("failures in a row", one.failures.to_string()),
        ("problem", dash(one.problem.as_deref())),
        ("added", one.created.clone()),
    ];
    output::facts(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(name: &str) -> wire::Edge {
        wire::Edge {
            name: name.into(),
            namespace: "default".into(),
            listener: "web".into(),
            domains: vec![name.into()],
            issuer: "public".into(),
            challenge: EdgeChallenge::TlsAlpn01,
            profile: None,
            state: "valid".into(),
            doing: String::new(),
            certificate: None,
            next: None,
            proxies: Vec::new(),
            failures: 0,
            problem: None,
            created: "2027-01-15T08:00:00Z".into(),
            version: 1,
        }
    }

    #[test]
    fn table_counts_proxies_and_says_below_what_fails() {
        let proxy = |node: &str, acknowledged| wire::EdgeProxy { node: node.into(), acknowledged };
        let well = wire::Edge {
            proxies: vec![proxy("a", true), proxy("b", false), proxy("c", true)],
            ..edge("api.example.com")
        };
        let shown = table(std::slice::from_ref(&well));
        assert!(shown.contains("2/3") && shown.lines().count() == 2, "{shown}");
        let ill = wire::Edge {
            failures: 3,
            problem: Some("DNS problem: NXDOMAIN; make the record".into()),
            state: "failing".into(),
            ..edge("shop.example.com")
        };
        let shown = table(&[well, ill]);
        let last = shown.lines().last().unwrap();
        assert_eq!(last, "shop.example.com: DNS problem: NXDOMAIN; make the record (3 times in a row)");
    }
}
