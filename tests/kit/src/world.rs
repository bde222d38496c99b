//! One control plane with its proxies, alone with its ports, folder and trust domain.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use certs::{Certificate, KeyKind, SecretKey};
use serde_json::{Value, json};
use server::{
    config::Config,
    sandbox::{Ports, ProxyOptions, Sandbox, SandboxOptions, free_ports},
};

use crate::{
    Admin, Enrolment, Identity, Keys, Rest, XdsClient, eventually, issued::keep_issued, load::get, not_run,
    thorough::variable,
};

/// How many lines of the log, and rows of the audit, a failure shows; all of them are in the evidence.
const MAX_SHOWN: usize = 20;
/// How much of each.
const MAX_WIDTH: usize = 500;

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program `credence`: `CREDENCE_BIN`, else the one that was built beside this test.
fn credence() -> PathBuf {
    if let Some(path) = variable("CREDENCE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("this program's own file: {error}"));
    // A test lies in a folder below the programs, a benchmark beside them.
    let mut beside = test.ancestors().skip(1).take(2).map(|folder| folder.join("credence"));
    beside.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "there is no credence beside {}: run `cargo build -p credence-server`, with `--release` for a program that \
             was built so",
            test.display()
        )
    })
}

/// An Envoy binary.
#[derive(Debug, Clone)]
pub struct Envoy {
    /// Its version.
    pub version: &'static str,
    /// Its file.
    pub path: PathBuf,
}

/// The Envoy of a version, in `CREDENCE_ENVOYS` or `target/envoy`. Says so loudly when there is none; then a test
/// returns. With `CREDENCE_REQUIRE_ENVOY` set, as in CI, that is a failure.
///
/// # Panics
/// See above.
#[must_use]
pub fn envoy(version: &'static str) -> Option<Envoy> {
    let folder = variable("CREDENCE_ENVOYS").map_or_else(|| workspace().join("target/envoy"), PathBuf::from);
    let path = folder.join(version).join("envoy");
    if let Ok(path) = path.canonicalize() {
        return Some(Envoy { version, path });
    }
    not_run(&format!("no Envoy {version} at {} (set CREDENCE_ENVOYS)", path.display()));
    None
}

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// The Envoy that proxies run, unless they are given another.
    pub envoy: Option<Envoy>,
    /// What else `credence.yaml` says.
    pub adjust: fn(&mut Config),
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self { envoy: None, adjust: |_| {} }
    }
}

/// A node without Envoy: a certificate, and a name.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its certificate and key.
    pub identity: Identity,
    /// The join token that it was enrolled with, spent.
    pub token: String,
}

/// A control plane and proxies. Keeps evidence when it is dropped while a test fails.
#[derive(Debug)]
pub struct TestWorld {
    name: &'static str,
    domain: String,
    sandbox: Option<Sandbox>,
    nodes: Vec<String>,
    keys: Keys,
    rest: Rest,
}

