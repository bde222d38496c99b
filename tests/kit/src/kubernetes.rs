//! A real kube-apiserver on an etcd of its own, for what it is asked here: who a service account's token belongs to.
//! There is no node and no pod. `tests/run` builds it from its pinned Go module (`tests/peers/kubernetes`).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{Clock, certificates_to_pem};
use fixtures::{Credential, TestAuthority, TestKey, TestKeyKind, dns};
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::{Value, json};
use server::{clock::SystemClock, sandbox::free_ports};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    Vault, https,
    thorough::{left_out, variable},
    within, workspace,
};

/// How long it has to start, on a machine that is shared.
const START: Duration = Duration::from_secs(90);
/// Who may do everything.
const ADMIN: &str = "admin-of-the-kit";
const NAMESPACE: &str = "default";

/// Running. Dropping it kills it; then, if a test fails, its log is shown.
#[derive(Debug)]
pub struct Kubernetes {
    address: SocketAddr,
    etcd: SocketAddr,
    program: PathBuf,
    plugin: PathBuf,
    authority: TestAuthority,
    folder: TempDir,
    process: Child,
    _etcd: Child,
}

/// The program in `CREDENCE_PEERS` or `target/peers`. Says so loudly when there is none; where everything is to run in
/// full, that is a failure.
fn peer(name: &str) -> Option<PathBuf> {
    let folder = variable("CREDENCE_PEERS").map_or_else(|| workspace().join("target/peers"), PathBuf::from);
    let path = folder.join(name);
    if let Ok(path) = path.canonicalize() {
        return Some(path);
    }
    left_out(&format!("{name} missing at {} (tests/run --full builds it)", path.display()));
    None
}

