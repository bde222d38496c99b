//! `credence doctor`: looks at an installation from the host it stands on, and says what to do about what it finds.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use api::{calls::still_revoked, wire};
use certs::{Certificate, Clock, Timestamp, certificates_from_pem, format_duration};
use serde::Serialize;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    cli::ServerArgs,
    client::Client,
    clock::SystemClock,
    config::{Config, KekSource, Listen},
    envoys,
    hooks::{User, unusable, unusable_for},
    http_get::get,
    init::{OPERATOR_CERTIFICATE, OPERATOR_KEY, with_store},
    key_slots::{self, Held},
    keys::{self, Asking, Pipes},
    output::Exit,
    serve::load_config,
    transit::BRISK,
};

const KEY_SLOTS: &str = "key slots";
/// Where less is free, in octets, a store may be unable to take its next change.
const NO_ROOM: u64 = 4 << 20;
/// Where less is free, in octets, somebody should make room: the write-ahead log alone takes 16 MiB and more, and a copy
/// before an upgrade as much as the store.
const LITTLE_ROOM: u64 = 512 << 20;

/// How to come by an operator's certificate where none is believed any more.
const REISSUE: &str = "on this host, with the server stopped: credence init --reissue-admin";

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work, or is not safe.
    Problem,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub subject: &'static str,
    /// How it ended.
    pub finding: Finding,
    /// What was found.
    pub detail: String,
    /// What to do; empty if nothing.
    pub hint: String,
    /// Whether what was looked for is not there at all.
    #[serde(skip)]
    is_absent: bool,
}

/// What is known of whether the keys at hand open the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// They opened it.
    Opened,
    /// They did not, or it is not known which key did.
    NotOpened,
    /// It was left alone.
    NotTried,
}

fn ok(subject: &'static str, detail: impl Into<String>) -> Check {
    Check { subject, finding: Finding::Ok, detail: detail.into(), hint: String::new(), is_absent: false }
}

fn warning(subject: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { subject, finding: Finding::Warning, detail: detail.into(), hint: hint.into(), is_absent: false }
}

fn problem(subject: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { subject, finding: Finding::Problem, detail: detail.into(), hint: hint.into(), is_absent: false }
}

