//! A real HashiCorp Vault as its operator would run it: TLS, raft, sealed at first, on loopback and in a folder of its
//! own. `tests/run` builds the program from its pinned Go module (`tests/peers/vault`).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use certs::{Clock, SpkiHash, Timestamp, certificates_to_pem};
use fixtures::{Blueprint, Credential, TestAuthority, TestKey, TestKeyKind, dns};
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::{Value, json};
use server::{clock::SystemClock, sandbox::free_ports};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{Identity, Outcome, eventually, https, not_run, thorough::variable, within, workspace};

/// How long a Vault has to start, on a machine that is shared.
const START: Duration = Duration::from_secs(60);

/// The program `vault`, in `CREDENCE_PEERS` or `target/peers`. Says so loudly when there is none; then a test returns.
/// With `CREDENCE_REQUIRE_ENVOY` set, as in CI, that is a failure.
///
/// # Panics
/// See above.
#[must_use]
pub fn vault_program() -> Option<PathBuf> {
    let folder = variable("CREDENCE_PEERS").map_or_else(|| workspace().join("target/peers"), PathBuf::from);
    let path = folder.join("vault");
    if let Ok(path) = path.canonicalize() {
        return Some(path);
    }
    not_run(&format!("vault missing at {} (tests/run builds it)", path.display()));
    None
}

/// One node of a cluster.
#[derive(Debug)]
struct Node {
    address: SocketAddr,
    folder: PathBuf,
    process: Child,
}

/// A cluster of one node or more, unsealed. Dropping it kills it; then, if a test fails, its log is shown.
#[derive(Debug)]
pub struct Vault {
    nodes: Vec<Node>,
    program: PathBuf,
    root_token: String,
    unseal_key: String,
    authority: TestAuthority,
    folder: TempDir,
}

/// An engine that signs certificates, and who does it there.
#[derive(Debug, Clone)]
pub struct VaultPki {
    /// Where it is mounted.
    pub mount: String,
    /// The issuer's id.
    pub issuer: String,
    /// The certificate of its root, PEM.
    pub root: String,
}

impl Vault {
    /// One node; `None` where the program is missing.
    pub async fn start() -> Option<Self> {
        Self::start_cluster(1).await
    }

