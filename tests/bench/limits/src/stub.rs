//! A server on loopback that answers as a Vault does whose PKI engine signs leaves by a role, and does nothing else: a
//! process of its own, so that what it costs is counted apart from what asks it.
//!
//! It reads the request's key and signs what it was asked for, at once. A real Vault takes several times as long.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use certs::{
    Certificate, Clock, Csr, Profile, Rehearser, SecretKey, Serial, SoftwareSigner, Template, Validity,
    certificates_from_pem, certificates_to_pem,
};
use fixtures::{Credential, TestAuthority, TestKey, TestKeyKind, dns};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kit::SystemClock;
use rustls::ServerConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, stdin},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// Where its engine is mounted.
pub(crate) const MOUNT: &str = "pki";
/// The issuer that signs there.
pub(crate) const ISSUER: &str = "6e2d1c1e-3c5b-4a6f-9d0e-2b7a51f0c9d4";
/// The role by which it does.
pub(crate) const ROLE: &str = "svid";
/// The longest life that the role allows.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// What its process is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where it writes who vouches for it, and who signs.
    #[arg(long)]
    folder: PathBuf,
    /// The trust domain for which it signs.
    #[arg(long)]
    domain: String,
}

/// One that runs. Dropping it ends its process.
pub(crate) struct Stub {
    process: Child,
    folder: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) root: Certificate,
    pub(crate) signer: Certificate,
}

impl Stub {
    /// Starts this program as a stub for a trust domain.
    pub(crate) async fn start(domain: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["stub", "--domain", domain, "--folder"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let said = process.stdout.take().context("its words are read")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).await?;
        let address = line.trim().parse().with_context(|| format!("the stub said {line:?}"))?;
        let read = |name: &str| {
            let ders = certificates_from_pem(&std::fs::read(folder.path().join(name))?)?;
            let der = ders.first().context("a certificate")?;
            anyhow::Ok(Certificate::from_der(der)?)
        };
        let (root, signer) = (read("anchor.pem")?, read("signer.pem")?);
        Ok(Self { process, folder, address, root, signer })
    }

    /// A file of it: `ca.pem` vouches for it, `anchor.pem` is above what it signs.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its process.
    pub(crate) fn process(&self) -> anyhow::Result<u32> {
        self.process.id().context("the stub has ended")
    }
}

/// Who signs.
struct Signer {
    rehearser: Rehearser,
    signer: SoftwareSigner,
    domain: String,
    issuing: String,
    root: String,
}

