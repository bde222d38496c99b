use hyper_util::client::legacy::connect::dns::Name;
use spiffe::fake::FakeIssuer;

use super::*;

#[test]
fn encodes_what_a_path_cannot_hold() {
    assert_eq!(encode("spiffe://td/a b"), "spiffe%3A%2F%2Ftd%2Fa%20b");
    assert_eq!(encode("web-1.x_~"), "web-1.x_~");
}

#[test]
fn turns_alerts_into_hints() {
    let check = |alert, words: &str| {
        let inner = std::io::Error::other(rustls::Error::AlertReceived(alert));
        let failure = refusal("cp:8080", &inner).unwrap();
        assert!(failure.message.contains(words), "{}", failure.message);
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.hint.contains("--reissue-admin"));
    };
    check(AlertDescription::CertificateExpired, "expired, or has not begun");
    check(AlertDescription::CertificateRevoked, "authority that is not trusted any more");
    check(AlertDescription::UnknownCA, "vouches");
    check(AlertDescription::CertificateUnknown, "not an operator certificate");
    assert_eq!(refusal("cp:8080", &std::io::Error::other("reset")), None);
}

#[test]
fn says_what_to_do_about_a_server_that_is_not_believed() {
    let now = Timestamp::EPOCH;
    for (flaw, words) in [
        (certs::Fault::NotYetValid { not_before: now, now }, "serve --accept-clock"),
        (certs::Fault::Expired { not_after: now, now }, "credence doctor"),
    ] {
        assert!(disbelief(&flaw.to_string()).contains(words), "{flaw}");
    }
    assert!(
        disbelief("no path from a certificate of \"CN=x\" to a trusted anchor")
            .contains("copy the directory anew")
    );
}

#[test]
fn says_in_words_why_the_server_is_not_believed() {
    #[derive(Debug, thiserror::Error)]
    #[error("it is spiffe://td/web, not spiffe://td/credence/server")]
    struct Ours;
    let ours = rustls::CertificateError::Other(rustls::OtherError(Arc::new(Ours)));
    let inner = std::io::Error::other(rustls::Error::InvalidCertificate(ours));
    let message = refusal("cp:8080", &inner).unwrap().message;
    assert!(
        message.ends_with("is not who it must be: it is spiffe://td/web, not spiffe://td/credence/server")
    );
    let inner =
        std::io::Error::other(rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature));
    let message = refusal("cp:8080", &inner).unwrap().message;
    assert!(!message.contains("BadSignature"), "{message}");
}

/// An admin directory with a chain of `issuer`, and an endpoint.
async fn admin_dir(issuer: &FakeIssuer, id: &str, endpoint: &str, lifetime: u64) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (chain, key) = svid(issuer, id, certs::Profile::Operator, lifetime).await;
    pair::put(directory.path(), &key, &chain.to_pem()).unwrap();
    let roots = issuer.trust();
    let roots = certs::certificates_to_pem(roots.own().authorities().iter().map(Certificate::der));
    fs::write(directory.path().join(BUNDLE), roots).unwrap();
    fs::write(directory.path().join(ENDPOINT), format!("{endpoint}\n")).unwrap();
    directory
}

async fn svid(issuer: &FakeIssuer, id: &str, profile: certs::Profile, lifetime: u64) -> (Chain, SecretKey) {
    let key = SecretKey::generate(KeyKind::P256);
    let request = spiffe::SvidRequest {
        id: SpiffeId::parse(id).unwrap(),
        profile,
        public_key: key.public().clone(),
        lifetime: Duration::from_secs(lifetime),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
        tenant: spiffe::Tenant::default(),
        node: None,
        issuer: None,
        purpose: spiffe::Purpose::Operator,
        deadline: None,
        spend: None,
        request_id: spiffe::RequestId::random(),
    };
    (spiffe::SvidIssuer::issue(issuer, request).await.unwrap().chain, key)
}

