//! A proxy before a server of somebody else, that loses, delays or answers what a test says: limits, outages, replies
//! that never come. Everything else goes through with its headers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderName, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
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
}

type Judge = Box<dyn FnMut(&Asked) -> Fault + Send>;

/// One proxy, over TLS. Dropping it closes it.
#[derive(Debug)]
pub struct Relay {
    recorder: Recorder,
}

impl Relay {
    /// Shows `identity`, and sends on to `target`, which is spoken to over TLS and believed.
    pub async fn start(
        identity: &Identity,
        target: SocketAddr,
        judge: impl FnMut(&Asked) -> Fault + Send + 'static,
    ) -> Self {
        let judge: Arc<Mutex<Judge>> = Arc::new(Mutex::new(Box::new(judge)));
        let recorder = Recorder::start(Some(identity), move |asked| {
            let fault = judge.lock().unwrap_or_else(PoisonError::into_inner)(&asked);
            async move {
                match fault {
                    Fault::None => forward(target, &asked).await,
                    Fault::Answer(response) => response,
                    Fault::LoseRequest => silence(),
                    Fault::LoseReply => {
                        forward(target, &asked).await;
                        silence()
                    }
                }
            }
        })
        .await;
        Self { recorder }
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
