//! What people type: every command with its options and examples, in one place. No behaviour here.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

mod authorities;
mod certificates;
mod documents;
mod edges;
mod hooks;
mod identities;
mod issuers;
mod proxies;
mod recovery;
mod rollouts;
mod sealing;

pub use self::authorities::*;
pub use self::certificates::{
    AsPart, CertCommand, CertListArgs, CertRevokeArgs, CertShowArgs, ExplainArgs, LintArgs, UsedFor,
};
pub use self::documents::*;
pub use self::edges::*;
pub use self::hooks::*;
pub use self::identities::*;
pub use self::issuers::*;
pub use self::proxies::*;
pub use self::recovery::*;
pub use self::rollouts::*;
pub use self::sealing::*;

/// Credence: a control plane for Envoy in which identity comes first.
#[derive(Debug, Parser)]
#[command(
    name = "credence",
    version,
    about = "A control plane for Envoy in which identity comes first",
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 refused by policy, 4 not found, 5 conflict, 6 unavailable, \
                  7 partial.\nWith -o json and -o yaml a command that fails ends standard error with one object of JSON.\n\nStart with:\n  credence demo\n  credence init --trust-domain prod.example && \
                  credence serve"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads what was typed, and how the command is to print.
    ///
    /// # Errors
    /// When it is no command of ours, or asks for help.
    pub fn read(typed: &[OsString]) -> Result<(Self, Format), clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(typed)?;
        let format = Format::of(&matches);
        Ok((Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?, format))
    }
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The main job on this machine, proven on screen: two Envoys, mTLS, rotation under load
    #[command(after_help = "Examples:\n  credence demo\n  credence demo --duration 60s --json out.json")]
    Demo(DemoArgs),
    /// Make the authority, the database, the key-encryption key, the operator's certificate and credence.yaml
    #[command(after_help = "Examples:\n  credence init --trust-domain prod.example\n  credence init --from \
                            credence.yaml    # by a configuration that is written already\n  credence init \
                            --reissue-admin    # on the host, when the operator's certificate has expired")]
    Init(InitArgs),
    /// Run the control plane
    #[command(
        after_help = "Examples:\n  credence serve\n  credence serve --config /etc/credence/credence.yaml\n  \
                            credence serve --dev    # throwaway authority and data, loopback only"
    )]
    Serve(ServeArgs),
    /// Check this machine and configuration: clock, ports, disk, permissions
    Doctor(DoctorArgs),
    /// Run on the node: join, then renew the node's certificate
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Print what completes the commands in a shell
    #[command(
        after_help = "Examples:\n  source <(credence completion bash)    # for this shell; in ~/.bashrc for every \
                            one\n  credence completion zsh > \"${fpath[1]}/_credence\"\n  credence completion fish > \
                            ~/.config/fish/completions/credence.fish"
    )]
    Completion(CompletionArgs),
    /// Everything that talks to a running server, or to nobody.
    #[command(flatten)]
    Operate(Operate),
}

/// Commands of the operator.
#[derive(Debug, Subcommand)]
pub enum Operate {
    /// Seconds to the next expiry of every class, failed renewals, and how each proxy stands
    #[command(after_help = "Examples:\n  credence status\n  credence status --expiring 7d")]
    Status(StatusArgs),
    /// Check documents and credence.yaml, without a server
    #[command(
        after_help = "Examples:\n  credence check web.yaml\n  credence check credence.yaml configs/*.yaml"
    )]
    Check(CheckArgs),
    /// Store and apply every document of a file or folder, all or none
    #[command(
        after_help = "Examples:\n  credence apply -f web.yaml\n  credence apply -n production -f configs/ \
                            --prune\n  credence apply -f web.yaml --dry-run -o json"
    )]
    Apply(ApplyArgs),
    /// Show what apply would change
    #[command(after_help = "Examples:\n  credence diff -f web.yaml")]
    Diff(DiffArgs),
    /// List documents, or show one
    #[command(
        after_help = "Examples:\n  credence get ProxyConfig\n  credence get Endpoints api -n production -o yaml"
    )]
    Get(GetArgs),
    /// End a document; the plan says what still needs it
    Delete(DeleteArgs),
    /// Every revision of a document
    History(HistoryArgs),
    /// Make the text of an older revision effective again, as a new revision
    #[command(
        after_help = "Examples:\n  credence history ProxyConfig web\n  credence rollback ProxyConfig web --to 12"
    )]
    Rollback(RollbackArgs),
    /// Real handshakes against a listener of ours: what must be refused is refused, a good one passes
    #[command(after_help = "Examples:\n  credence verify web\n  credence verify web --address 10.0.0.5:8443")]
    Verify(VerifyArgs),
    /// Put a service behind mTLS on a node: writes a ProxyConfig with its cluster and applies it
    #[command(
        after_help = "Examples:\n  credence expose http://127.0.0.1:3001 --as web --on web-1 --listen 8443\n  \
                            credence expose http://127.0.0.1:3001 --as web --on web-1 --listen 8443 --allow \
                            spiffe://prod.example/shop"
    )]
    Expose(ExposeArgs),
    /// Nodes: admit, see, remove
    #[command(subcommand)]
    Proxy(ProxyCommand),
    /// Authorities
    #[command(subcommand)]
    Ca(CaCommand),
    /// Issuers: who signs our authorities, the built-in root or somebody outside
    #[command(subcommand)]
    Issuer(IssuerCommand),
    /// Certificates for public names, which proxies show at the edge
    #[command(subcommand)]
    Edge(EdgeCommand),
    /// Certificates: those that were issued, and why any is believed or not
    #[command(subcommand)]
    Cert(CertCommand),
    /// Identities: who speaks for them, which are blocked
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// What is replaced by itself, and the pause of it
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Let nodes whose certificates have ended come back, each once, by proof of their old key; off unless said
    #[command(
        after_help = "Examples:\n  credence recover --list\n  credence recover --window 24h --reason \"power cut\" \
                            --watch\n  credence recover --close\n\nAgents that run ask by themselves, every two minutes \
                            at the latest. Removed, disabled and\nblocked nodes stay away, and so does a copy of any \
                            certificate but the newest of its node."
    )]
    Recover(RecoverArgs),
    /// Hooks: commands and addresses that hear of what must surprise nobody
    #[command(subcommand)]
    Hook(HookCommand),
    /// Join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Imported secrets: certificates with keys, and values, for the identities that they are granted to
    #[command(subcommand)]
    Secret(SecretCommand),
    /// The keys that seal what is secret on the disk
    #[command(subcommand)]
    Kek(KekCommand),
    /// The audit log
    #[command(subcommand)]
    Audit(AuditCommand),
}

