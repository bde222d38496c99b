//! The command line's way to 8080: HTTP over mutual TLS 1.3 with the operator's certificate. The server is known
//! by its SPIFFE ID and not by its address. A TLS alert is turned into a hint.

mod belief;
mod news;
pub(crate) mod pair;

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use agent::dial;
use api::problem::Problem;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use certs::{
    Certificate, Chain, Clock, Csr, KeyKind, SecretKey, Timestamp, certificates_from_pem, format_duration,
};
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::GaiResolver},
    rt::TokioIo,
};
use rustls::{AlertDescription, ClientConfig, sign::SingleCertAndKey};
use rustls_pki_types::{PrivatePkcs8KeyDer, ServerName, pem::PemObject};
use serde::de::DeserializeOwned;
use spiffe::{Class, SpiffeId, Trust, TrustBundle, TrustDomain};
use tokio::net::TcpStream;
use tower::Service;
use zeroize::Zeroizing;

use crate::{
    cli::ServerArgs,
    clock::SystemClock,
    output::{Exit, Failure, note},
    tls::{self, Believing},
};
use belief::ServerBelief;

const CERTIFICATE: &str = "operator.crt";
const KEY: &str = "operator.key";
const BUNDLE: &str = "bundle.crt";
const ENDPOINT: &str = "endpoint";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;
const REISSUE: &str = "on the server's host, run \"credence init --reissue-admin\"";

/// What came back, when it was no problem.
#[derive(Debug)]
pub struct Answer {
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A way to one server as one operator.
#[derive(Debug)]
pub struct Client {
    endpoint: String,
    domain: TrustDomain,
    /// The certificate and the bundle as they were read last.
    config: Mutex<Arc<ClientConfig>>,
    /// Where to put a new operator certificate, while the one in use is to be replaced.
    renewal: Mutex<Option<PathBuf>>,
    /// The admin directory.
    directory: PathBuf,
    /// The bundle in it.
    held: Mutex<[u8; 32]>,
    /// Whether the server has said that the certificate is to be replaced.
    told: AtomicBool,
}

/// Once per command: whatever it shows, nobody misses that rotation is paused or a recovery window open.
fn say_banners(headers: &HeaderMap) {
    static SAID: [Once; 2] = [Once::new(), Once::new()];
    for (name, said) in [api::rest::PAUSED, api::rest::RECOVERY].into_iter().zip(&SAID) {
        if let Some(banner) = headers.get(name).and_then(|value| value.to_str().ok()) {
            said.call_once(|| note(&format!("credence: {banner}")));
        }
    }
}

impl Client {
    /// Reads the operator's certificate from the admin directory.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the certificate has expired: said before anything is sent.
    pub fn open(args: &ServerArgs) -> Result<Self, Failure> {
        pair::take_up_interrupted(&args.admin_dir);
        Self::read(args)
    }

    /// The same, and leaves the directory as it is.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub fn read(args: &ServerArgs) -> Result<Self, Failure> {
        let directory = &args.admin_dir;
        let chain = chain(&directory.join(CERTIFICATE))?;
        let id = operator_id(&chain, directory)?;
        let now = SystemClock.now();
        let end = chain.leaf().not_after();
        if end <= now {
            let ago = format_duration(now.since(end));
            let message = format!("operator certificate in {} expired {ago} ago", directory.display());
            return Err(Failure::new(Exit::Refused, message, REISSUE));
        }
        let endpoint = match &args.server {
            Some(server) => server.clone(),
            None => read_text(&directory.join(ENDPOINT))?.trim().to_owned(),
        };
        let (config, held) = tls_config(directory, &chain, &id)?;
        let renewal = Mutex::new(is_past_half(&chain, now).then(|| directory.clone()));
        let (domain, config, held) = (id.trust_domain().clone(), Mutex::new(config), Mutex::new(held));
        let (directory, told) = (directory.clone(), AtomicBool::new(false));
        Ok(Self { endpoint, domain, config, renewal, directory, held, told })
    }