impl Kubernetes {
    /// `None` where a program is missing, the plugin by which a Vault asks it among them.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Option<Self> {
        let (program, plugin) = (peer("kube-apiserver")?, peer("vault-plugin-auth-kubernetes")?);
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
        let ports = free_ports(3).unwrap_or_else(|error| panic!("no ports: {error}"));
        let [address, etcd, peers] = ports[..] else { panic!("three ports") };
        let authority = TestAuthority::root("kubernetes", SystemClock.now());
        let key = TestKey::generate(TestKeyKind::P256);
        let served = authority.leaf_blueprint("urn:kubernetes", &key, SystemClock.now());
        let served = served.with_names(&[dns("localhost"), (0x87, vec![127, 0, 0, 1])]);
        let served = Credential::new(vec![served.sign(authority.key())], key);
        let place = |name: &str| folder.path().join(name);
        write(&place("ca.pem"), &certificates_to_pem([authority.der()]));
        write(&place("tls.pem"), &served.chain_pem());
        write(&place("tls.key"), &served.key().pkcs8_pem());
        let accounts = TestKey::generate(TestKeyKind::P256);
        let public = STANDARD.encode(accounts.spki_der());
        write(&place("accounts.key"), &accounts.pkcs8_pem());
        write(
            &place("accounts.pub"),
            &format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n"),
        );
        write(&place("tokens.csv"), &format!("{ADMIN},admin,1,\"system:masters\"\n"));
        let (clients, members) = (format!("http://{etcd}"), format!("http://{peers}"));
        let flags = [
            ["--data-dir", &place("etcd").display().to_string()],
            ["--listen-client-urls", &clients],
            ["--advertise-client-urls", &clients],
            ["--listen-peer-urls", &members],
            ["--initial-advertise-peer-urls", &members],
            ["--initial-cluster", &format!("default={members}")],
        ]
        .map(|flag| flag.map(str::to_owned));
        let etcd_process = spawn(Path::new("etcd"), folder.path(), "etcd.log", flags.concat());
        let process = serve(&program, folder.path(), address, etcd);
        let made = Self { address, etcd, program, plugin, authority, folder, process, _etcd: etcd_process };
        made.is_ready().await;
        Some(made)
    }

    async fn is_ready(&self) {
        within(START, "kube-apiserver is ready", async || {
            match self.ask(Method::GET, "/readyz", &Value::Null).await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// The URL of its API.
    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What vouches for it, PEM.
    fn ca(&self) -> String {
        certificates_to_pem([self.authority.der()])
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<(u16, String), String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::AUTHORIZATION, format!("Bearer {ADMIN}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))
            .map_err(|error| error.to_string())?;
        let (status, _, text) =
            https(self.address, None, request).await.map_err(|outcome| format!("{outcome:?}"))?;
        Ok((status.as_u16(), text))
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, text) =
            self.ask(Method::POST, path, &body).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(status, 201, "{path}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Makes a service account.
    pub async fn service_account(&self, name: &str) {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        self.post(&path, json!({ "metadata": { "name": name } })).await;
    }

    /// Removes a service account: its tokens belong to nobody any more.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn remove_service_account(&self, name: &str) {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}");
        let (status, text) =
            self.ask(Method::DELETE, &path, &Value::Null).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(status, 200, "{path}: {text}");
    }

    /// Lets a service account ask whose a token is, as Vault does.
    async fn let_review(&self, name: &str) {
        let binding = json!({
            "metadata": { "name": format!("{name}-reviews") },
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator",
            },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": NAMESPACE }],
        });
        self.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    }

    /// A token of a service account, by TokenRequest, as kubelet gets it: for an audience, or without one for the
    /// server itself.
    ///
    /// # Panics
    /// When there is none.
    pub async fn token(&self, name: &str, audience: Option<&str>) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{name}/token");
        let audiences: Vec<&str> = audience.into_iter().collect();
        let wanted = json!({ "spec": { "audiences": audiences, "expirationSeconds": 3600 } });
        let made = self.post(&path, wanted).await;
        made["status"]["token"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// Has `vault` ask it whose a token is, as the documentation of both says: a reviewer of its own, and a login mounted
    /// as `kubernetes` with the role `credence`, for the service account `credence` and the audience `vault`. Its tokens
    /// have the policy of that name. Both accounts are made.
    pub async fn vouch_to(&self, vault: &Vault, policy: &str) {
        self.service_account("credence").await;
        self.service_account("reviewer").await;
        self.let_review("reviewer").await;
        vault.auth_plugin("kubernetes", &self.plugin).await;
        let config = json!({
            "kubernetes_host": self.url(), "kubernetes_ca_cert": self.ca(),
            "token_reviewer_jwt": self.token("reviewer", None).await,
        });
        vault.write("auth/kubernetes/config", config).await;
        let role = json!({
            "bound_service_account_names": ["credence"], "bound_service_account_namespaces": [NAMESPACE],
            "audience": "vault", "token_policies": [policy], "token_ttl": "15m",
        });
        vault.write("auth/kubernetes/role/credence", role).await;
    }

    /// Kills it; what it knows stays in its etcd.
    ///
    /// # Panics
    /// When it was dead.
    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap_or_else(|error| panic!("kill: {error}"));
    }

    /// Starts it again, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.process = serve(&self.program, self.folder.path(), self.address, self.etcd);
        self.is_ready().await;
    }
}

fn serve(program: &Path, folder: &Path, address: SocketAddr, etcd: SocketAddr) -> Child {
    let place = |name: &str| folder.join(name).display().to_string();
    let flags = [
        format!("--etcd-servers=http://{etcd}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", address.port()),
        format!("--cert-dir={}", place("certs")),
        format!("--tls-cert-file={}", place("tls.pem")),
        format!("--tls-private-key-file={}", place("tls.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", place("accounts.pub")),
        format!("--service-account-signing-key-file={}", place("accounts.key")),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        format!("--token-auth-file={}", place("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        // It is for pods, and wants a controller beside it.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ];
    spawn(program, folder, "apiserver.log", flags)
}

fn spawn(program: &Path, folder: &Path, log: &str, flags: impl IntoIterator<Item = String>) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join(log));
    let log = log.unwrap_or_else(|error| panic!("log: {error}"));
    Command::new(program)
        .args(flags)
        .env("HOME", folder)
        .current_dir(folder)
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

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for log in ["etcd.log", "apiserver.log"] {
            let text = fs::read_to_string(self.folder.path().join(log)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let end = &lines[lines.len().saturating_sub(30)..];
            #[expect(clippy::print_stderr, reason = "whoever reads the failure must see what they said")]
            {
                eprintln!("{log} at {}:\n{}", self.address, end.join("\n"));
            }
        }
    }
}
