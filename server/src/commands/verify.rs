//! `verify NAME`: real handshakes against listeners of a proxy. What must be refused is tried, and must be
//! refused; then a good certificate is tried, if the listener would let one in that we may have. A listener with TLS for
//! everybody must let in who shows none.

use std::{net::IpAddr, sync::Arc, time::Duration};

use api::wire;
use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{
    Certificate, Chain, Clock, Csr, KeyKind, Profile, SecretKey, Serial, SoftwareSigner, Template, Timestamp,
    Usage, Validity, certificates_from_pem, sign,
};
use rustls::{
    ClientConfig,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::ServerName;
use serde::Serialize;
use spiffe::{SpiffeId, Trust, TrustBundle, TrustDomain, verify_svid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use xds::model::{self, Filter, FilterChain, Listener, MtlsMode, Spec};

use crate::{
    cli::VerifyArgs,
    client::{Client, encode},
    clock::SystemClock,
    output::{self, Exit, Failure, note},
    tls::{self, Believing, Noting},
};

const PATIENCE: Duration = Duration::from_secs(3);
const DRAFT: &str = "draft";
const SERVER_NAME: &str = "credence-verify";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: credence-verify\r\nConnection: close\r\n\r\n";

/// What one attempt should give, and gave.
#[derive(Debug, Clone, Serialize)]
struct Verdict {
    attempt: &'static str,
    expected: &'static str,
    found: String,
    /// `ok`, `WRONG` or `not probed`.
    verdict: &'static str,
}

/// What was tried at one listener.
#[derive(Debug, Serialize)]
struct Tried {
    document: String,
    listener: String,
    address: String,
    #[serde(flatten)]
    verdict: Verdict,
}

/// What a listener asks of those who connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// A certificate of this trust domain, as far as this mode goes.
    Mtls(MtlsMode),
    /// TLS, and no certificate.
    Tls,
}

/// A listener, and the document that it is in: listeners of several documents may have one name.
#[derive(Debug, Clone)]
struct Declared {
    document: String,
    listener: Listener,
}

impl Declared {
    /// What names this listener and no other.
    fn full_name(&self) -> String {
        format!("{}/{}", self.document, self.listener.name)
    }
}

/// A listener as the effective document declares it.
#[derive(Debug, Clone)]
struct Target {
    document: String,
    listener: String,
    address: String,
    demand: Demand,
    identity: Option<SpiffeId>,
    allow: Vec<SpiffeId>,
    is_http: bool,
    /// One that a chain takes.
    server_name: String,
}

pub(super) async fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let targets = targets(&client, args).await?;
    for target in &targets {
        reachable(&target.address).await.map_err(|why| unreachable(target, targets.len() == 1, &why))?;
    }
    let mut tried = Vec::new();
    for target in &targets {
        tried.extend(attempts(&client, target).await?.into_iter().map(|verdict| Tried {
            document: target.document.clone(),
            listener: target.listener.clone(),
            address: target.address.clone(),
            verdict,
        }));
    }
    output::show(args.list.output, &tried, |tried| table(tried))?;
    let has = |word: &str| tried.iter().any(|one| one.verdict.verdict == word);
    Ok(if has("WRONG") {
        Exit::Failed
    } else if has("not probed") {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

async fn attempts(client: &Client, target: &Target) -> Result<Vec<Verdict>, Failure> {
    let mut verdicts = vec![plaintext(target).await];
    match target.demand {
        Demand::Tls => verdicts.push(anybody(target).await),
        Demand::Mtls(MtlsMode::Off) => {}
        Demand::Mtls(MtlsMode::Strict | MtlsMode::Permissive) => {
            verdicts.extend(strangers(target, client.domain()).await?);
            verdicts.push(good(client, target).await?);
        }
    }
    Ok(verdicts)
}

fn table(tried: &[Tried]) -> String {
    let listeners =
        tried.chunk_by(|one, other| (&one.listener, &one.address) == (&other.listener, &other.address));
    let tables = listeners.map(|of_one| {
        let rows = of_one.iter().map(|Tried { verdict: one, .. }| {
            vec![one.verdict.to_owned(), one.attempt.to_owned(), one.expected.to_owned(), one.found.clone()]
        });
        let table = output::table(&["verdict", "attempt", "expected", "found"], rows);
        let Tried { document, listener, address, .. } = &of_one[0];
        format!("listener {listener} of ProxyConfig {document} at {address}\n{table}")
    });
    tables.collect::<Vec<_>>().join("\n")
}

/// Every listener that is meant.
async fn targets(client: &Client, args: &VerifyArgs) -> Result<Vec<Target>, Failure> {
    let path = format!("/configs?kind=ProxyConfig&text=true&namespace={}", encode(&args.namespace));
    let newest = client.get_all::<wire::Config>(&path).await?;
    let found = find(newest, &args.name, async |one| effective(client, args, one).await).await?;
    if found.is_empty() {
        let message = format!("no ProxyConfig or listener {} in namespace {}", args.name, args.namespace);
        let hint =
            "\"credence get ProxyConfig\" shows what there is; a draft that was not applied is at no proxy";
        return Err(Failure::new(Exit::NotFound, message, hint));
    }
    let found = narrow(found, &args.name, args.address.is_some())?;
    let default = default_mode(client, &found).await?;
    Ok(found.into_iter().map(|one| to_target(one, args.address.as_deref(), default)).collect())
}

/// The listeners that `name` means. What proxies have of a document is asked for only where it may be meant: of another
/// document none is where the one of that name has any.
async fn find(
    newest: Vec<wire::Config>,
    name: &str,
    mut effective: impl AsyncFnMut(wire::Config) -> Result<Option<wire::Config>, Failure>,
) -> Result<Vec<Declared>, Failure> {
    let is_named = |one: &wire::Config| {
        name.strip_prefix(&one.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let (of_that_name, others): (Vec<_>, Vec<_>) = newest.into_iter().partition(is_named);
    for group in [of_that_name, others] {
        let mut documents = Vec::new();
        for one in group {
            documents.extend(effective(one).await?);
        }
        let found = choose(&documents, name);
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Those that can be tried at once: of one document, since others may be meant for other nodes; and one alone where an
/// address is given.
fn narrow(found: Vec<Declared>, name: &str, has_address: bool) -> Result<Vec<Declared>, Failure> {
    let full_names = || found.iter().map(Declared::full_name).collect::<Vec<_>>().join(" or ");
    if found.iter().any(|one| one.document != found[0].document) {
        let documents: Vec<_> = found.iter().map(|one| one.document.as_str()).collect();
        let message =
            format!("listeners of several ProxyConfigs are named {name}: those of {}", documents.join(", "));
        return Err(Failure::usage(message, format!("name its ProxyConfig: {}", full_names())));
    }
    if !has_address || found.len() <= 1 {
        return Ok(found);
    }
    if let Some(one) = found.iter().find(|one| one.listener.name == name) {
        return Ok(vec![one.clone()]);
    }
    let names: Vec<_> = found.iter().map(|one| one.listener.name.as_str()).collect();
    let message = format!("--address names one listener, and {name} has {}", names.join(", "));
    Err(Failure::usage(message, format!("name one of them: {}", full_names())))
}

/// The revision that proxies have: an earlier one where the newest is a draft.
async fn effective(
    client: &Client,
    args: &VerifyArgs,
    newest: wire::Config,
) -> Result<Option<wire::Config>, Failure> {
    if newest.state != DRAFT {
        return Ok(Some(newest));
    }
    let (namespace, name) = (encode(&args.namespace), encode(&newest.name));
    // Each comes with its whole text, and few drafts lie over each other.
    let path = format!("/history?kind=ProxyConfig&text=true&limit=20&namespace={namespace}&name={name}");
    let effective = in_effect(async |after: Option<String>| {
        let after = after.map(|after| format!("&after={}", encode(&after))).unwrap_or_default();
        client.get(&format!("{path}{after}")).await
    })
    .await?;
    let is_meant = |one: &wire::Config| !choose(std::slice::from_ref(one), &args.name).is_empty();
    if is_meant(&newest) || effective.as_ref().is_some_and(is_meant) {
        let (draft, name) = (newest.revision, &newest.name);
        let instead = effective.as_ref().map_or_else(
            || "no proxy has anything of it".to_owned(),
            |one| format!("proxies have revision {}, which is tried", one.revision),
        );
        note(&format!("credence: revision {draft} of ProxyConfig {name} is a draft: {instead}"));
    }
    Ok(effective)
}

/// The newest revision of one name that is no draft, if it was not the end of it. Pages are asked for, newest first, until
/// it comes.
async fn in_effect(
    mut page: impl AsyncFnMut(Option<String>) -> Result<wire::Page<wire::Config>, Failure>,
) -> Result<Option<wire::Config>, Failure> {
    let mut after = None;
    loop {
        let wire::Page { items, next } = page(after).await?;
        if let Some(newest) = items.into_iter().find(|one| one.state != DRAFT) {
            return Ok((newest.state == "applied").then_some(newest));
        }
        if next.is_none() {
            return Ok(None);
        }
        after = next;
    }
}

fn listeners(config: &wire::Config) -> Vec<Listener> {
    let text = config.text.as_deref().unwrap_or_default();
    let document = model::parse(&config.name, text).unwrap_or_default().into_iter().next();
    match document.map(|document| document.spec) {
        Some(Spec::ProxyConfig(spec)) => spec.listeners,
        _ => Vec::new(),
    }
}

/// All listeners of the document of that name; where there is none, the one of that full name, or those of that name.
fn choose(documents: &[wire::Config], name: &str) -> Vec<Declared> {
    let all = documents.iter().flat_map(|one| {
        listeners(one).into_iter().map(|listener| Declared { document: one.name.clone(), listener })
    });
    let all: Vec<_> = all.collect();
    let rules: [&dyn Fn(&Declared) -> bool; 3] =
        [&|one| one.document == name, &|one| one.full_name() == name, &|one| one.listener.name == name];
    let chosen =
        rules.into_iter().map(|rule| all.iter().filter(|one| rule(one)).cloned().collect::<Vec<_>>());
    chosen.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

/// What a listener is that says nothing of it: asked for where one does.
async fn default_mode(client: &Client, found: &[Declared]) -> Result<MtlsMode, Failure> {
    let is_silent =
        |one: &Listener| one.tls.is_none() && one.mtls.as_ref().is_none_or(|mtls| mtls.mode.is_none());
    if !found.iter().any(|one| is_silent(&one.listener)) {
        return Ok(MtlsMode::Strict);
    }
    let status: wire::Status = client.get("/status").await?;
    // A server that does not say it yet is one of before there was a choice to ask for.
    let known = [MtlsMode::Strict, MtlsMode::Permissive, MtlsMode::Off];
    Ok(known.into_iter().find(|mode| mode.word() == status.default_mtls).unwrap_or(MtlsMode::Strict))
}

fn to_target(declared: Declared, address: Option<&str>, default: MtlsMode) -> Target {
    let Declared { document, listener } = declared;
    let host = match listener.address {
        IpAddr::V4(all) if all.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(all) if all.is_unspecified() => "[::1]".to_owned(),
        IpAddr::V4(one) => one.to_string(),
        IpAddr::V6(one) => format!("[{one}]"),
    };
    let address = address.map_or_else(|| format!("{host}:{}", listener.port), str::to_owned);
    let is_http = listener
        .filter_chains
        .iter()
        .flat_map(|chain| &chain.filters)
        .any(|filter| matches!(filter, Filter::Http(_)));
    let server_name = server_name(&listener);
    let mtls = listener.mtls;
    let demand = match listener.tls {
        Some(_) => Demand::Tls,
        None => Demand::Mtls(mtls.as_ref().and_then(|mtls| mtls.mode).unwrap_or(default)),
    };
    let (identity, allow) = mtls.map(|mtls| (mtls.identity, mtls.allow)).unwrap_or_default();
    Target { document, listener: listener.name, address, demand, identity, allow, is_http, server_name }
}

/// Our own, unless each chain wants to be asked for by another.
fn server_name(listener: &Listener) -> String {
    let wanted = |chain: &FilterChain| {
        let names = chain.matching.as_ref().map(|matching| &matching.server_names)?;
        Some(names.first()?.replacen('*', SERVER_NAME, 1))
    };
    let wanted: Option<Vec<_>> = listener.filter_chains.iter().map(wanted).collect();
    wanted.and_then(|names| names.into_iter().next()).unwrap_or_else(|| SERVER_NAME.to_owned())
}

/// Whether anybody listens there; or why not.
async fn reachable(address: &str) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Says where else it may be; where several are tried, by the name that this one is tried alone with.
fn unreachable(target: &Target, is_alone: bool, why: &str) -> Failure {
    let Target { document, listener, address, .. } = target;
    let alone = if is_alone { String::new() } else { format!("{document}/{listener} ") };
    let hint = format!("is the proxy running, and on this host? {alone}--address HOST:PORT names another");
    let message = format!("cannot reach {address}, listener {listener} of ProxyConfig {document}: {why}");
    Failure::new(Exit::Unavailable, message, hint)
}

/// What came of one attempt.
enum Found {
    /// Bytes of the application came back.
    Answered(String),
    /// The other side ended it, in these words.
    Refused(String),
    /// It does not speak TLS at all, so nothing was judged.
    NoTls,
    /// Neither, in time.
    Silent,
}

fn judge(attempt: &'static str, must_pass: bool, found: &Found) -> Verdict {
    let (text, passed) = match found {
        Found::Answered(text) => (text.clone(), Some(true)),
        Found::Refused(text) => (text.clone(), Some(false)),
        Found::NoTls => ("does not speak TLS: something else answers there".to_owned(), Some(!must_pass)),
        Found::Silent => (format!("neither refused nor answered within {} s", PATIENCE.as_secs()), None),
    };
    let verdict = match passed {
        Some(passed) if passed == must_pass => "ok",
        Some(_) => "WRONG",
        None => "not probed",
    };
    Verdict { attempt, expected: if must_pass { "accepted" } else { "refused" }, found: text, verdict }
}

/// Sends a request and looks at what comes back. TLS 1.3 clients learn only here that they were refused.
async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Found {
    let exchange = async {
        if let Err(error) = stream.write_all(REQUEST).await {
            return Found::Refused(error.to_string());
        }
        let mut bytes = [0; 256];
        match stream.read(&mut bytes).await {
            Ok(0) => Found::Refused("connection closed".into()),
            Ok(length) => {
                let text = String::from_utf8_lossy(&bytes[..length]);
                Found::Answered(answered(text.lines().next().unwrap_or_default()))
            }
            Err(error) => Found::Refused(error.to_string()),
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Found::Silent)
}

/// What an answer says beside that somebody was let in: a proxy answers 503 itself where nobody behind it does.
fn answered(line: &str) -> String {
    let is_503 = line.starts_with("HTTP/") && line.split(' ').nth(1) == Some("503");
    let behind = if is_503 {
        ": the proxy lets in, and nothing behind it answers, or what is there says so"
    } else {
        ""
    };
    format!("answered {line}{behind}")
}

async fn plaintext(target: &Target) -> Verdict {
    let found = match TcpStream::connect(&target.address).await {
        Ok(stream) => ask(stream).await,
        Err(error) => Found::Refused(error.to_string()),
    };
    let must_pass = matches!(target.demand, Demand::Mtls(MtlsMode::Permissive | MtlsMode::Off));
    judge("plaintext", must_pass, &found)
}

async fn handshake(target: &Target, certificate: Option<CertifiedKey>, seen: &Arc<Noting>) -> Found {
    let builder = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map(|builder| builder.dangerous().with_custom_certificate_verifier(Believing::new(seen.clone())));
    let Ok(builder) = builder else { return Found::Refused("cannot set up TLS".into()) };
    let config = match certificate {
        Some(one) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(one))),
        None => builder.with_no_client_auth(),
    };
    let connect = async {
        let tcp = TcpStream::connect(&target.address).await?;
        let name = ServerName::try_from(target.server_name.clone()).map_err(std::io::Error::other)?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    match tokio::time::timeout(PATIENCE, connect).await {
        Ok(Ok(stream)) => ask(stream).await,
        Ok(Err(error)) if speaks_no_tls(&error) => Found::NoTls,
        Ok(Err(error)) => Found::Refused(error.to_string()),
        Err(_) => Found::Silent,
    }
}

/// Whether what came back is no record of TLS.
fn speaks_no_tls(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

/// An attempt that a listener with TLS for everybody must let in. Whose certificate it shows proves nothing here: clients
/// hold it against the roots that they have.
async fn anybody(target: &Target) -> Verdict {
    let seen = Arc::new(Noting::default());
    let found = handshake(target, None, &seen).await;
    admitted(target, "TLS without a certificate", &found, &seen)
}

/// The verdict on an attempt that must be let in.
fn admitted(target: &Target, attempt: &'static str, found: &Found, seen: &Noting) -> Verdict {
    if !target.is_http && matches!(found, Found::Silent) && !seen.ders().is_empty() {
        // Bytes went in and nothing ended the connection: all that a TCP service lets us see.
        return Verdict {
            attempt,
            expected: "accepted",
            found: "connection stayed open".into(),
            verdict: "ok",
        };
    }
    judge(attempt, true, found)
}

/// Attempts that any listener with mTLS must refuse.
async fn strangers(target: &Target, domain: &TrustDomain) -> Result<Vec<Verdict>, Failure> {
    let id = target.allow.first().cloned().or_else(|| domain.id("/credence-probe").ok());
    let id = id.map(|id| id.to_string()).unwrap_or_default();
    let now = SystemClock.now();
    let attempts = [
        ("TLS without a certificate", None),
        ("self-signed certificate of an allowed identity", Some(self_signed(&id, now)?)),
        ("certificate of a foreign authority, of an allowed identity", Some(foreign(&id, domain, now)?)),
    ];
    let mut verdicts = Vec::new();
    for (attempt, certificate) in attempts {
        let found = handshake(target, certificate, &Arc::default()).await;
        verdicts.push(judge(attempt, false, &found));
    }
    Ok(verdicts)
}

fn template(profile: Profile, key: &SecretKey, uri: String, now: Timestamp) -> Template {
    let subject = profile.is_authority().then(|| ("Not Credence".to_owned(), "Foreign".to_owned()));
    Template {
        profile,
        serial: Serial::random(),
        validity: Validity::starting(now, Duration::from_secs(600), None),
        public_key: key.public().clone(),
        subject,
        uri,
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    }
}

fn made<T, E: std::fmt::Display>(made: Result<T, E>) -> Result<T, Failure> {
    made.map_err(|error| Failure::new(Exit::Failed, format!("cannot make a bad certificate: {error}"), ""))
}

fn self_signed(id: &str, now: Timestamp) -> Result<CertifiedKey, Failure> {
    let key = SecretKey::generate(KeyKind::P256);
    let signer = made(SoftwareSigner::try_new(&key))?;
    let leaf = made(sign(&template(Profile::Workload, &key, id.to_owned(), now), None, &signer))?;
    made(tls::certified_key(&Chain::new(leaf, Vec::new()), &key))
}

fn foreign(id: &str, domain: &TrustDomain, now: Timestamp) -> Result<CertifiedKey, Failure> {
    let authority_key = SecretKey::generate(KeyKind::P256);
    let signer = made(SoftwareSigner::try_new(&authority_key))?;
    let root = made(sign(&template(Profile::Root, &authority_key, domain.to_uri(), now), None, &signer))?;
    let key = SecretKey::generate(KeyKind::P256);
    let leaf = made(sign(&template(Profile::Workload, &key, id.to_owned(), now), Some(&root), &signer))?;
    made(tls::certified_key(&Chain::new(leaf, vec![root]), &key))
}

/// A good certificate of the probe identity: let in where everybody of the trust domain is, refused where it is
/// not on the list.
async fn good(client: &Client, target: &Target) -> Result<Verdict, Failure> {
    let key = SecretKey::generate(KeyKind::P256);
    let wanted = wire::Probe { csr: STANDARD.encode(Csr::build(&key)) };
    let probed: wire::Probed = client.post("/certificates/probe", &wanted).await?;
    let bad =
        |error: String| Failure::new(Exit::Failed, format!("probe certificate is damaged: {error}"), "");
    let ders = certificates_from_pem(probed.pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let chain = Chain::from_ders(ders.iter().map(Vec::as_slice)).map_err(|error| bad(error.to_string()))?;
    let certified = tls::certified_key(&chain, &key).map_err(|error| bad(error.to_string()))?;
    let is_allowed = target.allow.is_empty() || target.allow.iter().any(|id| id.as_str() == probed.id);
    let seen = Arc::new(Noting::default());
    let found = handshake(target, Some(certified), &seen).await;
    if !is_allowed {
        return Ok(judge("good certificate of an identity that is not allowed", false, &found));
    }
    let verdict = admitted(target, "good certificate", &found, &seen);
    Ok(match server(&seen, &probed.bundle, client.domain(), target) {
        Ok(id) => Verdict { found: format!("{}, as {id}", verdict.found), ..verdict },
        Err(why) => Verdict { found: format!("{}, but {why}", verdict.found), verdict: "WRONG", ..verdict },
    })
}

/// Whom the listener proved to be, held against the bundle and the document.
fn server(seen: &Noting, bundle: &str, domain: &TrustDomain, target: &Target) -> Result<SpiffeId, String> {
    let roots = certificates_from_pem(bundle.as_bytes()).map_err(|error| error.to_string())?;
    let roots: Result<Vec<_>, _> = roots.iter().map(|der| Certificate::from_der(der)).collect();
    let trust = Trust::new(TrustBundle::new(domain.clone(), roots.map_err(|error| error.to_string())?, 0));
    let chain = seen.chain().map_err(|error| error.to_string())?;
    let svid =
        verify_svid(&chain, &trust, SystemClock.now(), Usage::Server).map_err(|error| error.to_string())?;
    match &target.identity {
        Some(wanted) if wanted != svid.id() => Err(format!("it is {}, not {wanted}", svid.id())),
        _ => Ok(svid.id().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_what_was_found_against_what_must_be() {
        let check = |must_pass, found: Found, expected: &str| {
            assert_eq!(judge("x", must_pass, &found).verdict, expected);
        };
        check(true, Found::Answered("200".into()), "ok");
        check(true, Found::Refused("alert".into()), "WRONG");
        check(false, Found::Answered("200".into()), "WRONG");
        check(false, Found::Refused("alert".into()), "ok");
        check(false, Found::Silent, "not probed");
        check(true, Found::NoTls, "WRONG");
        check(false, Found::NoTls, "WRONG");
    }

    #[test]
    fn says_when_nothing_behind_the_proxy_answers() {
        assert!(answered("HTTP/1.1 503 Service Unavailable").contains("nothing behind it answers"));
        assert_eq!(answered("HTTP/1.1 200 OK"), "answered HTTP/1.1 200 OK");
    }

    fn config(name: &str, revision: u64, state: &str, listeners: &str) -> wire::Config {
        let text = format!(
            "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: x}}}}\n  \
             listeners: [{listeners}]\n"
        );
        let config = serde_json::json!({
            "id": "01234567-89ab-7def-8123-456789abcdef",
            "namespace": "default",
            "kind": "ProxyConfig",
            "name": name,
            "revision": revision,
            "state": state,
            "author": "ann",
            "at": "",
            "text": text,
        });
        serde_json::from_value(config).unwrap()
    }

    const CHAIN: &str =
        "filterChains: [{filters: [{name: envoy.filters.network.tcp_proxy, config: {cluster: c}}]}]";

    fn listener(name: &str, port: u16, more: &str) -> String {
        format!("{{name: {name}, address: 0.0.0.0, port: {port}, {more}{CHAIN}}}")
    }

    fn declared(listener: &str, default: MtlsMode) -> Target {
        let found = choose(&[config("x", 1, "applied", listener)], "x");
        to_target(found.into_iter().next().expect("one listener"), None, default)
    }

    #[test]
    fn a_listener_is_held_against_what_its_proxy_makes_of_it() {
        let check = |more: &str, default, expected| {
            assert_eq!(declared(&listener("in", 8443, more), default).demand, expected, "{more}");
        };
        check("", MtlsMode::Strict, Demand::Mtls(MtlsMode::Strict));
        check("", MtlsMode::Permissive, Demand::Mtls(MtlsMode::Permissive));
        check("", MtlsMode::Off, Demand::Mtls(MtlsMode::Off));
        let allow = "mtls: {allow: [spiffe://td.example/a]}, ";
        check(allow, MtlsMode::Permissive, Demand::Mtls(MtlsMode::Permissive));
        check("mtls: strict, ", MtlsMode::Off, Demand::Mtls(MtlsMode::Strict));
        check("tls: {edge: shop}, ", MtlsMode::Strict, Demand::Tls);
        check("tls: {certificate: default/shop}, ", MtlsMode::Permissive, Demand::Tls);
    }

    #[test]
    fn every_listener_of_a_document_is_tried_or_the_one_that_was_named() {
        let both = format!("{}, {}", listener("plain", 80, "mtls: off, "), listener("secure", 8443, ""));
        let documents =
            [config("shop", 1, "applied", &both), config("other", 1, "applied", &listener("shop", 81, ""))];
        let chosen = |name: &str| {
            let found = choose(&documents, name);
            found.iter().map(|one| one.listener.port.get()).collect::<Vec<_>>()
        };
        assert_eq!(chosen("shop"), [80, 8443]);
        assert_eq!(chosen("secure"), [8443]);
        assert_eq!(chosen("other"), [81]);
        assert_eq!(chosen("other/shop"), [81]);
        assert_eq!(chosen("shop/secure"), [8443]);
        assert_eq!(chosen("shop/nobody"), [0; 0]);
        assert_eq!(chosen("nobody"), [0; 0]);
    }

    #[test]
    fn each_refusal_to_try_several_names_what_can_be_tried() {
        let of = |name: &str, names: [&str; 2]| {
            let ports = names.iter().zip(8443..);
            let all: Vec<_> = ports.map(|(name, port)| listener(name, port, "")).collect();
            config(name, 1, "applied", &all.join(", "))
        };
        let documents = [of("a", ["web", "admin"]), of("b", ["web", "more"]), of("c", ["c", "other"])];
        let check = |name: &str, has_address: bool, expected: Result<&[&str], &[&str]>| match (
            narrow(choose(&documents, name), name, has_address),
            expected,
        ) {
            (Ok(found), Ok(expected)) => {
                let names: Vec<_> = found.iter().map(Declared::full_name).collect();
                assert_eq!(names, expected, "{name}");
            }
            (Err(failure), Err(words)) => {
                assert_eq!(failure.exit, Exit::Usage);
                let said = format!("{}: {}", failure.message, failure.hint);
                assert!(words.iter().all(|word| said.contains(word)), "{name}: {said}");
            }
            (found, _) => panic!("{name}: {found:?}"),
        };
        // Both are on one port, of different nodes: which one answers here nobody can tell.
        let both = ["those of a, b", "name its ProxyConfig: a/web or b/web"];
        for has_address in [false, true] {
            check("web", has_address, Err(&both));
            check("b/web", has_address, Ok(&["b/web"]));
            check("c/c", has_address, Ok(&["c/c"]));
        }
        check("a", false, Ok(&["a/web", "a/admin"]));
        check("a", true, Err(&["a has web, admin", "name one of them: a/web or a/admin"]));
        check("c", false, Ok(&["c/c", "c/other"]));
        check("c", true, Ok(&["c/c"]));
    }

    #[test]
    fn rows_stand_under_the_document_and_the_address_that_they_are_of() {
        let one = |address: &str| Tried {
            document: "shop".into(),
            listener: "web".into(),
            address: address.into(),
            verdict: judge("x", true, &Found::Silent),
        };
        let said = table(&[one("127.0.0.1:1"), one("127.0.0.1:1"), one("127.0.0.1:2")]);
        let headers: Vec<_> = said.lines().filter(|line| line.starts_with("listener")).collect();
        let expected = [
            "listener web of ProxyConfig shop at 127.0.0.1:1",
            "listener web of ProxyConfig shop at 127.0.0.1:2",
        ];
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_does_not_answer_is_named_as_it_can_be_tried_elsewhere() {
        let target = declared(&listener("in", 8443, ""), MtlsMode::Strict);
        let hint = |is_alone| unreachable(&target, is_alone, "refused").hint;
        assert!(hint(true).ends_with("on this host? --address HOST:PORT names another"), "{}", hint(true));
        assert!(hint(false).contains("x/in --address HOST:PORT"), "{}", hint(false));
    }

    #[tokio::test]
    async fn drafts_of_other_documents_are_asked_after_only_where_they_may_be_meant() {
        let draft = |name: &str, of: &str| config(name, 2, "draft", &listener(of, 8443, ""));
        let newest = [draft("shop", "web"), draft("other", "in"), draft("more", "shop")];
        let check = async |name: &str, asked_of: &[&str], expected: &[&str]| {
            let mut asked = Vec::new();
            let effective = async |one: wire::Config| {
                asked.push(one.name.clone());
                Ok(Some(one))
            };
            let found = find(newest.to_vec(), name, effective).await.unwrap();
            let names: Vec<_> = found.iter().map(Declared::full_name).collect();
            assert_eq!((asked, names), (owned(asked_of), owned(expected)), "{name}");
        };
        check("shop", &["shop"], &["shop/web"]).await;
        check("other/in", &["other"], &["other/in"]).await;
        check("in", &["shop", "other", "more"], &["other/in"]).await;
        check("nobody", &["shop", "other", "more"], &[]).await;
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[tokio::test]
    async fn a_draft_is_at_no_proxy() {
        let one = |revision, state| config("shop", revision, state, "");
        // Pages of two revisions, and how many of them were asked for.
        let effective = async |revisions: Vec<wire::Config>| {
            let mut asked = 0;
            let found = in_effect(async |after: Option<String>| {
                asked += 1;
                let start: usize = after.map_or(0, |after| after.parse().unwrap());
                let end = revisions.len().min(start + 2);
                let next = (end < revisions.len()).then(|| end.to_string());
                Ok(wire::Page { items: revisions[start..end].to_vec(), next })
            })
            .await;
            (found.unwrap().map(|one| one.revision), asked)
        };
        let all = ["draft", "draft", "draft", "applied", "applied", "applied"];
        let all = all.iter().zip((1..7).rev()).map(|(state, revision)| one(revision, *state)).collect();
        assert_eq!(effective(all).await, (Some(3), 2));
        assert_eq!(effective(vec![one(1, "draft")]).await, (None, 1));
        assert_eq!(effective(vec![one(3, "draft"), one(2, "deleted"), one(1, "applied")]).await, (None, 1));
    }

    #[test]
    fn a_name_is_asked_for_only_where_each_chain_wants_one() {
        let chain = |matching: &str| {
            format!(
                "{{{matching}filters: [{{name: envoy.filters.network.tcp_proxy, config: {{cluster: c}}}}]}}"
            )
        };
        let check = |chains: &[&str], expected: &str| {
            let chains: Vec<_> = chains.iter().map(|one| chain(one)).collect();
            let listener =
                format!("{{name: in, address: 0.0.0.0, port: 1, filterChains: [{}]}}", chains.join(", "));
            assert_eq!(declared(&listener, MtlsMode::Strict).server_name, expected);
        };
        let (shop, wild) = (
            "match: {serverNames: [shop.example, www.shop.example]}, ",
            "match: {serverNames: ['*.shop.example']}, ",
        );
        check(&[""], "credence-verify");
        check(&[shop], "shop.example");
        check(&[wild, shop], "credence-verify.shop.example");
        check(&[shop, ""], "credence-verify");
    }

    #[tokio::test]
    async fn a_listener_with_tls_for_everybody_lets_in_who_shows_nothing_and_refuses_plaintext() {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = port.local_addr().unwrap().to_string();
        let shown = self_signed("spiffe://td.example/shop", SystemClock.now()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let serve = async {
            loop {
                let (tcp, _) = port.accept().await.unwrap();
                let mut first = [0];
                let _ = tcp.peek(&mut first).await;
                // No record of TLS: a proxy closes without a word.
                if first != [22] {
                    continue;
                }
                let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
                let mut bytes = [0; 512];
                let _ = stream.read(&mut bytes).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                stream.shutdown().await.unwrap();
            }
        };
        let target = declared(&listener("https", 443, "tls: {edge: shop}, "), MtlsMode::Strict);
        let target = Target { address, ..target };
        let attempts = async { [plaintext(&target).await, anybody(&target).await] };
        let verdicts = tokio::select! {
            verdicts = attempts => verdicts,
            () = serve => unreachable!("it serves for ever"),
        };
        let said = verdicts.map(|one| (one.attempt, one.expected, one.verdict));
        assert_eq!(said, [("plaintext", "refused", "ok"), ("TLS without a certificate", "accepted", "ok"),]);
    }

    #[tokio::test]
    async fn server_that_speaks_no_tls_refuses_nobody() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let strict = "{name: in, address: 127.0.0.1, port: 1, mtls: strict, filterChains: []}";
        let target = Target { address, is_http: true, ..declared(strict, MtlsMode::Strict) };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 512];
            let _ = stream.read(&mut bytes).await;
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            stream
        };
        let seen = Arc::default();
        let (_, found) = tokio::join!(serve, handshake(&target, None, &seen));
        assert!(matches!(found, Found::NoTls));
        assert_eq!(judge("x", false, &found).verdict, "WRONG");
    }

    #[test]
    fn makes_the_bad_certificates_that_it_tries() {
        let domain = TrustDomain::parse("td.example").unwrap();
        let now = Timestamp::from_unix_secs(1_800_000_000);
        let id = "spiffe://td.example/web";
        assert_eq!(self_signed(id, now).unwrap().cert.len(), 1);
        assert_eq!(foreign(id, &domain, now).unwrap().cert.len(), 2);
    }
}
