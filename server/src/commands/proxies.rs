//! `proxy …`.

use std::{collections::BTreeMap, time::Duration};

use agent::{
    ServerAddress,
    bootstrap::{Bootstrap, Discovery, SecretPaths},
};
use api::wire;
use spiffe::{Namespace, NodeId};

use super::{dash, done, dry, may_go_on, parse_duration, watch::Watch};
use crate::{
    cli::{
        BootstrapArgs, EnrollArgs, Format, NodeChangeArgs, ProxyCommand, ProxyIssuerArgs, ProxyListArgs,
        ProxyShowArgs, WatchArgs,
    },
    client::{Client, encode},
    output::{self, Exit, Failure, note, say},
};

pub(super) async fn run(command: ProxyCommand) -> Result<Exit, Failure> {
    match command {
        ProxyCommand::Enroll(args) => enroll(&args).await,
        ProxyCommand::Bootstrap(args) => bootstrap(&args).await,
        ProxyCommand::List(args) => list(&args).await,
        ProxyCommand::Show(args) => show(&args).await,
        ProxyCommand::Watch(args) => watch(&args).await,
        ProxyCommand::Reload(args) => {
            let client = Client::open(&args.change.server)?;
            let path = format!("/proxies/{}/reload{}", encode(&args.node), dry(&args.change));
            done(&args.change, &client.post_text(&path, String::new()).await?)
        }
        ProxyCommand::Issuer(args) => issuer(&args).await,
        ProxyCommand::Remove(args) => remove(&args).await,
    }
}

async fn enroll(args: &EnrollArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let ttl = args.ttl.as_deref().map(|text| parse_duration("--ttl", text)).transpose()?;
    let wanted = wire::Enroll {
        node: args.node.clone(),
        namespace: args.namespace.clone(),
        labels: labels(args)?,
        identities: (!args.identities.is_empty()).then(|| args.identities.clone()),
        issuer: args.issuer.clone(),
        ttl_secs: ttl.map(|ttl| ttl.as_secs()),
        replace: args.replace,
        dry_run: args.change.dry_run,
    };
    let enrolled: wire::Enrolled = client.post("/proxies", &wanted).await?;
    if args.change.output != Format::Table {
        output::show(args.change.output, &enrolled, |_| String::new())?;
        return Ok(Exit::Ok);
    }
    let signs = enrolled.proxy.issuer.as_ref().map(|issuer| format!("; {issuer} signs their leaves"));
    let identities = enrolled.proxy.identities.join(", ") + &signs.unwrap_or_default();
    let (node, namespace) = (&enrolled.proxy.node_id, &enrolled.proxy.namespace);
    let changes: Vec<_> = enrolled.changes.iter().map(change_line).collect();
    // A proxy says of which namespace it is, by the bootstrap that joining wrote.
    let moved = enrolled.changes.iter().any(|change| change.what == "namespace").then_some(
        "  its proxy is refused from then on, until the node has joined again by the new line: a proxy names its namespace",
    );
    let Some(token) = &enrolled.token else {
        say(&format!("would enrol {node} in namespace {namespace}, speaking for {identities}"));
        changes.iter().for_each(|line| say(line));
        moved.iter().for_each(|line| say(line));
        return Ok(Exit::Ok);
    };
    note(&format!("enrolled {node} in namespace {namespace}, speaking for {identities}"));
    changes.iter().for_each(|line| note(line));
    moved.iter().for_each(|line| note(line));
    note(&format!("the token is shown once, works once, and ends at {}; on the node run:", enrolled.expires));
    say(&format!("credence agent join {token} --server {} --pin {} --envoy", enrolled.server, enrolled.pin));
    Ok(Exit::Ok)
}

/// The labels to ask for; `None` for those that the node has.
fn labels(args: &EnrollArgs) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let mut labels = BTreeMap::new();
    for label in &args.labels {
        let (key, value) = label.split_once('=').ok_or_else(|| {
            Failure::usage(format!("label {label:?} is not KEY=VALUE"), "write it as --label app=web")
        })?;
        if let Some(first) = labels.insert(key.to_owned(), value.to_owned()) {
            return Err(Failure::usage(
                format!("label {key} is given twice: {key}={first} and {label}"),
                "keep one of the two: a label has one value",
            ));
        }
    }
    Ok((args.no_labels || !labels.is_empty()).then_some(labels))
}

/// A part of a binding that is written anew: `labels: app=web -> app=shop`.
fn change_line(change: &wire::BindingChange) -> String {
    let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    format!("  {}: {} -> {}", change.what, shown(&change.before), shown(&change.after))
}

