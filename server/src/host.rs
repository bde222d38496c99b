//! The commands that run on a host instead of asking a server: `init`, `serve`, `doctor`, `demo`, `agent`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use agent::{
    Agent, EnvoyFiles, EnvoyOptions, JoinRequest, Membership, Pin, Progress, Question, ServerAddress,
    StateDir, StateError, Step, envoy::Supervisor,
};
use certs::{Clock, format_duration, parse_duration};
use spiffe::attestation::JoinToken;
use store::OnlyTransit;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        AgentCommand, Command, DEFAULT_CONFIG, DemoArgs, DoctorArgs, Format, InitArgs, JoinArgs, RunArgs,
        ServeArgs,
    },
    clock::SystemClock,
    commands,
    config::{self, Config, KekSource},
    demo::{self, DemoOptions, MAX_DURATION, MIN_DURATION},
    doctor::{self, Finding},
    envoys,
    init::{self, Exists, FIRST_OPERATOR, Made, NotWhatItWas, PRIMARY},
    keys::SecretError,
    lifecycle::{Parts, watch_signals},
    logging,
    output::{self, Exit, Failure},
    serve::{self, BadConfig},
};

/// How long `agent join` keeps trying when the server does not answer, and `agent run --server` when it is busy.
const JOIN_PATIENCE: Duration = Duration::from_secs(120);

/// Carries out what was typed; a failure is said in `format`.
#[must_use]
pub fn main(command: Command, format: Format) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(Exit::Failed, format!("cannot start the runtime: {error}"), "");
            failure.print(format);
            return failure.exit.into();
        }
    };
    match runtime.block_on(run(command)).and_then(output::ended) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(format);
            failure.exit.into()
        }
    }
}

/// Says in `format` what is wrong with what was typed, or the help that was asked for.
#[must_use]
pub fn misread(error: &clap::Error, format: Format) -> ExitCode {
    if !error.use_stderr() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        let _ = error.print();
    } else if format != Format::Table {
        mistyped(&error.to_string()).print(format);
    } else {
        // Every error of ours begins alike, so that scripts and people find it.
        output::note(format!("credence: {}", error.render()).trim_end());
    }
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
}

/// What is wrong with what was typed, without the usage that people read below it.
fn mistyped(text: &str) -> Failure {
    let wrong = text.split("\n\n").next().unwrap_or_default();
    let wrong: Vec<&str> = wrong.trim_start_matches("error: ").split_whitespace().collect();
    Failure::usage(wrong.join(" "), "--help says what the command takes")
}

async fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Demo(args) => demo(args).await,
        Command::Init(args) => make(&args).await,
        Command::Serve(args) => Box::pin(serve(args)).await,
        Command::Doctor(args) => examine(&args).await,
        Command::Agent(AgentCommand::Join(args)) => Box::pin(join(args)).await,
        Command::Agent(AgentCommand::Run(args)) => {
            logging::start("info", None).map_err(|error| failed(&error))?;
            let state = StateDir::open_joined(&args.run.state_dir).map_err(unusable)?;
            let open = match &args.server {
                Some(server) => Box::pin(follow(server, &state, &args.run)).await?,
                None => None,
            };
            Box::pin(stay(state, &args.run, open)).await
        }
        Command::Completion(args) => {
            output::say_stored(args.shell.completion().trim_end());
            Ok(Exit::Ok)
        }
        Command::Operate(command) => commands::run(command).await,
    }
}

/// An error of ours for people: every cause, and the hint of whichever cause has one.
pub(crate) fn failed(error: &anyhow::Error) -> Failure {
    if let Some(bad) = error.downcast_ref::<BadConfig>() {
        for problem in &bad.problems {
            output::note(&format!("credence: error: {problem}"));
            if let Some(hint) = &problem.hint {
                output::note(&format!("credence: hint: {hint}"));
            }
        }
        return Failure::new(Exit::Usage, format!("{} is refused", bad.path.display()), bad.advice.clone());
    }
    let hint = error.chain().find_map(hint_of).unwrap_or_default();
    let exit = if error.chain().any(|cause| cause.is::<Exists>()) { Exit::Conflict } else { Exit::Failed };
    Failure::new(exit, format!("{error:#}"), hint)
}

