//! A real Pebble, Let's Encrypt's small ACME server, with its DNS server beside it: on loopback, on free ports, with an
//! authority of its own that vouches for it. `tests/run` builds both from their pinned Go module (`tests/peers/pebble`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use certs::{Clock, certificates_to_pem};
use fixtures::{Blueprint, Credential, TestAuthority, TestKey, TestKeyKind, dns};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use server::{clock::SystemClock, sandbox::free_ports, tls::provider};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{Identity, Outcome, Recorder, https, not_run, thorough::variable, within, workspace};

/// How long it has to start, on a machine that is shared.
const START: Duration = Duration::from_secs(30);

/// The programs `pebble` and `pebble-challtestsrv`, in `CREDENCE_PEERS` or `target/peers`. Says so loudly when one is
/// missing; then a test returns. With `CREDENCE_REQUIRE_ENVOY` set, as in CI, that is a failure.
///
/// # Panics
/// See above.
#[must_use]
pub fn pebble_programs() -> Option<[PathBuf; 2]> {
    let folder = variable("CREDENCE_PEERS").map_or_else(|| workspace().join("target/peers"), PathBuf::from);
    let all = ["pebble", "pebble-challtestsrv"].map(|name| folder.join(name));
    if let Some(missing) = all.iter().find(|path| !path.exists()) {
        not_run(&format!("{} is missing (tests/run builds it)", missing.display()));
        return None;
    }
    Some(all)
}

/// How a Pebble behaves.
#[derive(Debug, Clone)]
pub struct PebbleOptions {
    /// How many of a hundred nonces it refuses.
    pub refused_nonces: u32,
    /// Accounts of the operator that new ones must be bound to, key id and key in base64url; with none, none must be.
    pub external_accounts: Vec<(String, String)>,
    /// Its profiles, each with how long its certificates live.
    pub profiles: Vec<(String, Duration)>,
    /// How many chains it offers beside the first.
    pub alternate_roots: u32,
    /// After how long it says that one may look again at an authorization, and at an order.
    pub retry_after: (u64, u64),
}

impl Default for PebbleOptions {
    /// It refuses no nonces, and certifies for ninety days.
    fn default() -> Self {
        Self {
            refused_nonces: 0,
            external_accounts: Vec::new(),
            profiles: vec![("default".to_owned(), Duration::from_secs(90 * 24 * 3600))],
            alternate_roots: 0,
            retry_after: (1, 1),
        }
    }
}

/// Where a Pebble looks whether a name is whose it says.
#[derive(Debug, Clone, Copy)]
pub struct Looks {
    /// For HTTP-01: the port counts.
    pub http: SocketAddr,
    /// For TLS-ALPN-01: the port counts.
    pub tls: SocketAddr,
    /// Whom it asks for names; the DNS server beside it if there is none.
    pub resolver: Option<SocketAddr>,
}

/// One Pebble. Dropping it kills it; then, if a test fails, its log is shown.
#[derive(Debug)]
pub struct Pebble {
    address: SocketAddr,
    management: SocketAddr,
    names: SocketAddr,
    records: Records,
    authority: TestAuthority,
    folder: TempDir,
    _names: Child,
    process: Child,
    settings: Settings,
}

/// What the program is started with.
#[derive(Debug)]
struct Settings {
    program: PathBuf,
    flags: [[String; 2]; 2],
    variables: [(&'static str, String); 4],
}

impl Settings {
    fn spawn(&self, log: &Path) -> Child {
        let flags: Vec<_> = self.flags.iter().map(|flag| flag.each_ref().map(String::as_str)).collect();
        spawn(&self.program, log, &flags, &self.variables)
    }
}

impl Pebble {
    /// One that validates at the ports of `challenges`; every name leads to loopback. `None` where a program is missing.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(options: &PebbleOptions, challenges: &Challenges) -> Option<Self> {
        let looks = Looks { http: challenges.http(), tls: challenges.tls(), resolver: None };
        Self::start_looking(options, looks, Arc::clone(&challenges.records)).await
    }

    /// One that validates at these ports, whoever listens there.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_at(options: &PebbleOptions, looks: Looks) -> Option<Self> {
        Self::start_looking(options, looks, Records::default()).await
    }