impl TestWorld {
    /// Makes the authority, starts the control plane and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn boot(name: &'static str, options: WorldOptions) -> Self {
        Self::boot_in(name, options, Vec::new()).await
    }

    /// The same, with variables in the environment of the control plane: of that process alone.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn boot_in(
        name: &'static str,
        options: WorldOptions,
        environment: Vec<(&'static str, String)>,
    ) -> Self {
        let domain = format!("run-{:08x}.test", rand::random::<u32>());
        let options = SandboxOptions {
            credence: credence(),
            envoy: options.envoy.map_or_else(|| "/nonexistent/envoy".into(), |envoy| envoy.path),
            trust_domain: domain.clone(),
            adjust: options.adjust,
        };
        // Between fork and exec a child of another test holds copies of our file locks.
        let sandbox =
            eventually("a sandbox is made", async || match Sandbox::create(options.clone()).await {
                Err(error) if format!("{error:#}").contains("in use by another process") => Err(error),
                other => Ok(other),
            })
            .await
            .unwrap_or_else(|error| panic!("sandbox: {error:#}"))
            .serving_in(environment);
        let path = |name: &str| sandbox.path(name);
        let keys = Keys::read(&domain, &path("credence-data"), &path("credence.kek")).await;
        let admin = path("credence-admin");
        let operator = Identity::from_files(&admin.join("operator.crt"), &admin.join("operator.key"));
        let rest = Rest::new(sandbox.ports().rest, Some(operator));
        let mut world = Self { name, domain, sandbox: Some(sandbox), nodes: Vec::new(), keys, rest };
        world.start().await;
        world
    }

    /// Starts the control plane (again).
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(&mut self) {
        let started = self.sandbox_mut().start_control_plane().await;
        started.unwrap_or_else(|error| panic!("control plane: {error:#}"));
    }

    /// Starts the control plane with more arguments, and does not wait until it is ready.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn launch(&mut self, more: &[&str]) {
        let launched = self.sandbox_mut().launch_control_plane(more);
        launched.unwrap_or_else(|error| panic!("control plane: {error:#}"));
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self) {
        let killed = self.sandbox_mut().kill_control_plane().await;
        killed.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// SIGKILL, while commands that somebody has given are under way; [`TestWorld::kill`] clears away what is left.
    ///
    /// # Panics
    /// When it does not run.
    pub fn strike(&self) {
        let process = self.sandbox().control_plane().and_then(|id| i32::try_from(id).ok());
        let process = process.and_then(rustix::process::Pid::from_raw);
        let process = process.unwrap_or_else(|| panic!("the control plane does not run"));
        let killed = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        killed.unwrap_or_else(|error| panic!("the control plane cannot be killed: {error}"));
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it does not run or does not end.
    pub async fn terminate(&mut self) {
        let stopped = self.sandbox_mut().stop_control_plane().await;
        stopped.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// The processes.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        self.sandbox.as_ref().unwrap_or_else(|| panic!("the world has ended"))
    }

    /// The processes.
    #[must_use]
    pub fn sandbox_mut(&mut self) -> &mut Sandbox {
        self.sandbox.as_mut().unwrap_or_else(|| panic!("the world has ended"))
    }

    /// Where the control plane listens.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.sandbox().ports()
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// A SPIFFE ID of the trust domain.
    #[must_use]
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{}/{path}", self.domain)
    }

    /// The SPIFFE ID of a node.
    #[must_use]
    pub fn node_id(&self, node: &str) -> String {
        self.id(&format!("credence/node/{node}"))
    }

    /// Its authorities, as they were before the first start.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The management API.
    #[must_use]
    pub fn rest(&self) -> &Rest {
        &self.rest
    }

    /// Reads the operator's certificate again: a command may have replaced it.
    pub fn read_operator(&mut self) {
        let admin = self.sandbox().path("credence-admin");
        let operator = Identity::from_files(&admin.join("operator.crt"), &admin.join("operator.key"));
        self.rest = Rest::new(self.ports().rest, Some(operator));
    }

    /// Runs a command, which must succeed, and reads its JSON.
    ///
    /// # Panics
    /// When it fails.
    pub async fn command(&self, arguments: &[&str]) -> Value {
        self.sandbox().command(arguments).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Runs a command to its end: exit code, standard output, standard error.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.sandbox().output(arguments).await.unwrap_or_else(|error| panic!("{error:#}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// Enrols a node with the label `app=APP` and starts its agent and Envoy.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn start_proxy(&mut self, node: &str, app: &str, identities: &[&str]) {
        let options = ProxyOptions {
            identities: identities.iter().map(|path| self.id(path)).collect(),
            labels: vec![format!("app={app}")],
            ..ProxyOptions::default()
        };
        self.start_proxy_with(node, options).await;
    }

    /// Enrols a node and starts its agent and Envoy.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn start_proxy_with(&mut self, node: &str, options: ProxyOptions) {
        let started = self.sandbox_mut().start_proxy(node, options).await;
        started.unwrap_or_else(|error| panic!("{node}: {error:#}"));
        self.nodes.push(node.to_owned());
    }

    /// The admin page of a node's Envoy, once it is there.
    pub async fn admin(&self, node: &str) -> Admin {
        eventually(&format!("{node}: Envoy's admin page answers"), async || {
            let address = self.sandbox().admin(node).ok_or("Envoy has not said where its admin page is")?;
            let admin = Admin::new(address);
            match admin.version().await {
                Ok(_) => Ok(admin),
                Err(_) => Err("Envoy's admin page does not answer"),
            }
        })
        .await
    }

    /// A node's state, as the API shows it.
    pub async fn proxy(&self, node: &str) -> Value {
        self.rest.get(&format!("/api/v1/proxies/{node}")).await
    }

    /// The id of the authority that is active now, `root` or `intermediate`.
    pub async fn active(&self, place: &str) -> String {
        let listed = self.rest.get("/api/v1/authorities").await;
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let is_it = |one: &&Value| one["place"] == place && one["state"] == "active";
        let id = items.iter().find(is_it).and_then(|one| one["id"].as_str());
        id.unwrap_or_else(|| panic!("no {place} is active: {listed}")).to_owned()
    }

    /// Somebody who speaks for the identity `name`, on a node `NAME-host` of its own.
    pub async fn caller(&self, name: &str) -> Identity {
        let node = self.node(&format!("{name}-host"), &[name]).await;
        self.workload(&node, "default").await
    }

    /// Waits until a node has acknowledged everything that it was sent.
    pub async fn synced(&self, node: &str) -> Value {
        eventually(&format!("{node} is SYNCED"), async || {
            let proxy = self.proxy(node).await;
            if proxy["status"]["sync"] == "SYNCED" { Ok(proxy) } else { Err(proxy["status"].clone()) }
        })
        .await
    }

    /// Enrols a node by the API; answers its join token.
    pub async fn enroll(&self, node: &str, identities: &[&str]) -> String {
        self.enroll_as(node, "default", identities, json!({})).await
    }

    async fn enroll_as(&self, node: &str, namespace: &str, identities: &[&str], labels: Value) -> String {
        let identities: Vec<String> = identities.iter().map(|path| self.id(path)).collect();
        let body =
            json!({ "node": node, "namespace": namespace, "identities": identities, "labels": labels });
        let answer = self.rest.post("/api/v1/proxies", &body).await;
        answer["token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
    }

    /// A node without Envoy, enrolled by hand.
    pub async fn node(&self, id: &str, identities: &[&str]) -> Node {
        self.node_in(id, "default", identities).await
    }

    /// A node without Envoy of another namespace, enrolled by hand.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn node_in(&self, id: &str, namespace: &str, identities: &[&str]) -> Node {
        let token = self.enroll_as(id, namespace, identities, json!({})).await;
        self.join(id, namespace, token).await
    }

    /// A node without Envoy and with the label `app=APP`, enrolled by hand.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn node_of(&self, id: &str, app: &str, identities: &[&str]) -> Node {
        let token = self.enroll_as(id, "default", identities, json!({ "app": app })).await;
        self.join(id, "default", token).await
    }

    async fn join(&self, id: &str, namespace: &str, token: String) -> Node {
        let key = SecretKey::generate(KeyKind::P256);
        let enrolled = Enrolment::join(self.ports().enrolment, &token, &key).await;
        let enrolled = enrolled.unwrap_or_else(|outcome| panic!("{id}: {outcome:?}"));
        Node { id: id.to_owned(), namespace: namespace.to_owned(), identity: enrolled.identity, token }
    }

    /// A discovery client with the certificate of `node`.
    #[must_use]
    pub fn xds(&self, node: &Node) -> XdsClient {
        XdsClient::new(self.ports().xds, &node.identity)
    }

    /// The workload certificate that a node gets for `name`, by SDS.
    ///
    /// # Panics
    /// When it gets none.
    pub async fn workload(&self, node: &Node, name: &str) -> Identity {
        let mut stream = self.xds(node).delta(&node.id, &node.namespace);
        stream.subscribe(crate::SDS, &[name]).await;
        let response = stream.next().await.unwrap_or_else(|status| panic!("{}: {name}: {status}", node.id));
        let (chain, key) = crate::secret_of(&response);
        Identity::from_pem(&chain, &key)
    }

    /// Every audit row.
    pub async fn audit(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.rest.get(&format!("/api/v1/audit?limit=500{after}")).await;
            rows.extend(page["items"].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return rows,
            }
        }
    }

    /// Waits for an audit row of a refusal whose words, as JSON, hold all of `parts`.
    pub async fn audit_says(&self, parts: &[&str]) -> Value {
        eventually(&format!("audit tells of {parts:?}"), async || {
            let rows = self.audit().await;
            let text = |row: &Value| row.to_string();
            let found = rows.iter().find(|row| parts.iter().all(|part| text(row).contains(part)));
            found.cloned().ok_or_else(|| {
                let refused = rows.into_iter().filter(|row| row["outcome"] == "refused");
                refused.map(|row| row.to_string()).collect::<Vec<_>>()
            })
        })
        .await
    }

    /// What scrapers read.
    ///
    /// # Panics
    /// When it is not answered.
    pub async fn metrics(&self) -> String {
        match get(self.ports().probes, "/metrics").await {
            Ok((status, text)) if status.is_success() => text,
            other => panic!("/metrics: {other:?}"),
        }
    }

    /// The sum of a metric over all its labels; 0 when it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then(|| line.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        };
        text.lines().filter_map(value).sum()
    }

    /// A free port on loopback.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn free_port() -> SocketAddr {
        free_ports(1).ok().and_then(|ports| ports.first().copied()).unwrap_or_else(|| panic!("no free port"))
    }

    /// Free ports on loopback, all different: proxies share a port that two of them are told to listen on, silently.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn free_ports(count: usize) -> Vec<SocketAddr> {
        free_ports(count).unwrap_or_else(|error| panic!("no free ports: {error}"))
    }

    /// Ends everything, and leaves behind what was issued, for other verifiers.
    ///
    /// # Panics
    /// When something does not end.
    pub async fn finish(self) {
        self.finish_beside(&[]).await;
    }

    /// The same where others have issued beside our authorities: below these roots.
    ///
    /// # Panics
    /// When something does not end.
    pub async fn finish_beside(mut self, roots: &[Certificate]) {
        let Some(mut sandbox) = self.sandbox.take() else { return };
        if let Err(error) = sandbox.halt().await {
            let target = workspace().join("target/evidence").join(self.name);
            let _ = sandbox.keep_evidence(&target);
            panic!("{error:#}; the log is kept in {}", target.display());
        }
        keep_issued(self.name, &self.domain, &sandbox.path("credence-data"), roots).await;
    }

    fn keep_evidence(&self, sandbox: &Sandbox) -> PathBuf {
        let target = workspace().join("target/evidence").join(self.name);
        let _ = std::fs::remove_dir_all(&target);
        let _ = sandbox.keep_evidence(&target);
        for node in &self.nodes {
            let log = sandbox.path(node).join("envoy.log");
            let _ = std::fs::copy(log, target.join(format!("{node}-envoy.log")));
            let Some(admin) = sandbox.admin(node) else { continue };
            let pages =
                [("config_dump?include_eds=on", "config_dump"), ("stats", "stats"), ("certs", "certs")];
            for (path, name) in pages {
                if let Some(text) = fetch(admin, path) {
                    let _ = std::fs::write(target.join(format!("{node}-{name}.txt")), text);
                }
            }
        }
        for (name, arguments) in [
            ("audit.json", &["audit", "list", "-o", "json"][..]),
            ("status.json", &["status", "-o", "json"]),
            ("certificates.json", &["cert", "list", "--all", "-o", "json"]),
        ] {
            let command = Command::new(credence())
                .args(arguments)
                .current_dir(sandbox.path(""))
                .stdin(Stdio::null())
                .output();
            if let Ok(output) = command {
                let _ = std::fs::write(target.join(name), [output.stdout, output.stderr].concat());
            }
        }
        target
    }
}