/// How listings look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

impl Format {
    /// What the command below `matches` was given with `-o`.
    fn of(matches: &ArgMatches) -> Self {
        let mut matches = matches;
        while let Some((_, below)) = matches.subcommand() {
            matches = below;
        }
        matches.try_get_one("output").ok().flatten().copied().unwrap_or_default()
    }

    /// What seems to be asked for where nothing of it can be read.
    #[must_use]
    pub fn guess(typed: &[OsString]) -> Self {
        let mut after = None;
        let mut found = Self::default();
        for word in typed.iter().filter_map(|word| word.to_str()) {
            let inner = ["--output=", "-o"].iter().find_map(|option| word.strip_prefix(option));
            let value = match after {
                Some("-o" | "--output") => word,
                _ => inner.map_or("", |value| value.trim_start_matches('=')),
            };
            found = Self::from_str(value, false).unwrap_or(found);
            after = Some(word);
        }
        found
    }
}

/// How to reach the server.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Where `init` put the operator's certificate
    #[arg(long, env = "CREDENCE_ADMIN_DIR", default_value = "./credence-admin", value_name = "DIR")]
    pub admin_dir: PathBuf,
    /// The management address; default: what stands in the admin directory
    #[arg(long, env = "CREDENCE_SERVER_ADDRESS", value_name = "HOST:PORT")]
    pub server: Option<String>,
}

/// A listing.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// List everything that ends within this time, or has ended without a successor, such as 7d
    #[arg(long, value_name = "D")]
    pub expiring: Option<String>,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// A change.
#[derive(Debug, Clone, Args)]
pub struct ChangeArgs {
    /// Only print what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// How to print the plan
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How long to keep the load up, 30s to 1d
    #[arg(long, value_name = "D", default_value = "60s")]
    pub duration: String,
    /// Write what was measured to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The Envoy to use; default: from PATH, else a pinned one is installed into the cache
    #[arg(long, value_name = "PATH")]
    pub envoy: Option<PathBuf>,
}

/// `init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The trust domain, such as prod.example
    #[arg(long, value_name = "NAME", required_unless_present_any = ["reissue_admin", "from"])]
    pub trust_domain: Option<String>,
    /// Take everything from this configuration, which stays as it is: a key slot is made for each key that its secrets name
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["trust_domain", "config", "data_dir", "kek_file", "admin_dir", "reissue_admin"]
    )]
    pub from: Option<PathBuf>,
    /// Where to write the configuration
    #[arg(long, default_value = "credence.yaml", value_name = "FILE")]
    pub config: PathBuf,
    /// Where the database goes
    #[arg(long, default_value = "./credence-data", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the key-encryption key goes
    #[arg(long, default_value = "./credence.kek", value_name = "FILE")]
    pub kek_file: PathBuf,
    /// Where a second key goes that opens the store as well, to be taken off this host
    #[arg(long, value_name = "FILE")]
    pub recovery_kek_file: Option<PathBuf>,
    /// Vault's Transit may be all that opens the store
    #[arg(long, conflicts_with_all = ["trust_domain", "reissue_admin"])]
    pub insecure_single_slot: bool,
    /// Where the operator's certificate goes
    #[arg(long, default_value = "./credence-admin", value_name = "DIR")]
    pub admin_dir: PathBuf,
    /// Issue the operator's certificate again, on the host, with the server stopped, into the folder that the
    /// configuration names
    #[arg(long, conflicts_with_all = ["trust_domain", "data_dir", "kek_file", "recovery_kek_file", "admin_dir"])]
    pub reissue_admin: bool,
    /// Take the store as it is after STORE_ROLLBACK, for this reason: as `audit accept`, where nobody has a certificate
    #[arg(long, value_name = "REASON", requires = "reissue_admin")]
    pub accept_store: Option<String>,
    /// The configuration is one of `serve --dev`: short lives are allowed, loopback only
    #[arg(long, conflicts_with = "trust_domain")]
    pub dev: bool,
}