async fn issuer(args: &ProxyIssuerArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let path = format!("/proxies/{}/issuer", encode(&args.node));
    let wanted = wire::ProxyIssuer {
        issuer: args.issuer.clone(),
        reason: args.reason.clone(),
        dry_run: args.change.dry_run,
    };
    done(&args.change, &client.put(&path, &wanted).await?)
}

async fn bootstrap(args: &BootstrapArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.server)?;
    let proxy: wire::Proxy = client.get(&format!("/proxies/{}", encode(&args.node))).await?;
    let discovery = args.discovery.clone().unwrap_or_else(|| format!("{}:18000", client.host()));
    let bad = |what: &str, error: String| Failure::usage(format!("{what}: {error}"), "check the names");
    let bootstrap = Bootstrap {
        node: NodeId::parse(&proxy.node_id).map_err(|error| bad("node", error.to_string()))?,
        namespace: Namespace::parse(&proxy.namespace).map_err(|error| bad("namespace", error.to_string()))?,
        xds_server: ServerAddress::parse(&discovery)
            .map_err(|error| bad("--discovery", error.to_string()))?,
        server_id: client.domain().server_id(),
        admin_port: args.envoy_admin_port,
        discovery: Discovery::default(),
        paths: SecretPaths::below(&args.state_dir),
    };
    output::show(Format::Json, &bootstrap.to_json(), |_| String::new())?;
    Ok(Exit::Ok)
}

async fn fetch(
    client: &Client,
    namespace: Option<&str>,
    state: Option<&str>,
) -> Result<Vec<wire::Proxy>, Failure> {
    let given = [("namespace", namespace), ("state", state)].into_iter();
    let given = given.filter_map(|(name, value)| Some(format!("{name}={}", encode(value?))));
    let query = given.collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    client.get_all(&format!("/proxies{mark}{query}")).await
}

async fn list(args: &ProxyListArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let proxies = fetch(&client, args.namespace.as_deref(), args.state.as_deref()).await?;
    output::show(args.list.output, &proxies, |proxies| proxies_table(proxies))?;
    output::remark_if_empty(args.list.output, &proxies, &none(args));
    Ok(Exit::Ok)
}

/// What an empty listing says.
fn none(args: &ProxyListArgs) -> String {
    if args.namespace.is_none() && args.state.is_none() {
        return NO_PROXIES.to_owned();
    }
    let namespace = args.namespace.as_ref().map(|namespace| format!(" in the namespace {namespace}"));
    let state = args.state.as_ref().map(|state| format!(" has the state {}", state.to_ascii_lowercase()));
    format!("no proxy{}{}", namespace.unwrap_or_default(), state.unwrap_or_default())
}

pub(super) const NO_PROXIES: &str = "no proxies yet; admit one: credence proxy enroll NODE";

/// One line per node: what it is, and whether each type is in step.
pub(super) fn proxies_table(proxies: &[wire::Proxy]) -> String {
    const TYPES: [&str; 6] = ["CDS", "EDS", "SDS", "LDS", "ECDS", "RDS"];
    let rows = proxies.iter().map(|proxy| {
        let of =
            |word: &str| proxy.status.types.iter().find(|one| one.word == word).map(|one| one.sync.as_str());
        let mut row = vec![
            proxy.node_id.clone(),
            proxy.namespace.clone(),
            dash(proxy.identities.first().map(String::as_str)),
            proxy.status.sync.clone(),
        ];
        row.extend(TYPES.map(|word| dash(of(word))));
        row.push(dash(proxy.status.version.as_deref()));
        row.push(dash(proxy.status.certificate_expires.as_deref()));
        row
    });
    let headers = [
        "node",
        "namespace",
        "identity",
        "sync",
        "cds",
        "eds",
        "sds",
        "lds",
        "ecds",
        "rds",
        "version",
        "certificate ends",
    ];
    let mut text = output::table(&headers, rows);
    for line in proxies.iter().flat_map(|proxy| refusals(proxy).into_iter().chain(waits(proxy))) {
        text.push('\n');
        text.push_str(&line);
    }
    text
}

/// What a connected proxy asked for and was not sent, type by type.
fn waits(proxy: &wire::Proxy) -> Vec<String> {
    /// How many are named.
    const NAMED: usize = 3;
    let waiting = proxy.status.types.iter().filter(|one| proxy.status.connected && !one.waits_for.is_empty());
    waiting
        .map(|one| {
            let (node, word) = (&proxy.node_id, &one.word);
            let names: Vec<_> = one.waits_for.iter().take(NAMED).map(String::as_str).collect();
            let more = match one.waiting.saturating_sub(names.len()) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("{node} waits for {word} {}{more}", names.join(", "))
        })
        .collect()
}

