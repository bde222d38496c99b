//! A proxy before a server of somebody else, that loses, holds, changes or answers what a test says: limits, outages,
//! replies that never come. Everything else goes through with its headers.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderName, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{Asked, Identity, Recorder, connect, recorder::silence};

/// What becomes of one request.
#[derive(Debug)]
pub enum Fault {
    /// It goes through.
    None,
    /// It is not sent on, and this is answered.
    Answer(Response<Full<Bytes>>),
    /// It is not sent on, and nothing is answered: the connection ends.
    LoseRequest,
    /// It is sent on, and carried out; its answer is lost, the connection ends.
    LoseReply,
    /// It is not sent on, and nothing is answered while the client waits.
    HoldRequest,
    /// It is sent on, and carried out; its answer is kept back while the client waits.
    HoldReply,
    /// It goes through, and so does its answer, with its JSON changed.
    Change(fn(&mut Value)),
}

type Judge = Box<dyn FnMut(&Asked) -> Fault + Send>;

/// One proxy, over TLS. Dropping it closes it.
#[derive(Debug)]
pub struct Relay {
    recorder: Recorder,
    held: Arc<AtomicUsize>,
}

impl Relay {
    /// Shows `identity`, and sends on to `target`, which is spoken to over TLS and believed.
    pub async fn start(
        identity: &Identity,
        target: SocketAddr,
        judge: impl FnMut(&Asked) -> Fault + Send + 'static,
    ) -> Self {
        let judge: Arc<Mutex<Judge>> = Arc::new(Mutex::new(Box::new(judge)));
        let held = Arc::new(AtomicUsize::new(0));
        let holds = Arc::clone(&held);
        let recorder = Recorder::start(Some(identity), move |asked| {
            let fault = judge.lock().unwrap_or_else(PoisonError::into_inner)(&asked);
            let holds = Arc::clone(&holds);
            async move {
                match fault {
                    Fault::None => forward(target, &asked).await,
                    Fault::Answer(response) => response,
                    Fault::LoseRequest => silence(),
                    Fault::LoseReply => {
                        forward(target, &asked).await;
                        silence()
                    }
                    Fault::HoldRequest => hold(&holds).await,
                    Fault::HoldReply => {
                        forward(target, &asked).await;
                        hold(&holds).await
                    }
                    Fault::Change(change) => changed(forward(target, &asked).await, change).await,
                }
            }
        })
        .await;
        Self { recorder, held }
    }

    /// How many requests it has held so far: those whose replies it holds were carried out before they count.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.recorder.address()
    }

    /// What it was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.recorder.asked()
    }
}

/// Until the client ends the connection.
async fn hold(held: &AtomicUsize) -> Response<Full<Bytes>> {
    held.fetch_add(1, Ordering::Release);
    std::future::pending().await
}

/// What is no JSON stays as it is.
async fn changed(response: Response<Full<Bytes>>, change: fn(&mut Value)) -> Response<Full<Bytes>> {
    let (head, body) = response.into_parts();
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    let Ok(mut json) = serde_json::from_slice(&body) else {
        return Response::from_parts(head, Full::new(body));
    };
    change(&mut json);
    Response::from_parts(head, Full::new(json.to_string().into()))
}

/// On a connection of its own; nothing if there is no answer.
async fn forward(target: SocketAddr, asked: &Asked) -> Response<Full<Bytes>> {
    let Ok(tls) = connect(target, None, &[b"http/1.1"]).await else { return silence() };
    let Ok((mut send, connection)) = http1::handshake(TokioIo::new(tls)).await else { return silence() };
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let Ok(response) = send.send_request(asked.to_request()).await else { return silence() };
    let (mut head, body) = response.into_parts();
    let Ok(body) = body.collect().await else { return silence() };
    // Of the connection, and not of the answer.
    let hop: [HeaderName; 3] = [header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::CONNECTION];
    for name in hop {
        head.headers.remove(name);
    }
    Response::from_parts(head, Full::new(body.to_bytes()))
}