impl Drop for TestWorld {
    fn drop(&mut self) {
        let Some(sandbox) = &self.sandbox else { return };
        // What it issued would not be verified.
        assert!(std::thread::panicking(), "the world {} was not finished", self.name);
        let target = self.keep_evidence(sandbox);
        #[expect(clippy::print_stderr, reason = "whoever reads the failure must find the evidence")]
        {
            eprintln!("evidence is kept in {}; what went wrong, and what happened last:", target.display());
            let is_trouble = |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
            let log = std::fs::read_to_string(target.join("serve.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().filter(is_trouble).collect();
            for line in &lines[lines.len().saturating_sub(MAX_SHOWN)..] {
                eprintln!("{}", line.chars().take(MAX_WIDTH).collect::<String>());
            }
            let audit = std::fs::read(target.join("audit.json")).unwrap_or_default();
            let rows: Vec<Value> = serde_json::from_slice(&audit).unwrap_or_default();
            for row in rows.iter().take(MAX_SHOWN) {
                eprintln!("{}", row.to_string().chars().take(MAX_WIDTH).collect::<String>());
            }
        }
    }
}

/// A page of Envoy's admin interface, from a place that cannot wait on a runtime.
fn fetch(admin: SocketAddr, path: &str) -> Option<Vec<u8>> {
    let mut tcp = TcpStream::connect_timeout(&admin, Duration::from_secs(2)).ok()?;
    tcp.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(tcp, "GET /{path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).ok()?;
    Some(answer)
}
