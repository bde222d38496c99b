//! An address that is told, by one POST over TLS 1.3 on a connection of its own. Only the certificates that the
//! configuration names vouch for it; a redirect is not followed.

use std::{path::Path, sync::Arc, time::Duration};

use agent::dial::dial;
use anyhow::{Context, ensure};
use bytes::Bytes;
use certs::certificates_from_pem;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{fs::File, io::AsyncReadExt};
use tokio_rustls::TlsConnector;

use crate::tls;

/// The largest file of certificates.
const MAX_CA_FILE: u64 = 4 << 20;
/// The most that is read of an answer.
const MAX_ANSWER: usize = 16 << 10;

/// Sends `json` to `url`, which a certificate in `ca_file` must vouch for. It was taken if the answer is a success.
/// Whoever calls gives up after `limit`: of several addresses each gets its share of it.
///
/// # Errors
/// In words: no certificates, no connection, nobody we believe, or another answer. Path and query of `url` may hold
/// what is nobody's business, and stand in none of them.
pub(super) async fn post(url: &Uri, ca_file: &Path, json: Vec<u8>, limit: Duration) -> Result<(), String> {
    // Read each time: it may have been replaced since.
    let connector = connector(ca_file).await.map_err(|error| format!("{error:#}"))?;
    let (host, port) = (url.host().unwrap_or_default(), url.port_u16().unwrap_or(443));
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| format!("{host} is no name"))?;
    let tcp = dial(bare, port, limit).await.map_err(|error| format!("connect: {error}"))?;
    let tls = Box::pin(connector.connect(name, tcp)).await.map_err(|error| format!("TLS: {error}"))?;
    let http = |error: hyper::Error| format!("HTTP: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(http)?;
    let request = Request::post(url.path_and_query().map_or("/", |target| target.as_str()))
        .header(header::HOST, url.authority().map_or(host, |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("credence/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(json)))
        .map_err(|error| format!("HTTP: {error}"))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        // Read so that whoever answers sees its answer taken; what it says does not matter.
        let _ = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok::<_, String>(status)
    };
    tokio::pin!(answer, connection);
    // The answer needs the connection driven beside it; the connection may end first, with the answer read.
    let status = tokio::select! {
        answer = &mut answer => answer?,
        ended = &mut connection => match ended {
            Ok(()) => answer.await?,
            Err(error) => return Err(http(error)),
        },
    };
    let code = status.as_u16();
    match status {
        status if status.is_success() => Ok(()),
        status if status.is_redirection() => Err(format!("answered {code}: redirects are not followed")),
        _ => Err(format!("answered {code}")),
    }
}

/// Believes whom the certificates in `ca_file` vouch for.
async fn connector(ca_file: &Path) -> anyhow::Result<TlsConnector> {
    let about = || format!("ca_file {}", ca_file.display());
    let mut pem = Vec::new();
    let file = File::open(ca_file).await.with_context(about)?;
    file.take(MAX_CA_FILE + 1).read_to_end(&mut pem).await.with_context(about)?;
    ensure!(pem.len() as u64 <= MAX_CA_FILE, "{}: more than {MAX_CA_FILE} bytes are too many", about());
    let ders = certificates_from_pem(&pem).with_context(about)?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(ders.into_iter().map(CertificateDer::from));
    ensure!(added > 0, "{}: no certificate in it can vouch for anybody", about());
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
