//! A service behind a proxy: answers every request with 200 and its name, and counts.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, task::JoinSet};

/// One upstream. Dropping it closes it.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// On loopback, at a free port.
    pub async fn start(name: &'static str) -> Self {
        Self::start_at(name, Ipv4Addr::LOCALHOST.into()).await
    }

    /// On `ip`, at a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start_at(name: &'static str, ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap_or_else(|error| panic!("bind {ip}: {error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let requests = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, name, requests.clone()));
        Self { address, requests, _tasks: tasks }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests it has answered.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, name: &'static str, requests: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((tcp, _)) = accepted else { continue };
        let requests = requests.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(|_| {
                requests.fetch_add(1, Ordering::Relaxed);
                async move {
                    Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from_static(name.as_bytes()))))
                }
            });
            let _ =
                auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service).await;
        });
    }
}
