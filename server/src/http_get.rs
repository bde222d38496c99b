//! The smallest HTTP client: one GET on a connection of its own, for probes and Envoy's admin interface.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

const PATIENCE: Duration = Duration::from_secs(6);
const MAX_BODY: usize = 64 << 20;

/// Sends one request over plain HTTP; answers status and body.
///
/// # Errors
/// In words: no connection, no answer in time, or a broken one.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String), String> {
    let exchange = async {
        let tcp = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(tcp)).await.map_err(|error| format!("handshake: {error}"))?;
        let request = Request::get(path)
            .header(HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("request: {error}"))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| format!("request: {error}"))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(|error| format!("body: {error}"))?
                .to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::pin!(answer, connection);
        // The answer needs the connection driven beside it; the connection may end first, with the answer read.
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(format!("connection: {error}")),
            },
        }
    };
    timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}