/// A problem with something that is not there.
fn absent(subject: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Check {
    Check { is_absent: true, ..problem(subject, detail, hint) }
}

/// Runs every check that can be run.
pub async fn run(config_path: &Path, dev: bool) -> Vec<Check> {
    let config = match load_config(config_path, dev) {
        Ok(config) => config,
        Err(error) => {
            let hint = "run `credence check` on the file for every problem, or `credence init` to make one";
            return vec![problem("configuration", format!("{error:#}"), hint)];
        }
    };
    let mut checks = vec![ok("configuration", format!("trust domain {}", config.trust_domain))];
    // A bare connection to the management port would be a refusal in the audit: ask the probes where there are any.
    let running = reaches(config.probes.unwrap_or(config.rest)).await;
    let (store, opening) = if running {
        // It may have been opened by a key that has gone since: nothing proves that another does.
        (served(&config).await, Opening::NotOpened)
    } else {
        let start = if dev { "start it: credence serve --dev" } else { "start it: credence serve" };
        let mut store = vec![warning("server", "does not run", start)];
        store.extend(ports(&config).await);
        let (found, opening) = integrity(&config).await;
        store.extend(found);
        (store, opening)
    };
    checks.push(data_directory(&config));
    checks.extend(room(&config));
    let keys = keys(&config);
    let has_other = keys.iter().any(|key| !key.is_absent && key.finding != Finding::Problem);
    checks.extend(keys.into_iter().map(|key| if has_other { spared(key, opening) } else { key }));
    checks.push(anchor(&config, |path| fs::metadata(path).ok().map(|found| found.dev())));
    checks.extend(operator(&config));
    checks.extend(store);
    checks.extend(programs(&config));
    checks.push(envoy());
    checks
}

fn data_directory(config: &Config) -> Check {
    let (subject, path) = ("data directory", &config.data_dir);
    match fs::metadata(path) {
        Err(error) => problem(subject, format!("{}: {error}", path.display()), "run `credence init`"),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => problem(
            subject,
            format!("{} is open to others (mode {:o})", path.display(), found.permissions().mode() & 0o777),
            format!("chmod 700 {}", path.display()),
        ),
        Ok(_) => ok(subject, path.display().to_string()),
    }
}

/// How much the store can grow.
fn room(config: &Config) -> Option<Check> {
    // What is not there was said.
    let found = rustix::fs::statvfs(&config.data_dir).ok()?;
    let is_without_files = found.f_files > 0 && found.f_favail == 0;
    Some(judge_room(&config.data_dir, found.f_bavail.saturating_mul(found.f_frsize), is_without_files))
}

/// By the octets that are free, and whether no file can be made any more.
fn judge_room(directory: &Path, free: u64, is_without_files: bool) -> Check {
    let subject = "disk";
    let hint = format!(
        "make room on the disk of {}: nothing is signed where it cannot be kept",
        directory.display()
    );
    match free {
        _ if is_without_files => problem(subject, "no file can be made any more (no inode is free)", hint),
        0..NO_ROOM => problem(subject, format!("full: {} KiB are free", free >> 10), hint),
        NO_ROOM..LITTLE_ROOM => warning(subject, format!("{} MiB are free", free >> 20), hint),
        _ => ok(subject, format!("{} MiB are free", free >> 20)),
    }
}

/// What the server runs by itself: nobody would learn before it is needed that it cannot be.
fn programs(config: &Config) -> Vec<Check> {
    let subject = "commands";
    let all: Vec<_> = config.programs().collect();
    let server = fs::metadata(&config.data_dir).ok().map(|found| User::owner_of(&found));
    let why = |program| server.map_or_else(|| unusable(program), |server| unusable_for(program, server));
    let bad = all.iter().filter_map(|(of, program)| Some(format!("{of}: {}", why(program)?)));
    let bad: Vec<_> = bad
        .map(|detail| {
            problem(
                subject,
                detail,
                "name a program that the server's user may execute, by its absolute path",
            )
        })
        .collect();
    match (all.len(), bad.is_empty()) {
        (0, _) => Vec::new(),
        (count, true) => vec![ok(subject, format!("{count} that the server runs are there"))],
        (_, false) => bad,
    }
}

/// A key that is not there, where another one is: nothing is lost yet if that one opens the store, and where it was not
/// tried nobody can say that anything is.
fn spared(check: Check, opening: Opening) -> Check {
    if check.finding != Finding::Problem || !check.is_absent {
        return check;
    }
    let why = match opening {
        Opening::Opened => "not needed while another key opens the store",
        Opening::NotTried => "nobody has tried whether another key opens the store",
        Opening::NotOpened => return check,
    };
    let hint = format!("{why}; {}", check.hint);
    Check { finding: Finding::Warning, hint, ..check }
}

/// Every key that the configuration names.
fn keys(config: &Config) -> Vec<Check> {
    let sources = config.kek.iter().chain(config.slots.iter().map(|slot| &slot.source));
    sources
        .map(|source| match source {
            KekSource::File(path) => key_file(config, path),
            KekSource::PassphraseFile(path) => passphrase(path),
            KekSource::Token { module, token, key, .. } => token_key(module, token, key),
            KekSource::Transit(transit) => ok(
                "key-encryption key",
                format!(
                    "key {}/{} of Vault at {}; it is not asked here, a running server says of it in credence kek status",
                    transit.mount,
                    transit.key,
                    transit.addresses.as_slice()[0]
                ),
            ),
        })
        .collect()
}

/// Whether the anchor is where it helps.
fn anchor(config: &Config, volume: impl Fn(&Path) -> Option<u64>) -> Check {
    let folder = config.anchor_file.as_deref().and_then(Path::parent);
    match &config.anchor_file {
        None => warning(
            "anchor",
            "none: an older copy of the whole store would not be noticed",
            "name a file on another volume in storage.anchor_file",
        ),
        Some(path) if folder.and_then(&volume).is_none() => problem(
            "anchor",
            format!("the folder of {} is not there: it cannot be written", path.display()),
            "make the folder, on another volume than the database",
        ),
        // It is made by the server: until then its folder says where it will be.
        Some(path) if volume(path).or(folder.and_then(&volume)) == volume(&config.data_dir) => warning(
            "anchor",
            format!("{} is on the same volume as the database", path.display()),
            "whoever puts the volume back puts back both: keep it on another one",
        ),
        Some(path) => ok("anchor", path.display().to_string()),
    }
}

/// Whether the file of a passphrase is there and is nobody else's. What a process is handed at its start only it can see.
fn passphrase(path: &Path) -> Check {
    let subject = "key-encryption key";
    if keys::is_handed_over(path) {
        let found = format!("a passphrase from {}, which only the server is handed", path.display());
        return ok(subject, found);
    }
    match fs::metadata(path) {
        Err(error) => Check {
            is_absent: true,
            ..warning(
                subject,
                format!("a passphrase from {}: {error}", path.display()),
                "without it its slot does not open the store: restore the file",
            )
        },
        Ok(found) if !found.is_file() => problem(
            subject,
            format!("the passphrase cannot be read from {}: it is no file", path.display()),
            "name the file that holds it in passphrase_file",
        ),
        Ok(_) if keys::is_open_to_others(path) => problem(
            subject,
            format!("the passphrase in {} is open to others", path.display()),
            format!("chmod 600 {}", path.display()),
        ),
        Ok(_) => ok(subject, format!("a passphrase from {}", path.display())),
    }
}

/// Whether the module of a token is there. Who tries a PIN too often locks the token, so it is not tried.
fn token_key(module: &Path, token: &str, key: &str) -> Check {
    let subject = "key-encryption key";
    match fs::metadata(module) {
        Err(error) => absent(
            subject,
            format!("key {key} on token {token}: module {}: {error}", module.display()),
            "install the module, or correct secrets.slots",
        ),
        Ok(_) => ok(subject, format!("key {key} on token {token}; its PIN is not tried here")),
    }
}

fn key_file(config: &Config, path: &Path) -> Check {
    let subject = "key-encryption key";
    match fs::symlink_metadata(path) {
        Err(error) => absent(
            subject,
            format!("{}: {error}", path.display()),
            "without it the store cannot be opened: restore it from where you keep it",
        ),
        Ok(found) if !found.is_file() => {
            problem(subject, format!("{} is not a regular file", path.display()), "put the key itself there")
        }
        Ok(found) if found.permissions().mode() & 0o377 != 0 => problem(
            subject,
            format!("{} is open to others", path.display()),
            format!("chmod 400 {}", path.display()),
        ),
        Ok(found) if found.len() != 32 => {
            problem(subject, format!("{} has {} octets, not 32", path.display(), found.len()), "restore it")
        }
        Ok(found) => {
            let data = fs::metadata(&config.data_dir).ok();
            if data.is_some_and(|data| data.dev() == found.dev()) {
                return warning(
                    subject,
                    format!("{} is on the same volume as the database", path.display()),
                    "whoever copies the volume has both: keep the key on another one in production",
                );
            }
            ok(subject, path.display().to_string())
        }
    }
}

fn operator(config: &Config) -> Vec<Check> {
    let (subject, path) = ("operator certificate", config.admin_dir.join(OPERATOR_CERTIFICATE));
    let leaf = fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|pem| certificates_from_pem(&pem).map_err(|error| error.to_string()))
        .and_then(|ders| {
            let first = ders.first().ok_or("it is empty")?;
            Certificate::from_der(first).map_err(|error| error.to_string())
        });
    let leaf = match leaf {
        Ok(leaf) => leaf,
        Err(error) => return vec![problem(subject, format!("{}: {error}", path.display()), REISSUE)],
    };
    let now = SystemClock.now();
    let mut checks = Vec::new();
    if leaf.not_before() > now {
        checks.push(problem(
            "clock",
            format!(
                "this host's clock says {now}, before its own operator certificate begins ({})",
                leaf.not_before()
            ),
            "set the clock",
        ));
    } else {
        checks.push(ok("clock", now.to_string()));
    }
    checks.push(judge_operator(&leaf, now));
    let key = config.admin_dir.join(OPERATOR_KEY);
    if fs::metadata(&key).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
        let hint = format!("chmod 600 {}", key.display());
        checks.push(problem("operator key", format!("{} is open to others", key.display()), hint));
    }
    checks
}