    /// So many nodes, of which the first is active; `None` where the program is missing.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_cluster(count: usize) -> Option<Self> {
        let program = vault_program()?;
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder: {error}"));
        let authority = TestAuthority::root("vault", SystemClock.now());
        let mut vault = Self {
            nodes: Vec::new(),
            program,
            root_token: String::new(),
            unseal_key: String::new(),
            authority,
            folder,
        };
        write(&vault.ca_file(), &certificates_to_pem([vault.authority.der()]));
        for index in 0..count {
            vault.add(index).await;
        }
        if count > 1 {
            vault.let_all_vote().await;
        }
        Some(vault)
    }

    async fn add(&mut self, index: usize) {
        let ports = free_ports(2).unwrap_or_else(|error| panic!("no ports: {error}"));
        let folder = self.folder.path().join(format!("node{index}"));
        for below in ["data", "plugins"] {
            fs::create_dir_all(folder.join(below)).unwrap_or_else(|error| panic!("no folder: {error}"));
        }
        let served = self.certificate();
        write(&folder.join("tls.pem"), &served.chain_pem());
        write(&folder.join("tls.key"), &served.key().pkcs8_pem());
        let settings = json!({
            "storage": { "raft": {
                "path": folder.join("data"), "node_id": format!("node{index}"), "performance_multiplier": 1,
                "autopilot_update_interval": "200ms", "autopilot_reconcile_interval": "200ms",
            } },
            "listener": { "tcp": {
                "address": ports[0].to_string(), "cluster_address": ports[1].to_string(),
                "tls_cert_file": folder.join("tls.pem"), "tls_key_file": folder.join("tls.key"),
            } },
            "api_addr": format!("https://{}", ports[0]),
            "cluster_addr": format!("https://{}", ports[1]),
            "plugin_directory": folder.join("plugins"),
            "disable_mlock": true,
            "log_level": "info",
        });
        write(&folder.join("vault.json"), &settings.to_string());
        let process = self.spawn(&folder);
        self.nodes.push(Node { address: ports[0], folder, process });
        let health = |status: u16| {
            async move |vault: &Self| match vault.health(index).await {
                Some(got) if got == status => Ok(()),
                other => Err(other),
            }
        };
        within(START, "vault listens", async || health(501)(self).await).await;
        if index == 0 {
            let one = json!({ "secret_shares": 1, "secret_threshold": 1 });
            let made = self.call_node(0, Method::POST, "sys/init", "", &one).await.1;
            let text =
                |value: &Value| value.as_str().unwrap_or_else(|| panic!("sys/init: {made}")).to_owned();
            (self.root_token, self.unseal_key) = (text(&made["root_token"]), text(&made["keys_base64"][0]));
        } else {
            let leader = format!("https://{}", self.nodes[0].address);
            let ca = certificates_to_pem([self.authority.der()]);
            let join = json!({ "leader_api_addr": leader, "leader_ca_cert": ca });
            let (status, answer) =
                self.call_node(index, Method::POST, "sys/storage/raft/join", "", &join).await;
            assert_eq!(status, 200, "join: {answer}");
        }
        // A node that joins answers the key before the cluster has taken it in.
        within(START, "vault is unsealed", async || {
            self.unseal_node(index).await;
            health(if index == 0 { 200 } else { 429 })(self).await
        })
        .await;
    }

    /// A node that has joined has no vote, and could not stand in for another, before it has been seen for a while.
    async fn let_all_vote(&self) {
        let soon = json!({ "server_stabilization_time": "500ms" });
        self.write("sys/storage/raft/autopilot/configuration", soon).await;
        within(START, "every node has a vote", async || {
            let members = self.read("sys/storage/raft/configuration").await;
            let servers = members["config"]["servers"].as_array().cloned().unwrap_or_default();
            let all = servers.len() == self.nodes.len() && servers.iter().all(|one| one["voter"] == true);
            if all { Ok(()) } else { Err(members) }
        })
        .await;
    }

    fn spawn(&self, folder: &Path) -> Child {
        let log = fs::File::options().create(true).append(true).open(folder.join("log"));
        let log = log.unwrap_or_else(|error| panic!("log: {error}"));
        Command::new(&self.program)
            .arg("server")
            .arg(format!("-config={}", folder.join("vault.json").display()))
            .env_clear()
            .env("HOME", folder)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap_or_else(|error| panic!("log: {error}")))
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()))
    }

    /// A certificate for loopback by the authority that vouches for this Vault.
    #[must_use]
    pub fn certificate(&self) -> Credential {
        self.certificate_at(SystemClock.now())
    }

    fn certificate_at(&self, now: Timestamp) -> Credential {
        let key = TestKey::generate(TestKeyKind::P256);
        let made = self.authority.leaf_blueprint("urn:vault", &key, now);
        let made: Blueprint = made.with_names(&[dns("localhost"), (0x87, vec![127, 0, 0, 1])]);
        Credential::new(vec![made.sign(self.authority.key())], key)
    }

    /// The addresses of its nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("https://{}", node.address)).collect()
    }

    /// Where its first node listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.nodes[0].address
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

    /// The token that may do everything.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The status of a node's health, if it answers.
    pub async fn health(&self, index: usize) -> Option<u16> {
        let (address, request) = self.request(index, Method::GET, "sys/health", "", &Value::Null);
        https(address, None, request).await.ok().map(|(status, ..)| status.as_u16())
    }

    fn request(
        &self,
        index: usize,
        method: Method,
        path: &str,
        token: &str,
        body: &Value,
    ) -> (SocketAddr, Request<Full<Bytes>>) {
        let address = self.nodes[index].address;
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(header::HOST, address.to_string())
            .header("x-vault-token", token)
            .body(Full::new(body));
        (address, request.unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// Any call of one node, whatever it answers.
    ///
    /// # Panics
    /// When there is no HTTP answer.
    pub async fn call_node(
        &self,
        index: usize,
        method: Method,
        path: &str,
        token: &str,
        body: &Value,
    ) -> (u16, Value) {
        let (address, request) = self.request(index, method, path, token, body);
        let answered: Result<_, Outcome> = https(address, None, request).await;
        let (status, _, text) = answered.unwrap_or_else(|outcome| panic!("{path}: {outcome:?}"));
        (status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// A call with the root token, which must succeed; the answer, whole.
    ///
    /// # Panics
    /// When it does not succeed.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call_node(0, method.clone(), path, &self.root_token, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Writes with the root token; the member `data` of the answer.
    pub async fn write(&self, path: &str, body: Value) -> Value {
        self.call(Method::POST, path, &body).await["data"].take()
    }

    /// Reads with the root token; the member `data` of the answer.
    pub async fn read(&self, path: &str) -> Value {
        self.call(Method::GET, path, &Value::Null).await["data"].take()
    }

    /// Seals the first node.
    pub async fn seal(&self) {
        self.call(Method::POST, "sys/seal", &json!({})).await;
    }

    /// Unseals the first node, and waits until it serves.
    pub async fn unseal(&self) {
        self.unseal_node(0).await;
        eventually("vault serves", async || match self.health(0).await {
            // A node that is alone is a standby until it has elected itself.
            Some(200) => Ok(()),
            Some(429) if self.nodes.len() > 1 => Ok(()),
            other => Err(other),
        })
        .await;
    }

    async fn unseal_node(&self, index: usize) {
        let key = json!({ "key": self.unseal_key });
        self.call_node(index, Method::POST, "sys/unseal", "", &key).await;
    }

    /// Kills a node.
    ///
    /// # Panics
    /// When it was dead.
    pub async fn kill(&mut self, index: usize) {
        self.nodes[index].process.kill().await.unwrap_or_else(|error| panic!("kill: {error}"));
    }

    /// The node that is active, once there is one.
    pub async fn active(&self) -> usize {
        within(START, "vault has an active node", async || {
            let mut answers = Vec::new();
            for index in 0..self.nodes.len() {
                match self.health(index).await {
                    Some(200) => return Ok(index),
                    other => answers.push(other),
                }
            }
            Err(answers)
        })
        .await
    }

    /// Takes a node out of the cluster for good, through another one.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn expel(&self, index: usize, through: usize) {
        let peer = json!({ "server_id": format!("node{index}") });
        let path = "sys/storage/raft/remove-peer";
        let (status, answer) = self.call_node(through, Method::POST, path, &self.root_token, &peer).await;
        assert_eq!(status, 204, "{path}: {answer}");
    }

    /// Starts a node that was killed, and unseals it.
    pub async fn restart(&mut self, index: usize) {
        let folder = self.nodes[index].folder.clone();
        self.nodes[index].process = self.spawn(&folder);
        within(START, "vault is unsealed", async || {
            let (address, request) =
                self.request(index, Method::POST, "sys/unseal", "", &json!({ "key": self.unseal_key }));
            let _ = https(address, None, request).await;
            match self.health(index).await {
                Some(200 | 429 | 474) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Writes a policy.
    pub async fn policy(&self, name: &str, hcl: &str) {
        self.write(&format!("sys/policies/acl/{name}"), json!({ "policy": hcl })).await;
    }

    /// A PKI engine with a root of its own, on P-256.
    pub async fn pki(&self, mount: &str) -> VaultPki {
        self.write(&format!("sys/mounts/{mount}"), json!({ "type": "pki" })).await;
        self.write(&format!("sys/mounts/{mount}/tune"), json!({ "max_lease_ttl": "87600h" })).await;
        let root = json!({
            "common_name": "Corp root", "key_type": "ec", "key_bits": 256, "ttl": "8760h", "issuer_name": "root",
        });
        let made = self.write(&format!("{mount}/root/generate/internal"), root).await;
        let text = |name: &str| made[name].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        VaultPki { mount: mount.to_owned(), issuer: text("issuer_id"), root: text("certificate") }
    }

    /// A role for SVIDs of a trust domain, as the documentation says, with changes.
    pub async fn role(&self, mount: &str, name: &str, trust_domain: &str, changes: Value) {
        let mut role = json!({
            "allowed_uri_sans": format!("spiffe://{trust_domain}/*"), "require_cn": false, "use_csr_sans": false,
            "use_csr_common_name": false, "key_type": "ec", "key_bits": 256, "no_store": true,
            "generate_lease": false, "server_flag": true, "client_flag": true, "key_usage": "DigitalSignature",
            "basic_constraints_valid_for_non_ca": true, "ttl": "1h", "max_ttl": "24h",
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            role[key] = value.clone();
        }
        self.write(&format!("{mount}/roles/{name}"), role).await;
    }

    /// An AppRole with these policies; its role id and a secret id. `settings` are further ones of the role.
    pub async fn approle(&self, name: &str, policies: &[&str], settings: Value) -> (String, String) {
        if self.read("sys/auth").await["approle/"].is_null() {
            self.write("sys/auth/approle", json!({ "type": "approle" })).await;
        }
        let mut role = json!({ "token_policies": policies, "token_ttl": "15m", "token_max_ttl": "1h" });
        for (key, value) in settings.as_object().into_iter().flatten() {
            role[key] = value.clone();
        }
        self.write(&format!("auth/approle/role/{name}"), role).await;
        let id = self.read(&format!("auth/approle/role/{name}/role-id")).await;
        let secret = self.write(&format!("auth/approle/role/{name}/secret-id"), json!({})).await;
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
        (text(&id["role_id"]), text(&secret["secret_id"]))
    }

    /// What a call with the root token answers, in a wrapping token: its answer, whole.
    ///
    /// # Panics
    /// When there is no HTTP answer.
    pub async fn wrapped(&self, path: &str) -> String {
        let method = if path.starts_with("sys/") { Method::GET } else { Method::POST };
        let (address, mut request) = self.request(0, method, path, &self.root_token, &json!({}));
        request.headers_mut().insert("x-vault-wrap-ttl", header::HeaderValue::from_static("300s"));
        let answered: Result<_, Outcome> = https(address, None, request).await;
        let (_, _, text) = answered.unwrap_or_else(|outcome| panic!("{path}: {outcome:?}"));
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        answer["wrap_info"]["token"].as_str().unwrap_or_else(|| panic!("{path}: {text}")).to_owned()
    }

    /// A token with these policies.
    pub async fn token(&self, policies: &[&str], settings: Value) -> String {
        let mut wanted = json!({ "policies": policies, "ttl": "15m" });
        for (key, value) in settings.as_object().into_iter().flatten() {
            wanted[key] = value.clone();
        }
        let made = self.call(Method::POST, "auth/token/create", &wanted).await;
        made["auth"]["client_token"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// A login that a program of its own looks after, mounted by the program's short name.
    ///
    /// # Panics
    /// When the program cannot be read.
    pub async fn auth_plugin(&self, name: &str, program: &Path) {
        let file = program.file_name().unwrap_or_else(|| panic!("{}: no name", program.display()));
        for node in &self.nodes {
            // Vault runs nothing that lies, or leads, outside of its folder.
            fs::copy(program, node.folder.join("plugins").join(file))
                .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        }
        let program = fs::read(program).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let sha256 = SpkiHash::of(&program).to_string();
        let entry = json!({ "sha256": sha256, "command": file.to_string_lossy() });
        self.write(&format!("sys/plugins/catalog/auth/{name}"), entry).await;
        self.write(&format!("sys/auth/{name}"), json!({ "type": name })).await;
    }

    /// An identity by the authority that vouches for this Vault: for a server that stands before it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::of(&self.certificate())
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

impl Drop for Vault {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in &self.nodes {
            let log = fs::read_to_string(node.folder.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(40)..];
            #[expect(clippy::print_stderr, reason = "whoever reads the failure must see what Vault said")]
            {
                eprintln!("vault at {}:\n{}", node.address, end.join("\n"));
            }
        }
    }
}
