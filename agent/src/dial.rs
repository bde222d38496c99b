//! A TCP connection to a name, which may have several addresses.

use std::{error::Error, io, time::Duration};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::GaiResolver},
    rt::TokioIo,
};
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

/// A connection to `host`, a name or an address without brackets.
///
/// # Errors
/// What the system says, of the first of its addresses.
pub async fn dial(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    dial_by(GaiResolver::new(), host, port, limit).await
}

/// The same, where `resolver` knows the addresses.
///
/// # Errors
/// As [`dial`].
pub async fn dial_by<R>(resolver: R, host: &str, port: u16, limit: Duration) -> io::Result<TcpStream>
where
    HttpConnector<R>: Service<Uri, Response = TokioIo<TcpStream>, Error: Error + 'static>,
{
    let (left, right) = if host.contains(':') { ("[", "]") } else { ("", "") };
    let uri: Uri = format!("http://{left}{host}{right}:{port}/").parse().map_err(io::Error::other)?;
    let dialed = dialer(resolver, limit).oneshot(uri).await;
    dialed.map(TokioIo::into_inner).map_err(|error| cause(&error))
}

/// Tries the addresses of a name one after the other, each for its share of `limit`, and those of the other family, IPv6
/// beside IPv4, as soon as the first take long (RFC 8305): one that is silent keeps nobody from the next.
fn dialer<R>(resolver: R, limit: Duration) -> HttpConnector<R> {
    let mut dialer = HttpConnector::new_with_resolver(resolver);
    dialer.set_connect_timeout(Some(limit));
    dialer.set_nodelay(true);
    dialer
}

fn cause(error: &dyn Error) -> io::Error {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(cause) if cause.kind() == io::ErrorKind::TimedOut => cause.kind().into(),
        Some(cause) => io::Error::new(cause.kind(), cause.to_string()),
        None => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use hyper_util::client::legacy::connect::dns::Name;
    use tokio::{net::TcpListener, time::timeout};

    use super::*;

    #[tokio::test]
    async fn an_address_that_is_silent_leaves_the_next_one_of_its_name_its_time() {
        let silent = fixtures::Silent::start().unwrap();
        let first = silent.address().unwrap();
        let second = SocketAddr::from(([127, 0, 0, 2], first.port()));
        let _listener = TcpListener::bind(second).await.unwrap();
        let both =
            tower::service_fn(move |_: Name| async move { Ok::<_, io::Error>([first, second].into_iter()) });
        let (limit, uri) = (Duration::from_secs(1), format!("http://credence.example:{}/", first.port()));
        let dialed = timeout(limit, dialer(both, limit).oneshot(uri.parse().unwrap())).await;
        assert_eq!(dialed.unwrap().unwrap().inner().peer_addr().unwrap(), second);
        let refused = dial("127.0.0.3", first.port(), limit).await.unwrap_err();
        assert_eq!(refused.to_string(), "Connection refused (os error 111)");
        assert_eq!(dial("127.0.0.1", first.port(), limit).await.unwrap_err().to_string(), "timed out");
    }
}