fn refusals(proxy: &wire::Proxy) -> Vec<String> {
    let of_types = proxy.status.types.iter();
    of_types
        .filter_map(|one| {
            let refusal = one.refusal.as_ref()?;
            let (node, word) = (&proxy.node_id, &one.word);
            Some(format!("{node} refused {word} {} at {}: {}", refusal.version, refusal.at, refusal.message))
        })
        .collect()
}

async fn show(args: &ProxyShowArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let path = format!("/proxies/{}", encode(&args.node));
    if args.config {
        let config: wire::ProxyConfig = client.get(&format!("{path}/config")).await?;
        let format = if args.list.output == Format::Yaml { Format::Yaml } else { Format::Json };
        output::show(format, &config, |_| String::new())?;
        return Ok(Exit::Ok);
    }
    if args.explain {
        let explained: wire::Explanation = client.get(&format!("{path}/explain")).await?;
        output::show(args.list.output, &explained, |explained| {
            let rows = explained.lines.iter();
            let rows = rows
                .map(|one| vec![one.word.clone(), one.name.clone(), one.version.clone(), one.source.clone()]);
            output::table(&["type", "resource", "version", "because of"], rows)
        })?;
        return Ok(Exit::Ok);
    }
    let proxy: wire::Proxy = client.get(&path).await?;
    output::show(args.list.output, &proxy, proxy_text)?;
    Ok(Exit::Ok)
}

fn proxy_text(proxy: &wire::Proxy) -> String {
    let labels: Vec<String> = proxy.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let status = &proxy.status;
    let rows = [
        ("node", proxy.node_id.clone()),
        ("namespace", proxy.namespace.clone()),
        ("labels", dash(Some(&labels.join(", ")))),
        ("identities", proxy.identities.join(", ")),
        ("binding", format!("{}, since {}", proxy.state, proxy.created)),
        ("sync", status.sync.clone()),
        ("streams", status.streams.to_string()),
        ("since", dash(status.since.as_deref())),
        ("remote", dash(status.remote.as_deref())),
        ("version", dash(status.version.as_deref())),
        ("certificate ends", dash(status.certificate_expires.as_deref())),
        ("knows us by root", dash(status.server_root.as_deref())),
        ("proven roots", dash(Some(&proven_text(&status.proven_roots)))),
        ("bundle file", status.bundle.as_ref().map_or_else(|| dash(None), bundle_text)),
    ];
    let mut text = String::new();
    let refused = proxy.refused.as_ref().map(|why| ("NOT LET IN", why.clone()));
    for (name, value) in rows.into_iter().chain(refused) {
        text.push_str(&format!("{name:<17} {value}\n"));
    }
    let resources = status.types.iter().flat_map(|of_type| {
        of_type.resources.iter().map(|one| {
            let (sent, acked) = (dash(one.sent.as_deref()), dash(one.acked.as_deref()));
            vec![of_type.word.clone(), one.name.clone(), sent, acked, dash(one.refusal.as_deref())]
        })
    });
    text.push('\n');
    text.push_str(&output::table(&["type", "resource", "sent", "acked", "refused because"], resources));
    for refusal in refusals(proxy) {
        text.push_str(&format!("\n{refusal}"));
    }
    text
}

fn proven_text(proven: &BTreeMap<String, String>) -> String {
    let roots = proven.iter().map(|(root, at)| format!("{root} at {at}"));
    roots.collect::<Vec<_>>().join(", ")
}

fn bundle_text(bundle: &wire::HeldBundle) -> String {
    let hash = bundle.sha256.as_deref().map_or("none", |hash| hash.get(..16).unwrap_or(hash));
    let state = if bundle.is_current { "current" } else { "older than the one in force" };
    format!("{hash}, {state}, reported {}", bundle.reported)
}

async fn watch(args: &WatchArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.server)?;
    let every = parse_duration("--interval", &args.interval)?.max(Duration::from_millis(200));
    let look = async || match &args.node {
        Some(node) => Ok(vec![client.get::<wire::Proxy>(&format!("/proxies/{}", encode(node))).await?]),
        None => fetch(&client, None, None).await,
    };
    let is_over = |proxies: &Vec<wire::Proxy>| {
        let synced = !proxies.is_empty() && proxies.iter().all(|proxy| proxy.status.sync == "SYNCED");
        args.until_synced && synced
    };
    Watch { format: Format::Table, every }.run(look, |proxies| proxies_table(proxies), is_over).await
}

