//! `credence init`: everything that exists before the first start, made apart from each other and with nobody
//! else's eyes on it: the database, the key-encryption key, the operator's certificate, the configuration.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use audit::{Actor, Event, Refusals};
use ca::ports::{CertificateFilter, CertificateState, Journal};
use certs::{Certificate, Clock, Profile, SecretKey, Serial, SpkiHash, Timestamp, certificates_to_pem};
use spiffe::{Purpose, RequestId, SvidIssuer, SvidRequest, Tenant, Trust};
use store::{Cost, Finding, NewSlot, OnlyTransit, SlotSource, Store};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    client::pair,
    config::{Config, KekSource},
    keys::{self, Asking, Pipes},
    lifecycle::Parts,
    transit::PATIENT,
};

/// The slot of the key that `secrets` names without a slot.
pub const PRIMARY: &str = "primary";
/// The slot of the key that is kept elsewhere.
pub const RECOVERY: &str = "recovery";
/// The name of the first operator.
pub const FIRST_OPERATOR: &str = "admin";
/// In the admin directory: the operator's chain.
pub const OPERATOR_CERTIFICATE: &str = "operator.crt";
/// In the admin directory: the operator's key.
pub const OPERATOR_KEY: &str = "operator.key";
/// In the admin directory: what the server is verified against.
pub const OPERATOR_BUNDLE: &str = "bundle.crt";
/// In the admin directory: where the management door is.
pub const OPERATOR_ENDPOINT: &str = "endpoint";

/// What `init` made, for the screen.
#[derive(Debug, Clone)]
pub struct Made {
    /// The root.
    pub root: Certificate,
    /// The first issuing authority.
    pub issuing: Certificate,
    /// The operator's certificate.
    pub operator: Certificate,
    /// What agents pin.
    pub pin: SpkiHash,
    /// Certificates of the same operator that were issued before and are believed still, with when they end.
    pub earlier: Vec<(Serial, Timestamp)>,
}

/// Why nothing was made.
#[derive(Debug, Error)]
#[error("{what} {} exists already", path.display())]
pub struct Exists {
    /// What it is.
    pub what: &'static str,
    /// Where it is.
    pub path: PathBuf,
}

/// Makes everything, or nothing: when a step fails, what the earlier ones made is removed. `recovery` is a second
/// key file, which the configuration does not name: it is kept elsewhere.
///
/// # Errors
/// [`Exists`] when any of it is there already; else what went wrong, with the path.
pub async fn initialise(
    config: &Config,
    recovery: Option<&Path>,
    config_path: &Path,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Made> {
    let beside = Beside { recovery, only_transit: OnlyTransit::Refused, config_path: Some(config_path) };
    make_all_or_nothing(config, &beside, clock).await
}

/// The same by a configuration that is there already, with a slot for each key that it names.
///
/// # Errors
/// As [`initialise`]; what the configuration names as a key file must not exist either.
pub async fn initialise_by(
    config: &Config,
    recovery: Option<&Path>,
    only_transit: OnlyTransit,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Made> {
    make_all_or_nothing(config, &Beside { recovery, only_transit, config_path: None }, clock).await
}

/// What the configuration does not say.
struct Beside<'a> {
    /// A key file that is kept elsewhere.
    recovery: Option<&'a Path>,
    only_transit: OnlyTransit,
    /// Where the configuration is written to, unless it is there.
    config_path: Option<&'a Path>,
}

async fn make_all_or_nothing(
    config: &Config,
    beside: &Beside<'_>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Made> {
    // Before anything is looked at: somebody may take his time to hand over a secret.
    let slots = new_slots(config, beside.recovery, &clock)?;
    for (what, path) in wanted_paths(config, beside) {
        // A volume is mounted, and systemd makes a directory, before anything is in it.
        let is_free = path == config.data_dir && store::is_free(path);
        if fs::symlink_metadata(path).is_ok() && !is_free {
            return Err(Exists { what, path: path.to_owned() }.into());
        }
    }
    let mut ours = Ours::default();
    let made = make(config, beside, clock, slots, &mut ours).await;
    if made.is_err() {
        ours.remove();
    }
    made
}

/// What must not be there before.
fn wanted_paths<'a>(config: &'a Config, beside: &'a Beside<'_>) -> Vec<(&'static str, &'a Path)> {
    let mut paths: Vec<(&str, &Path)> =
        beside.config_path.map(|path| ("configuration", path)).into_iter().collect();
    paths.push(("data directory", &config.data_dir));
    let named = config.slots.iter().map(|slot| &slot.source);
    paths.extend(config.kek.iter().chain(named).filter_map(|source| match source {
        KekSource::File(path) => Some(("key-encryption key", path.as_path())),
        KekSource::PassphraseFile(_) | KekSource::Token { .. } | KekSource::Transit(_) => None,
    }));
    paths.extend(beside.recovery.map(|path| ("recovery key", path)));
    // That of an earlier store would accuse this one.
    paths.extend(config.anchor_file.as_deref().map(|path| ("anchor", path)));
    paths.push(("admin directory", &config.admin_dir));
    paths
}