fn hint_of(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<store::OpenError>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<store::InitError>() {
        return error.hint();
    }
    if let Some(error) = cause.downcast_ref::<SecretError>() {
        return Some(error.hint());
    }
    if let Some(NotWhatItWas(finding)) = cause.downcast_ref::<NotWhatItWas>() {
        let here = if finding.is_about_store() { "; here by --accept-store REASON" } else { "" };
        return Some(format!("{}{here}", finding.hint()));
    }
    if let Some(exists) = cause.downcast_ref::<Exists>() {
        let otherwise = match exists.what {
            "configuration" => {
                format!(", or take it as it is: credence init --from {}", exists.path.display())
            }
            _ => String::new(),
        };
        return Some(format!(
            "`credence init` never overwrites: name other paths, or remove what is no longer needed{otherwise}"
        ));
    }
    let io = cause.downcast_ref::<std::io::Error>()?;
    match io.kind() {
        std::io::ErrorKind::AddrInUse => {
            Some("another program listens there: stop it, or configure another port".into())
        }
        std::io::ErrorKind::PermissionDenied => Some("run it as the user who owns the files".into()),
        std::io::ErrorKind::NotFound => {
            Some("`credence init` makes the files, `--config` names the configuration".into())
        }
        _ => None,
    }
}

async fn make(args: &InitArgs) -> Result<Exit, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if args.reissue_admin {
        let config = serve::load_config(&args.config, args.dev).map_err(|error| failed(&error))?;
        let accepting = args.accept_store.as_deref();
        if let Some(reason) = accepting {
            api::calls::check_reason(reason)
                .map_err(|error| Failure::usage(format!("--accept-store: {error}"), "say why in one line"))?;
            if reason.trim().is_empty() {
                return Err(Failure::usage("--accept-store: the reason is empty", "say why in one line"));
            }
        }
        let made = Box::pin(init::reissue_operator(&config, FIRST_OPERATOR, accepting, clock)).await;
        let made = made.map_err(|error| failed(&error))?;
        output::say(&format!(
            "operator certificate issued again, in {}; it ends {}",
            config.admin_dir.display(),
            made.operator.not_after()
        ));
        for (serial, end) in &made.earlier {
            output::say(&format!(
                "one of before is believed until {end}; if somebody else may have it: credence cert revoke {serial}"
            ));
        }
        return Ok(Exit::Ok);
    }
    let recovery = args.recovery_kek_file.as_deref();
    let (config, path, made) = match &args.from {
        None => {
            let config = new_config(args)?;
            let made = Box::pin(init::initialise(&config, recovery, &args.config, clock)).await;
            (config, &args.config, made)
        }
        Some(from) => {
            let config = serve::load_config(from, args.dev).map_err(|error| failed(&error))?;
            let only_transit =
                if args.insecure_single_slot { OnlyTransit::Accepted } else { OnlyTransit::Refused };
            let made = Box::pin(init::initialise_by(&config, recovery, only_transit, clock)).await;
            (config, from, made)
        }
    };
    let made = made.map_err(|error| failed(&error))?;
    output::say(&summary(recovery, path, &config, &made));
    Ok(Exit::Ok)
}

fn new_config(args: &InitArgs) -> Result<Config, Failure> {
    let domain = args.trust_domain.as_deref().unwrap_or_default();
    let here = std::env::current_dir().map_err(|error| failed(&anyhow::anyhow!(error)))?;
    let quoted = serde_json::to_string(domain).unwrap_or_default();
    let parsed = config::parse("--trust-domain", &format!("trust_domain: {quoted}"), &[], &here, false);
    let mut config = parsed.map_err(|problems| {
        let problem = problems.into_iter().next();
        let (message, hint) = problem.map(|problem| (problem.message, problem.hint)).unwrap_or_default();
        Failure::usage(message, hint.unwrap_or_default())
    })?;
    config.data_dir = here.join(plain(&args.data_dir));
    config.kek = Some(KekSource::File(here.join(plain(&args.kek_file))));
    config.admin_dir = here.join(plain(&args.admin_dir));
    Ok(config)
}

/// `./x` and `x` are one path; the configuration says it the short way.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}

