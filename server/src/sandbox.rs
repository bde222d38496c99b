//! A control plane and proxies as processes, in a folder of their own: what the demo and the test kit are built on.
//!
//! Everything is driven by the command line, as a person would; nothing here knows a back door.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use http::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{
    clock::SystemClock,
    config::{self, Config, Listen},
    http_get::get,
    init,
};

const START: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(60);
/// Where free ports are looked for.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const STOP: Duration = Duration::from_secs(20);

/// Where the control plane listens; on loopback, chosen by the system.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// xDS, SDS and renewal.
    pub xds: SocketAddr,
    /// Enrolment.
    pub enrolment: SocketAddr,
    /// Management.
    pub rest: SocketAddr,
    /// Probes and metrics.
    pub probes: SocketAddr,
}

/// Free ports on loopback, found by binding them all at once. They lie below those that the system gives to
/// outgoing connections, which could take one before its listener does; and none is given twice in the life of
/// this process, as whoever asked first may not listen yet.
///
/// # Errors
/// When there are none.
pub fn free_ports(count: usize) -> io::Result<Vec<SocketAddr>> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut listeners: Vec<TcpListener> = Vec::with_capacity(count);
    let mut tries = 0;
    while listeners.len() < count {
        let port = rand::random_range(PORTS);
        let bound = match given.contains(&port) {
            true => Err(io::ErrorKind::AddrInUse.into()),
            false => TcpListener::bind((Ipv4Addr::LOCALHOST, port)),
        };
        match bound {
            Ok(listener) => listeners.push(listener),
            Err(error) if tries > 1_000 => return Err(error),
            Err(_) => tries += 1,
        }
    }
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    given.extend(addresses.iter().map(SocketAddr::port));
    Ok(addresses)
}

/// What a sandbox is made of.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// The program `credence`.
    pub credence: PathBuf,
    /// The Envoy that proxies run, unless they are given another.
    pub envoy: PathBuf,
    /// The trust domain.
    pub trust_domain: String,
    /// What else `credence.yaml` says: changes the defaults of a sandbox.
    pub adjust: fn(&mut Config),
}

/// How a proxy is enrolled and run.
#[derive(Debug, Clone, Default)]
pub struct ProxyOptions {
    /// Its workload identities; the first is its default.
    pub identities: Vec<String>,
    /// Its labels, as `key=value`.
    pub labels: Vec<String>,
    /// Its namespace, if not `default`.
    pub namespace: Option<String>,
    /// Its Envoy, if not the sandbox's.
    pub envoy: Option<PathBuf>,
}

/// Everything that runs. Dropping it kills what still runs and removes the folder.
#[derive(Debug)]
pub struct Sandbox {
    ports: Ports,
    options: SandboxOptions,
    serve: Option<Child>,
    agents: Vec<(String, Child)>,
    directory: Arc<TempDir>,
    environment: Vec<(&'static str, String)>,
}

impl Sandbox {
    /// Makes the authority in a folder of its own; nothing runs yet.
    ///
    /// # Errors
    /// When there is no folder, no port, or `init` fails.
    pub async fn create(options: SandboxOptions) -> anyhow::Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("credence-").tempdir().context("no temporary folder")?;
        let [xds, enrolment, rest, probes] = free_ports(4).context("no free ports on loopback")?[..] else {
            bail!("no free ports on loopback");
        };
        let ports = Ports { xds, enrolment, rest, probes };
        let sandbox = Self {
            ports,
            options,
            serve: None,
            agents: Vec::new(),
            directory: Arc::new(directory),
            environment: Vec::new(),
        };
        let config = sandbox.config()?;
        init::initialise(&config, None, &sandbox.path("credence.yaml"), Arc::new(SystemClock))
            .await
            .context("cannot make the authority")?;
        Ok(sandbox)
    }

    /// The same, with variables in the environment of the control plane: of that process alone.
    #[must_use]
    pub fn serving_in(mut self, environment: Vec<(&'static str, String)>) -> Self {
        self.environment = environment;
        self
    }

    fn config(&self) -> anyhow::Result<Config> {
        let text = format!("trust_domain: {}", self.options.trust_domain);
        let mut config = config::parse("sandbox", &text, &[], self.directory.path(), true)
            .map_err(|problems| anyhow!("{}", problems[0]))?;
        let listen = |address: SocketAddr| Listen { address: address.ip(), port: address.port() };
        config.grpc = listen(self.ports.xds);
        config.enrolment = listen(self.ports.enrolment);
        config.rest = listen(self.ports.rest);
        config.probes = Some(listen(self.ports.probes));
        (self.options.adjust)(&mut config);
        Ok(config)
    }

    /// Where the control plane listens.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Has the control plane listen elsewhere for nodes from its next start on.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn move_ports(&mut self, xds: SocketAddr, enrolment: SocketAddr) -> io::Result<()> {
        let file = self.path("credence.yaml");
        let port = |of: SocketAddr| format!("port: {}", of.port());
        let text = std::fs::read_to_string(&file)?;
        let text = text.replace(&port(self.ports.xds), &port(xds));
        std::fs::write(file, text.replace(&port(self.ports.enrolment), &port(enrolment)))?;
        self.ports = Ports { xds, enrolment, ..self.ports };
        Ok(())
    }

