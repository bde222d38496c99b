//! `verify NAME`: real handshakes against a listener of a proxy. What must be refused is tried, and must be
//! refused; then a good certificate is tried, if the listener would let one in that we may have.

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
use xds::model::{self, Filter, Listener, MtlsMode, Spec};

use crate::{
    cli::VerifyArgs,
    client::{Client, encode},
    clock::SystemClock,
    output::{self, Exit, Failure},
    tls::{self, Believing, Noting},
};

const PATIENCE: Duration = Duration::from_secs(3);
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

/// The listener as its document declares it.
struct Target {
    address: String,
    mode: MtlsMode,
    identity: Option<SpiffeId>,
    allow: Vec<SpiffeId>,
    is_http: bool,
}

pub(super) async fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    let client = Client::open(&args.list.server)?;
    let target = target(&client, args).await?;
    reachable(&target.address).await?;
    let mut verdicts = vec![plaintext(&target).await];
    if target.mode != MtlsMode::Off {
        verdicts.extend(strangers(&target, client.domain()).await?);
        verdicts.push(good(&client, &target).await?);
    }
    output::show(args.list.output, &verdicts, |verdicts| table(&target.address, verdicts))?;
    let has = |word: &str| verdicts.iter().any(|verdict| verdict.verdict == word);
    Ok(if has("WRONG") {
        Exit::Failed
    } else if has("not probed") {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

fn table(address: &str, verdicts: &[Verdict]) -> String {
    let rows = verdicts.iter().map(|one| {
        vec![one.verdict.to_owned(), one.attempt.to_owned(), one.expected.to_owned(), one.found.clone()]
    });
    format!("{address}\n{}", output::table(&["verdict", "attempt", "expected", "found"], rows))
}

async fn target(client: &Client, args: &VerifyArgs) -> Result<Target, Failure> {
    let path = format!("/configs?kind=ProxyConfig&text=true&namespace={}", encode(&args.namespace));
    let configs: Vec<wire::Config> = client.get_all(&path).await?;
    let mut named = None;
    for config in configs {
        let text = config.text.unwrap_or_default();
        let document = model::parse(&config.name, &text).unwrap_or_default().into_iter().next();
        let Some(Spec::ProxyConfig(spec)) = document.map(|document| document.spec) else { continue };
        let own = config.name == args.name;
        let found = spec.listeners.into_iter().find(|listener| own || listener.name == args.name);
        named = named.or(found);
    }
    let listener = named.ok_or_else(|| {
        let message = format!("no ProxyConfig or listener {} in namespace {}", args.name, args.namespace);
        Failure::new(Exit::NotFound, message, "\"credence get ProxyConfig\" shows what there is")
    })?;
    Ok(to_target(listener, args.address.as_deref()))
}

fn to_target(listener: Listener, address: Option<&str>) -> Target {
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
    let mtls = listener.mtls;
    let mode = mtls.as_ref().and_then(|mtls| mtls.mode).unwrap_or(MtlsMode::Strict);
    let (identity, allow) = mtls.map(|mtls| (mtls.identity, mtls.allow)).unwrap_or_default();
    Target { address, mode, identity, allow, is_http }
}

async fn reachable(address: &str) -> Result<(), Failure> {
    let tried = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
    let why = match tried {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    let hint = "is the proxy running, and on this host? --address HOST:PORT names another";
    Err(Failure::new(Exit::Unavailable, format!("cannot reach {address}: {why}"), hint))
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
    judge("plaintext", target.mode != MtlsMode::Strict, &found)
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
        let name = ServerName::try_from("credence-verify").map_err(std::io::Error::other)?;
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
    let attempt = "good certificate";
    if !target.is_http && matches!(found, Found::Silent) {
        // Bytes went in and nothing ended the connection: all that a TCP service lets us see.
        return Ok(Verdict {
            attempt,
            expected: "accepted",
            found: "connection stayed open".into(),
            verdict: "ok",
        });
    }
    let verdict = judge(attempt, true, &found);
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

    #[tokio::test]
    async fn server_that_speaks_no_tls_refuses_nobody() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target =
            Target { address, mode: MtlsMode::Strict, identity: None, allow: Vec::new(), is_http: true };
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
