//! The program as suites drive it: a process, and its standard input and output.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command as Process},
};

use crate::protocol::{Command, NodeReport, Part, Start, Summary, Tally, Until, Wait, Waited};

/// A running fleet; it ends when this is dropped.
#[derive(Debug)]
pub struct Fleet {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    last_id: u64,
}

impl Fleet {
    /// The program that stands beside this one, or beside the tests of a workspace.
    ///
    /// # Errors
    /// When it was not built.
    pub fn program() -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe().context("this program's own file")?;
        let folders = own.ancestors().skip(1).take(2);
        let found = folders.map(|folder| folder.join("credence-fleet")).find(|path| path.exists());
        found.with_context(|| {
            format!(
                "there is no credence-fleet beside {}: run `cargo build -p credence-fleet`",
                own.display()
            )
        })
    }

    /// Starts the program, without nodes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(program: &Path) -> anyhow::Result<Self> {
        let mut child = Process::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let input = child.stdin.take().context("its standard input")?;
        let output = child.stdout.take().context("its standard output")?;
        Ok(Self { child, input, output: BufReader::new(output).lines(), last_id: 0 })
    }

    /// The process id, for whoever measures it.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Errors
    /// What the program says against it, or that it is gone.
    pub async fn call<A: DeserializeOwned>(&mut self, command: &Command) -> anyhow::Result<A> {
        self.last_id += 1;
        let mut line = serde_json::to_value(command)?;
        line["id"] = self.last_id.into();
        self.input.write_all(format!("{line}\n").as_bytes()).await.context("the fleet is gone")?;
        self.input.flush().await?;
        loop {
            let answer = self.output.next_line().await?.ok_or_else(|| anyhow!("the fleet is gone"))?;
            let mut answer: Value = serde_json::from_str(&answer)?;
            // An earlier call that was given up.
            if answer["id"] != self.last_id && !answer["id"].is_null() {
                continue;
            }
            if let Some(error) = answer["error"].as_str() {
                bail!("fleet: {error}");
            }
            return Ok(serde_json::from_value(answer["ok"].take())?);
        }
    }

    /// Adds nodes.
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn start(&mut self, start: Start) -> anyhow::Result<()> {
        self.call::<Value>(&Command::Start(start)).await.map(drop)
    }

    /// Waits until something holds for all nodes.
    ///
    /// # Errors
    /// As [`Fleet::call`]. That it does not hold in time is no error.
    pub async fn wait(&mut self, until: Until, within: Duration) -> anyhow::Result<Waited> {
        self.wait_for(Wait {
            until,
            nodes: Vec::new(),
            within_ms: u64::try_from(within.as_millis())?,
            since_ms: None,
        })
        .await
    }

    /// Waits for some nodes, or counts times from another moment.
    ///
    /// # Errors
    /// As [`Fleet::wait`].
    pub async fn wait_for(&mut self, wait: Wait) -> anyhow::Result<Waited> {
        self.call(&Command::Wait(wait)).await
    }

    /// Stops a part of some nodes' behaviour; of all when none is named.
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn freeze(&mut self, nodes: &[&str], what: Part) -> anyhow::Result<()> {
        self.call::<Value>(&Command::Freeze { nodes: owned(nodes), what }).await.map(drop)
    }

    /// Undoes [`Fleet::freeze`].
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn thaw(&mut self, nodes: &[&str]) -> anyhow::Result<()> {
        self.call::<Value>(&Command::Thaw { nodes: owned(nodes) }).await.map(drop)
    }

    /// Disconnects some nodes; all when none is named.
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn stop(&mut self, nodes: &[&str]) -> anyhow::Result<()> {
        self.call::<Value>(&Command::Stop { nodes: owned(nodes) }).await.map(drop)
    }

    /// Lets them connect again.
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn resume(&mut self, nodes: &[&str]) -> anyhow::Result<()> {
        self.call::<Value>(&Command::Resume { nodes: owned(nodes) }).await.map(drop)
    }

    /// Renews their own certificates at once.
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn renew(&mut self, nodes: &[&str]) -> anyhow::Result<()> {
        self.call::<Value>(&Command::Renew { nodes: owned(nodes) }).await.map(drop)
    }

    /// Everything about some nodes; about all when none is named.
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn report(&mut self, nodes: &[&str]) -> anyhow::Result<BTreeMap<String, NodeReport>> {
        self.call(&Command::Report { nodes: owned(nodes) }).await
    }

    /// All nodes in few words.
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn summary(&mut self) -> anyhow::Result<Summary> {
        self.call(&Command::Summary).await
    }

    /// How many nodes hold what.
    ///
    /// # Errors
    /// As [`Fleet::call`].
    pub async fn tally(&mut self, of: Tally) -> anyhow::Result<BTreeMap<String, usize>> {
        self.call(&Command::Tally { of }).await
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