    /// The program that runs.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.options.credence
    }

    /// A file in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the control plane as a process of its own and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready, with the end of its log.
    pub async fn start_control_plane(&mut self) -> anyhow::Result<()> {
        self.launch_control_plane(&[])?;
        let probes = self.ports.probes;
        let ready = async {
            while !get(probes, "/readyz").await.is_ok_and(|(status, _)| status == StatusCode::OK) {
                if let Some(gone) = self.ended() {
                    return Err(anyhow!(gone));
                }
                sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        match timeout(START, ready).await {
            Ok(ready) => ready,
            Err(_) => Err(anyhow!("the control plane is not ready:\n{}", self.tail("serve"))),
        }
    }

    /// Starts the control plane as a process of its own, with more arguments, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch_control_plane(&mut self, more: &[&str]) -> anyhow::Result<()> {
        let arguments = [&["serve", "--dev", "--config", "credence.yaml"], more].concat();
        self.serve = Some(self.spawn_in("serve", &arguments, &self.environment)?);
        Ok(())
    }

    /// The process of the control plane, while it runs.
    #[must_use]
    pub fn control_plane(&self) -> Option<u32> {
        self.serve.as_ref().and_then(Child::id)
    }

    /// SIGKILL: no warning, no drain, no flush.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_control_plane(&mut self) -> anyhow::Result<()> {
        let mut child = self.serve.take().context("the control plane does not run")?;
        child.kill().await.context("cannot kill the control plane")
    }

    /// SIGTERM, and waits for the drain.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn stop_control_plane(&mut self) -> anyhow::Result<()> {
        let child = self.serve.take().context("the control plane does not run")?;
        self.end("serve", child).await
    }

    /// Enrols a node and starts its agent, which starts its Envoy.
    ///
    /// # Errors
    /// When enrolment is refused or the agent does not start.
    pub async fn start_proxy(&mut self, node: &str, options: ProxyOptions) -> anyhow::Result<()> {
        let enrolled = self.enroll(node, &options).await?;
        let text =
            |key: &str| enrolled[key].as_str().with_context(|| format!("the answer to enroll has no {key}"));
        let (token, pin) = (text("token")?, text("pin")?);
        let envoy = options.envoy.as_ref().unwrap_or(&self.options.envoy);
        let (server, envoy) = (self.ports.enrolment.to_string(), format!("--envoy={}", envoy.display()));
        let arguments =
            ["agent", "join", token, "--server", &server, "--pin", pin, "--state-dir", node, &envoy];
        let child = self.spawn(node, &arguments)?;
        self.agents.push((node.to_owned(), child));
        Ok(())
    }

    /// Writes the binding of a node; answers what `proxy enroll` prints.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn enroll(&self, node: &str, options: &ProxyOptions) -> anyhow::Result<Value> {
        let mut arguments = vec!["proxy", "enroll", node];
        for identity in &options.identities {
            arguments.extend(["--identity", identity]);
        }
        for label in &options.labels {
            arguments.extend(["--label", label]);
        }
        if let Some(namespace) = &options.namespace {
            arguments.extend(["--namespace", namespace]);
        }
        self.command(&arguments).await
    }

    /// Starts the agent of a node that joined before.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_agent(&mut self, node: &str) -> anyhow::Result<()> {
        self.restart_agent_with(node, &[])
    }

    /// The same with more arguments.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_agent_with(&mut self, node: &str, more: &[&str]) -> anyhow::Result<()> {
        let envoy = format!("--envoy={}", self.options.envoy.display());
        let arguments = [&["agent", "run", "--state-dir", node, &envoy], more].concat();
        let child = self.spawn(node, &arguments)?;
        self.agents.push((node.to_owned(), child));
        Ok(())
    }

    /// Ends the agent of a node and its Envoy.
    ///
    /// # Errors
    /// When there is none, or it does not end in time.
    pub async fn stop_agent(&mut self, node: &str) -> anyhow::Result<()> {
        let index = self.agents.iter().position(|(name, _)| name == node).context("no such agent")?;
        let (name, child) = self.agents.remove(index);
        self.end(&name, child).await
    }

    /// Stops the agent of a node where it is; its Envoy runs on. So its files stay what they are.
    ///
    /// # Errors
    /// When there is none.
    pub fn freeze_agent(&self, node: &str) -> anyhow::Result<()> {
        self.signal_agent(node, rustix::process::Signal::STOP)
    }

    /// Lets a frozen agent go on.
    ///
    /// # Errors
    /// When there is none.
    pub fn thaw_agent(&self, node: &str) -> anyhow::Result<()> {
        self.signal_agent(node, rustix::process::Signal::CONT)
    }

    fn signal_agent(&self, node: &str, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let agent = self.agents.iter().find(|(name, _)| name == node).context("no such agent")?;
        let process = process_of(&agent.1).context("the agent has ended")?;
        rustix::process::kill_process(process, signal).context("the agent cannot be signalled")
    }

    /// Applies documents.
    ///
    /// # Errors
    /// When they are refused, with what was printed.
    pub async fn apply(&self, name: &str, text: &str) -> anyhow::Result<Value> {
        tokio::fs::write(self.path(name), text).await?;
        self.command(&["apply", "--yes", "-f", name]).await
    }

    /// Runs a command and reads its JSON.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.output(&[arguments, &["-o", "json"]].concat()).await?;
        let shown = arguments.iter().take(3).copied().collect::<Vec<_>>().join(" ");
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "credence {shown}: {}", errors.trim());
        serde_json::from_slice(&output.stdout).with_context(|| format!("credence {shown} did not print JSON"))
    }

    /// Runs a command to its end, in the folder.
    ///
    /// # Errors
    /// When it cannot be run or takes too long; not when it fails.
    pub async fn output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let output = Command::new(&self.options.credence)
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        timeout(COMMAND, output)
            .await
            .context("the command took too long")?
            .context("the command does not run")
    }

    fn spawn(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Child> {
        self.spawn_in(name, arguments, &[])
    }

    fn spawn_in(
        &self,
        name: &str,
        arguments: &[&str],
        environment: &[(&'static str, String)],
    ) -> anyhow::Result<Child> {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        Command::new(&self.options.credence)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            // A group of its own, so that nothing which it starts outlives us.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start credence {}", arguments[0]))
    }

    /// Which process has ended although it should run, with the end of its log.
    pub fn ended(&mut self) -> Option<String> {
        let serve = self.serve.iter_mut().map(|child| ("serve".to_owned(), child));
        let agents = self.agents.iter_mut().map(|(node, child)| (node.clone(), child));
        let gone = serve.chain(agents).find_map(|(name, child)| match child.try_wait() {
            Ok(Some(status)) => Some((name, status)),
            Ok(None) | Err(_) => None,
        });
        gone.map(|(name, status)| format!("{name} ended by itself ({status}):\n{}", self.tail(&name)))
    }

    /// Where the admin interface of a node's Envoy listens, once it has said so.
    #[must_use]
    pub fn admin(&self, node: &str) -> Option<SocketAddr> {
        let file = agent::envoy::Supervisor::admin_address_file(&self.path(node));
        agent::envoy::Admin::from_file(&file).map(|admin| admin.address())
    }

    /// The end of a log, for error messages.
    #[must_use]
    pub fn tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(20);
        format!("--- {name}.log\n{}\n", lines[from..].join("\n"))
    }

    /// Ends everything, proxies first.
    ///
    /// # Errors
    /// When something does not end in time.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.halt().await
    }

    /// Ends every process, proxies first; the folder stays until this is dropped.
    ///
    /// # Errors
    /// When something does not end in time.
    pub async fn halt(&mut self) -> anyhow::Result<()> {
        for (name, child) in std::mem::take(&mut self.agents) {
            self.end(&name, child).await?;
        }
        match self.serve.take() {
            Some(child) => self.end("serve", child).await,
            None => Ok(()),
        }
    }

    /// SIGTERM, so that an agent ends its Envoy and the control plane drains; SIGKILL if that takes too long.
    async fn end(&self, name: &str, mut child: Child) -> anyhow::Result<()> {
        let process = process_of(&child);
        if let Some(process) = process {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        }
        if timeout(STOP, child.wait()).await.is_err() {
            if let Some(process) = process {
                let _ = rustix::process::kill_process_group(process, rustix::process::Signal::KILL);
            }
            child.kill().await?;
            bail!("{name} did not end within {} s of SIGTERM:\n{}", STOP.as_secs(), self.tail(name));
        }
        Ok(())
    }

    /// Copies every log and public file to `target`, for looking at after a failure. Keys stay behind.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_evidence(&self, target: &Path) -> io::Result<()> {
        std::fs::create_dir_all(target)?;
        for entry in std::fs::read_dir(self.directory.path())? {
            let path = entry?.path();
            let is_public =
                path.extension().is_some_and(|end| end == "log" || end == "yaml" || end == "json");
            if let (true, Some(name)) = (is_public, path.file_name()) {
                std::fs::copy(&path, target.join(name))?;
            }
        }
        Ok(())
    }
}

impl Drop for Sandbox {
    /// Whatever still runs is killed with all that it started: an Envoy must not outlive the agent that ran it.
    fn drop(&mut self) {
        for child in self.agents.iter().map(|(_, child)| child).chain(&self.serve) {
            if let Some(process) = process_of(child) {
                let _ = rustix::process::kill_process_group(process, rustix::process::Signal::KILL);
            }
        }
    }
}

fn process_of(child: &Child) -> Option<rustix::process::Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
}
