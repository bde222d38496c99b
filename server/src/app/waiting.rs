//! Opening the store, and what is done until its key is there: the shell of [`crate::opening`].
//!
//! Whoever holds the key may be away, sealed, or not let us in. Then the process stays up: it answers that it lives and
//! is not ready, says why in its log, and tries again. As soon as something opens the store, be it another slot that was
//! put into the configuration meanwhile, it goes on as if nothing had been.

use std::{
    collections::VecDeque,
    convert::Infallible,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::sources::Readiness as ReadinessPort;
use certs::Clock;
use futures::future::BoxFuture;
use store::{OpenError, Outlook, Store, Writer};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::adapters::{self, MetricsPage};
use crate::{
    config::{Config, KekSource},
    door,
    init::open_store,
    keys::Pipes,
    metrics::{Metrics, Sample, SampleValue},
    opening::{Action, Event, Jitter, Opening},
    serve::load_config,
};

/// How often it is looked whether what opens the store was changed.
const LOOK: Duration = Duration::from_secs(2);

/// An open store, and the configuration by which it was opened.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) writer: Writer,
}

/// Why the store is not open, in a word for whoever may ask the probes.
struct Waiting(watch::Receiver<&'static str>);

impl ReadinessPort for Waiting {
    fn not_ready(&self) -> Vec<String> {
        vec![self.words()]
    }

    /// There is no other door yet to say it at. It names no address and repeats nobody's words.
    fn in_public(&self) -> Option<String> {
        Some(self.words())
    }
}

impl Waiting {
    fn words(&self) -> String {
        format!("the store waits for its key ({}), the log says more", *self.0.borrow())
    }
}

/// What opens the store as it is on the disk: the configuration, and every file that it names.
#[derive(Debug, PartialEq, Eq)]
struct Print(Vec<(PathBuf, Option<FilePrint>)>);

/// What tells a file from one that replaced it.
#[derive(Debug, PartialEq, Eq)]
struct FilePrint {
    inode: u64,
    modified: (i64, i64),
    length: u64,
}

impl FilePrint {
    async fn of(path: &Path) -> Option<Self> {
        let found = tokio::fs::metadata(path).await.ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Self { inode: found.ino(), modified, length: found.len() })
    }
}

impl Print {
    async fn of(config: &Config, path: &Path) -> Self {
        let mut files = vec![path.to_owned()];
        for source in config.kek.iter().chain(config.slots.iter().map(|slot| &slot.source)) {
            files.extend(source.secret_files().into_iter().cloned());
            if let KekSource::Transit(transit) = source {
                files.push(transit.ca_file.clone());
            }
        }
        let mut prints = Vec::with_capacity(files.len());
        for file in files {
            let print = FilePrint::of(&file).await;
            prints.push((file, print));
        }
        Self(prints)
    }

    /// Has `config` read anew, and answers what it was read from: a file that is written after it was read is another
    /// one, and nobody waits for the next try to see it.
    async fn of_reading(config: &mut Config, path: &Path, read: impl FnOnce(&mut Config, &Path)) -> Self {
        let before = FilePrint::of(path).await;
        read(config, path);
        let mut print = Self::of(config, path).await;
        if let Some((_, own)) = print.0.first_mut() {
            *own = before;
        }
        print
    }
}

/// Opens the store that `config` names, however long that takes. `None` when `shutdown` came first.
///
/// # Errors
/// When it does not open, and nobody elsewhere can change that.
pub(super) async fn open(
    mut config: Config,
    path: &Path,
    clock: Arc<dyn Clock>,
    probes: Option<&TcpListener>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Opened>> {
    let mut machine = Opening::new(clock.now());
    let why = watch::Sender::new("not asked yet");
    let mut door: BoxFuture<'_, Infallible> = Box::pin(std::future::pending());
    let mut print = Print::of(&config, path).await;
    let (mut events, mut stays) = (VecDeque::from([Event::Tick]), false);
    let mut last = None;
    loop {
        let Some(event) = events.pop_front() else {
            let look = clock.now() + LOOK;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                never = &mut door => match never {},
                () = clock.sleep_until(machine.deadline().map_or(look, |at| at.min(look))) => {}
            }
            let changed = Print::of(&config, path).await != print;
            events.push_back(if changed { Event::Changed } else { Event::Tick });
            continue;
        };
        for action in machine.step(event, clock.now()) {
            match action {
                Action::Try => {
                    print = if stays {
                        Print::of_reading(&mut config, path, read_again).await
                    } else {
                        Print::of(&config, path).await
                    };
                    // A pipe was for the first try: whoever waits for one answers no probe, and sees no end.
                    let pipes = if stays { Pipes::Left } else { Pipes::Read };
                    let opened = tokio::select! {
                        () = shutdown.cancelled() => return Ok(None),
                        never = &mut door => match never {},
                        opened = open_store(&config, clock.clone(), pipes) => opened,
                    };
                    match opened {
                        Ok((store, writer)) => {
                            machine.step(Event::Opened, clock.now());
                            if stays {
                                tracing::info!("the store is open");
                            }
                            return Ok(Some(Opened { config, store, writer }));
                        }
                        Err(error) => {
                            let (outlook, code, hint) = facts(&error);
                            if stays || outlook != Outlook::Lasting {
                                let error = format!("{error:#}");
                                tracing::warn!(error, hint, "the store waits for its key");
                            }
                            why.send_replace(code);
                            events.push_back(Event::Failed { outlook, jitter: Jitter(rand::random()) });
                            last = Some(error);
                        }
                    }
                }
                Action::Stay => {
                    stays = true;
                    if let Some(listener) = probes {
                        let address = listener.local_addr()?;
                        tracing::info!(door = "probes", %address, "listening: alive, and not ready");
                        door = Box::pin(answer(listener, why.subscribe()));
                    }
                }
                Action::End => {
                    return Err(last.unwrap_or_else(|| anyhow::anyhow!("the store was not opened")));
                }
            }
        }
    }
}

