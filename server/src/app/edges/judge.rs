//! Whether an edge could have its certificate, before it is kept: everything that does not fit, and what to do about it.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use acme::{ChallengeKind, Identifier, Wanted};
use api::{
    calls::configs::Which,
    ports::{DnsPublisher, EdgeChallenge, EdgeSettings},
    wire::IssuerCheck,
};
use certs::SecretBytes;
use spiffe::{EdgeName, Tenant};
use xds::catalog::EdgeListener;

use super::{super::checks::Checks, Inputs, duty, publisher::Zone};

/// How long a directory may take: the call that judges has ten seconds.
const READING: Duration = Duration::from_secs(6);
/// Where ACME servers ask (RFC 8555 8.3, RFC 8737 3).
const HTTP_PORT: u16 = 80;
const TLS_PORT: u16 = 443;

/// Everything that must fit; makes the names canonical.
pub(super) async fn examine(
    inputs: &Inputs,
    tenant: &Tenant,
    name: &EdgeName,
    settings: &mut EdgeSettings,
    dns_key: Option<&SecretBytes>,
) -> Vec<IssuerCheck> {
    let mut checks = Checks::default();
    check_issuer(inputs, settings, &mut checks).await;
    check_listener(inputs, tenant, name, settings, &mut checks).await;
    check_challenge(inputs, tenant, settings, dns_key, &mut checks).await;
    check_proxies(inputs, tenant, settings, &mut checks);
    checks.0
}

/// The names, the way, and the server with its profiles.
async fn check_issuer(inputs: &Inputs, settings: &mut EdgeSettings, checks: &mut Checks) {
    let names = match duty::names(&settings.names) {
        Ok(names) => {
            settings.names = names.as_slice().iter().map(ToString::to_string).collect();
            checks.passed("names", settings.names.join(", "));
            Some(names)
        }
        Err(why) => {
            checks.failed("names", why, "give DNS names or addresses: --domain shop.example");
            None
        }
    };
    let opened = match inputs.accounts.open(&settings.issuer).await {
        Ok(opened) => opened,
        Err(why) => {
            return checks.failed(
                "issuer",
                why,
                "credence issuer list shows them, credence issuer add acme adds one",
            );
        }
    };
    checks.passed("issuer", format!("{}, account {}", settings.issuer, opened.account.url));
    if let Some(names) = names {
        match Wanted::try_new(opened.account.url.clone(), names, duty::kind(&settings.challenge)) {
            Ok(wanted) if is_beside_an_address(&wanted) => checks.failed(
                "challenge",
                "an address is asked for by a server name that no certificate has: Envoy would show any"
                    .to_owned(),
                "give the address an edge of its own, or choose http-01",
            ),
            Ok(_) => checks.passed("challenge", settings.challenge.word().to_owned()),
            Err(error) => checks.failed("challenge", error.to_string(), "choose another with --challenge"),
        }
    }
    let Some(profile) = settings.profile.as_ref().or(opened.settings.profile.as_ref()) else { return };
    let read = tokio::time::timeout(READING, opened.client.directory()).await;
    let Ok(read) = read else {
        let why = format!("the server did not answer within {} s", READING.as_secs());
        return checks.failed("directory", why, "credence issuer test says more");
    };
    match read {
        Ok(directory) if directory.profiles.contains_key(profile) => {
            checks.passed("profile", profile.clone())
        }
        Ok(directory) => {
            let known: Vec<&str> = directory.profiles.keys().map(String::as_str).collect();
            let advice = match known.as_slice() {
                [] => "the server has none: leave --profile out".to_owned(),
                known => format!("it has {}", known.join(", ")),
            };
            checks.failed("profile", format!("the server has no profile {profile:?}"), advice);
        }
        Err(trouble) => checks.failed("directory", trouble.to_string(), "credence issuer test says more"),
    }
}

/// Whether proxies would have to choose between certificates for an address (RFC 8738 6).
fn is_beside_an_address(wanted: &Wanted) -> bool {
    let names = wanted.names.as_slice();
    let is_address = |name: &Identifier| matches!(name, Identifier::Ip(_));
    wanted.challenge == ChallengeKind::TlsAlpn01 && names.len() > 1 && names.iter().any(is_address)
}

async fn listeners(
    inputs: &Inputs,
    tenant: &Tenant,
    settings: &EdgeSettings,
    name: &str,
) -> Vec<EdgeListener> {
    let (tenant, namespace) = (tenant.clone(), settings.namespace.clone());
    inputs.configs.edge_listeners(tenant, namespace, Which::Named(name.to_owned())).await.unwrap_or_default()
}