/// The process: tells its address, and serves until whoever started it is gone.
pub(crate) fn serve(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (signer, tls) = authorities(options)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        tell(listener.local_addr()?);
        let mut connections = JoinSet::new();
        let (mut asker, mut nothing) = (stdin(), [0]);
        loop {
            tokio::select! {
                // Nobody says anything; the end of it is the end.
                _ = asker.read(&mut nothing) => return Ok(()),
                accepted = listener.accept() => {
                    let (tcp, tls, signer) = (accepted?.0, tls.clone(), Arc::clone(&signer));
                    connections.spawn(connection(tcp, tls, signer));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    })
}

#[expect(clippy::print_stdout, reason = "whoever started it reads where it listens")]
fn tell(address: SocketAddr) {
    println!("{address}");
}

/// Makes a root and who signs below it, on P-256 both, and writes what others must know of them.
fn authorities(options: &Options) -> anyhow::Result<(Arc<Signer>, TlsAcceptor)> {
    let now = SystemClock.now();
    let key = TestKey::generate(TestKeyKind::P256);
    let mut blueprint = TestAuthority::root("stub", now).authority_blueprint("Stub root", &key, Some(1), now);
    blueprint.issuer = blueprint.subject.clone();
    let root = TestAuthority::from_blueprint(blueprint.with_key_ids(None), key, None);
    let key = TestKey::generate(TestKeyKind::P256);
    let secret = SecretKey::from_pkcs8_der(Zeroizing::new(key.pkcs8_der()))?;
    let blueprint = root.authority_blueprint("Stub issuing", &key, Some(0), now);
    let issuing = TestAuthority::from_blueprint(blueprint, key, Some(&root));

    let key = TestKey::generate(TestKeyKind::P256);
    let served = root.leaf_blueprint("urn:stub", &key, now);
    let served = served.with_names(&[dns("localhost"), (0x87, vec![127, 0, 0, 1])]).sign(root.key());
    let (chain, key) = Credential::new(vec![served], key).rustls();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;

    let pem = |authority: &TestAuthority| certificates_to_pem([authority.der()]);
    for (name, authority) in [("ca.pem", &root), ("anchor.pem", &root), ("signer.pem", &issuing)] {
        std::fs::write(options.folder.join(name), pem(authority))?;
    }
    let signer = Signer {
        rehearser: Rehearser::try_new(issuing.certificate())?,
        signer: SoftwareSigner::try_new(&secret)?,
        domain: options.domain.clone(),
        issuing: pem(&issuing),
        root: pem(&root),
    };
    Ok((Arc::new(signer), TlsAcceptor::from(Arc::new(config))))
}

async fn connection(tcp: TcpStream, tls: TlsAcceptor, signer: Arc<Signer>) {
    let _ = tcp.set_nodelay(true);
    let Ok(stream) = tls.accept(tcp).await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let signer = Arc::clone(&signer);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let (status, answer) = match signer.answer(&head.method, head.uri.path(), &body) {
                Ok(Some(answer)) => (StatusCode::OK, answer),
                Ok(None) => (StatusCode::NOT_FOUND, json!({ "errors": [] })),
                Err(error) => (StatusCode::BAD_REQUEST, json!({ "errors": [format!("{error:#}")] })),
            };
            let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
            *response.status_mut() = status;
            Ok::<_, hyper::Error>(response)
        }
    });
    // How a client ends its connection is its own business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Signer {
    /// What Vault answers; nothing where it knows no such path.
    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> anyhow::Result<Option<Value>> {
        let Some(path) = path.strip_prefix("/v1/") else { return Ok(None) };
        let sign = format!("{MOUNT}/issuer/{ISSUER}/sign/{ROLE}");
        let is_read = *method == Method::GET;
        let data = if *method == Method::POST && path == sign {
            self.sign(body)?
        } else if is_read && path == "auth/token/lookup-self" {
            json!({ "ttl": 0, "renewable": false, "num_uses": 0 })
        } else if is_read && path == "sys/internal/ui/resultant-acl" {
            self.grants(&sign)
        } else if is_read && path == format!("{MOUNT}/roles/{ROLE}") {
            self.role()
        } else if is_read && [ISSUER, "default"].iter().any(|id| path == format!("{MOUNT}/issuer/{id}/json"))
        {
            json!({
                "issuer_id": ISSUER, "issuer_name": "stub", "certificate": self.issuing,
                "ca_chain": [self.issuing, self.root],
            })
        } else {
            return Ok(None);
        };
        Ok(Some(
            json!({ "lease_id": "", "lease_duration": 0, "renewable": false, "data": data, "warnings": null }),
        ))
    }

    fn sign(&self, body: &[u8]) -> anyhow::Result<Value> {
        #[derive(Deserialize)]
        struct Asked {
            csr: String,
            uri_sans: String,
            ttl: String,
        }
        let asked: Asked = serde_json::from_slice(body)?;
        let text: String = asked.csr.lines().filter(|line| !line.starts_with("-----")).collect();
        let request = Csr::from_der(&BASE64_STANDARD.decode(text)?)?;
        let seconds = asked.ttl.strip_suffix('s').context("a lifetime in seconds")?;
        let template = Template {
            profile: Profile::Workload,
            serial: Serial::random(),
            validity: Validity::starting(SystemClock.now(), Duration::from_secs(seconds.parse()?), None),
            public_key: request.public_key().clone(),
            subject: None,
            uri: asked.uri_sans,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
        };
        let leaf =
            self.rehearser.rehearse(&template)?.sign(&self.signer).map_err(|error| anyhow!("{error}"))?;
        Ok(json!({
            "certificate": certificates_to_pem([leaf.der()]), "issuing_ca": self.issuing,
            "ca_chain": [self.issuing, self.root], "serial_number": leaf.serial().to_string(),
        }))
    }

    /// What the policy gives that is printed for the role.
    fn grants(&self, sign: &str) -> Value {
        let uris = format!("spiffe://{}/*", self.domain);
        json!({ "root": false, "glob_paths": {}, "exact_paths": {
            sign: {
                "capabilities": ["update"], "required_parameters": ["csr", "uri_sans"],
                "allowed_parameters": { "csr": [], "uri_sans": [uris], "ttl": [], "format": ["pem"] },
            },
            format!("{MOUNT}/roles/{ROLE}"): { "capabilities": ["read"] },
        } })
    }

    /// The role as its documentation has it.
    fn role(&self) -> Value {
        json!({
            "use_csr_sans": false, "use_csr_common_name": false, "require_cn": false, "key_type": "ec",
            "key_bits": 256, "allowed_uri_sans": [format!("spiffe://{}/*", self.domain)],
            "generate_lease": false, "no_store": true, "server_flag": true, "client_flag": true,
            "key_usage": ["DigitalSignature"], "not_after": "", "basic_constraints_valid_for_non_ca": true,
            "max_ttl": MAX_TTL.as_secs(),
        })
    }
}

