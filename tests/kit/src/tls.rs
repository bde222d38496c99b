//! TLS clients that no honest program would be: they trust anybody, present anything, and tell what came back.

use std::{error::Error, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use agent::ending::{Ending, Watched};
use bytes::Bytes;
use certs::{Certificate, SubjectAltName, Timestamp};
use fixtures::Credential;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use server::tls::{Believing, Noting, provider};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const PATIENCE: Duration = Duration::from_secs(8);

/// A chain with its key, to be presented.
#[derive(Debug)]
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The key, as PKCS#8 or SEC1.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// From PEM files.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn from_files(chain: &Path, key: &Path) -> Self {
        let read = |path: &Path| {
            std::fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
        };
        Self::from_pem(&read(chain), &read(key))
    }

    /// From PEM.
    ///
    /// # Panics
    /// When it does not parse.
    #[must_use]
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Self {
        let chain = CertificateDer::pem_slice_iter(chain)
            .map(|der| der.map(|der| der.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .unwrap_or_else(|error| panic!("chain: {error}"));
        let key = PrivateKeyDer::from_pem_slice(key).unwrap_or_else(|error| panic!("key: {error}"));
        Self { chain, key }
    }

    /// A credential of the fixtures.
    #[must_use]
    pub fn of(credential: &Credential) -> Self {
        Self { chain: credential.ders().to_vec(), key: credential.key().rustls() }
    }

    /// The leaf.
    ///
    /// # Panics
    /// When it does not parse.
    #[must_use]
    pub fn leaf(&self) -> Certificate {
        Certificate::from_der(&self.chain[0]).unwrap_or_else(|error| panic!("leaf: {error}"))
    }
}

/// What a server showed in a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The serial of its leaf, in hexadecimal.
    pub serial: String,
    /// Its first URI name.
    pub id: Option<String>,
    /// When the leaf ends.
    pub not_after: Timestamp,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody answers, or not in time.
    Nothing(String),
    /// A TLS alert, during the handshake or instead of the first answer.
    Alert(String),
    /// The connection ended without a word.
    Closed(String),
    /// An HTTP answer.
    Http {
        /// Its status.
        status: u16,
        /// Its content type.
        content_type: String,
        /// Its body.
        body: String,
    },
    /// A gRPC answer: the status code, and the message, 0 when messages came.
    Grpc {
        /// The status.
        code: i32,
        /// The message.
        message: String,
    },
}

impl Outcome {
    /// Whether nothing of the application was reached: an alert or the end.
    #[must_use]
    pub fn is_refused_by_tls(&self) -> bool {
        matches!(self, Self::Alert(_) | Self::Closed(_))
    }

    /// Whether a TLS alert said so.
    pub(crate) fn is_alert(&self) -> bool {
        matches!(self, Self::Alert(_))
    }

    /// What a broken connection says, the alert inside it if there is one.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(source) = next {
            text = format!("{text}: {source}");
            next = source.source();
        }
        // Libraries wrap the alert in ways that `source` does not follow; its words survive in `Debug`.
        let shown = format!("{error:?} {text}");
        let alert = shown.split_once("AlertReceived(").and_then(|(_, rest)| rest.split_once(')'));
        let alert = alert.map(|(name, _)| name).or_else(|| {
            let (_, rest) = shown.split_once("received fatal alert: ")?;
            Some(rest.split([' ', '"', ')']).next().unwrap_or(rest))
        });
        match alert {
            Some(name) => Self::Alert(name.to_owned()),
            None => Self::Closed(text),
        }
    }
}