async fn answer(listener: &TcpListener, why: watch::Receiver<&'static str>) -> Infallible {
    let metrics = Arc::new(Metrics::default());
    metrics.add_source(samples);
    let probes = api::rest::probes(Arc::new(Waiting(why)), Arc::new(MetricsPage(metrics)));
    door::answer(listener, &adapters::service(probes)).await
}

fn samples() -> Vec<Sample> {
    let gauge = |name, help, labels, value| Sample { name, help, labels, value: SampleValue::Gauge(value) };
    vec![
        gauge("ready", "Whether the process is ready", vec![], 0.0),
        gauge("not_ready", "Parts that are not ready", vec![("part", "store".to_owned())], 1.0),
        gauge("store_sealed", "1 while the store waits for a key that is kept elsewhere", vec![], 1.0),
    ]
}

/// Takes what opens the store from the configuration as it is now; all else stays as at the start. One that cannot be
/// read changes nothing.
pub(super) fn read_again(config: &mut Config, path: &Path) {
    match load_config(path, config.dev) {
        Ok(now) => (config.kek, config.slots) = (now.kek, now.slots),
        Err(error) => {
            let problems: Vec<String> = match crate::serve::problem_lines(&error) {
                Some(lines) => lines.into_iter().map(|(line, _)| line).collect(),
                None => vec![format!("{error:#}")],
            };
            tracing::warn!(problems = problems.join("; "), "what the configuration named before is kept");
        }
    }
}

/// What becomes of it, a word for it, and what to do.
fn facts(error: &anyhow::Error) -> (Outlook, &'static str, String) {
    let Some(open) = error.chain().find_map(|cause| cause.downcast_ref::<OpenError>()) else {
        return (Outlook::Lasting, "no key can be read", String::new());
    };
    let hint = open.hint().unwrap_or_default();
    match open {
        OpenError::Unlock(unlock) => {
            let code = unlock.remote().first().map_or("no key opens it", |remote| remote.code);
            (unlock.outlook(), code, hint)
        }
        OpenError::Full { .. } => (Outlook::Lasting, "the disk is full", hint),
        OpenError::Directory(_)
        | OpenError::Foreign(_)
        | OpenError::Newer { .. }
        | OpenError::Copy { .. }
        | OpenError::Database { .. } => (Outlook::Lasting, "the database cannot be opened", hint),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn with_slot(path: &Path, slot: &str) {
        let text = format!("trust_domain: td\nsecrets:\n  slots:\n    - {{name: a, kek_file: {slot}}}\n");
        fs::write(path, text).unwrap();
    }

    #[tokio::test]
    async fn what_is_written_while_the_configuration_is_read_is_seen_at_the_next_look() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credence.yaml");
        with_slot(&path, "first.kek");
        let mut config = load_config(&path, false).unwrap();
        let check = async |config: &mut Config, slot: &str, meanwhile: Option<&str>| {
            let read = |config: &mut Config, path: &Path| {
                read_again(config, path);
                if let Some(slot) = meanwhile {
                    with_slot(path, slot);
                }
            };
            let print = Print::of_reading(config, &path, read).await;
            assert_eq!(config.slots[0].source, KekSource::File(folder.path().join(slot)));
            assert_eq!(Print::of(config, &path).await != print, meanwhile.is_some(), "{meanwhile:?}");
        };
        check(&mut config, "first.kek", None).await;
        check(&mut config, "first.kek", Some("another.kek")).await;
        check(&mut config, "another.kek", None).await;
        // Every file that it names counts as it is after the reading.
        fs::write(folder.path().join("another.kek"), "x").unwrap();
        check(&mut config, "another.kek", None).await;
        let print = Print::of(&config, &path).await;
        fs::write(folder.path().join("another.kek"), "xy").unwrap();
        assert_ne!(Print::of(&config, &path).await, print);
        // What was mistyped and then mended meanwhile is seen as well.
        fs::write(&path, "trust_domain: td\nsecrets: {slotz: []}\n").unwrap();
        check(&mut config, "another.kek", Some("last.kek")).await;
        check(&mut config, "last.kek", None).await;
    }
}