/// What this process has made so far, and nobody else: that is removed when it cannot go on.
#[derive(Debug, Default)]
struct Ours {
    /// Files and directories, whole.
    paths: Vec<PathBuf>,
    /// A directory that was there before, and empty.
    emptied: Option<PathBuf>,
}

impl Ours {
    /// Best effort: what stays is named by the next attempt.
    fn remove(&self) {
        if let Some(entries) = self.emptied.as_ref().and_then(|path| fs::read_dir(path).ok()) {
            entries.flatten().for_each(|entry| remove(&entry.path()));
        }
        // What keeps others out goes last.
        self.paths.iter().rev().for_each(|path| remove(path));
    }
}

fn remove(path: &Path) {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let _ = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

fn new_slots(
    config: &Config,
    recovery: Option<&Path>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Vec<NewSlot>> {
    let slot = |name: &str, source| NewSlot { name: name.to_owned(), source, cost: Cost::default() };
    let asking = Asking { clock: clock.clone(), patience: PATIENT, pipes: Pipes::Read };
    let mut slots = Vec::new();
    if let Some(kek) = &config.kek {
        slots.push(slot(PRIMARY, keys::source(kek, &asking)?));
    }
    for named in &config.slots {
        slots.push(slot(&named.name, keys::source(&named.source, &asking)?));
    }
    slots.extend(recovery.map(|path| slot(RECOVERY, store::KekSource::File(path.to_owned()))));
    Ok(slots)
}

async fn make(
    config: &Config,
    beside: &Beside<'_>,
    clock: Arc<dyn Clock>,
    slots: Vec<NewSlot>,
    ours: &mut Ours,
) -> anyhow::Result<Made> {
    // Whoever makes this directory goes on: of two that begin together one ends here, and has made nothing. Within the
    // data directory it comes after that, which only one can make as well.
    let is_inside = config.admin_dir.starts_with(&config.data_dir);
    if !is_inside {
        claim_admin_directory(&config.admin_dir, ours)?;
    }
    // What stood in a pipe is read once only.
    let keys =
        slots.iter().map(|slot| SlotSource { name: Some(slot.name.clone()), source: slot.source.clone() });
    let keys = keys.collect();
    let files = slots.iter().filter_map(|slot| match &slot.source {
        store::KekSource::File(path) => Some(path.clone()),
        _ => None,
    });
    let files: Vec<PathBuf> = files.collect();
    let was_there = config.data_dir.exists();
    // It removes by itself what it made in vain.
    store::initialise(store::InitOptions {
        directory: config.data_dir.clone(),
        slots,
        only_transit: beside.only_transit,
        created: clock.now(),
        dev: config.dev,
    })
    .await?;
    ours.paths.extend(files);
    if was_there {
        ours.emptied = Some(config.data_dir.clone());
    } else {
        ours.paths.push(config.data_dir.clone());
    }
    if is_inside {
        claim_admin_directory(&config.admin_dir, ours)?;
    }
    let opened = open_store_by(config, clock.clone(), keys).await?;
    let made = use_store(opened, async |store: Store| {
        let deps = ca_deps(config, &store, clock.clone());
        ca::Manager::initialise(&deps, Actor::Host).await?;
        issue_operator(config, deps, FIRST_OPERATOR).await
    })
    .await?;
    if let Some(path) = beside.config_path {
        write_file(path, config.to_yaml().as_bytes())?;
    }
    Ok(made)
}

fn claim_admin_directory(path: &Path, ours: &mut Ours) -> anyhow::Result<()> {
    let cannot = |path: &Path| format!("cannot make {}", path.display());
    if let Some(parent) = path.parent() {
        make_private_directory(parent)?;
    }
    match private_directory().create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Exists { what: "admin directory", path: path.to_owned() }.into());
        }
        made => made.with_context(|| cannot(path))?,
    }
    ours.paths.push(path.to_owned());
    Ok(())
}