async fn remove(args: &NodeChangeArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.change.server)?;
    let path = format!("/proxies/{}{}", encode(&args.node), dry(&args.change));
    if !args.change.dry_run {
        may_go_on(&args.change, &format!("remove {}: its streams end and it cannot renew?", args.node))?;
    }
    done(&args.change, &client.delete(&path).await?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command, Operate};

    #[test]
    fn tables_show_each_type_and_envoys_words() {
        let refusal = wire::Refusal { at: "T".into(), version: "v2".into(), message: "bad route".into() };
        let lds = wire::TypeStatus {
            word: "LDS".into(),
            type_url: String::new(),
            sync: "NACK".into(),
            waits_for: Vec::new(),
            waiting: 0,
            sent: None,
            sent_at: None,
            acked: None,
            acked_at: None,
            refusal: Some(refusal),
            resources: Vec::new(),
        };
        let status =
            wire::ProxyStatus { sync: "NACK".into(), types: vec![lds], ..wire::ProxyStatus::default() };
        let proxy = wire::Proxy {
            node_id: "web-1".into(),
            tenant: "default".into(),
            namespace: "default".into(),
            labels: BTreeMap::new(),
            identities: vec!["spiffe://td/web".into()],
            issuer: None,
            state: "enabled".into(),
            created: "T".into(),
            status,
            refused: Some("its identity is blocked".into()),
        };
        let text = proxies_table(std::slice::from_ref(&proxy));
        assert!(text.contains("web-1 refused LDS v2 at T: bad route"), "{text}");
        assert!(proxy_text(&proxy).contains("bad route"));
    }

    #[test]
    fn says_what_changes_in_a_binding_before_and_after() {
        let line = |what: &str, before: &str, after: &str| {
            change_line(&wire::BindingChange {
                what: what.into(),
                before: before.into(),
                after: after.into(),
            })
        };
        assert_eq!(line("labels", "app=lag", ""), "  labels: app=lag -> none");
        assert_eq!(line("issuer", "", "corp"), "  issuer: none -> corp");
    }

    #[test]
    fn asks_to_take_labels_away_only_where_that_is_said() {
        let read = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Command::Operate(Operate::Proxy(ProxyCommand::Enroll(args))) = cli.command else {
                panic!("{line}")
            };
            labels(&args)
        };
        let asked = |line: &str| read(line).unwrap();
        let twice = read("credence proxy enroll web-1 --label a=1 --label b=1 --label a=2").unwrap_err();
        assert_eq!(twice.message, "label a is given twice: a=1 and a=2");
        assert_eq!(asked("credence proxy enroll web-1 --replace"), None);
        assert_eq!(asked("credence proxy enroll web-1 --replace --no-labels"), Some(BTreeMap::new()));
        let given = BTreeMap::from([("app".to_owned(), "a=b".to_owned())]);
        assert_eq!(asked("credence proxy enroll web-1 --replace --label app=a=b"), Some(given));
    }

    #[test]
    fn names_the_first_few_that_a_connected_proxy_waits_for() {
        let sds = |waits_for: &[&str], waiting| {
            let waits_for: Vec<String> = waits_for.iter().map(ToString::to_string).collect();
            let of_type = serde_json::json!({
                "word": "SDS", "type_url": "", "sync": "NOT SENT", "waits_for": waits_for, "waiting": waiting,
            });
            let status = serde_json::json!({ "connected": true, "streams": 1, "sync": "NOT SENT", "types": [of_type] });
            let proxy = serde_json::json!({
                "node_id": "web-1", "tenant": "default", "namespace": "default", "labels": {}, "identities": [],
                "state": "enabled", "created": "T", "status": status,
            });
            serde_json::from_value::<wire::Proxy>(proxy).unwrap()
        };
        let check = |proxy: wire::Proxy, expected: &str| {
            let text = proxies_table(&[proxy]);
            assert_eq!(text.lines().nth(2).unwrap_or_default(), expected, "{text}");
        };
        check(sds(&["edge://shop"], 1), "web-1 waits for SDS edge://shop");
        check(sds(&["a", "b", "c", "d"], 9), "web-1 waits for SDS a, b, c and 6 more");
        check(sds(&[], 0), "");
        let mut gone = sds(&["edge://shop"], 1);
        gone.status.connected = false;
        check(gone, "");
    }
}