/// Presents a chain and key that may not fit what the server wants: rustls's own resolver would check.
#[derive(Debug)]
struct Presents(Arc<CertifiedKey>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(crate) fn config(identity: Option<&Identity>, alpn: &[&[u8]], seen: Arc<Noting>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap_or_else(|error| panic!("{error}"))
        .dangerous()
        .with_custom_certificate_verifier(Believing::new(seen));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = provider()
                .key_provider
                .load_private_key(identity.key.clone_key())
                .unwrap_or_else(|error| panic!("{error}"));
            let chain = identity.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
            let certified = CertifiedKey::new(chain, key);
            builder.with_client_cert_resolver(Arc::new(Presents(Arc::new(certified))))
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

/// Opens a TLS 1.3 connection, believing whoever answers.
///
/// # Errors
/// How it ended instead.
pub async fn connect(
    address: SocketAddr,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<TlsStream<TcpStream>, Outcome> {
    open(address, identity, alpn, Arc::default()).await
}

async fn open(
    address: SocketAddr,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
    seen: Arc<Noting>,
) -> Result<TlsStream<TcpStream>, Outcome> {
    let connector = TlsConnector::from(Arc::new(config(identity, alpn, seen)));
    let attempt = async {
        let tcp = TcpStream::connect(address).await.map_err(|error| Outcome::Nothing(error.to_string()))?;
        let _ = tcp.set_nodelay(true);
        let name = ServerName::IpAddress(address.ip().into());
        connector.connect(name, tcp).await.map_err(|error| Outcome::of(&error))
    };
    timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err(Outcome::Nothing("no handshake in time".into())))
}

/// One handshake without an identity; which certificate was shown. In TLS 1.3 it comes before ours is judged.
pub async fn probe(address: SocketAddr) -> Option<Shown> {
    let seen = Arc::new(Noting::default());
    let _ = open(address, None, &[b"h2", b"http/1.1"], seen.clone()).await;
    let certificate = seen.leaf()?;
    Some(Shown {
        serial: certificate.serial().to_string(),
        id: certificate.subject_alt_names().iter().find_map(|name| match name {
            SubjectAltName::Uri(uri) => Some(uri.clone()),
            SubjectAltName::Dns(_) | SubjectAltName::Ip(_) | SubjectAltName::Other(_) => None,
        }),
        not_after: certificate.not_after(),
    })
}

/// Whether the server completes a handshake with this identity: it must send something that only comes after it
/// has judged the client's certificate. Answers what came back to a plain HTTP/1.1 request.
pub async fn shakes_hands(address: SocketAddr, identity: Option<&Identity>) -> Outcome {
    try_http(address, identity, "/").await
}

/// `GET path` over HTTP/1.1 on TLS with this identity.
pub async fn try_http(address: SocketAddr, identity: Option<&Identity>, path: &str) -> Outcome {
    let request = Request::get(path).header(header::HOST, "example.com").body(Full::new(Bytes::new()));
    let request = request.unwrap_or_else(|error| panic!("{error}"));
    match https(address, identity, request).await {
        Ok((status, content_type, body)) => Outcome::Http { status: status.as_u16(), content_type, body },
        Err(outcome) => outcome,
    }
}

/// One HTTP/1.1 request on a TLS connection of its own; status, content type and body.
///
/// # Errors
/// How it ended instead.
pub async fn https(
    address: SocketAddr,
    identity: Option<&Identity>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, String, String), Outcome> {
    let tls = connect(address, identity, &[b"http/1.1"]).await?;
    let exchange = async {
        let (mut send, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|e| Outcome::of(&e))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { connection.await.err() });
        let response = match send.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                // The connection knows better than the request why it ended.
                drop(send);
                let cause = timeout(Duration::from_secs(1), driver.join_next()).await;
                return Err(match cause {
                    Ok(Some(Ok(Some(cause)))) => Outcome::of(&cause),
                    _ => Outcome::of(&error),
                });
            }
        };
        let status = response.status();
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = response.into_body().collect().await.map_err(|e| Outcome::of(&e))?.to_bytes();
        Ok((status, content_type, String::from_utf8_lossy(&body).into_owned()))
    };
    timeout(PATIENCE * 2, exchange)
        .await
        .unwrap_or_else(|_| Err(Outcome::Nothing("no answer in time".into())))
}