/// `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Development: short lives are allowed, loopback only; without a configuration everything is throwaway
    #[arg(long)]
    pub dev: bool,
    /// The system's clock is right, although the store holds newer records: sign by it
    #[arg(long)]
    pub accept_clock: bool,
}

/// The configuration where none is named.
pub const DEFAULT_CONFIG: &str = "credence.yaml";

/// Names a configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration; default: credence.yaml
    #[arg(long, env = "CREDENCE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Where it is read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }
}

/// `doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The configuration is one of `serve --dev`: short lives are allowed, loopback only
    #[arg(long)]
    pub dev: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// `agent`.
#[derive(Debug, Clone, Subcommand)]
pub enum AgentCommand {
    /// Join by a token, then run
    #[command(
        after_help = "Examples:\n  credence agent join TOKEN --server cp.example:18001 --pin sha256:HEX --envoy\n\n\
                            \"credence proxy enroll NODE\" prints this line whole."
    )]
    Join(JoinArgs),
    /// Renew the node's certificate at half of its life, for ever
    #[command(
        after_help = "Examples:\n  credence agent run --envoy\n  credence agent run --envoy --server new.example:18001\n\n\
                            --server is for a server that has moved. It must prove to be the one that the node knows;\n\
                            then node.json and envoy.json keep its address, else nothing is changed."
    )]
    Run(StayArgs),
}

/// `agent join`.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// The join token
    pub token: String,
    /// Where to enrol
    #[arg(long, value_name = "HOST:18001")]
    pub server: String,
    /// The key of the root that must vouch for the server
    #[arg(long, value_name = "sha256:HEX")]
    pub pin: String,
    /// Join, and do not stay to renew
    #[arg(long)]
    pub once: bool,
    /// What `run` takes.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `agent run`.
#[derive(Debug, Clone, Args)]
pub struct StayArgs {
    /// Where the server is now, if it has moved: where nodes enrol
    #[arg(long, value_name = "HOST:18001")]
    pub server: Option<String>,
    /// What `join` takes too.
    #[command(flatten)]
    pub run: RunArgs,
}

/// How an agent runs.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Where key, certificate and Envoy bootstrap are kept
    #[arg(long, default_value = "./credence-agent", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Start an Envoy and keep it running; without PATH the one on PATH, or an installed one
    #[arg(long, value_name = "PATH")]
    pub envoy: Option<Option<PathBuf>>,
    /// The port of Envoy's admin page on 127.0.0.1; 0 lets the system choose, as it does until one is given
    #[arg(long, value_name = "PORT")]
    pub envoy_admin_port: Option<u16>,
}

/// `completion`.
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell that completes what is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

impl Shell {
    /// The script that completes every command.
    #[must_use]
    pub fn completion(self) -> String {
        let shell = match self {
            Self::Bash => clap_complete::Shell::Bash,
            Self::Zsh => clap_complete::Shell::Zsh,
            Self::Fish => clap_complete::Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "credence", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

/// `token`.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Join tokens, without their secrets
    List(ListArgs),
    /// Revoke a token that was not used
    Revoke(TokenRevokeArgs),
}

/// `token revoke`.
#[derive(Debug, Clone, Args)]
pub struct TokenRevokeArgs {
    /// The token's public id
    pub id: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `audit`.
#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// What happened, newest first
    #[command(
        after_help = "Examples:\n  credence audit list --action connection-refuse\n  credence audit list \
                            --text web-1 --since 1h"
    )]
    List(AuditListArgs),
    /// Take the store as it is after STORE_ROLLBACK, so that signing goes on
    #[command(
        after_help = "Examples:\n  credence audit accept --reason \"restored from the backup of Monday\""
    )]
    Accept(AcceptArgs),
}

/// `audit list`.
#[derive(Debug, Clone, Args)]
pub struct AuditListArgs {
    /// At or after this time, or this long ago, such as 1h
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// One action, such as document-apply
    #[arg(long)]
    pub action: Option<String>,
    /// One actor: a SPIFFE ID, an address, system, host
    #[arg(long)]
    pub actor: Option<String>,
    /// One object
    #[arg(long)]
    pub object: Option<String>,
    /// With this text anywhere
    #[arg(long)]
    pub text: Option<String>,
    /// At most this many rows, 1 to 100000
    #[arg(long, default_value_t = 100, allow_negative_numbers = true, value_parser = rows)]
    pub limit: usize,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// A number of rows that a listing may have.
fn rows(text: &str) -> Result<usize, String> {
    const MOST: usize = 100_000;
    let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| format!("it is not a number from 1 to {MOST}"))
}

#[cfg(test)]
mod tests;