/// What opens the store from now on, a line for each.
fn keys_made(recovery: Option<&Path>, config: &Config) -> Vec<(&'static str, String)> {
    let named = config.slots.iter().map(|slot| (slot.name.as_str(), &slot.source));
    let all: Vec<_> = config.kek.iter().map(|kek| (PRIMARY, kek)).chain(named).collect();
    let is_alone = all.len() == 1;
    let line = |(name, source): (&str, &KekSource)| {
        let what = match source {
            KekSource::File(path) if is_alone => {
                return format!("{}: keep a copy elsewhere, nothing opens without it", path.display());
            }
            KekSource::File(path) => format!("key file {}", path.display()),
            KekSource::PassphraseFile(path) => format!("the passphrase in {}", path.display()),
            KekSource::Token { token, key, .. } => format!("key {key} on the token {token}"),
            KekSource::Transit(transit) => {
                format!("key {} of Vault's Transit engine {}", transit.key, transit.mount)
            }
        };
        format!("slot {name}: {what}")
    };
    let titles = ["key-encryption key"].into_iter().chain(std::iter::repeat(""));
    let mut rows: Vec<_> = titles.zip(all.into_iter().map(line)).collect();
    match recovery {
        Some(path) => rows.push((
            "recovery key",
            format!("{}: take it off this host, it opens the store when the other is lost", path.display()),
        )),
        None if is_alone => {
            let words = "none; \"credence init --recovery-kek-file\" or \"credence kek add-slot\" makes one";
            rows.push(("recovery key", words.to_owned()));
        }
        None => {}
    }
    rows
}

fn summary(recovery: Option<&Path>, path: &Path, config: &Config, made: &Made) -> String {
    let rotation = made.issuing.not_before() + made.issuing.not_after().since(made.issuing.not_before()) / 2;
    let mut rows = vec![
        ("trust domain", config.trust_domain.to_string()),
        (
            "root",
            format!(
                "ends {}, key sealed in the data directory; credence ca root export --offline moves it out",
                made.root.not_after()
            ),
        ),
        ("", format!("pin sha256:{}", made.pin)),
        (
            "issuing authority",
            format!("ends {}, replaced by itself about {rotation}", made.issuing.not_after()),
        ),
        ("operator", format!("{}, ends {}", config.admin_dir.display(), made.operator.not_after())),
        ("data directory", config.data_dir.display().to_string()),
    ];
    rows.extend(keys_made(recovery, config));
    rows.push(("configuration", path.display().to_string()));
    let rows = rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]);
    let table = output::table(&["made", ""], rows);
    let option = if path == Path::new(DEFAULT_CONFIG) {
        String::new()
    } else {
        format!(" --config {}", path.display())
    };
    format!("{table}\n\nnext:\n  credence serve{option}\n  credence doctor{option}")
}

async fn serve(args: ServeArgs) -> Result<Exit, Failure> {
    let path = args.config.path();
    if !is_throwaway(&args) {
        return serve::run(path, args.dev, args.accept_clock)
            .await
            .map(|()| Exit::Ok)
            .map_err(|error| failed(&error));
    }
    // Nothing is configured: an authority and a store that end with the process.
    let directory = tempfile::Builder::new().prefix("credence-dev-").tempdir();
    let directory = directory.map_err(|error| failed(&anyhow::anyhow!(error)))?;
    let overlay = config::environment(std::env::vars_os());
    let lasting = ["CREDENCE_STORAGE", "CREDENCE_SECRETS"];
    if let Some((name, _)) =
        overlay.iter().find(|(name, _)| lasting.iter().any(|section| name.starts_with(section)))
    {
        return Err(Failure::usage(
            format!("{name} names what stays, and everything here ends with this process"),
            "unset it, or name a configuration: credence serve --dev --config FILE",
        ));
    }
    let config = config::parse("--dev", "trust_domain: dev.test", &overlay, directory.path(), true);
    let config = config.map_err(|problems| {
        let hint = problems[0].hint.clone().unwrap_or_default();
        Failure::usage(problems[0].to_string(), hint)
    })?;
    let path = directory.path().join("credence.yaml");
    Box::pin(init::initialise(&config, None, &path, Arc::new(SystemClock)))
        .await
        .map_err(|error| failed(&error))?;
    output::note(&format!(
        "credence: throwaway authority for {}; it ends with this process\n\
         credence: in another terminal: export CREDENCE_ADMIN_DIR={}",
        config.trust_domain,
        config.admin_dir.display()
    ));
    serve::run(&path, true, false).await.map(|()| Exit::Ok).map_err(|error| failed(&error))
}

/// Whether nothing is configured, which only development takes. A configuration that is named must be there, also by
/// the name of the one that is looked for where none is named.
fn is_throwaway(args: &ServeArgs) -> bool {
    args.dev && args.config.config.is_none() && !args.config.path().exists()
}

