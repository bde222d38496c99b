//! `credence serve`: the control plane in this process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::{
    app,
    clock::TrustedClock,
    config::{self, Config, ConfigProblem},
    lifecycle::watch_signals,
    logging,
};

/// How many descriptors we ask for: one for each connection, and some to spare.
const DESCRIPTORS: u64 = 65_536;

/// A configuration that was refused, with everything that is wrong with it.
#[derive(Debug, Error)]
#[error("{} is not a valid configuration", path.display())]
pub struct BadConfig {
    /// The file.
    pub path: PathBuf,
    /// All problems.
    pub problems: Vec<ConfigProblem>,
    /// What to do about all of them.
    pub advice: String,
}

/// Reads the configuration file with the environment over it.
///
/// # Errors
/// When there is no such file, or [`BadConfig`].
pub fn load_config(path: &Path, dev: bool) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let overlay = config::environment(std::env::vars_os());
    let base = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    config::parse(&path.display().to_string(), &text, &overlay, base, dev).map_err(|problems| {
        let advice = "mend what is said above".to_owned();
        BadConfig { path: path.to_owned(), problems, advice }.into()
    })
}

/// Runs the control plane until SIGTERM or SIGINT. With `accept_clock` the system's clock is right although records
/// of the store are newer.
///
/// # Errors
/// When it cannot start, or a part of it fails.
pub async fn run(path: &Path, dev: bool, accept_clock: bool) -> anyhow::Result<()> {
    let config = load_config(path, dev)?;
    logging::start(&config.log_level, config.log_format)?;
    harden();
    if dev {
        tracing::warn!("development mode: short lives are allowed, loopback only; not for production");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trust_domain = %config.trust_domain,
        data_dir = %config.data_dir.display(),
        leaf_lifetime = certs::format_duration(config.lifetimes.leaf),
        "starting"
    );
    let shutdown = CancellationToken::new();
    let clock = Arc::new(TrustedClock::begin());
    let (served, watched) = tokio::join!(
        ending(app::run(config, path.to_owned(), clock, accept_clock, shutdown.clone()), &shutdown),
        watch_signals(shutdown.clone())
    );
    served.and(watched)?;
    tracing::info!("stopped");
    Ok(())
}

/// However the server ends, the watch for signals ends too.
async fn ending(
    server: impl Future<Output = anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let outcome = server.await;
    shutdown.cancel();
    outcome
}

/// No core dumps, which would hold keys, and enough descriptors.
pub(crate) fn harden() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if setrlimit(Resource::Core, none).is_err() {
        tracing::warn!("core dumps could not be switched off");
    }
    if rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).is_err() {
        tracing::warn!("other processes of this user may read our memory");
    }
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

/// The problems of a refused configuration as lines for people.
#[must_use]
pub fn problem_lines(error: &anyhow::Error) -> Option<Vec<(String, Option<String>)>> {
    let bad = error.downcast_ref::<BadConfig>()?;
    Some(bad.problems.iter().map(|problem| (problem.to_string(), problem.hint.clone())).collect())
}

/// Runs an async body on a runtime of its own.
///
/// # Errors
/// As `body`, or when there is no runtime.
pub fn block_on<T>(body: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow!(error))
        .context("cannot start the runtime")?
        .block_on(body)
}