/// Serves `connections` TLS connections as `id`, each with one answer of `status` and `body`.
async fn serve(issuer: &FakeIssuer, id: &str, answers: Vec<(u16, String)>) -> String {
    let answers = answers.into_iter().map(|(status, body)| (status, String::new(), body)).collect();
    serve_with(issuer, id, answers).await
}

/// The same with lines of headers.
#[expect(clippy::disallowed_methods, reason = "the server runs beside the test")]
async fn serve_with(issuer: &FakeIssuer, id: &str, answers: Vec<(u16, String, String)>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (chain, key) = svid(issuer, id, certs::Profile::Server, 3600).await;
    let certified = Arc::new(tls::certified_key(&chain, &key).unwrap());
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from((*certified).clone())));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for (status, headers, body) in answers {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

fn issuer() -> FakeIssuer {
    FakeIssuer::new("td.example", Arc::new(SystemClock))
}

fn open(directory: &tempfile::TempDir) -> Client {
    Client::open(&ServerArgs { admin_dir: directory.path().to_owned(), server: None }).unwrap()
}

const OPERATOR: &str = "spiffe://td.example/credence/operator/ann";
const SERVER: &str = "spiffe://td.example/credence/server";

#[tokio::test]
async fn talks_to_the_server_by_its_identity_and_to_nobody_else() {
    let issuer = issuer();
    let stats = serde_json::to_string(&api::wire::Stats::default()).unwrap();
    let gone = Problem::new(&api::calls::CallError::NotFound { what: "node", name: "x".into() }, "id");
    let gone = serde_json::to_string(&gone).unwrap();
    let address = serve(&issuer, SERVER, vec![(200, stats), (404, gone)]).await;
    let directory = admin_dir(&issuer, OPERATOR, &address, 36_000).await;
    let client = open(&directory);
    assert_eq!(client.get::<api::wire::Stats>("/stats").await, Ok(api::wire::Stats::default()));
    let failure = client.get::<api::wire::Stats>("/stats").await.unwrap_err();
    assert_eq!((failure.exit, failure.message.as_str()), (Exit::NotFound, "node x does not exist"));

    let other = serve(&issuer, "spiffe://td.example/web", vec![(200, String::new())]).await;
    let failure = open(&admin_dir(&issuer, OPERATOR, &other, 36_000).await);
    let failure = failure.get::<api::wire::Stats>("/stats").await.unwrap_err();
    assert_eq!(failure.exit, Exit::Refused);
    assert!(failure.message.contains("not who it must be"), "{}", failure.message);
}

#[tokio::test]
async fn a_server_behind_a_silent_address_of_its_name_is_reached_at_the_next() {
    let silent = fixtures::Silent::start().unwrap();
    let first = silent.address().unwrap();
    let second = std::net::SocketAddr::from(([127, 0, 0, 2], first.port()));
    let listener = tokio::net::TcpListener::bind(second).await.unwrap();
    let both =
        tower::service_fn(move |_: Name| async move { Ok::<_, std::io::Error>([first, second].into_iter()) });
    let endpoint = format!("cp.example:{}", first.port());
    let client = open(&admin_dir(&issuer(), OPERATOR, &endpoint, 36_000).await);
    // It comes, and whoever is there says nothing of TLS.
    let comes = tokio::time::timeout(CONNECT_TIMEOUT, async { drop(listener.accept().await) });
    let (connected, _) = tokio::join!(client.connect_by(both), comes);
    let failure = connected.unwrap_err();
    assert!(failure.message.starts_with(&format!("connection to {endpoint} broke")), "{}", failure.message);
    let alone = tower::service_fn(move |_: Name| async move { Ok::<_, std::io::Error>([first].into_iter()) });
    let failure = client.connect_by(alone).await.unwrap_err();
    assert_eq!(failure.message, format!("cannot reach {endpoint}: no answer"));
    assert_eq!(failure.exit, Exit::Unavailable);
}

#[tokio::test]
async fn an_endpoint_without_a_port_is_a_slip_of_whoever_wrote_it() {
    for endpoint in ["cp.example", "cp.example:", "cp.example:70000"] {
        let client = open(&admin_dir(&issuer(), OPERATOR, endpoint, 36_000).await);
        let failure = client.connect().await.unwrap_err();
        assert_eq!(failure.message, format!("{endpoint:?} is not HOST:PORT"));
        assert_eq!(failure.exit, Exit::Usage);
    }
}

#[tokio::test]
async fn a_pair_is_replaced_whole_and_only_by_one_of_the_same_operator() {
    let issuer = issuer();
    let directory = admin_dir(&issuer, OPERATOR, "cp:8080", 36_000).await;
    let path = directory.path();
    let files = || [KEY, CERTIFICATE].map(|name| fs::read(path.join(name)).unwrap());
    let before = files();
    let (new, key) = svid(&issuer, OPERATOR, certs::Profile::Operator, 36_000).await;
    let refused = |key: &SecretKey, pem: &str, words: &str| {
        let failure = pair::replace(path, key, pem).unwrap_err();
        assert!(failure.message.contains(words), "{}", failure.message);
        assert!(files() == before, "a working pair is lost");
    };
    refused(&SecretKey::generate(KeyKind::P256), &new.to_pem(), "is for another key");
    let eve = "spiffe://td.example/credence/operator/eve";
    let (of_eve, key_of_eve) = svid(&issuer, eve, certs::Profile::Operator, 36_000).await;
    refused(&key_of_eve, &of_eve.to_pem(), "is of spiffe://td.example/credence/operator/eve");
    refused(&key, "nothing", "the new certificate");

    // Ended between the two renames: the next command takes it up.
    agent::files::write_private_key(&path.join(KEY), &key).unwrap();
    fs::write(path.join("operator.crt.next"), new.to_pem()).unwrap();
    open(&directory);
    assert_eq!(files()[1], new.to_pem().into_bytes());
    // Also at the first init, which has no certificate to replace.
    fs::rename(path.join(CERTIFICATE), path.join("operator.crt.next")).unwrap();
    open(&directory);
    assert_eq!(files()[1], new.to_pem().into_bytes());
    // What waits for another key is not taken up.
    fs::write(path.join("operator.crt.next"), of_eve.to_pem()).unwrap();
    fs::remove_file(path.join(CERTIFICATE)).unwrap();
    let args = ServerArgs { admin_dir: path.to_owned(), server: None };
    assert!(Client::open(&args).unwrap_err().message.contains("operator.crt"));
    // Two commands do not replace it at once.
    let first = pair::alone_in(path).unwrap();
    assert!(pair::alone_in(path).is_err());
    drop(first);
    assert!(pair::alone_in(path).is_ok());
}

#[tokio::test]
async fn renews_past_half_of_its_life_and_keeps_the_answer() {
    let issuer = issuer();
    // Backdating alone puts a life of 30 s past its half.
    let stats = serde_json::to_string(&api::wire::Stats::default()).unwrap();
    let address = serve(&issuer, SERVER, vec![(200, stats), (503, "{}".into())]).await;
    let directory = admin_dir(&issuer, OPERATOR, &address, 30).await;
    let before = fs::read(directory.path().join(KEY)).unwrap();
    let client = open(&directory);
    assert!(client.renewal.lock().unwrap().is_some());
    assert!(client.get::<api::wire::Stats>("/stats").await.is_ok(), "a failed renewal fails nothing else");
    assert_eq!(fs::read(directory.path().join(KEY)).unwrap(), before);
    let fresh = admin_dir(&issuer, OPERATOR, &address, 36_000).await;
    assert!(open(&fresh).renewal.lock().unwrap().is_none());
}

#[tokio::test]
async fn renews_also_after_a_refusal_of_somebody_who_was_let_in() {
    let issuer = issuer();
    let stats = serde_json::to_string(&api::wire::Stats::default()).unwrap();
    let refused =
        api::calls::CallError::Policy("finish would break: operator/ann holds a certificate".into());
    let refused = serde_json::to_string(&Problem::new(&refused, "id")).unwrap();
    let held = hex::encode(issuer.trust().own().content_hash());
    let news = format!("{}: {held}\r\n{}: now\r\n", api::rest::BUNDLE_SHA256, api::rest::RENEW);
    let answers = vec![
        (409, news, refused.clone()),
        // The renewal, of which nothing comes.
        (503, String::new(), String::new()),
        // Somebody who was not let in is told nothing, and renews nothing.
        (403, format!("{}: now\r\n", api::rest::RENEW), refused),
        (200, String::new(), stats),
    ];
    let address = serve_with(&issuer, SERVER, answers).await;
    let directory = admin_dir(&issuer, OPERATOR, &address, 36_000).await;
    let client = open(&directory);
    for _ in 0..2 {
        let failure = client.get::<api::wire::Stats>("/stats").await.unwrap_err();
        assert!(failure.message.contains("finish would break"), "{}", failure.message);
    }
    assert_eq!(client.get::<api::wire::Stats>("/stats").await, Ok(api::wire::Stats::default()));
}

#[tokio::test]
async fn says_that_nobody_listens() {
    let issuer = issuer();
    let directory = admin_dir(&issuer, OPERATOR, "127.0.0.1:1", 36_000).await;
    let failure = open(&directory).get::<api::wire::Stats>("/stats").await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unavailable);
    assert!(failure.hint.contains("credence serve"), "{}", failure.hint);
}

