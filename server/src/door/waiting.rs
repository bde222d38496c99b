//! Probes while nothing else is there yet: a store that waits for its key has no identity to open another door with.

use std::{convert::Infallible, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::{Service, connection::builder};

/// How many connections are answered at once; further ones wait.
const CONNECTIONS: usize = 64;
/// How long one may last: a probe is one question.
const LIFE: Duration = Duration::from_secs(10);

/// Answers, for as long as it is polled. The listener stays whose it is; connections end with this.
pub(crate) async fn answer(listener: &TcpListener, service: &Service) -> Infallible {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS => match accepted {
                Ok((tcp, _)) => {
                    let service = TowerToHyperService::new(service.clone());
                    open.push(async move {
                        let builder = builder();
                        // Whatever became of it: whoever asked comes again.
                        let _ = timeout(LIFE, builder.serve_connection(TokioIo::new(tcp), service)).await;
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
