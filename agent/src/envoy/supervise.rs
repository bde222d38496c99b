//! Keeps one program running (SHELL): starts it, starts it again when it ends, and stops it in good order.

use std::{
    ffi::OsString,
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use certs::{Clock, Timestamp};
use thiserror::Error;
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// A program that ran this long had started well: the next pause is the shortest again.
const RAN_WELL: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long an Envoy of ours lets connections go on whose listener was replaced. Short and at once, so that what an
/// operator takes away ends in seconds: Envoy's own default is ten minutes, gradually.
pub const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long a program may take to end after SIGTERM before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How much of the end of a log is looked at, in octets: more than an Envoy writes after it said why it ends.
const LOOKED_AT: u64 = 64 << 10;
/// How much of what a program said is told, in characters.
const TOLD: usize = 400;

/// Why the program is not kept running.
#[derive(Debug, Error)]
pub enum SuperviseError {
    /// It cannot be started at all.
    #[error("cannot start {}", program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its log cannot be written.
    #[error("cannot write {}", path.display())]
    Log {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What the program does. Published as `watch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Not started yet.
    Idle,
    /// It runs.
    Running {
        /// As this process.
        pid: u32,
        /// Since when.
        since: Timestamp,
    },
    /// It ended by itself, and will be started again.
    Waiting {
        /// When.
        until: Timestamp,
        /// How it ended.
        ended: String,
    },
    /// It was stopped.
    Stopped,
}

struct Preparation(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preparation")
    }
}

/// A program with its arguments and logs.
#[derive(Debug)]
pub struct Supervisor {
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    preparation: Preparation,
    clock: Arc<dyn Clock>,
    phase: watch::Sender<Phase>,
}

impl Supervisor {
    /// Any program; its standard output and error are appended to `log`.
    #[must_use]
    pub fn new(
        program: &Path,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        log: &Path,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            program: program.to_owned(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            log: log.to_owned(),
            preparation: Preparation(Box::new(|| {})),
            clock,
            phase: watch::Sender::new(Phase::Idle),
        }
    }

    /// An Envoy with the bootstrap `config`. It writes the address of its admin page to `admin-address` and its log
    /// to `envoy.log` in `directory`.
    ///
    /// Hot restart is off: one Envoy per node, and no shared memory to collide in. It drains as [`drain_arguments`]
    /// say.
    #[must_use]
    pub fn envoy(program: &Path, config: &Path, directory: &Path, clock: Arc<dyn Clock>) -> Self {
        let mut arguments: Vec<OsString> = vec!["--config-path".into(), config.into()];
        arguments.extend(["--admin-address-path".into(), Self::admin_address_file(directory).into()]);
        arguments.push("--disable-hot-restart".into());
        arguments.extend(drain_arguments().map(OsString::from));
        arguments.extend(["--log-level", "info"].map(OsString::from));
        Self::new(program, arguments, &directory.join("envoy.log"), clock)
    }

    /// Where an Envoy that was started by [`Supervisor::envoy`] writes the address of its admin page.
    #[must_use]
    pub fn admin_address_file(directory: &Path) -> PathBuf {
        directory.join("admin-address")
    }

    /// One more argument.
    #[must_use]
    pub fn with_argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// What is to be done before each start, such as making again what the program needs and somebody removed.
    #[must_use]
    pub fn with_preparation(mut self, preparation: impl Fn() + Send + Sync + 'static) -> Self {
        self.preparation = Preparation(Box::new(preparation));
        self
    }

    /// What the program does, now and after every change.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Keeps the program running until told to stop, then ends it: SIGTERM first, SIGKILL after ten seconds. If
    /// this future is dropped, the program is killed.
    ///
    /// # Errors
    /// When it cannot be started the first time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SuperviseError> {
        let mut short_runs = 0;
        let mut has_started = false;
        while !shutdown.is_cancelled() {
            (self.preparation.0)();
            let since = self.clock.now();
            let begin = self.log_len();
            let ended = match self.start() {
                Ok(mut child) => {
                    has_started = true;
                    self.phase.send_replace(Phase::Running { pid: child.id().unwrap_or_default(), since });
                    tokio::select! {
                        status = child.wait() => describe(status),
                        () = shutdown.cancelled() => {
                            stop(&mut child).await;
                            break;
                        }
                    }
                }
                Err(error) if !has_started => return Err(error),
                Err(error) => error.to_string(),
            };
            let now = self.clock.now();
            short_runs = if now.since(since) >= RAN_WELL { 1 } else { short_runs + 1 };
            let pause = pause(short_runs);
            let until = now + pause;
            let (program, log) = (self.program.display(), self.log.display());
            match self.last_words(begin) {
                Some(said) => {
                    tracing::warn!(%program, ended, said, again = %until, %log, "program ended by itself")
                }
                None => {
                    tracing::warn!(%program, ended, again = %until, %log, "program ended by itself; its log says why");
                }
            }
            self.phase.send_replace(Phase::Waiting { until, ended });
            // By the other clock too: this one may be put back.
            tokio::select! {
                _ = timeout(pause, self.clock.sleep_until(until)) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.phase.send_replace(Phase::Stopped);
        Ok(())
    }

    fn start(&self) -> Result<Child, SuperviseError> {
        let log_failed = |source| SuperviseError::Log { path: self.log.clone(), source };
        let log = self.open_log().map_err(log_failed)?;
        let error_log = log.try_clone().map_err(log_failed)?;
        Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SuperviseError::Start { program: self.program.clone(), source })
    }

    /// What a program said last, of what it wrote since its log was `begin` octets long.
    fn last_words(&self, begin: u64) -> Option<String> {
        let mut log = File::open(&self.log).ok()?;
        let len = log.metadata().ok()?.len();
        // Somebody may have emptied it meanwhile.
        let begin = if begin <= len { begin } else { 0 };
        log.seek(SeekFrom::Start(begin.max(len.saturating_sub(LOOKED_AT)))).ok()?;
        let mut end = Vec::new();
        log.take(LOOKED_AT).read_to_end(&mut end).ok()?;
        critical(&String::from_utf8_lossy(&end))
    }

    fn log_len(&self) -> u64 {
        self.log.metadata().map_or(0, |log| log.len())
    }

    fn open_log(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(&self.log)
    }
}

/// Why an Envoy ends, as it says in its log: the last critical line that is no part of a backtrace, without the time, the
/// thread, the level and the place in its source.
fn critical(log: &str) -> Option<String> {
    let mut lines = log.lines().rev();
    let line = lines.find(|line| line.contains("][critical]") && !line.contains("][critical][backtrace]"))?;
    // [time][thread][critical][component] [file:line] words
    let words = line.splitn(3, "] ").nth(2).unwrap_or(line);
    Some(words.chars().take(TOLD).collect())
}

/// How an Envoy is told its drain time ([`DRAIN_TIME`]), and to tell the control plane of it.
#[must_use]
pub fn drain_arguments() -> [String; 6] {
    let secs = DRAIN_TIME.as_secs();
    let said = serde_json::json!({ "node": { "metadata": { (xds::DRAIN_TIME_KEY): secs } } });
    let arguments = ["--drain-time-s", &secs.to_string(), "--drain-strategy", "immediate", "--config-yaml"];
    let [time, value, strategy, immediate, config] = arguments.map(str::to_owned);
    [time, value, strategy, immediate, config, said.to_string()]
}

fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// 1, 2, 4 ... 30 seconds after the first, second, third ... short run in a row.
fn pause(short_runs: u32) -> Duration {
    (FIRST_PAUSE * 2u32.saturating_pow(short_runs.saturating_sub(1).min(10))).min(LONGEST_PAUSE)
}

async fn stop(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended meanwhile; waiting for it tells.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if timeout(STOP_GRACE, child.wait()).await.is_err() {
        tracing::warn!("program does not end after SIGTERM; it is killed");
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests;