/// The store is not what it was, and nothing is signed by it until somebody takes it as it is.
#[derive(Debug, Error)]
#[error("STORE_ROLLBACK, nothing is signed: {0}")]
pub struct NotWhatItWas(pub Finding);

/// Issues an operator's certificate on the host, for `init` and for an operator whose certificate has expired. With a
/// reason for `accepting` it, a store that is not what it was is taken as it is first: whoever restores one may have no
/// certificate by which to say so to the server.
///
/// # Errors
/// [`NotWhatItWas`] without that reason. When the store does not open (a running server holds it) or a file cannot be
/// written.
pub async fn reissue_operator(
    config: &Config,
    name: &str,
    accepting: Option<&str>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Made> {
    with_store(config, &clock, async |store: Store| {
        let findings = store.findings().borrow().clone();
        // What lies beside the store is not overwritten: it may be another's.
        if let Some(beside) = findings.iter().find(|finding| !finding.is_about_store()) {
            return Err(NotWhatItWas(beside.clone()).into());
        }
        if let Some(reason) = accepting.filter(|_| !findings.is_empty()) {
            let words: Vec<String> = findings.iter().map(ToString::to_string).collect();
            let mut event = Event::done(clock.now(), Actor::Host, audit::Action::StoreAccept, "store");
            reason.clone_into(&mut event.reason);
            store.accept(event.with("findings", words.join("; "))).await?;
        } else if let Some(finding) = findings.first() {
            return Err(NotWhatItWas(finding.clone()).into());
        }
        let made = issue_operator(config, ca_deps(config, &store, clock.clone()), name).await?;
        let event = Event::done(clock.now(), Actor::Host, audit::Action::OperatorReissue, name);
        audit::AuditLog::append(&store, vec![event]).await?;
        let filter = CertificateFilter {
            id: Some(config.trust_domain.operator_id(name)?),
            profile: Some(Profile::Operator),
            valid_at: Some(clock.now()),
            ..CertificateFilter::default()
        };
        let rows = store.certificates(&filter).await?.into_iter();
        let rows = rows.filter(|row| row.state == CertificateState::Issued && row.revoked.is_none());
        let all = rows.map(|row| (row.intent.serial, row.intent.not_after));
        let earlier = all.filter(|(serial, _)| serial != made.operator.serial()).collect();
        Ok(Made { earlier, ..made })
    })
    .await
}

/// Opens the store with its writer running, for as long as `work` takes.
pub(crate) async fn with_store<T>(
    config: &Config,
    clock: &Arc<dyn Clock>,
    work: impl AsyncFnOnce(Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    use_store(open_store(config, clock.clone(), Pipes::Read).await?, work).await
}

async fn use_store<T>(
    (store, writer): (Store, store::Writer),
    work: impl AsyncFnOnce(Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let shutdown = CancellationToken::new();
    let mut parts = Parts::default();
    parts.spawn("store", writer.run(shutdown.clone()));
    let outcome = work(store).await;
    shutdown.cancel();
    parts.finish().await?;
    outcome
}

/// Opens the store that `config` names, with secrets from pipes or without.
///
/// # Errors
/// As the store says, with its hint.
pub(crate) async fn open_store(
    config: &Config,
    clock: Arc<dyn Clock>,
    pipes: Pipes,
) -> anyhow::Result<(Store, store::Writer)> {
    let keys = keys::sources(config, &Asking { clock: clock.clone(), patience: PATIENT, pipes })?;
    open_store_by(config, clock, keys).await
}

async fn open_store_by(
    config: &Config,
    clock: Arc<dyn Clock>,
    keys: Vec<SlotSource>,
) -> anyhow::Result<(Store, store::Writer)> {
    let options = store::OpenOptions {
        directory: config.data_dir.clone(),
        keys,
        anchor: config.anchor_file.clone(),
        clock,
        dev: config.dev,
    };
    Ok(store::open(options).await?)
}

/// What the authority works with.
pub(crate) fn ca_deps(config: &Config, store: &Store, clock: Arc<dyn Clock>) -> ca::Deps {
    let lifetimes = config.lifetimes;
    ca::Deps {
        authorities: Arc::new(store.clone()),
        journal: Arc::new(store.clone()),
        revocations: Arc::new(store.clone()),
        clock,
        refusals: Arc::new(LoggedRefusals),
        policy: ca::Policy {
            trust_domain: config.trust_domain.clone(),
            lifetimes: ca::Lifetimes {
                root: lifetimes.root,
                issuing: lifetimes.issuing,
                node: lifetimes.node,
                workload: lifetimes.leaf,
                server: lifetimes.server,
                operator: lifetimes.operator,
            },
            max_connection: config.max_connection,
            lists: config.revocation_lists,
            dev: config.dev,
        },
        epoch: store.epoch(),
    }
}

/// Before there is an audit writer, a refusal is a log line.
#[derive(Debug)]
struct LoggedRefusals;

impl Refusals for LoggedRefusals {
    fn refuse(&self, event: Event) {
        tracing::warn!(object = event.object, reason = event.reason, "refused");
    }
}

async fn issue_operator(config: &Config, deps: ca::Deps, name: &str) -> anyhow::Result<Made> {
    let records = deps.authorities.load().await?;
    let place = |place| {
        records
            .iter()
            .find(|record| record.place == place && record.state == ca::ports::AuthorityState::Active)
            .map(|record| record.certificate.clone())
            .context("there is no active authority")
    };
    let (root, issuing) = (place(ca::ports::Place::Root)?, place(ca::ports::Place::Issuing)?);
    let manager = ca::Manager::open(deps).await?;
    let handle = manager.handle();
    let shutdown = CancellationToken::new();
    let mut parts = Parts::default();
    let stop = shutdown.clone();
    parts.spawn("authority", async move {
        manager.run(Arc::new(ca::dependents::Unobserved), stop).await;
        anyhow::Ok(())
    });
    let key = SecretKey::generate(Profile::Operator.key_kind());
    let issued = handle
        .issue(SvidRequest {
            id: config.trust_domain.operator_id(name)?,
            profile: Profile::Operator,
            public_key: key.public().clone(),
            lifetime: config.lifetimes.operator,
            dns_names: vec![],
            ip_addresses: vec![],
            tenant: Tenant::default(),
            node: None,
            issuer: None,
            purpose: Purpose::Operator,
            deadline: None,
            spend: None,
            request_id: RequestId::random(),
        })
        .await;
    shutdown.cancel();
    parts.finish().await?;
    let issued = issued.context("the operator's certificate was not issued")?;
    write_operator(config, &issued.chain, &root, &key)?;
    let operator = issued.chain.leaf().clone();
    Ok(Made { pin: root.spki_hash(), root, issuing, operator, earlier: Vec::new() })
}

fn write_operator(
    config: &Config,
    chain: &certs::Chain,
    root: &Certificate,
    key: &SecretKey,
) -> anyhow::Result<()> {
    let directory = &config.admin_dir;
    make_private_directory(directory)?;
    write_file(&directory.join(OPERATOR_BUNDLE), certificates_to_pem([root.der()]).as_bytes())?;
    write_file(&directory.join(OPERATOR_ENDPOINT), endpoint(config).as_bytes())?;
    // Where there are no locks nobody else is kept out, which harms nothing unless a command comes at this moment.
    let _alone = pair::in_turn_in(directory).ok();
    // Last, and together: a pair that works stays until the next one is whole.
    pair::put(directory, key, &chain.to_pem())
        .with_context(|| format!("cannot write into {}", directory.display()))
}

/// What the file says that tells commands on this host where management listens.
fn endpoint(config: &Config) -> String {
    format!("{}\n", std::net::SocketAddr::new(reachable(config.rest.address), config.rest.port))
}

/// Brings that file up to date after the address was changed in the configuration. Where there is no operator's
/// directory, nothing is made.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn refresh_endpoint(config: &Config) -> anyhow::Result<()> {
    let path = config.admin_dir.join(OPERATOR_ENDPOINT);
    match fs::read_to_string(&path) {
        Ok(found) if found != endpoint(config) => write_file(&path, endpoint(config).as_bytes()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Keeps the operator's bundle on this host in step with what is trusted, until `shutdown`: a command that is run
/// after a root was replaced must find the server that it knows. Whoever operates from another host is told beside
/// the answers.
pub(crate) async fn follow_trust(
    directory: PathBuf,
    mut trust: watch::Receiver<Arc<Trust>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let path = directory.join(OPERATOR_BUNDLE);
    loop {
        let bundle = trust.borrow_and_update().own().clone();
        let pem = certificates_to_pem(bundle.authorities().iter().map(Certificate::der));
        if fs::read_to_string(&path).is_ok_and(|held| held != pem)
            && let Err(error) = write_file(&path, pem.as_bytes())
        {
            tracing::warn!(error = format!("{error:#}"), "the operator's bundle on this host is not in step");
        }
        tokio::select! {
            changed = trust.changed() => if changed.is_err() { return Ok(()) },
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Where this host reaches a listener on `address`: the wildcard address is no destination.
fn reachable(address: std::net::IpAddr) -> std::net::IpAddr {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn private_directory() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    let made = private_directory().recursive(true).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))
}

/// Writes a file of mode 0600 by renaming a complete one into place.
fn write_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    agent::files::write_private(path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{clock::SystemClock, config};

    fn read(directory: &Path, secrets: &str) -> Config {
        let text = format!("trust_domain: td.example\nsecrets:\n{secrets}");
        config::parse("test", &text, &[], directory, false).unwrap()
    }

    #[tokio::test]
    async fn a_store_is_made_with_a_slot_for_each_key_that_a_configuration_names() {
        let directory = tempfile::tempdir().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"a passphrase that is long enough\n").unwrap();
        drop(writer);
        let pipe = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let slots = format!(
            "  slots:\n    - {{name: word, passphrase_file: {pipe}}}\n    - {{name: spare, kek_file: spare.kek}}\n"
        );
        let config = read(directory.path(), &slots);
        // As a volume is mounted.
        fs::create_dir(&config.data_dir).unwrap();
        initialise_by(&config, None, OnlyTransit::Refused, Arc::new(SystemClock)).await.unwrap();
        assert!(!directory.path().join("credence.yaml").exists());
        let words = directory.path().join("words");
        fs::write(&words, "a passphrase that is long enough\n").unwrap();
        for source in ["{name: word, passphrase_file: words}", "{name: spare, kek_file: spare.kek}"] {
            let config = read(directory.path(), &format!("  slots:\n    - {source}\n"));
            let opened = reissue_operator(&config, FIRST_OPERATOR, None, Arc::new(SystemClock)).await;
            let made = opened.unwrap_or_else(|error| panic!("{source}: {error:#}"));
            assert!(!made.earlier.is_empty(), "the first one is believed still");
            assert!(made.earlier.iter().all(|(serial, _)| serial != made.operator.serial()));
        }
    }

    /// One waits for its passphrase while another makes everything: it ends, and takes nothing of that away.
    #[tokio::test]
    async fn of_two_that_begin_together_one_makes_everything_and_the_other_removes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("word");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let slow = read(
            directory.path(),
            "  slots:\n    - {name: spare, kek_file: spare.kek}\n    - {name: word, passphrase_file: word}\n",
        );
        let waiting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let made = initialise_by(&slow, None, OnlyTransit::Refused, Arc::new(SystemClock));
            runtime.block_on(made).map(drop).unwrap_err().to_string()
        });
        let quick = read(directory.path(), "  slots:\n    - {name: spare, kek_file: spare.kek}\n");
        let made = initialise_by(&quick, None, OnlyTransit::Refused, Arc::new(SystemClock)).await.unwrap();
        fs::write(&fifo, "a passphrase that is long enough\n").unwrap();
        let error = waiting.join().unwrap();
        assert!(error.ends_with("exists already"), "{error}");
        let again = reissue_operator(&quick, FIRST_OPERATOR, None, Arc::new(SystemClock)).await.unwrap();
        assert_eq!(again.pin, made.pin);
    }

    #[tokio::test]
    async fn a_reissue_that_cannot_be_written_leaves_the_pair_that_works() {
        let directory = tempfile::tempdir().unwrap();
        let config = read(directory.path(), "  kek_file: one.kek\n");
        initialise_by(&config, None, OnlyTransit::Refused, Arc::new(SystemClock)).await.unwrap();
        let pair = || {
            [OPERATOR_KEY, OPERATOR_CERTIFICATE].map(|name| fs::read(config.admin_dir.join(name)).unwrap())
        };
        let before = pair();
        // The key is written and the certificate is not, as on a disk that is full between them.
        let in_the_way = config.admin_dir.join("operator.crt.next");
        fs::create_dir(&in_the_way).unwrap();
        let reissue = async || reissue_operator(&config, FIRST_OPERATOR, None, Arc::new(SystemClock)).await;
        let error = format!("{:#}", reissue().await.unwrap_err());
        assert!(error.starts_with(&format!("cannot write into {}", config.admin_dir.display())), "{error}");
        assert!(pair() == before, "half of it was replaced");
        fs::remove_dir(in_the_way).unwrap();
        reissue().await.unwrap();
        assert!(pair().iter().zip(&before).all(|(now, before)| now != before));
    }

    #[tokio::test]
    async fn the_admin_directory_may_lie_in_that_of_the_data() {
        let directory = tempfile::tempdir().unwrap();
        let config = read(directory.path(), "  kek_file: one.kek\n  admin_dir: credence-data/admin\n");
        initialise_by(&config, None, OnlyTransit::Refused, Arc::new(SystemClock)).await.unwrap();
        assert!(config.admin_dir.join(OPERATOR_KEY).exists());
    }

    #[tokio::test]
    async fn an_anchor_of_an_earlier_store_stops_init_and_a_lock_that_was_left_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let text = "trust_domain: td.example\nstorage: {type: sqlite, path: data, anchor_file: anchor}\n";
        let config = config::parse("test", text, &[], directory.path(), false).unwrap();
        fs::create_dir(&config.data_dir).unwrap();
        fs::write(config.data_dir.join("credence.lock"), "").unwrap();
        let anchor = config.anchor_file.clone().unwrap();
        fs::write(&anchor, "of another").unwrap();
        let made = async || initialise_by(&config, None, OnlyTransit::Refused, Arc::new(SystemClock)).await;
        assert_eq!(made().await.unwrap_err().downcast::<Exists>().unwrap().path, anchor);
        fs::remove_file(&anchor).unwrap();
        made().await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_is_older_than_its_anchor_gets_a_certificate_only_where_somebody_takes_it_so() {
        let directory = tempfile::tempdir().unwrap();
        let text = "trust_domain: td.example\nstorage: {type: sqlite, path: data, anchor_file: anchor}\n";
        let config = config::parse("test", text, &[], directory.path(), false).unwrap();
        initialise_by(&config, None, OnlyTransit::Refused, Arc::new(SystemClock)).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let id = with_store(&config, &clock, async |store| Ok(store.id())).await.unwrap();
        let newer = serde_json::json!({"store": id.to_string(), "sequence": 900, "hash": "ab".repeat(32), "at": clock.now()});
        fs::write(config.anchor_file.as_ref().unwrap(), newer.to_string()).unwrap();
        let reissue = async |why| reissue_operator(&config, FIRST_OPERATOR, why, Arc::new(SystemClock)).await;
        let error = reissue(None).await.unwrap_err();
        assert!(error.is::<NotWhatItWas>(), "{error:#}");
        let made = reissue(Some("restored")).await.unwrap();
        assert_eq!(made.earlier.len(), 1);
        reissue(None).await.expect("accepted once is accepted");
    }

    #[tokio::test]
    async fn what_a_configuration_names_and_is_there_already_stays_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let (kek, spare) = (directory.path().join("one.kek"), directory.path().join("spare.kek"));
        fs::write(&spare, "somebody's").unwrap();
        let config = read(
            directory.path(),
            "  kek_file: one.kek\n  slots:\n    - {name: spare, kek_file: spare.kek}\n",
        );
        fs::create_dir(&config.data_dir).unwrap();
        let made = async |config: &Config| {
            initialise_by(config, None, OnlyTransit::Refused, Arc::new(SystemClock)).await.unwrap_err()
        };
        let error = made(&config).await;
        assert_eq!(error.downcast::<Exists>().unwrap().path, spare);
        let twice =
            read(directory.path(), "  kek_file: one.kek\n  slots:\n    - {name: primary, kek_file: b.kek}\n");
        let error = made(&twice).await;
        assert!(error.to_string().contains("two key slots are called primary"), "{error:#}");
        assert_eq!(fs::read_to_string(&spare).unwrap(), "somebody's");
        assert!(!kek.exists());
        // The configuration is written last: by then all the rest is there.
        let config = read(directory.path(), "  kek_file: one.kek\n");
        for was_there in [true, false] {
            if !was_there {
                fs::remove_dir(&config.data_dir).unwrap();
            }
            let nowhere = directory.path().join("nowhere/credence.yaml");
            let error = initialise(&config, None, &nowhere, Arc::new(SystemClock)).await.unwrap_err();
            assert!(error.to_string().contains("nowhere"), "{error:#}");
            assert!(!kek.exists() && !config.admin_dir.exists());
            assert_eq!(config.data_dir.exists(), was_there);
            let entries = fs::read_dir(&config.data_dir).map_or(0, Iterator::count);
            assert_eq!(entries, 0, "it was there, and empty");
        }
    }
}