    /// The trust domain of the operator's certificate.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// `HOST:PORT` of the management door.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The host of [`Client::endpoint`], an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.endpoint.rsplit_once(':').map_or(self.endpoint.as_str(), |(host, _)| host)
    }

    /// Whether who listens there is our server: a handshake, after which nothing is asked and no file is changed.
    ///
    /// # Errors
    /// [`Exit::Refused`] when it is somebody else; any other when that was not found out.
    pub async fn recognise(&self) -> Result<(), Failure> {
        self.connect().await.map(drop)
    }

    /// Reads `path`, below `/api/v1`.
    ///
    /// # Errors
    /// As the server's problem says, or when there is no answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parsed(&self.send(Method::GET, path, None).await?)
    }

    /// Reads `path` and leaves every file as it is, whatever the server says of the operator's certificate.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn look<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let (status, headers, body) = self.ask(Method::GET, path, None).await?;
        parsed(&self.judged(Answer { headers, body }, status)?)
    }

    /// Reads every page of a listing.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let mut items = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let after = next.as_ref().map(|after| format!("&after={}", encode(after))).unwrap_or_default();
            let page: api::wire::Page<T> = self.get(&format!("{path}{joint}limit=500{after}")).await?;
            items.extend(page.items);
            match page.next {
                Some(after) => next = Some(after),
                None => return Ok(items),
            }
        }
    }

    /// Sends named fields to `path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, Failure> {
        parsed(&self.send(Method::POST, path, Some(("application/json", json(body)?))).await?)
    }

    /// Changes what is at `path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, Failure> {
        parsed(&self.send(Method::PATCH, path, Some(("application/json", json(body)?))).await?)
    }

    /// Has `path` be this.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, Failure> {
        parsed(&self.send(Method::PUT, path, Some(("application/json", json(body)?))).await?)
    }

    /// Sends documents to `path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_text<T: DeserializeOwned>(&self, path: &str, text: String) -> Result<T, Failure> {
        parsed(&self.send(Method::POST, path, Some(("application/yaml", text.into()))).await?)
    }

    /// Ends what is at `path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parsed(&self.send(Method::DELETE, path, None).await?)
    }

    /// One call on a connection of its own.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Answer, Failure> {
        let (status, headers, body) = self.ask(method, path, body).await?;
        // A refusal too: it may be the operator's own certificate that a step of a rotation waits for.
        let is_admitted = headers.contains_key(api::rest::BUNDLE_SHA256);
        if status.is_success() || (status.is_client_error() && is_admitted) {
            self.hear(&headers).await;
            self.renew_if_due().await;
        }
        self.judged(Answer { headers, body }, status)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::HOST, &self.endpoint);
        if let Some((kind, _)) = &body {
            request = request.header(header::CONTENT_TYPE, *kind);
        }
        let body = Full::new(body.map(|(_, bytes)| bytes).unwrap_or_default());
        let request = request
            .body(body)
            .map_err(|error| Failure::usage(format!("cannot ask for {path}: {error}"), "check the names"))?;
        let exchange = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request));
        let late = || {
            let message =
                format!("no answer from {} within {}", self.endpoint, format_duration(ANSWER_TIMEOUT));
            Failure::new(
                Exit::Unavailable,
                message,
                "look at \"credence status\" before you try a change again",
            )
        };
        let answer = exchange.await.map_err(|_| late())??;
        say_banners(&answer.1);
        Ok(answer)
    }

    /// The answer, or the problem that it is.
    fn judged(&self, answer: Answer, status: StatusCode) -> Result<Answer, Failure> {
        if status.is_success() {
            return Ok(answer);
        }
        match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => Err(problem.into()),
            Err(_) => {
                let message = format!("{} answered {status}", self.endpoint);
                Err(Failure::new(Exit::Failed, message, "is it the management port (8080) of Credence?"))
            }
        }
    }

    /// Replaces the operator's certificate once it is past half of its life, or the server wants it. What was asked for
    /// has its answer already: a failure is a remark. The next command tries again, or this one with its next answer if
    /// the server still wants it.
    async fn renew_if_due(&self) {
        let due = self.renewal.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(directory) = due else { return };
        // Another command of this operator may be at it.
        if let Ok(_alone) = pair::alone_in(&directory) {
            let renewed = tokio::time::timeout(ANSWER_TIMEOUT, self.renew(&directory)).await;
            let why = match renewed {
                Ok(Ok(expires)) => {
                    return note(&format!("credence: operator certificate renewed, it ends at {expires}"));
                }
                Ok(Err(failure)) => failure.message,
                Err(_) => "no answer".to_owned(),
            };
            note(&format!("credence: operator certificate was not renewed: {why}"));
        }
        self.told.store(false, Ordering::Relaxed);
    }

    async fn renew(&self, directory: &Path) -> Result<String, Failure> {
        let key = SecretKey::generate(KeyKind::P256);
        let wanted = api::wire::Probe { csr: STANDARD.encode(Csr::build(&key)) };
        let body = serde_json::to_vec(&wanted).unwrap_or_default();
        let request = Request::post("/api/v1/certificates/renew")
            .header(header::HOST, &self.endpoint)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))
            .map_err(|error| Failure::new(Exit::Failed, error.to_string(), ""))?;
        let (status, headers, body) = self.exchange(request).await?;
        if !status.is_success() {
            let problem = serde_json::from_slice::<Problem>(&body).map(Failure::from);
            return Err(problem.unwrap_or_else(|_| Failure::new(Exit::Failed, status.to_string(), "")));
        }
        let renewed: api::wire::Probed = parsed(&Answer { headers, body })?;
        pair::replace(directory, &key, &renewed.pem)?;
        self.reload()?;
        Ok(renewed.expires)
    }

    /// Takes what is in the admin directory now: this command may go on for longer than what it began with is good.
    fn reload(&self) -> Result<(), Failure> {
        let chain = chain(&self.directory.join(CERTIFICATE))?;
        let id = operator_id(&chain, &self.directory)?;
        let (config, _) = tls_config(&self.directory, &chain, &id)?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| self.broken(error.as_ref()))?.to_bytes();
            Ok((parts.status, parts.headers, body))
        };
        tokio::pin!(answer, connection);
        // The answer needs the connection driven beside it; the connection may end first, with the answer read.
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(self.broken(&error)),
            },
        }
    }

    async fn connect(&self) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        self.connect_by(GaiResolver::new()).await
    }

    /// The same, where `resolver` knows the addresses of the server.
    async fn connect_by<R>(&self, resolver: R) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure>
    where
        HttpConnector<R>: Service<Uri, Response = TokioIo<TcpStream>, Error: Error + 'static>,
    {
        let mistyped = || Failure::usage(format!("{:?} is not HOST:PORT", self.endpoint), "check --server");
        let unreachable = |why: String| {
            let message = format!("cannot reach {}: {why}", self.endpoint);
            let hint = "is \"credence serve\" running there? --server HOST:PORT names another address";
            Failure::new(Exit::Unavailable, message, hint)
        };
        let host = self.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| mistyped())?;
        let port = self.endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let dialed = dial::dial_by(resolver, host, port.ok_or_else(mistyped)?, CONNECT_TIMEOUT);
        // With the time that finding the addresses takes.
        let dialed = tokio::time::timeout(CONNECT_TIMEOUT, dialed).await;
        let tcp = dialed.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let tcp = tcp.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => unreachable("no answer".into()),
            _ => unreachable(error.to_string()),
        })?;
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connector = tokio_rustls::TlsConnector::from(config);
        let handshake = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, tcp));
        let stream = handshake.await.map_err(|_| unreachable("no answer to the TLS handshake".into()))?;
        stream.map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &(dyn Error + 'static)) -> Failure {
        refusal(&self.endpoint, error).unwrap_or_else(|| {
            let message = format!("connection to {} broke: {}", self.endpoint, innermost(error));
            Failure::new(
                Exit::Unavailable,
                message,
                "try again; \"credence doctor\" checks the server's host",
            )
        })
    }
}