/// By how much of its life is left. Commands renew it past half of its life; these here ask the server nothing.
fn judge_operator(leaf: &Certificate, now: Timestamp) -> Check {
    let subject = "operator certificate";
    let (life, left) = (leaf.not_after().since(leaf.not_before()), leaf.not_after().since(now));
    let ends = || format!("ends in {}", format_duration(left));
    if left.is_zero() {
        problem(subject, format!("ended {}", leaf.not_after()), REISSUE)
    } else if left < life / 5 {
        warning(
            subject,
            ends(),
            "any command of its owner that reaches the server renews it: credence status",
        )
    } else {
        ok(subject, ends())
    }
}

async fn reaches(listen: Listen) -> bool {
    let address =
        if listen.address.is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { listen.address };
    let connect = TcpStream::connect(SocketAddr::new(address, listen.port));
    timeout(Duration::from_secs(2), connect).await.is_ok_and(|connected| connected.is_ok())
}

/// How the server stands that runs, and its key slots where it is ours.
async fn served(config: &Config) -> Vec<Check> {
    let Some(probes) = config.probes else { return vec![ok("server", "runs; its probes are switched off")] };
    let check = match get(SocketAddr::new(probes.address, probes.port), "/readyz").await {
        Ok((status, _)) if status.is_success() => return answers(config).await,
        // While its store waits for a key, it says so here and has no other door.
        Ok((_, body)) if body.contains("store waits for its key") => {
            problem("server", format!("runs and is {}", body.trim()), "its log says what to do")
        }
        Ok(_) => unready(config).await,
        Err(error) => warning(
            "server",
            format!("something answers on the port of the probes, and not as they do: {error}"),
            "another program may hold the port",
        ),
    };
    vec![check]
}