async fn examine(args: &DoctorArgs) -> Result<Exit, Failure> {
    let checks = doctor::run(args.config.path(), args.dev).await;
    let worst = checks.iter().any(|check| check.finding == Finding::Problem);
    output::show(args.output, &checks, |checks| {
        let rows = checks.iter().map(|check| {
            let word = match check.finding {
                Finding::Ok => "ok",
                Finding::Warning => "look",
                Finding::Problem => "PROBLEM",
            };
            vec![word.to_owned(), check.subject.to_owned(), check.detail.clone(), check.hint.clone()]
        });
        output::table(&["", "checked", "found", "what to do"], rows)
    })?;
    Ok(if worst { Exit::Failed } else { Exit::Ok })
}

async fn demo(args: DemoArgs) -> Result<Exit, Failure> {
    let duration = demo_duration(&args.duration)?;
    if let Some(path) = &args.json {
        // Known now, and not after the minute that the demo takes.
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("cannot write {}: {error}", path.display()),
                "--json names the file that the report is written to",
            )
        })?;
    }
    let options = DemoOptions { duration, json: args.json, envoy: args.envoy };
    match Box::pin(demo::run(options)).await {
        Ok(true) => Ok(Exit::Ok),
        Ok(false) => Ok(Exit::Failed),
        Err(error) => Err(failed(&error)),
    }
}

/// How long the load is kept up: long enough to show everything, and not for ever.
fn demo_duration(text: &str) -> Result<Duration, Failure> {
    let duration = parse_duration(text).ok_or_else(|| {
        Failure::usage(
            format!("--duration {text:?} is not a duration"),
            "write a number and s or m, such as 60s",
        )
    })?;
    if (MIN_DURATION..=MAX_DURATION).contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (format_duration(MIN_DURATION), format_duration(MAX_DURATION));
    let message = match duration < MIN_DURATION {
        true => format!("the demo needs at least {least} to show everything"),
        false => format!("the demo runs for {most} at most"),
    };
    Err(Failure::usage(message, format!("write --duration with {least} to {most}")))
}

struct Told;

impl Progress for Told {
    fn say(&self, step: Step) {
        output::note(&format!("credence: {step}"));
    }
}

fn unusable(error: StateError) -> Failure {
    Failure::new(Exit::Failed, agent::with_causes(&error), error.hint().unwrap_or_default())
}

async fn join(args: JoinArgs) -> Result<Exit, Failure> {
    let usage = |message: String, hint: &str| Failure::usage(message, hint);
    let again = "copy the whole line that `credence proxy enroll` printed";
    let request = JoinRequest {
        token: JoinToken::parse(&args.token)
            .map_err(|error| usage(format!("the join token: {error}"), again))?,
        server: ServerAddress::parse(&args.server).map_err(|error| usage(error.to_string(), again))?,
        pin: Pin::parse(&args.pin).map_err(|error| usage(error.to_string(), again))?,
        envoy: envoy_options(&args.run),
        patience: JOIN_PATIENCE,
    };
    logging::start("info", None).map_err(|error| failed(&error))?;
    let state = StateDir::open(&args.run.state_dir).map_err(unusable)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    agent::join(&request, &state, &clock, &Told).await.map_err(|error| {
        let directory = args.run.state_dir.display();
        let held = state.load().ok().filter(|(_, held)| held.chain.leaf().not_after() > clock.now());
        let held = held.map(|(node, _)| {
            let node = node.node_id;
            format!("{directory} holds node {node} already, which goes on by credence agent run --state-dir {directory}")
        });
        let hint: Vec<String> = error.hint().into_iter().chain(held).collect();
        let hint = hint.join("; ");
        Failure::new(Exit::Failed, agent::with_causes(&error), hint)
    })?;
    let bootstrap = state.envoy_config();
    if args.once {
        output::note(&format!(
            "credence: joined; next: credence agent run --state-dir {}",
            args.run.state_dir.display()
        ));
        return Ok(Exit::Ok);
    }
    if args.run.envoy.is_none() {
        let [time, secs, strategy, immediate, config, json] = agent::envoy::drain_arguments();
        output::note(&format!(
            "credence: next, beside this: envoy -c {} {time} {secs} {strategy} {immediate} {config} '{json}'",
            bootstrap.display()
        ));
    }
    Box::pin(stay(state, &args.run, None)).await
}