/// How we show ourselves and know the server, by the files of an admin directory; and which bundle that is.
fn tls_config(
    directory: &Path,
    chain: &Chain,
    id: &SpiffeId,
) -> Result<(Arc<ClientConfig>, [u8; 32]), Failure> {
    let bundle = bundle(&directory.join(BUNDLE), id.trust_domain())?;
    let held = bundle.content_hash();
    let key = read_key(&directory.join(KEY))?;
    let certified =
        tls::certified_key(chain, &key).map_err(|error| damaged(&directory.join(KEY), &error.to_string()))?;
    let belief = ServerBelief { trust: Trust::new(bundle), expected: id.trust_domain().server_id() };
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot set up TLS: {error}"), ""))?
        .dangerous()
        .with_custom_certificate_verifier(Believing::new(Arc::new(belief)))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    Ok((Arc::new(config), held))
}

fn is_past_half(chain: &Chain, now: Timestamp) -> bool {
    let (start, end) = (chain.leaf().not_before(), chain.leaf().not_after());
    start + end.since(start) / 2 <= now
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The TLS error somewhere below `error`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(one) = next {
        if let Some(found) = one.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let inner = one.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => one.source(),
        };
    }
    None
}

/// Why a certificate is not believed, in words: ours, where our verifier has judged.
fn reason(why: &rustls::CertificateError) -> String {
    match why {
        rustls::CertificateError::Other(rustls::OtherError(ours)) => ours.to_string(),
        rustls::CertificateError::BadSignature => {
            "it does not prove that it holds the key of its certificate".to_owned()
        }
        rustls::CertificateError::BadEncoding => "its certificate does not parse".to_owned(),
        other => format!("its certificate is refused ({other})"),
    }
}

/// What to do about a server that is not believed.
fn disbelief(why: &str) -> &'static str {
    if why.contains("valid from") {
        "is this machine's clock right? `date` tells it; if it is, the server's ran ahead, and its log says how it goes \
         on: `credence serve --accept-clock`"
    } else if why.contains("ended at") {
        "is this machine's clock right? `date` tells it; if it is, the server cannot renew its certificate: on its host, \
         `credence doctor` and its log say why"
    } else {
        "--admin-dir must be of this server; its bundle.crt names the root that is trusted. A copy that nobody used while \
         the root was replaced knows the root before: copy the directory anew from the server's host"
    }
}

