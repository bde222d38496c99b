//! The command line's way to 8080: HTTP over mutual TLS 1.3 with the operator's certificate. The server is known
//! by its SPIFFE ID and not by its address. A TLS alert is turned into a hint.

use std::{error::Error, fs, path::Path, sync::Arc, time::Duration};

use api::problem::Problem;
use bytes::Bytes;
use certs::{Certificate, Chain, Clock, SecretKey, Timestamp, Usage, certificates_from_pem, format_duration};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject};
use serde::de::DeserializeOwned;
use spiffe::{Class, SpiffeId, Trust, TrustBundle, TrustDomain, verify_svid};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::{
    cli::ServerArgs,
    clock::SystemClock,
    output::{Exit, Failure},
    tls,
};

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
    config: Arc<ClientConfig>,
}

impl Client {
    /// Reads the operator's certificate from the admin directory.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the certificate has expired: said before anything is sent.
    pub fn open(args: &ServerArgs) -> Result<Self, Failure> {
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
        let trust = Trust::new(bundle(&directory.join(BUNDLE), id.trust_domain())?);
        let key = read_key(&directory.join(KEY))?;
        let certified = tls::certified_key(&chain, &key)
            .map_err(|error| damaged(&directory.join(KEY), &error.to_string()))?;
        let verifier = ServerVerifier { trust, expected: id.trust_domain().server_id() };
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot set up TLS: {error}"), ""))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        Ok(Self { endpoint, domain: id.trust_domain().clone(), config: Arc::new(config) })
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

    /// Reads `path`, below `/api/v1`.
    ///
    /// # Errors
    /// As the server's problem says, or when there is no answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parsed(&self.send(Method::GET, path, None).await?)
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
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot write the request: {error}"), ""))?;
        parsed(&self.send(Method::POST, path, Some(("application/json", body.into()))).await?)
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
        let (status, headers, body) = exchange.await.map_err(|_| late())??;
        if status.is_success() {
            return Ok(Answer { headers, body });
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(problem.into()),
            Err(_) => {
                let message = format!("{} answered {status}", self.endpoint);
                Err(Failure::new(Exit::Failed, message, "is it the management port (8080) of Credence?"))
            }
        }
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
        let unreachable = |why: String| {
            let message = format!("cannot reach {}: {why}", self.endpoint);
            let hint = "is \"credence serve\" running there? --server HOST:PORT names another address";
            Failure::new(Exit::Unavailable, message, hint)
        };
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.endpoint));
        let tcp = connecting.await.map_err(|_| unreachable("no answer".into()))?;
        let tcp = tcp.map_err(|error| unreachable(error.to_string()))?;
        let host = self.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .map_err(|_| Failure::usage(format!("{:?} is not HOST:PORT", self.endpoint), "check --server"))?;
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
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

/// What a TLS error means to an operator; TLS 1.3 clients learn it with the first answer only.
fn refusal(endpoint: &str, error: &(dyn Error + 'static)) -> Option<Failure> {
    let (message, hint) = match tls_error(error)? {
        rustls::Error::AlertReceived(alert) => {
            let why = match alert {
                AlertDescription::CertificateExpired => "it has expired",
                AlertDescription::CertificateRevoked => "it is revoked or blocked",
                AlertDescription::UnknownCA => "no authority of the server vouches for it",
                AlertDescription::AccessDenied => "it is blocked, or not of class operator",
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
        rustls::Error::InvalidCertificate(why) => (
            format!("the server at {endpoint} is not who it must be: {why:?}"),
            "--admin-dir must be of this server; its bundle.crt names the root that is trusted",
        ),
        rustls::Error::InvalidMessage(_) => {
            let message = format!("{endpoint} does not speak TLS");
            return Some(Failure::new(Exit::Unavailable, message, "is it the management port (8080)?"));
        }
        _ => return None,
    };
    Some(Failure::new(Exit::Refused, message, hint))
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
    let ders =
        certificates_from_pem(&read_bytes(path)?).map_err(|error| damaged(path, &error.to_string()))?;
    Chain::from_ders(ders.iter().map(Vec::as_slice)).map_err(|error| damaged(path, &error.to_string()))
}

fn read_key(path: &Path) -> Result<SecretKey, Failure> {
    let text = Zeroizing::new(read_bytes(path)?);
    let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|error| damaged(path, &error.to_string()))?;
    let der = Zeroizing::new(der.secret_pkcs8_der().to_vec());
    SecretKey::from_pkcs8_der(der).map_err(|error| damaged(path, &error.to_string()))
}

fn bundle(path: &Path, domain: &TrustDomain) -> Result<TrustBundle, Failure> {
    let bad = |error: String| damaged(path, &error);
    let ders = certificates_from_pem(&read_bytes(path)?).map_err(|error| bad(error.to_string()))?;
    let roots: Result<Vec<_>, _> = ders.iter().map(|der| Certificate::from_der(der)).collect();
    Ok(TrustBundle::new(domain.clone(), roots.map_err(|error| bad(error.to_string()))?, 0))
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

/// Knows the server by its SPIFFE ID. The address that was dialled proves nothing and is not looked at.
#[derive(Debug)]
struct ServerVerifier {
    trust: Trust,
    expected: SpiffeId,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |why: String| {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(Arc::new(
                Unverified(why),
            ))))
        };
        let ders = std::iter::once(leaf.as_ref()).chain(intermediates.iter().map(AsRef::as_ref));
        let chain = Chain::from_ders(ders).map_err(|error| refused(error.to_string()))?;
        let now = Timestamp::from_unix_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let svid = verify_svid(&chain, &self.trust, now, Usage::Server)
            .map_err(|error| refused(error.to_string()))?;
        if *svid.id() != self.expected {
            return Err(refused(format!("it is {}, not {}", svid.id(), self.expected)));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &tls::provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &tls::provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Why the server was not believed, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Unverified(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_what_a_path_cannot_hold() {
        assert_eq!(encode("spiffe://td/a b"), "spiffe%3A%2F%2Ftd%2Fa%20b");
        assert_eq!(encode("web-1.x_~"), "web-1.x_~");
    }

    #[test]
    fn turns_alerts_into_hints() {
        let check = |alert, words: &str| {
            let inner = std::io::Error::other(rustls::Error::AlertReceived(alert));
            let failure = refusal("cp:8080", &inner).unwrap();
            assert!(failure.message.contains(words), "{}", failure.message);
            assert_eq!(failure.exit, Exit::Refused);
            assert!(failure.hint.contains("--reissue-admin"));
        };
        check(AlertDescription::CertificateExpired, "expired");
        check(AlertDescription::UnknownCA, "vouches");
        check(AlertDescription::CertificateUnknown, "not an operator certificate");
        assert_eq!(refusal("cp:8080", &std::io::Error::other("reset")), None);
    }

    #[test]
    fn says_which_directory_lacks_the_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let args = ServerArgs { admin_dir: directory.path().to_owned(), server: None };
        let failure = Client::open(&args).unwrap_err();
        assert!(failure.message.contains("operator.crt"), "{}", failure.message);
        assert!(failure.hint.contains("--admin-dir"));
    }
}