/// Goes where the server is now. Where that is kept already, everything starts with what is kept, and the question is
/// left open: only discovery may be elsewhere, and a server that is away or busy is waited for like any other.
async fn follow(server: &str, state: &StateDir, args: &RunArgs) -> Result<Option<Question>, Failure> {
    let server = ServerAddress::parse(server)
        .map_err(|error| Failure::usage(error.to_string(), "--server takes the address of enrolment"))?;
    let (membership, credentials) = state.load().map_err(unusable)?;
    let before = membership.enrolment();
    if before == server {
        // What was kept by half, or written over since, is put right without asking.
        if let Err(error) = state.envoy_files(&membership, envoy_options(args)).relocate() {
            not_followed(&server, &error, error.hint());
        }
        return Ok(Some(Question { membership, credentials, server, patience: JOIN_PATIENCE }));
    }
    let question = Question { membership, credentials, server, patience: JOIN_PATIENCE };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let next = Box::pin(question.ask(&clock, &Told)).await.map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("node stays with its server at {before}: {}", agent::with_causes(&error)),
            error.hint().unwrap_or_default(),
        )
    })?;
    state.envoy_files(&next, envoy_options(args)).relocate().map_err(|error| {
        let server = &question.server;
        Failure::new(
            Exit::Failed,
            format!("not everything of the move to {server} was kept: {}", agent::with_causes(&error)),
            error.hint().unwrap_or_else(|| "mend that, and give the same command again".to_owned()),
        )
    })?;
    followed(&next, state, args);
    Ok(None)
}

fn followed(next: &Membership, state: &StateDir, args: &RunArgs) {
    let (server, discovery) = (next.enrolment(), &next.xds_server);
    output::note(&format!("credence: server is at {server} now, its discovery at {discovery}"));
    if args.envoy.is_none() {
        let bootstrap = state.envoy_config();
        output::note(&format!("credence: next, start Envoy again: it reads {} once", bootstrap.display()));
    }
}

fn not_followed(server: &ServerAddress, error: &(dyn std::error::Error + 'static), hint: Option<String>) {
    let error = agent::with_causes(error);
    tracing::warn!(%server, error, hint, "whether the server has moved was not found out, or not kept; the agent goes on with what it has");
}

/// Keeps what the server says if its discovery is elsewhere, and says who the node is then. Else there is nothing to be
/// done, and whoever waits for it waits for ever.
async fn moved(question: Option<Question>, files: EnvoyFiles) -> Membership {
    if let Some(question) = question {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        match Box::pin(question.ask(&clock, &Told)).await {
            Ok(next) if next.xds_server == question.membership.xds_server => {}
            Ok(next) => match files.of(next.clone()).relocate() {
                Ok(_) => return next,
                Err(error) => not_followed(&question.server, &error, error.hint()),
            },
            Err(error) => not_followed(&question.server, &error, error.hint()),
        }
    }
    std::future::pending().await
}

fn envoy_options(args: &RunArgs) -> EnvoyOptions {
    EnvoyOptions { admin_port: args.envoy_admin_port, ..EnvoyOptions::default() }
}

/// Renews for ever, and keeps an Envoy running beside it if asked to. Both start again where the server turns out to be.
async fn stay(mut state: StateDir, args: &RunArgs, mut open: Option<Question>) -> Result<Exit, Failure> {
    let envoy = match &args.envoy {
        None => None,
        Some(given) => Some(envoy(given.as_deref()).await?),
    };
    if let Some(program) = &envoy {
        output::note(&format!("credence: keeps {} running", program.display()));
        output::note(&format!("credence: its log is {}", state.path().join("envoy.log").display()));
    }
    output::note("credence: renews the certificate at half of its life, until Ctrl-C");
    let shutdown = CancellationToken::new();
    let mut parts = Parts::default();
    parts.spawn("signals", watch_signals(shutdown.clone()));
    let outcome = loop {
        let life = shutdown.child_token();
        let files = live(&mut parts, state, args, envoy.as_deref(), &life)?;
        let next = tokio::select! {
            outcome = parts.watch(&shutdown) => break outcome,
            next = moved(open.take(), files) => next,
        };
        life.cancel();
        parts.finish_named(&["renewal", "envoy"]).await;
        state = StateDir::open_joined(&args.state_dir).map_err(unusable)?;
        followed(&next, &state, args);
    };
    shutdown.cancel();
    let finished = parts.finish().await;
    outcome.and(finished).map(|()| Exit::Ok).map_err(|error| {
        let hint =
            error.downcast_ref::<agent::RunError>().and_then(agent::RunError::hint).unwrap_or_default();
        Failure::new(Exit::Failed, format!("{error:#}"), hint)
    })
}

/// Starts the agent, and the Envoy if there is one, until the end of `life`.
fn live(
    parts: &mut Parts,
    state: StateDir,
    args: &RunArgs,
    envoy: Option<&Path>,
    life: &CancellationToken,
) -> Result<EnvoyFiles, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let agent = Agent::open(state, clock.clone()).map_err(unusable)?;
    let state = agent.state();
    let files = state.envoy_files(&agent.status().borrow().membership, envoy_options(args));
    restore(&files).map_err(unusable)?;
    move_admin_page(&files, &state.envoy_config());
    let supervisor = envoy.map(|program| {
        let files = files.clone();
        Supervisor::envoy(program, &state.envoy_config(), state.path(), clock).with_preparation(move || {
            if let Err(error) = restore(&files) {
                let (error, hint) = (agent::with_causes(&error), error.hint());
                tracing::warn!(error, hint, "a file that Envoy needs is gone and cannot be written");
            }
        })
    });
    parts.spawn("renewal", agent.run(life.clone()));
    if let Some(supervisor) = supervisor {
        parts.spawn("envoy", supervisor.run(life.clone()));
    }
    Ok(files)
}