/// The listener that shows the certificate.
async fn check_listener(
    inputs: &Inputs,
    tenant: &Tenant,
    name: &EdgeName,
    settings: &EdgeSettings,
    checks: &mut Checks,
) {
    let (listener, namespace) = (&settings.listener, &settings.namespace);
    let found = listeners(inputs, tenant, settings, listener).await;
    let advice = format!(
        "apply a document of namespace {namespace} whose listener {listener} has tls: {{edge: {name}}}"
    );
    if found.is_empty() {
        return checks.failed(
            "listener",
            format!("no document of namespace {namespace} has a listener {listener:?}"),
            advice,
        );
    }
    let (ours, others): (Vec<_>, Vec<_>) = found.iter().partition(|one| one.edge.as_ref() == Some(name));
    if let Some(other) = others.first() {
        let shows = match &other.edge {
            Some(edge) => format!("edge {edge}"),
            None => "no edge".to_owned(),
        };
        let why = format!("listener {listener} of {} shows {shows}", other.document.name);
        let Some(ours) = ours.first() else { return checks.failed("listener", why, advice) };
        let why = format!("{why}, that of {} shows this one", ours.document.name);
        let advice =
            format!("an edge is asked for at all listeners of its name in namespace {namespace}: rename one");
        return checks.failed("listener", why, advice);
    }
    checks.passed("listener", listener.clone());
    if settings.challenge == EdgeChallenge::TlsAlpn01 && found.iter().any(|one| one.port != TLS_PORT) {
        let why = format!("listener {listener} is not at port {TLS_PORT}, where ACME servers ask");
        checks.warning("port", why, "fine where something before it passes that port on");
    }
}

/// What the way needs.
async fn check_challenge(
    inputs: &Inputs,
    tenant: &Tenant,
    settings: &EdgeSettings,
    dns_key: Option<&SecretBytes>,
    checks: &mut Checks,
) {
    match &settings.challenge {
        EdgeChallenge::TlsAlpn01 => {}
        EdgeChallenge::Http01 { listener } => {
            let found = listeners(inputs, tenant, settings, listener).await;
            let namespace = &settings.namespace;
            let advice = "give --http-listener the name of one that takes plain HTTP: mtls: off, and an \
                          http_connection_manager";
            match found.iter().find(|one| !one.is_plain || one.tables.is_empty()) {
                _ if found.is_empty() => {
                    let why = format!("no document of namespace {namespace} has a listener {listener:?}");
                    checks.failed("http-listener", why, advice);
                }
                Some(other) => {
                    let why = format!("listener {listener} of {} takes no plain HTTP", other.document.name);
                    checks.failed("http-listener", why, advice);
                }
                None => {
                    checks.passed("http-listener", listener.clone());
                    if found.iter().any(|one| one.port != HTTP_PORT) {
                        let why =
                            format!("listener {listener} is not at port {HTTP_PORT}, where ACME servers ask");
                        checks.warning("port", why, "fine where something before it passes that port on");
                    }
                }
            }
        }
        EdgeChallenge::Dns01 { publisher: DnsPublisher::Command { program } }
            if !inputs.dns_commands.contains(program) =>
        {
            let why = format!("{} is none of edges.dns_commands in credence.yaml", program.display());
            checks.failed(
                "dns-command",
                why,
                "name it there, on the server's host, and start the server again",
            );
        }
        EdgeChallenge::Dns01 { publisher: DnsPublisher::Command { program } } => match runnable(program) {
            Ok(()) => checks.passed("dns-command", program.display().to_string()),
            Err(why) => {
                let advice = "give the absolute path of a program of the server's host";
                checks.failed("dns-command", why, advice);
            }
        },
        EdgeChallenge::Dns01 { publisher: DnsPublisher::Update { server, zone, key, algorithm } } => {
            match Zone::parse(server, zone, key, algorithm) {
                Ok(zone) => check_updates(inputs, &zone, settings, dns_key, checks).await,
                Err(why) => checks.failed("dns-update", why, "change the --dns options"),
            }
        }
    }
}

/// Whether the name server would publish; it is asked, and nothing of the zone is changed.
async fn check_updates(
    inputs: &Inputs,
    zone: &Zone,
    settings: &EdgeSettings,
    dns_key: Option<&SecretBytes>,
    checks: &mut Checks,
) {
    let record = |name: &String| format!("_acme-challenge.{}", name.trim_start_matches("*."));
    let mut records: Vec<String> = settings.names.iter().map(record).collect();
    records.dedup();
    if let Some(other) = records.iter().find(|record| !zone.holds(record)) {
        let why = format!("{other} does not stand in the zone");
        return checks.failed("dns-update", why, "give --dns-zone a zone that all names stand in");
    }
    let Some(key) = dns_key else {
        return checks.failed("dns-update", "no key signs the updates".to_owned(), "give --dns-key-file");
    };
    match zone.examine(&records, key, inputs.clock.now()).await {
        Ok(()) => checks.passed("dns-update", format!("{} would take it", zone.server())),
        Err(why) => {
            checks.failed("dns-update", why, "see --dns-server, --dns-zone, --dns-key and --dns-key-file")
        }
    }
}

/// Whether this can be run at all; nothing is run.
fn runnable(program: &Path) -> Result<(), String> {
    if !program.is_absolute() {
        return Err(format!("{} is no absolute path", program.display()));
    }
    let metadata = std::fs::metadata(program).map_err(|error| format!("{}: {error}", program.display()))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("{} is no program", program.display()));
    }
    Ok(())
}

/// Who would answer.
fn check_proxies(inputs: &Inputs, tenant: &Tenant, settings: &EdgeSettings, checks: &mut Checks) {
    let listener = match &settings.challenge {
        EdgeChallenge::Http01 { listener } => listener,
        EdgeChallenge::TlsAlpn01 => &settings.listener,
        EdgeChallenge::Dns01 { .. } => return,
    };
    match inputs.proxies(tenant, &settings.namespace, listener, &[]).len() {
        0 => {
            let why = format!("no connected proxy serves listener {listener} now");
            checks.warning("proxies", why, "no certificate comes before one does: credence proxy list");
        }
        proxies => checks.passed("proxies", format!("{proxies} connected")),
    }
}