    async fn start_looking(options: &PebbleOptions, looks: Looks, records: Records) -> Option<Self> {
        let [pebble, names] = pebble_programs()?;
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
        let ports = free_ports(4).unwrap_or_else(|error| panic!("no ports: {error}"));
        let [address, management, dns, control] = ports[..] else { panic!("four ports") };
        let authority = TestAuthority::root("pebble", SystemClock.now());
        let served = certificate(&authority);
        let place = |name: &str| folder.path().join(name);
        write(&place("ca.pem"), &certificates_to_pem([authority.der()]));
        write(&place("tls.pem"), &served.chain_pem());
        write(&place("tls.key"), &served.key().pkcs8_pem());
        let profile = |(name, life): &(String, Duration)| {
            (
                name.clone(),
                json!({ "description": format!("for {life:?}"), "validityPeriod": life.as_secs() }),
            )
        };
        let settings = json!({ "pebble": {
            "listenAddress": address.to_string(), "managementListenAddress": management.to_string(),
            "certificate": place("tls.pem"), "privateKey": place("tls.key"),
            "httpPort": looks.http.port(), "tlsPort": looks.tls.port(),
            "ocspResponderURL": "", "keyAlgorithm": "ecdsa",
            "externalAccountBindingRequired": !options.external_accounts.is_empty(),
            "externalAccountMACKeys": options.external_accounts.iter().cloned().collect::<BTreeMap<_, _>>(),
            "retryAfter": { "authz": options.retry_after.0, "order": options.retry_after.1 },
            "profiles": options.profiles.iter().map(profile).collect::<BTreeMap<_, _>>(),
        } });
        write(&place("pebble.json"), &settings.to_string());
        let control_flag = control.to_string();
        let dns_flag = dns.to_string();
        let names_process = spawn(
            &names,
            &place("names.log"),
            &[
                ["-management", &control_flag],
                ["-dnsserver", &dns_flag],
                ["-defaultIPv4", "127.0.0.1"],
                ["-defaultIPv6", ""],
                ["-http01", ""],
                ["-https01", ""],
                ["-tlsalpn01", ""],
                ["-doh", ""],
            ],
            &[],
        );
        let file = place("pebble.json").display().to_string();
        let settings = Settings {
            program: pebble,
            flags: [
                ["-config".to_owned(), file],
                ["-dnsserver".to_owned(), looks.resolver.unwrap_or(dns).to_string()],
            ],
            variables: [
                ("PEBBLE_VA_NOSLEEP", "1".to_owned()),
                ("PEBBLE_AUTHZREUSE", "0".to_owned()),
                ("PEBBLE_WFE_NONCEREJECT", options.refused_nonces.to_string()),
                ("PEBBLE_ALTERNATE_ROOTS", options.alternate_roots.to_string()),
            ],
        };
        let made = Self {
            address,
            management,
            names: control,
            records,
            authority,
            _names: names_process,
            process: settings.spawn(&place("pebble.log")),
            settings,
            folder,
        };
        within(START, "pebble answers", async || {
            let up = TcpStream::connect(control).await.map_err(|error| Outcome::Nothing(error.to_string()));
            up?;
            made.get(address, "/dir").await
        })
        .await;
        Some(made)
    }

    /// Ends it and starts it again at the same address. It keeps nothing: accounts, orders and its root are gone.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.process.kill().await.unwrap_or_else(|error| panic!("pebble: {error}"));
        self.process = self.settings.spawn(&self.folder.path().join("pebble.log"));
        within(START, "pebble answers again", async || self.get(self.address, "/dir").await).await;
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its directory.
    #[must_use]
    pub fn directory(&self) -> String {
        self.directory_at(self.address)
    }

    /// The same, through a proxy: it builds its URLs from the host that it is asked for.
    #[must_use]
    pub fn directory_at(&self, address: SocketAddr) -> String {
        format!("https://{address}/dir")
    }