/// What a TLS error means to an operator; TLS 1.3 clients learn it with the first answer only.
fn refusal(endpoint: &str, error: &(dyn Error + 'static)) -> Option<Failure> {
    let (message, hint) = match tls_error(error)? {
        rustls::Error::AlertReceived(alert) => {
            let why = match alert {
                AlertDescription::CertificateExpired => {
                    "it has expired, or has not begun by the server's clock"
                }
                AlertDescription::CertificateRevoked => {
                    "it is revoked, or of an authority that is not trusted any more"
                }
                AlertDescription::UnknownCA => "no authority of the server vouches for it",
                AlertDescription::AccessDenied => {
                    "it is blocked, or not of class operator; or this is not the management port (8080)"
                }
                AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                    "it is not an operator certificate of this trust domain, or it is blocked"
                }
                AlertDescription::ProtocolVersion => {
                    let message = format!("{endpoint} does not speak TLS 1.3");
                    return Some(Failure::new(
                        Exit::Unavailable,
                        message,
                        "is it the management port (8080)?",
                    ));
                }
                _ => "see the server's audit log for the reason",
            };
            (format!("{endpoint} refused the operator certificate: {why} (alert {alert:?})"), REISSUE)
        }
        rustls::Error::InvalidCertificate(why) => {
            let why = reason(why);
            let hint = disbelief(&why);
            (format!("the server at {endpoint} is not who it must be: {why}"), hint)
        }
        rustls::Error::InvalidMessage(_) => {
            let message = format!("{endpoint} does not speak TLS");
            return Some(Failure::new(Exit::Unavailable, message, "is it the management port (8080)?"));
        }
        _ => return None,
    };
    Some(Failure::new(Exit::Refused, message, hint))
}

fn json(body: &impl serde::Serialize) -> Result<Bytes, Failure> {
    let written = serde_json::to_vec(body);
    written
        .map(Bytes::from)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write the request: {error}"), ""))
}

fn parsed<T: DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        let message = format!("cannot read the server's answer: {error}");
        Failure::new(Exit::Failed, message, "is the server of another version than this command?")
    })
}

/// One segment of a path or one value of a query, percent-encoded (RFC 3986 2.3).
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        let hint = "--admin-dir (or CREDENCE_ADMIN_DIR) names the directory that \"credence init\" wrote";
        Failure::new(Exit::Failed, message, hint)
    })
}

fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read_bytes(path)?).map_err(|error| damaged(path, &error.to_string()))
}

fn damaged(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::Failed, format!("{} is damaged: {why}", path.display()), REISSUE)
}

fn chain(path: &Path) -> Result<Chain, Failure> {
    parse_chain(&read_bytes(path)?).map_err(|error| damaged(path, &error))
}

fn parse_chain(pem: &[u8]) -> Result<Chain, String> {
    let ders = certificates_from_pem(pem).map_err(|error| error.to_string())?;
    Chain::from_ders(ders.iter().map(Vec::as_slice)).map_err(|error| error.to_string())
}

fn read_key(path: &Path) -> Result<SecretKey, Failure> {
    let text = Zeroizing::new(read_bytes(path)?);
    let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|error| damaged(path, &error.to_string()))?;
    let der = Zeroizing::new(der.secret_pkcs8_der().to_vec());
    SecretKey::from_pkcs8_der(der).map_err(|error| damaged(path, &error.to_string()))
}

fn bundle(path: &Path, domain: &TrustDomain) -> Result<TrustBundle, Failure> {
    parse_bundle(&read_bytes(path)?, domain).map_err(|error| damaged(path, &error))
}

fn parse_bundle(pem: &[u8], domain: &TrustDomain) -> Result<TrustBundle, String> {
    let ders = certificates_from_pem(pem).map_err(|error| error.to_string())?;
    let roots: Result<Vec<_>, _> = ders.iter().map(|der| Certificate::from_der(der)).collect();
    let roots = roots.map_err(|error| error.to_string())?;
    if roots.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(TrustBundle::new(domain.clone(), roots, 0))
}

fn operator_id(chain: &Chain, directory: &Path) -> Result<SpiffeId, Failure> {
    let names = chain.leaf().subject_alt_names().iter().filter_map(|name| match name {
        certs::SubjectAltName::Uri(uri) => SpiffeId::parse(uri).ok(),
        _ => None,
    });
    names.into_iter().find(|id| matches!(id.class(), Ok(Class::Operator(_)))).ok_or_else(|| {
        let message = format!("{} holds no operator certificate", directory.join(CERTIFICATE).display());
        Failure::new(Exit::Failed, message, "--admin-dir names the directory that \"credence init\" wrote")
    })
}

#[cfg(test)]
mod tests;
