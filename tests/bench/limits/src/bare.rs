//! The least that asking a Vault costs: the same calls over as many connections, answers read and dropped.

use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use certs::request_to_pem;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::task::JoinSet;

use crate::stub::{ISSUER, MOUNT, ROLE, Stub};

/// Open connections, each with one call under way at a time.
pub(crate) struct Bare {
    host: String,
    open: Vec<http1::SendRequest<Full<Bytes>>>,
    driven: JoinSet<()>,
}

/// The body of a call, as the product writes it.
pub(crate) fn body(csr: &[u8], uri: &str, seconds: u64) -> Bytes {
    let ttl = format!("{seconds}s");
    json!({ "csr": request_to_pem(csr), "uri_sans": uri, "ttl": ttl, "format": "pem" }).to_string().into()
}

impl Bare {
    /// Opens so many.
    pub(crate) async fn open(stub: &Stub, connections: usize) -> anyhow::Result<Self> {
        let mut this = Self { host: stub.address.to_string(), open: Vec::new(), driven: JoinSet::new() };
        for _ in 0..connections {
            let tls = kit::connect(stub.address, None, &[]).await.map_err(|ended| anyhow!("{ended:?}"))?;
            let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
            this.open.push(sender);
            this.driven.spawn(async move {
                // Its end is seen by whoever sends.
                let _ = connection.await;
            });
        }
        Ok(this)
    }

    /// Asks for each of these, and reads each answer.
    pub(crate) async fn ask(&mut self, bodies: Vec<Bytes>) -> anyhow::Result<()> {
        let (bodies, connections) = (Arc::new(bodies), self.open.len());
        let mut asking = JoinSet::new();
        for (first, mut sender) in self.open.drain(..).enumerate() {
            let (bodies, host) = (Arc::clone(&bodies), self.host.clone());
            asking.spawn(async move {
                for body in bodies.iter().skip(first).step_by(connections) {
                    sender.ready().await?;
                    let answer = sender.send_request(request(&host, body.clone())?).await?;
                    let status = answer.status();
                    let read = answer.into_body().collect().await?.to_bytes();
                    ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&read));
                }
                Ok(sender)
            });
        }
        while let Some(ended) = asking.join_next().await {
            self.open.push(ended.context("nobody ends it")??);
        }
        Ok(())
    }
}

fn request(host: &str, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/v1/{MOUNT}/issuer/{ISSUER}/sign/{ROLE}"))
        .header(header::HOST, host)
        .header(header::USER_AGENT, "credence")
        .header("x-vault-request", "true")
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-vault-token", "stub")
        .body(Full::new(body))?;
    Ok(request)
}