#[test]
fn says_which_directory_lacks_the_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let args = ServerArgs { admin_dir: directory.path().to_owned(), server: None };
    let failure = Client::open(&args).unwrap_err();
    assert!(failure.message.contains("operator.crt"), "{}", failure.message);
    assert!(failure.hint.contains("--admin-dir"));
}

#[tokio::test]
async fn takes_over_a_new_bundle_that_is_the_one_named_and_renews_when_told() {
    let (issuer, next) = (issuer(), issuer());
    let domain = TrustDomain::parse("td.example").unwrap();
    let roots = [issuer.trust(), next.trust()].map(|trust| trust.own().authorities()[0].clone());
    let both = TrustBundle::new(domain.clone(), roots.to_vec(), 0);
    let pem = certs::certificates_to_pem(both.authorities().iter().map(Certificate::der));
    let stats = serde_json::to_string(&api::wire::Stats::default()).unwrap();
    let names = |hash: [u8; 32]| format!("{}: {}\r\n", api::rest::BUNDLE_SHA256, hex::encode(hash));
    let held = issuer.trust().own().content_hash();
    let answers = vec![
        (200, names(held), stats.clone()),
        // Another bundle than was named: nothing changes.
        (200, names([7; 32]), stats.clone()),
        (200, String::new(), pem.clone()),
        (200, names(both.content_hash()), stats.clone()),
        (200, String::new(), pem.clone()),
        (200, names(both.content_hash()) + api::rest::RENEW + ": now\r\n", stats.clone()),
        // The answer to the renewal, which is none: the next answer leads to another try.
        (503, String::new(), String::new()),
        (200, names(both.content_hash()) + api::rest::RENEW + ": now\r\n", stats.clone()),
        (503, String::new(), String::new()),
        (200, names(both.content_hash()), stats.clone()),
    ];
    let address = serve_with(&issuer, SERVER, answers).await;
    let directory = admin_dir(&issuer, OPERATOR, &address, 36_000).await;
    let mut client = open(&directory);
    let read = || bundle(&directory.path().join(BUNDLE), &domain).unwrap().content_hash();
    let next_hash = both.content_hash();
    for expected in [held, held, next_hash, next_hash, next_hash, next_hash] {
        client.get::<api::wire::Stats>("/stats").await.unwrap();
        assert_eq!(read(), expected);
    }
    // The command that goes on believes the new root too.
    client.endpoint = serve(&next, SERVER, vec![(200, stats)]).await;
    client.get::<api::wire::Stats>("/stats").await.unwrap();
}