    /// The file with the certificate that vouches for it.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A folder for whatever a test keeps.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An identity by the authority that vouches for it: for a proxy before it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::of(&certificate(&self.authority))
    }

    /// The root of its chain number `index`, PEM.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn root(&self, index: u32) -> String {
        let got = self.get(self.management, &format!("/roots/{index}")).await;
        got.unwrap_or_else(|outcome| panic!("roots: {outcome:?}"))
    }

    /// From now on it suggests this for a certificate.
    ///
    /// # Panics
    /// When it does not take it.
    pub async fn set_renewal_info(&self, certificate_pem: &str, answer: &Value) {
        let body = json!({ "Certificate": certificate_pem, "ARIResponse": answer.to_string() });
        let request = request(Method::POST, self.management, "/set-renewal-info/", body.to_string());
        let (status, _, text) = https(self.management, None, request)
            .await
            .unwrap_or_else(|outcome| panic!("set-renewal-info: {outcome:?}"));
        assert_eq!(status, StatusCode::OK, "set-renewal-info: {text}");
    }

    /// Publishes a TXT record, beside others of the same name.
    pub async fn set_txt(&self, name: &str, value: &str) {
        locked(&self.records).insert((name.to_owned(), value.to_owned()));
        self.name_server("set-txt", &json!({ "host": format!("{name}."), "value": value })).await;
    }

    /// Takes one TXT record away, and leaves the others of the same name.
    pub async fn clear_txt(&self, name: &str, value: &str) {
        let left: Vec<String> = {
            let mut records = locked(&self.records);
            records.remove(&(name.to_owned(), value.to_owned()));
            records.iter().filter(|(of, _)| of == name).map(|(_, value)| value.clone()).collect()
        };
        // It takes away all of a name.
        self.name_server("clear-txt", &json!({ "host": format!("{name}.") })).await;
        for value in left {
            self.name_server("set-txt", &json!({ "host": format!("{name}."), "value": value })).await;
        }
    }

    /// In plain HTTP: its DNS server is told what to answer.
    async fn name_server(&self, path: &str, body: &Value) {
        let body = body.to_string();
        let address = self.names;
        let text = format!(
            "POST /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let exchange = async {
            let mut tcp = TcpStream::connect(address).await?;
            tcp.write_all(text.as_bytes()).await?;
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = exchange.await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }

    async fn get(&self, address: SocketAddr, path: &str) -> Result<String, Outcome> {
        let (status, content_type, body) =
            https(address, None, request(Method::GET, address, path, String::new())).await?;
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(Outcome::Http { status: status.as_u16(), content_type, body })
        }
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let log = fs::read_to_string(self.folder.path().join("pebble.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = &lines[lines.len().saturating_sub(40)..];
        #[expect(clippy::print_stderr, reason = "whoever reads the failure must see what Pebble said")]
        {
            eprintln!("pebble at {}:\n{}", self.address, end.join("\n"));
        }
    }
}

fn request(method: Method, address: SocketAddr, path: &str, body: String) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header(header::HOST, address.to_string());
    // It answers nobody without a name.
    let request = request.header(header::USER_AGENT, "kit");
    request.body(Full::new(body.into())).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn certificate(authority: &TestAuthority) -> Credential {
    let key = TestKey::generate(TestKeyKind::P256);
    let made: Blueprint = authority.leaf_blueprint("urn:pebble", &key, SystemClock.now());
    let made = made.with_names(&[dns("localhost"), (0x87, vec![127, 0, 0, 1])]);
    Credential::new(vec![made.sign(authority.key())], key)
}

fn spawn(program: &Path, log: &Path, flags: &[[&str; 2]], variables: &[(&str, String)]) -> Child {
    let log = fs::File::create(log).unwrap_or_else(|error| panic!("log: {error}"));
    Command::new(program)
        .args(flags.iter().flatten())
        .env_clear()
        .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .stderr(log.try_clone().unwrap_or_else(|error| panic!("log: {error}")))
        .stdout(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

type Shared<T> = Arc<Mutex<BTreeMap<String, T>>>;
/// TXT records, by name and value.
type Records = Arc<Mutex<BTreeSet<(String, String)>>>;

/// Who answers when an authority looks: texts at paths over plain HTTP, and certificates for who asks for
/// `acme-tls/1`; and what TXT records the [`Pebble`] that looks here was told to find. Dropping it closes both.
pub struct Challenges {
    http: Recorder,
    texts: Shared<String>,
    tls: SocketAddr,
    certificates: Shared<Arc<CertifiedKey>>,
    records: Records,
    _tasks: JoinSet<()>,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").field("http", &self.http.address()).field("tls", &self.tls).finish()
    }
}

impl Challenges {
    /// On loopback, at free ports.
    ///
    /// # Panics
    /// When there are none.
    pub async fn start() -> Self {
        let texts: Shared<String> = Arc::default();
        let answers = Arc::clone(&texts);
        let http = Recorder::start(None, move |asked| {
            let found = locked(&answers).get(&asked.path).cloned();
            async move {
                let mut response = Response::new(Full::new(found.clone().unwrap_or_default().into()));
                if found.is_none() {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                }
                response
            }
        })
        .await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("bind: {error}"));
        let tls = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let certificates: Shared<Arc<CertifiedKey>> = Arc::default();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap_or_else(|error| panic!("{error}"))
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Answers(Arc::clone(&certificates))));
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    // Nothing is said on it (RFC 8737 3).
                    if let Ok(mut tls) = acceptor.accept(tcp).await {
                        let _ = tls.shutdown().await;
                    }
                });
            }
        });
        Self { http, texts, tls, certificates, records: Arc::default(), _tasks: tasks }
    }

    /// Where it answers over plain HTTP.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http.address()
    }

    /// Where it answers over TLS.
    #[must_use]
    pub fn tls(&self) -> SocketAddr {
        self.tls
    }

    /// What was asked for over HTTP so far.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.http.asked().into_iter().map(|asked| asked.path).collect()
    }

    /// A text at a path.
    pub fn set_text(&self, path: &str, text: &str) {
        locked(&self.texts).insert(path.to_owned(), text.to_owned());
    }

    /// None any more.
    pub fn clear_text(&self, path: &str) {
        locked(&self.texts).remove(path);
    }

    /// A certificate for a server name.
    ///
    /// # Panics
    /// When the key cannot be used.
    pub fn set_certificate(&self, server_name: &str, identity: &Identity) {
        let key = provider().key_provider.load_private_key(identity.key.clone_key());
        let key = key.unwrap_or_else(|error| panic!("{error}"));
        let chain = identity.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        locked(&self.certificates).insert(server_name.to_owned(), Arc::new(CertifiedKey::new(chain, key)));
    }

    /// None any more.
    pub fn clear_certificate(&self, server_name: &str) {
        locked(&self.certificates).remove(server_name);
    }

    /// Whether nothing is published, a TXT record neither.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        locked(&self.texts).is_empty()
            && locked(&self.certificates).is_empty()
            && locked(&self.records).is_empty()
    }
}

struct Answers(Shared<Arc<CertifiedKey>>);

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answers")
    }
}

impl ResolvesServerCert for Answers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        locked(&self.0).get(hello.server_name()?).cloned()
    }
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
