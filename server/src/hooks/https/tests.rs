use std::{fs, net::IpAddr, path::PathBuf, time::Duration};

use certs::{KeyKind, Profile, SecretKey};
use rustls::{ServerConfig, sign::SingleCertAndKey};
use spiffe::{SvidIssuer, fake::FakeIssuer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::oneshot,
};

use super::*;
use crate::clock::SystemClock;

/// An issuer, and the file that vouches for whom it certifies.
fn issuer(folder: &Path) -> (FakeIssuer, PathBuf) {
    let issuer = FakeIssuer::new("hooks.example", Arc::new(SystemClock));
    let roots: Vec<Vec<u8>> =
        issuer.trust().own().authorities().iter().map(|root| root.der().to_vec()).collect();
    let file = folder.join(format!("{}.pem", issuer.authority()));
    fs::write(&file, certs::certificates_to_pem(roots.iter().map(Vec::as_slice))).unwrap();
    (issuer, file)
}

/// Answers one request with `answer`; hands in what it was sent.
#[expect(clippy::disallowed_methods, reason = "the server runs beside the test")]
async fn serve(issuer: &FakeIssuer, answer: &'static str) -> (u16, oneshot::Receiver<String>) {
    let key = SecretKey::generate(KeyKind::P256);
    let request = spiffe::SvidRequest {
        id: spiffe::SpiffeId::parse("spiffe://hooks.example/credence/server").unwrap(),
        profile: Profile::Server,
        public_key: key.public().clone(),
        lifetime: Duration::from_secs(3600),
        dns_names: Vec::new(),
        ip_addresses: vec![IpAddr::from([127, 0, 0, 1])],
        tenant: spiffe::Tenant::default(),
        node: None,
        issuer: None,
        purpose: spiffe::Purpose::Server,
        deadline: None,
        spend: None,
        request_id: spiffe::RequestId::random(),
    };
    let chain = issuer.issue(request).await.unwrap().chain;
    let certified = tls::certified_key(&chain, &key).unwrap();
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, hears) = oneshot::channel();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(tcp).await else { return };
        let mut sent = Vec::new();
        while !sent.ends_with(b"}") {
            let mut some = [0; 1024];
            match stream.read(&mut some).await {
                Ok(count @ 1..) => sent.extend_from_slice(&some[..count]),
                Ok(0) | Err(_) => break,
            }
        }
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        let _ = heard.send(String::from_utf8_lossy(&sent).into_owned());
    });
    (port, hears)
}

async fn tell(port: u16, ca_file: &Path) -> Result<(), String> {
    let url: Uri = format!("https://127.0.0.1:{port}/told?key=hidden").parse().unwrap();
    post(&url, ca_file, b"{\"event\":\"test\"}".to_vec(), Duration::from_secs(10)).await
}

const DONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";

#[tokio::test]
async fn posts_json_to_whom_it_believes() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, file) = issuer(folder.path());
    let (port, hears) = serve(&issuer, DONE).await;
    assert_eq!(tell(port, &file).await, Ok(()));
    let sent = hears.await.unwrap();
    assert!(sent.starts_with("POST /told?key=hidden HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("content-type: application/json\r\n"), "{sent}");
    assert!(sent.ends_with("\r\n\r\n{\"event\":\"test\"}"), "{sent}");
}

#[tokio::test]
async fn what_goes_wrong_is_said_without_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, file) = issuer(folder.path());
    let (stranger, strangers) = self::issuer(folder.path());
    let check = |told: Result<(), String>, expected: &str| {
        let error = told.unwrap_err();
        assert!(error.contains(expected) && !error.contains("hidden"), "{error}");
    };
    let (port, _) = serve(&stranger, DONE).await;
    check(tell(port, &file).await, "invalid peer certificate");
    let (port, _) = serve(&stranger, DONE).await;
    tell(port, &strangers).await.unwrap();
    let moved = "HTTP/1.1 302 Found\r\nlocation: https://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    let (port, _) = serve(&issuer, moved).await;
    check(tell(port, &file).await, "answered 302: redirects are not followed");
    let (port, _) = serve(&issuer, "HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n").await;
    check(tell(port, &file).await, "answered 500");
    let (port, _) = serve(&issuer, "nonsense\r\n\r\n").await;
    check(tell(port, &file).await, "HTTP");
    check(tell(1, &file).await, "connect");
    check(tell(1, &folder.path().join("none.pem")).await, "ca_file");
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    check(tell(1, &folder.path().join("empty.pem")).await, "ca_file");
    check(tell(1, Path::new("/dev/zero")).await, "bytes are too many");
}