/// Writes again what Envoy is started with, where it is gone.
fn restore(files: &EnvoyFiles) -> Result<(), StateError> {
    for file in files.restore()? {
        tracing::warn!(file = %file.display(), "file was gone: written again from node.json");
    }
    Ok(())
}

/// An Envoy that is started beside the agent has the port from its start on; any other reads it when it starts again.
fn move_admin_page(files: &EnvoyFiles, config: &Path) {
    let config = config.display();
    match files.move_admin_page() {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!(file = %config, "Envoy has the port of --envoy-admin-port from its next start on")
        }
        Err(error) => {
            let error = agent::with_causes(&error);
            tracing::warn!(file = %config, error, "--envoy-admin-port has no effect: write the port there by hand");
        }
    }
}

async fn envoy(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = envoys::find(given) {
        return Ok(path);
    }
    if let Some(path) = given {
        return Err(Failure::usage(
            format!("{} is not a program", path.display()),
            "--envoy takes the path of an Envoy",
        ));
    }
    let installed = envoys::install(&|notice| output::note(&format!("credence: {notice}"))).await;
    installed.map_err(|error| Failure::new(Exit::Failed, error.to_string(), error.hint()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::{Cli, ConfigArgs};

    #[tokio::test]
    async fn a_configuration_that_is_named_must_be_there() {
        let args = |config: Option<&str>, dev| ServeArgs {
            config: ConfigArgs { config: config.map(PathBuf::from) },
            dev,
            accept_clock: false,
        };
        assert!(!Path::new(DEFAULT_CONFIG).exists(), "the test needs a place without one");
        assert!(is_throwaway(&args(None, true)));
        assert!(!is_throwaway(&args(None, false)));
        assert!(!is_throwaway(&args(Some(DEFAULT_CONFIG), true)));
        let failure = serve(args(Some(DEFAULT_CONFIG), true)).await.err().unwrap();
        assert!(failure.message.contains("cannot read credence.yaml"), "{}", failure.message);
    }

    #[test]
    fn the_demo_runs_as_long_as_it_says_that_it_may() {
        let check = |text: &str, expected: Result<u64, &str>| {
            let found = demo_duration(text).map(|length| length.as_secs());
            assert_eq!(
                found.as_ref().map_err(|failure| failure.message.as_str()),
                expected.as_ref().map_err(|e| *e)
            );
        };
        check("30s", Ok(30));
        check("1d", Ok(86_400));
        check("29s", Err("the demo needs at least 30s to show everything"));
        check("99999d", Err("the demo runs for 1d at most"));
        check("long", Err("--duration \"long\" is not a duration"));
        let hint = demo_duration("25h").unwrap_err().hint;
        assert_eq!(hint, "write --duration with 30s to 1d");
        let help = Cli::command().find_subcommand_mut("demo").unwrap().render_long_help().to_string();
        let bounds = format!("{} to {}", format_duration(MIN_DURATION), format_duration(MAX_DURATION));
        assert!(help.contains(&bounds) && help.contains("[default: 60s]"), "{help}");
    }
}