/// Why what answers there is not ready: the probes tell nobody.
async fn unready(config: &Config) -> Check {
    let args = ServerArgs { server: None, admin_dir: config.admin_dir.clone() };
    let seen = match Client::read(&args) {
        Ok(client) => client.look::<wire::Status>("/status").await,
        Err(unread) => Err(unread),
    };
    match seen {
        Ok(status) if status.not_ready.is_empty() => {
            problem("server", "runs, and was not ready a moment ago", "try again")
        }
        Ok(status) => problem(
            "server",
            format!("runs and is not ready: {}", status.not_ready.join("; ")),
            "its log says more",
        ),
        Err(failure) => {
            let found = format!("runs and is not ready; it was not asked why: {}", failure.message);
            let hints = [failure.hint.as_str(), "its log says why it is not ready"];
            let hints: Vec<&str> = hints.into_iter().filter(|hint| !hint.is_empty()).collect();
            problem("server", found, hints.join("; "))
        }
    }
}

/// Whether what is ready there is the server of this configuration: a probe says nothing of that.
async fn answers(config: &Config) -> Vec<Check> {
    let args = ServerArgs { server: None, admin_dir: config.admin_dir.clone() };
    let recognised = match Client::read(&args) {
        Ok(client) => client
            .recognise()
            .await
            .map(|()| client)
            .map_err(|failure| (failure.exit == Exit::Refused, failure)),
        Err(unread) => Err((false, unread)),
    };
    match recognised {
        Ok(client) => {
            let mut checks = vec![ok("server", "runs and is ready")];
            if let Ok(status) = client.look::<wire::Status>("/status").await {
                checks.extend(status.still_revoked.as_ref().and_then(|revoked| believed(config, revoked)));
            }
            match client.look::<wire::Sealing>("/kek").await {
                Ok(sealing) => {
                    checks.extend(slots(config, &sealing.slots.iter().map(Held::from).collect::<Vec<_>>()));
                }
                Err(failure) => {
                    let found = format!("the server was not asked for them: {}", failure.message);
                    checks.push(warning(KEY_SLOTS, found, failure.hint));
                }
            }
            checks
        }
        Err((true, failure)) => vec![problem(
            "server",
            format!("something is ready there, and is not ours: {}", failure.message),
            "another Credence may hold the ports: stop it, or configure others",
        )],
        Err((false, failure)) => {
            let found =
                format!("runs and is ready; whether it is ours was not found out: {}", failure.message);
            vec![warning("server", found, failure.hint)]
        }
    }
}

