//! A server that writes down what it is asked, and answers as a test says: a stranger, a redirect, a proxy.

use std::{
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{Identity, upstream::server_config};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// How.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Asked {
    /// A header as text; empty if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The same, to be sent on.
    #[must_use]
    pub fn to_request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.path.parse().unwrap_or_else(|error| panic!("{}: {error}", self.path));
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Marks an answer that is not given: the connection ends instead.
#[derive(Debug, Clone, Copy)]
struct Silence;

/// For an answerer: no answer at all, and the connection ends.
#[must_use]
pub fn silence() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    response.extensions_mut().insert(Silence);
    response
}

type Future1 = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;
type Answerer = Arc<dyn Fn(Asked) -> Future1 + Send + Sync>;

/// One such server, on loopback. Dropping it closes it.
pub struct Recorder {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<Mutex<usize>>,
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Over TLS with an identity, or plain; answers by `answer`.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start<F>(
        identity: Option<&Identity>,
        answer: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("bind: {error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let tls = identity.map(|identity| TlsAcceptor::from(Arc::new(server_config(identity))));
        let answer: Answerer = Arc::new(move |asked| Box::pin(answer(asked)));
        let (asked, connections) = (Arc::new(Mutex::default()), Arc::new(Mutex::new(0)));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, tls, answer, Arc::clone(&asked), Arc::clone(&connections)));
        Self { address, asked, connections, _tasks: tasks }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections came, whatever was said on them.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    answer: Answerer,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<Mutex<usize>>,
) {
    let mut tasks = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        *connections.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let (tls, answer, asked) = (tls.clone(), Arc::clone(&answer), Arc::clone(&asked));
        tasks.spawn(async move {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(tcp).await {
                        serve(stream, answer, asked).await;
                    }
                }
                None => serve(tcp, answer, asked).await,
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, answer: Answerer, asked: Arc<Mutex<Vec<Asked>>>) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
            let one = Asked { method: head.method, path, headers: head.headers, body };
            asked.lock().unwrap_or_else(PoisonError::into_inner).push(one.clone());
            let response = answer(one).await;
            match response.extensions().get::<Silence>() {
                None => Ok(response),
                Some(_) => Err(io::Error::other("no answer is to be given")),
            }
        }
    });
    // How a client ends its connection is its own business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
