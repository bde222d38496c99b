//! Probes while nothing else is there yet: a store that waits for its key has no identity to open another door with.

use std::{convert::Infallible, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::{Service, connection::builder, crowd::Crowd};

/// How many connections are answered at once.
const CONNECTIONS: usize = 64;
/// How many of them one address may have: whoever holds connections open must not make the probes of others fail.
const CONNECTIONS_EACH: usize = 8;
/// How long one may last: a probe is one question.
const LIFE: Duration = Duration::from_secs(3);

/// Answers, for as long as it is polled. The listener stays whose it is; connections end with this.
pub(crate) async fn answer(listener: &TcpListener, service: &Service) -> Infallible {
    let mut open = FuturesUnordered::new();
    let crowd = Crowd::new(CONNECTIONS, CONNECTIONS_EACH);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, remote)) => {
                    // Who has no place is closed to at once, and sees that it is.
                    let Some(place) = crowd.enter(remote.ip()) else { continue };
                    let service = TowerToHyperService::new(service.clone());
                    open.push(async move {
                        let builder = builder();
                        // Whatever became of it: whoever asked comes again.
                        let _ = timeout(LIFE, builder.serve_connection(TokioIo::new(tcp), service)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(door = "probes", %error, "cannot accept");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(()) = open.next(), if !open.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::{Router, routing::get};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpSocket, TcpStream},
    };

    use super::*;

    async fn from(address: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((address, 0))).unwrap();
        socket.connect(to).await.unwrap()
    }

    async fn ask(mut tcp: TcpStream) -> String {
        // One that was closed at once may refuse what is written.
        let _ = tcp.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let mut answer = String::new();
        let _ = tcp.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn whoever_holds_connections_open_makes_no_probe_of_another_fail() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service::new(Router::new().route("/livez", get(|| async { "alive" })));
        let probing = async {
            let mut idle = Vec::new();
            for _ in 0..2 * CONNECTIONS {
                idle.push(from([127, 0, 0, 2], address).await);
            }
            assert!(ask(from([127, 0, 0, 3], address).await).await.ends_with("alive"));
            assert_eq!(ask(from([127, 0, 0, 2], address).await).await, "", "it has its places already");
            // What it holds ends by itself, and then it is answered as anybody.
            for mut one in idle {
                assert_eq!(one.read(&mut [0; 1]).await.unwrap_or_default(), 0);
            }
            assert!(ask(from([127, 0, 0, 2], address).await).await.ends_with("alive"));
        };
        tokio::select! {
            never = answer(&listener, &service) => match never {},
            () = probing => {}
        }
    }
}