/// Calls a gRPC method with an empty message on an HTTP/2 connection with this identity.
pub async fn try_stream(address: SocketAddr, identity: Option<&Identity>, method: &str) -> Outcome {
    let tls = match connect(address, identity, &[b"h2"]).await {
        Ok(tls) => tls,
        Err(outcome) => return outcome,
    };
    let (tls, ending) = Watched::new(tls);
    let exchange = async {
        let (mut send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .map_err(|error| Outcome::of(&error))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { connection.await.err() });
        let request = Request::post(format!("https://credence{method}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0])))
            .unwrap_or_else(|error| panic!("{error}"));
        let response = match send.send_request(request).await {
            Ok(response) => response,
            Err(error) => {
                drop(send);
                let cause = timeout(Duration::from_secs(1), driver.join_next()).await;
                return Err(match cause {
                    Ok(Some(Ok(Some(cause)))) => Outcome::of(&cause),
                    _ => Outcome::of(&error),
                });
            }
        };
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK || !parts.headers.get(header::CONTENT_TYPE).is_some_and(is_grpc) {
            let content_type = parts.headers.get(header::CONTENT_TYPE);
            let content_type =
                content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            let body = body.collect().await.map_err(|error| Outcome::of(&error))?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            return Ok(Outcome::Http { status: parts.status.as_u16(), content_type, body });
        }
        let collected = body.collect().await.map_err(|error| Outcome::of(&error))?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let text = |name: &str| {
            let value = parts.headers.get(name).or_else(|| trailers.get(name));
            value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        Ok(Outcome::Grpc { code: text("grpc-status").parse().unwrap_or(-1), message: text("grpc-message") })
    };
    timeout(PATIENCE * 2, Box::pin(or_end(ending, exchange)))
        .await
        .unwrap_or_else(|_| Err(Outcome::Nothing("no answer in time".into())))
        .unwrap_or_else(|outcome| outcome)
}

/// What an HTTP/2 exchange came to, or how its connection ended: after an end it may wait for ever.
pub(crate) async fn or_end<T>(
    ending: Ending,
    exchange: impl Future<Output = Result<T, Outcome>>,
) -> Result<T, Outcome> {
    let cut_off = |why| Err(Outcome::of(&io::Error::other(why)));
    ending.cutting_off(Box::pin(exchange)).await.unwrap_or_else(cut_off)
}

fn is_grpc(value: &http::HeaderValue) -> bool {
    value.as_bytes().starts_with(b"application/grpc")
}

/// Plain HTTP against a port; everything that came back.
pub async fn plaintext(address: SocketAddr) -> Vec<u8> {
    let attempt = async {
        let mut tcp = TcpStream::connect(address).await.ok()?;
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: kit\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        Some(answer)
    };
    timeout(PATIENCE, attempt).await.ok().flatten().unwrap_or_default()
}

/// Offers TLS 1.2 and nothing newer, by hand; the octets that came back. A server that refuses answers with an
/// alert (first octet 21) or with the end; one that accepts answers with a handshake message (22).
pub async fn strikes_tls12(address: SocketAddr) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&rand::random::<[u8; 32]>());
    body.push(0);
    let suites: [u16; 6] = [0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca9, 0xcca8];
    body.extend_from_slice(&[0, 12]);
    suites.iter().for_each(|suite| body.extend_from_slice(&suite.to_be_bytes()));
    body.extend_from_slice(&[1, 0]);
    let extensions: &[u8] = &[
        0, 10, 0, 6, 0, 4, 0, 0x1d, 0, 0x17, // supported_groups: x25519, P-256
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 8, 0, 6, 4, 3, 5, 3, 8, 4, // signature_algorithms
        0, 16, 0, 5, 0, 3, 2, b'h', b'2', // ALPN
    ];
    body.extend_from_slice(&u16::try_from(extensions.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(extensions);
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let hello = [&[1, length[1], length[2], length[3]], body.as_slice()].concat();
    let length = u16::try_from(hello.len()).unwrap_or(0).to_be_bytes();
    let record = [&[22, 3, 1, length[0], length[1]], hello.as_slice()].concat();
    let attempt = async {
        let mut tcp = TcpStream::connect(address).await.ok()?;
        tcp.write_all(&record).await.ok()?;
        let mut answer = vec![0; 1024];
        let read = tcp.read(&mut answer).await.unwrap_or(0);
        answer.truncate(read);
        Some(answer)
    };
    timeout(PATIENCE, attempt).await.ok().flatten().unwrap_or_default()
}