/// Revoked certificates that this configuration has proxies believe: it says so before the start that does it.
fn believed(config: &Config, revoked: &wire::StillRevoked) -> Option<Check> {
    config.revocation_lists.is_none().then(|| {
        warning(
            "revocation lists",
            format!("off in the configuration, by which proxies believe {revoked}"),
            "ca.revocation_lists: true turns them on; credence identity block ID --now has every certificate of an \
             identity refused",
        )
    })
}

/// What the configuration names to open the store, held against the slots that it has.
fn slots(config: &Config, held: &[Held]) -> Vec<Check> {
    let idle = key_slots::idle(config, held, keys::is_handed_over).into_iter().map(|found| {
        // What to do stands behind the colon, as "credence kek status" has it in one line.
        let (found, hint) =
            found.rsplit_once(": ").map_or((found.as_str(), ""), |(found, hint)| (found, hint));
        warning(KEY_SLOTS, found, hint)
    });
    let unnamed = key_slots::unnamed(config, held, keys::is_handed_over).into_iter().map(|slot| Check {
        hint: format!("where nobody has its key any more: credence kek remove-slot {}", slot.name),
        ..ok(
            KEY_SLOTS,
            format!(
                "{} ({}) is not named in the configuration, which is right for a key that is kept elsewhere",
                slot.name, slot.kind
            ),
        )
    });
    idle.chain(unnamed).collect()
}

/// How the slots stand by the keys at hand. Tokens and Vaults are left alone: who tries a PIN too often locks the token.
async fn held(config: &Config, clock: &Arc<dyn Clock>, store: &store::Store) -> Vec<Held> {
    let is_at_hand = |source: &KekSource| matches!(source, KekSource::File(_) | KekSource::PassphraseFile(_));
    let near = Config {
        kek: config.kek.clone().filter(is_at_hand),
        slots: config.slots.iter().filter(|slot| is_at_hand(&slot.source)).cloned().collect(),
        ..config.clone()
    };
    let asking = Asking { clock: clock.clone(), patience: BRISK, pipes: Pipes::Left };
    let sources = keys::sources(&near, &asking).unwrap_or_default();
    store.slot_status(&sources).await.unwrap_or_default().iter().map(Held::from).collect()
}

async fn ports(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    for address in config.own_addresses() {
        if let Err(error) = tokio::net::TcpListener::bind(address).await {
            checks.push(problem(
                "port",
                format!("{address}: {error}"),
                "stop what holds it, or configure another",
            ));
        }
    }
    if checks.is_empty() {
        checks.push(ok("ports", "free"));
    }
    checks
}