#[cfg(test)]
mod tests {
    use certs::{Usage, VerifyOptions, verify_chain};
    use vault::{Breadth, Mount, Name, Policy, Reply, judge, judge_acl, pki};

    use super::*;
    use crate::bare;

    fn stub(domain: &str) -> (TempDir, Arc<Signer>) {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { folder: folder.path().to_owned(), domain: domain.to_owned() };
        let signer = authorities(&options).unwrap().0;
        (folder, signer)
    }

    fn answer(signer: &Signer, method: Method, path: &str, body: &[u8]) -> vault::Answer {
        let answer = signer.answer(&method, path, body).unwrap().unwrap();
        let body = Zeroizing::new(answer.to_string().into_bytes());
        judge(Reply { status: 200, location: None, retry_after: None, body }).unwrap()
    }

    #[test]
    fn what_it_signs_is_taken_by_the_strict_check_and_another_key_or_name_is_not() {
        let (folder, signer) = stub("td");
        let key = SecretKey::generate(certs::KeyKind::P256);
        let (uri, lifetime) = ("spiffe://td/web", Duration::from_secs(600));
        let body = bare::body(&Csr::build(&key), uri, 600);
        let path = format!("/v1/{MOUNT}/issuer/{ISSUER}/sign/{ROLE}");
        let signed = pki::read_signed(&answer(&signer, Method::POST, &path, &body)).unwrap();
        let [root, issuing] = ["anchor.pem", "signer.pem"].map(|file| {
            let ders = certificates_from_pem(&std::fs::read(folder.path().join(file)).unwrap()).unwrap();
            Certificate::from_der(&ders[0]).unwrap()
        });
        let now = SystemClock.now();
        let (own, other) = (key.public(), SecretKey::generate(certs::KeyKind::P256));
        let check = |uri, key| {
            let asked = pki::check::Asked { uri, key, at: now, lifetime };
            pki::check::leaf(&signed, &asked, &issuing, &root)
        };
        let chain = check(uri, own).unwrap();
        for usage in [Usage::Server, Usage::Client] {
            verify_chain(&chain, std::slice::from_ref(&root), &VerifyOptions::new(now, usage)).unwrap();
        }
        assert!(check("spiffe://td/pay", own).is_err());
        assert!(check(uri, other.public()).is_err());
    }

    #[test]
    fn its_role_and_its_grants_are_as_they_should_be() {
        let (_folder, signer) = stub("td");
        let read = |path: &str| answer(&signer, Method::GET, path, &[]);
        let (mount, issuer, role) =
            (Mount::parse(MOUNT).unwrap(), Name::parse(ISSUER).unwrap(), Name::parse(ROLE).unwrap());
        let policy = Policy::leaves(&mount, [&issuer], &role, "td");
        let acl: Value = read("/v1/sys/internal/ui/resultant-acl").data().unwrap();
        assert_eq!(judge_acl(&acl, &policy, None), Ok(Breadth::Narrow { missing: Vec::new() }));
        let role = pki::Role::read(&read("/v1/pki/roles/svid")).unwrap();
        assert_eq!(role.findings("td"), []);
        assert!(signer.answer(&Method::GET, "/v1/sys/health", &[]).unwrap().is_none());
    }
}