/// With nobody else at it, the store is opened and read through: pages, audit chain, sealed rows. Answers too whether
/// it could be opened. One of an earlier version is not tried: whoever opens it migrates it, and who looks has not decided yet
/// that the version before will not be needed.
async fn integrity(config: &Config) -> (Vec<Check>, Opening) {
    let subject = "store";
    let bad = |error: anyhow::Error| {
        let failure = crate::host::failed(&error);
        (vec![problem(subject, failure.message, failure.hint)], Opening::NotOpened)
    };
    match store::schema_of(&config.data_dir).await {
        Err(error) => return bad(error.into()),
        Ok(schema) if schema.is_older() => {
            let detail = format!(
                "of an earlier version, and not read through: it has schema {}, this version has {}",
                schema.found, schema.known
            );
            let hint =
                "credence serve copies it and migrates it; the version before reads it through as it is";
            return (vec![warning(subject, detail, hint)], Opening::NotTried);
        }
        Ok(_) => {}
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let looked = with_store(config, &clock, async |store: store::Store| {
        let records = ca::ports::Authorities::load(&store).await?;
        let signs = records.iter().any(|record| {
            record.place == ca::ports::Place::Issuing && record.state == ca::ports::AuthorityState::Active
        });
        let revoked = still_revoked(&store, &store, clock.now()).await.ok().flatten();
        Ok((store.integrity().await, held(config, &clock, &store).await, signs, revoked))
    })
    .await;
    let (found, held, signs, revoked) = match looked {
        Err(error) => return bad(error),
        Ok(looked) => looked,
    };
    let found = match found {
        Ok(found) if found.is_sound() && !signs => problem(
            subject,
            "it has no authority that signs",
            "restore the database from a backup; what an `init` that was interrupted has left is to be removed",
        ),
        Ok(found) if found.is_sound() && found.slots < 2 => warning(
            subject,
            format!("sound; {} audit rows in an unbroken chain; one key slot only", found.audit_rows),
            "a lost key would be the loss of the store: credence kek add-slot recovery",
        ),
        Ok(found) if found.is_sound() => {
            ok(subject, format!("sound; {} audit rows in an unbroken chain", found.audit_rows))
        }
        Ok(found) => problem(
            subject,
            found.problems().join("; "),
            found.rollback.first().map_or("restore the database from a backup", store::Finding::hint),
        ),
        Err(error) => problem(subject, error.to_string(), "restore the database from a backup"),
    };
    let mut checks = vec![found];
    checks.extend(slots(config, &held));
    checks.extend(revoked.as_ref().and_then(|revoked| believed(config, revoked)));
    (checks, Opening::Opened)
}

fn envoy() -> Check {
    match envoys::find(None) {
        Some(path) => ok("envoy", path.display().to_string()),
        None => warning("envoy", "not on the PATH of this host", "only hosts of proxies need one"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, init};

    /// An installation in `directory`, as `credence init` makes it.
    async fn installed(directory: &Path) -> Config {
        let config = config::parse("test", "trust_domain: td.example", &[], directory, true).unwrap();
        let path = directory.join("credence.yaml");
        init::initialise(&config, None, &path, Arc::new(SystemClock)).await.unwrap();
        config
    }

    /// Makes a store one of the schema before, and answers which that is.
    fn put_back(database: &Path) -> u32 {
        let mut bytes = fs::read(database).unwrap();
        // Where SQLite keeps `user_version`.
        let schema = u32::from_be_bytes(bytes[60..64].try_into().unwrap()) - 1;
        bytes[60..64].copy_from_slice(&schema.to_be_bytes());
        fs::write(database, &bytes).unwrap();
        schema
    }

    #[test]
    fn a_disk_is_judged_before_it_is_full() {
        for (free, is_without_files, finding, words) in [
            (u64::MAX, false, Finding::Ok, "MiB are free"),
            (LITTLE_ROOM, false, Finding::Ok, "512 MiB are free"),
            (LITTLE_ROOM - 1, false, Finding::Warning, "511 MiB are free"),
            (NO_ROOM - 1, false, Finding::Problem, "full: 4095 KiB"),
            (0, false, Finding::Problem, "full: 0 KiB"),
            (u64::MAX, true, Finding::Problem, "no inode"),
        ] {
            let check = judge_room(Path::new("/var/lib/credence"), free, is_without_files);
            assert_eq!(check.finding, finding, "{free}");
            assert!(check.detail.contains(words), "{free}: {}", check.detail);
            assert_eq!(check.hint.contains("/var/lib/credence"), finding != Finding::Ok);
        }
    }

    #[test]
    fn an_anchor_is_looked_at_where_it_will_be() {
        let check = |path: &str| {
            let text =
                format!("trust_domain: td\nstorage: {{type: sqlite, path: data, anchor_file: {path:?}}}");
            let config = config::parse("test", &text, &[], Path::new("/srv"), true).unwrap();
            // On which volume what is there lies.
            anchor(&config, |path| match path.to_str().unwrap() {
                "/srv" | "/srv/data" | "/other/linked" => Some(1),
                "/other" => Some(2),
                _ => None,
            })
        };
        let nowhere = check("/srv/nowhere/anchor");
        assert!(
            nowhere.finding == Finding::Problem && nowhere.hint.contains("make the folder"),
            "{nowhere:?}"
        );
        for beside in ["/srv/anchor", "/srv/data/anchor", "/other/linked"] {
            let found = check(beside);
            assert!(
                found.finding == Finding::Warning && found.detail.contains("same volume"),
                "{beside}: {found:?}"
            );
        }
        assert_eq!(check("/other/anchor").finding, Finding::Ok);
    }

    #[test]
    fn nobody_is_sent_to_stop_the_server_for_a_certificate_that_a_command_renews() {
        use certs::{KeyKind, Profile, SecretKey, Serial, SoftwareSigner, Template, Validity, sign};
        let (now, life) = (Timestamp::from_unix_secs(1_800_000_000), Duration::from_secs(100_000));
        let key = SecretKey::generate(KeyKind::P256);
        let template = Template {
            profile: Profile::Operator,
            serial: Serial::random(),
            validity: Validity::starting(now, life, None),
            public_key: key.public().clone(),
            subject: None,
            uri: "spiffe://td/credence/operator/admin".to_owned(),
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
        };
        let leaf = sign(&template, None, &SoftwareSigner::try_new(&key).unwrap()).unwrap();
        let check = |after: u64, finding, hint: &str| {
            let found = judge_operator(&leaf, now + Duration::from_secs(after));
            assert!(found.finding == finding && found.hint.contains(hint), "{after}: {found:?}");
            assert_eq!(found.hint.contains("stopped"), finding == Finding::Problem, "{after}: {found:?}");
        };
        check(1000, Finding::Ok, "");
        check(90_000, Finding::Warning, "credence status");
        check(100_001, Finding::Problem, "credence init --reissue-admin");
    }

    #[tokio::test]
    async fn reads_through_a_store_that_nobody_serves() {
        let directory = tempfile::tempdir().unwrap();
        let config = installed(directory.path()).await;
        let (found, opening) = timeout(Duration::from_secs(30), integrity(&config)).await.expect("it ends");
        assert!(opening == Opening::Opened && found.len() == 1, "{found:?}");
        let found = &found[0];
        assert_eq!(found.finding, Finding::Warning, "{found:?}");
        assert!(found.detail.contains("unbroken") && found.detail.contains("one key slot only"), "{found:?}");
    }

    #[tokio::test]
    async fn a_store_of_an_earlier_version_is_looked_at_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let config = installed(directory.path()).await;
        let database = config.data_dir.join("credence.db");
        let schema = put_back(&database) + 1;
        let bytes = fs::read(&database).unwrap();
        let files = || fs::read_dir(&config.data_dir).unwrap().map(|file| file.unwrap().file_name());
        let before: std::collections::BTreeSet<_> = files().collect();
        let (found, opening) = timeout(Duration::from_secs(30), integrity(&config)).await.expect("it ends");
        assert!(
            opening == Opening::NotTried && found.len() == 1 && found[0].finding == Finding::Warning,
            "{found:?}"
        );
        let words = format!("has schema {}, this version has {schema}", schema - 1);
        assert!(found[0].detail.contains(&words), "{found:?}");
        assert!(
            fs::read(&database).unwrap() == bytes
                && files().collect::<std::collections::BTreeSet<_>>() == before
        );
    }

    #[tokio::test]
    async fn key_that_is_not_there_is_a_problem_only_where_no_other_opens_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credence.yaml");
        let recovery = directory.path().join("recovery.kek");
        let config = config::parse("test", "trust_domain: td.example", &[], directory.path(), true).unwrap();
        init::initialise(&config, Some(&recovery), &path, Arc::new(SystemClock)).await.unwrap();
        let slot =
            config::SlotConfig { name: init::RECOVERY.into(), source: KekSource::File(recovery.clone()) };
        let both = Config { slots: vec![slot], ..config.clone() };
        let ports = [both.grpc, both.enrolment, both.rest].map(|listen| Listen { port: 0, ..listen });
        let [grpc, enrolment, rest] = ports;
        let both = Config { grpc, enrolment, rest, probes: None, ..both };
        fs::write(&path, both.to_yaml()).unwrap();
        let keys = async || -> Vec<Check> {
            let checks = timeout(Duration::from_secs(30), run(&path, true)).await.expect("it ends");
            checks.into_iter().filter(|check| check.subject == "key-encryption key").collect()
        };
        let Some(KekSource::File(kek)) = &config.kek else { unreachable!("a file by default") };
        fs::remove_file(kek).unwrap();
        let found = keys().await;
        assert_eq!(found[0].finding, Finding::Warning, "{found:?}");
        assert!(found[0].hint.contains("not needed while another key opens the store"), "{found:?}");
        // Before an upgrade the store is left alone: a key that is kept elsewhere is nothing to restore for that.
        put_back(&config.data_dir.join("credence.db"));
        let found = keys().await;
        assert_eq!(found[0].finding, Finding::Warning, "{found:?}");
        assert!(found[0].hint.contains("nobody has tried whether another key opens the store"), "{found:?}");
        fs::remove_file(&recovery).unwrap();
        let found = keys().await;
        assert!(found.iter().all(|check| check.finding == Finding::Problem), "{found:?}");
    }

    #[tokio::test]
    async fn says_before_a_start_without_lists_which_revoked_certificates_are_believed_by_it() {
        let directory = tempfile::tempdir().unwrap();
        let config = installed(directory.path()).await;
        let revoked = wire::StillRevoked { certificates: 1, first_ends: "T".into(), last_ends: "T".into() };
        let found = believed(&config, &revoked).unwrap();
        assert_eq!(found.finding, Finding::Warning);
        assert!(found.detail.ends_with("believe 1 revoked certificate, which ends at T"), "{found:?}");
        let lists = Config { revocation_lists: Some(Duration::from_secs(604_800)), ..config.clone() };
        assert_eq!(believed(&lists, &revoked), None);
        // Nothing was revoked in a store that was just made.
        let (found, _) = timeout(Duration::from_secs(30), integrity(&config)).await.expect("it ends");
        assert!(found.iter().all(|check| check.subject != "revocation lists"), "{found:?}");
    }

    #[tokio::test]
    async fn key_files_are_held_against_the_slots_of_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let recovery = directory.path().join("recovery.kek");
        let config = config::parse("test", "trust_domain: td.example", &[], directory.path(), true).unwrap();
        let path = directory.path().join("credence.yaml");
        init::initialise(&config, Some(&recovery), &path, Arc::new(SystemClock)).await.unwrap();
        let said = async |config: &Config| {
            let (found, _) = timeout(Duration::from_secs(30), integrity(config)).await.expect("it ends");
            found.into_iter().filter(|check| check.subject == KEY_SLOTS).collect::<Vec<_>>()
        };
        let found = said(&config).await;
        assert_eq!((found.len(), found[0].finding), (1, Finding::Ok), "{found:?}");
        assert!(found[0].hint.ends_with("credence kek remove-slot recovery"), "{found:?}");
        // Keys that were exchanged by mistake, and a slot that was never added.
        let kek = |name: &str, path: &Path| config::SlotConfig {
            name: name.into(),
            source: KekSource::File(path.to_owned()),
        };
        let Some(KekSource::File(primary)) = &config.kek else { unreachable!("a file by default") };
        let slots = vec![kek(init::RECOVERY, primary), kek("usb", &recovery)];
        let found = said(&Config { slots, ..config.clone() }).await;
        assert!(found.iter().all(|check| check.finding == Finding::Warning), "{found:?}");
        let hints: Vec<&str> = found.iter().map(|check| check.hint.as_str()).collect();
        assert_eq!(hints.len(), 2, "{found:?}");
        assert!(hints[0].starts_with("put the right key back"), "{found:?}");
        assert!(hints[1].starts_with("credence kek add-slot usb"), "{found:?}");
    }

    #[tokio::test]
    async fn commands_on_this_host_follow_a_changed_address() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = installed(directory.path()).await;
        config.rest.port = 4711;
        init::refresh_endpoint(&config).unwrap();
        let endpoint = fs::read_to_string(config.admin_dir.join(init::OPERATOR_ENDPOINT)).unwrap();
        assert_eq!(endpoint, "127.0.0.1:4711\n");
        // Where there is no operator's directory, none is made.
        fs::remove_dir_all(&config.admin_dir).unwrap();
        init::refresh_endpoint(&config).unwrap();
        assert!(!config.admin_dir.exists());
    }
}
