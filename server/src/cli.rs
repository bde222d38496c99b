//! What people type: every command with its options and examples, in one place. No behaviour here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod certificates;
mod sealing;

pub use self::certificates::{
    AsPart, CertCommand, CertListArgs, CertRevokeArgs, CertShowArgs, ExplainArgs, LintArgs, UsedFor,
};
pub use self::sealing::*;

/// Credence: a control plane for Envoy in which identity comes first.
#[derive(Debug, Parser)]
#[command(
    name = "credence",
    version,
    about = "A control plane for Envoy in which identity comes first",
    max_term_width = 100,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 refused by policy, 4 not found, 5 conflict, 6 unavailable, \
                  7 partial.\n\nStart with:\n  credence demo\n  credence init --trust-domain prod.example && \
                  credence serve"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The main job on this machine, proven on screen: two Envoys, mTLS, rotation under load
    #[command(after_help = "Examples:\n  credence demo\n  credence demo --duration 60s --json out.json")]
    Demo(DemoArgs),
    /// Make the authority, the database, the key-encryption key, the operator's certificate and credence.yaml
    #[command(after_help = "Examples:\n  credence init --trust-domain prod.example\n  credence init \
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
    /// Certificates: those that were issued, and why any is believed or not
    #[command(subcommand)]
    Cert(CertCommand),
    /// Identities: who speaks for them, which are blocked
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// What is replaced by itself, and the pause of it
    #[command(subcommand)]
    Rollout(RolloutCommand),
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
    /// How long to keep the load up, such as 60s
    #[arg(long, value_name = "D")]
    pub duration: Option<String>,
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
    #[arg(long, value_name = "NAME", required_unless_present = "reissue_admin")]
    pub trust_domain: Option<String>,
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
    /// Where the operator's certificate goes
    #[arg(long, default_value = "./credence-admin", value_name = "DIR")]
    pub admin_dir: PathBuf,
    /// Issue the operator's certificate again, on the host, with the server stopped
    #[arg(long)]
    pub reissue_admin: bool,
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
}

/// Names a configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration
    #[arg(long, env = "CREDENCE_CONFIG", default_value = "credence.yaml", value_name = "FILE")]
    pub config: PathBuf,
}

/// `doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
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
    Run(RunArgs),
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
pub struct RunArgs {
    /// Where key, certificate and Envoy bootstrap are kept
    #[arg(long, default_value = "./credence-agent", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Start an Envoy and keep it running; without PATH the one on PATH, or an installed one
    #[arg(long, value_name = "PATH")]
    pub envoy: Option<Option<PathBuf>>,
    /// The port of Envoy's admin page on 127.0.0.1; 0 lets the system choose
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub envoy_admin_port: u16,
}

/// `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Documents, or credence.yaml
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The namespace of documents that name none
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// The trust domain; default: that of the configuration among the files, of ./credence.yaml, or the first one
    /// that a document names
    #[arg(long, value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// How to print problems
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Names documents in files.
#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// A file, a folder of *.yaml, *.yml and *.json files, or - for standard input
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub path: PathBuf,
    /// The namespace of documents that name none
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// `apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// Which documents.
    #[command(flatten)]
    pub files: FileArgs,
    /// End every other document of the namespace
    #[arg(long)]
    pub prune: bool,
    /// Why, for the history
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// Which documents.
    #[command(flatten)]
    pub files: FileArgs,
    /// Count every other document of the namespace as ended
    #[arg(long)]
    pub prune: bool,
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// ProxyConfig or Endpoints
    pub kind: String,
    /// One name; with it the text is printed
    pub name: Option<String>,
    /// One namespace; default: all for a listing, `default` for one name
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// Names one document.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// ProxyConfig or Endpoints
    pub kind: String,
    /// Its name
    pub name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// `delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// Which document.
    #[command(flatten)]
    pub document: NameArgs,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `history`.
#[derive(Debug, Clone, Args)]
pub struct HistoryArgs {
    /// Which document.
    #[command(flatten)]
    pub document: NameArgs,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `rollback`.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// Which document.
    #[command(flatten)]
    pub document: NameArgs,
    /// The revision to go back to
    #[arg(long, value_name = "REV")]
    pub to: u64,
    /// Why, for the history
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// What a listener does about mTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Mtls {
    /// Only mTLS.
    #[default]
    Strict,
    /// mTLS and plaintext.
    Permissive,
    /// Plaintext.
    Off,
}

/// `expose`.
#[derive(Debug, Clone, Args)]
pub struct ExposeArgs {
    /// The service, such as http://127.0.0.1:3001
    pub url: String,
    /// The name of the document, listener and cluster
    #[arg(long = "as", value_name = "NAME")]
    pub name: String,
    /// The node that puts mTLS before it
    #[arg(long, value_name = "NODE")]
    pub on: String,
    /// The port to listen on, or ADDRESS:PORT
    #[arg(long, value_name = "PORT")]
    pub listen: String,
    /// What the listener does about mTLS
    #[arg(long, value_enum, default_value_t)]
    pub mtls: Mtls,
    /// Who may call; default: every identity of the trust domain
    #[arg(long, value_name = "ID")]
    pub allow: Vec<String>,
    /// The identity to show callers; default: the node's first
    #[arg(long, value_name = "ID")]
    pub identity: Option<String>,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The listener's name, or the ProxyConfig that has it
    pub name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Where to reach it; default: as the document says, on this host for a wildcard address
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `proxy`.
#[derive(Debug, Clone, Subcommand)]
pub enum ProxyCommand {
    /// Write a node's binding and print the line that joins it
    #[command(
        after_help = "Examples:\n  credence proxy enroll web-1\n  credence proxy enroll web-1 -n production \
                            --label app=web --identity spiffe://prod.example/web --ttl 1h"
    )]
    Enroll(EnrollArgs),
    /// Print the Envoy bootstrap of a node
    Bootstrap(BootstrapArgs),
    /// List nodes and how they stand
    List(ProxyListArgs),
    /// One node: what it was sent, acknowledged and refused
    Show(ProxyShowArgs),
    /// Watch one node, or all, until Ctrl-C
    Watch(WatchArgs),
    /// Send a node everything again on its open streams; restarts nothing
    Reload(NodeChangeArgs),
    /// Remove a node's binding: its streams end and it cannot renew
    Remove(NodeChangeArgs),
}

/// `proxy enroll`.
#[derive(Debug, Clone, Args)]
pub struct EnrollArgs {
    /// The node's id
    pub node: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// A label that selectors match; can be repeated
    #[arg(long = "label", value_name = "K=V")]
    pub labels: Vec<String>,
    /// A workload identity it speaks for, the first being its default; default: spiffe://TD/NAMESPACE/NODE
    #[arg(long = "identity", value_name = "ID")]
    pub identities: Vec<String>,
    /// How long the join token is good, such as 10m, at most 24h
    #[arg(long, value_name = "D")]
    pub ttl: Option<String>,
    /// Overwrite the binding of a node that is enrolled already
    #[arg(long)]
    pub replace: bool,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `proxy bootstrap`.
#[derive(Debug, Clone, Args)]
pub struct BootstrapArgs {
    /// The node
    pub node: String,
    /// Where discovery is served; default: the host of the management address, port 18000
    #[arg(long, value_name = "HOST:18000")]
    pub discovery: Option<String>,
    /// The agent's state directory on the node
    #[arg(long, default_value = "/var/lib/credence-agent", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// The port of Envoy's admin page on 127.0.0.1
    #[arg(long, default_value_t = 9901, value_name = "PORT")]
    pub envoy_admin_port: u16,
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `proxy list`.
#[derive(Debug, Clone, Args)]
pub struct ProxyListArgs {
    /// One namespace
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `proxy show`.
#[derive(Debug, Clone, Args)]
pub struct ProxyShowArgs {
    /// The node
    pub node: String,
    /// Show which document caused each resource
    #[arg(long, conflicts_with = "config")]
    pub explain: bool,
    /// Show the exact configuration
    #[arg(long)]
    pub config: bool,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `proxy watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchArgs {
    /// One node; default: all
    pub node: Option<String>,
    /// How often to look, such as 1s
    #[arg(long, default_value = "1s", value_name = "D")]
    pub interval: String,
    /// End when every node watched is SYNCED
    #[arg(long)]
    pub until_synced: bool,
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A change of one node.
#[derive(Debug, Clone, Args)]
pub struct NodeChangeArgs {
    /// The node
    pub node: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `ca`.
#[derive(Debug, Clone, Subcommand)]
pub enum CaCommand {
    /// Authorities, their states and ends
    Show(ListArgs),
    /// Replace an authority by one with a new key
    #[command(subcommand)]
    Rotate(RotateCommand),
    /// The rotation of the root: bars, and who would break by its next step, by name
    Status(CaStatusArgs),
    /// An authority's key is stolen: a new root takes over within a minute, without waiting for laggards
    #[command(after_help = "Examples:\n  credence ca emergency --authority 2c26b46b68ffc68f --dry-run\n  \
                            credence ca emergency --authority 2c26b46b68ffc68f --reason \"key seen in a dump\"\n\n\
                            Asked again, it shows how far that is.")]
    Emergency(EmergencyArgs),
    /// The request for an issuing authority that somebody else is to sign; its key is made in the server and stays there
    #[command(
        after_help = "Examples:\n  credence ca csr --out request.pem\n  openssl x509 -req -in request.pem -CA \
                            root.pem -CAkey root.key -copy_extensions copyall -days 30 -out issuing.pem\n  cat \
                            issuing.pem root.pem > chain.pem\n  credence ca install chain.pem\n\nAsked again, it \
                            answers the same request until that is answered, dropped or replaced."
    )]
    Csr(CsrArgs),
    /// Take the chain that was signed for the request: the issuing authority first, then those above it up to the root
    #[command(
        after_help = "Examples:\n  credence ca install chain.pem --dry-run\n  credence ca install chain.pem\n\nEvery \
                      rule is asked, and a chain that breaks one is refused with all of them; the request stays. \
                      Under the root that\nsigns now the authority signs at once. Another root enters every bundle, \
                      prepared: credence ca rotate root activate,\nfinish and rollback go on with it."
    )]
    Install(InstallArgs),
}

/// `ca csr`.
#[derive(Debug, Clone, Args)]
pub struct CsrArgs {
    /// Write it to this file, which must not exist; default: standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Make another key and request, and destroy the key of the one that is pending
    #[arg(long, conflicts_with = "drop")]
    pub new: bool,
    /// Drop the pending request and destroy its key
    #[arg(long, conflicts_with = "out")]
    pub drop: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `ca install`.
#[derive(Debug, Clone, Args)]
pub struct InstallArgs {
    /// PEM: the issuing authority, then those above it; the root may be left out when it signs already; - for standard
    /// input
    pub file: PathBuf,
    /// With another root: the further steps follow by themselves as their gates open
    #[arg(long)]
    pub automatic: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `ca status`.
#[derive(Debug, Clone, Args)]
pub struct CaStatusArgs {
    /// Show it again every second until the rotation has ended
    #[arg(long)]
    pub watch: bool,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `ca emergency`.
#[derive(Debug, Clone, Args)]
pub struct EmergencyArgs {
    /// The authority, as `ca show` names it
    #[arg(long, value_name = "ID")]
    pub authority: String,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `ca rotate root`.
#[derive(Debug, Clone, Subcommand)]
pub enum RootCommand {
    /// Make the next root; it enters every bundle and signs nothing
    Prepare(PrepareArgs),
    /// Where it stands, and who would break by the next step
    Status(CaStatusArgs),
    /// Let the next root sign; waits for every connected node to have acknowledged it
    Activate(RootStepArgs),
    /// Replace at once what the old root signed, instead of spread over time
    Taint(RootStepArgs),
    /// Take the old root out of every bundle; refused while anybody depends on it
    Finish(RootStepArgs),
    /// Go back to the old root; possible until nothing depends on it, and not after a taint
    Rollback(RootStepArgs),
}

/// `ca rotate root prepare`.
#[derive(Debug, Clone, Args)]
pub struct PrepareArgs {
    /// The further steps follow by themselves as their gates open
    #[arg(long)]
    pub automatic: bool,
    /// The step.
    #[command(flatten)]
    pub step: RootStepArgs,
}

/// A step of the rotation of the root.
#[derive(Debug, Clone, Args)]
pub struct RootStepArgs {
    /// A node or operator that need not be waited for, as `ca status` names it; can be repeated
    #[arg(long, value_name = "NAME")]
    pub leave_behind: Vec<String>,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `ca rotate`.
#[derive(Debug, Clone, Subcommand)]
pub enum RotateCommand {
    /// The issuing authority; leaves follow, no request is lost
    Intermediate(RotateArgs),
    /// The root, step by step; each step waits for what the nodes have acknowledged
    #[command(
        subcommand,
        after_help = "Examples:\n  credence ca rotate root prepare\n  credence ca rotate root status --watch\n  \
                      credence ca rotate root activate --dry-run\n  credence ca rotate root finish --leave-behind \
                      web-9"
    )]
    Root(RootCommand),
}

/// `ca rotate intermediate`.
#[derive(Debug, Clone, Args)]
pub struct RotateArgs {
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `identity`.
#[derive(Debug, Clone, Subcommand)]
pub enum IdentityCommand {
    /// Who speaks for which identity, and which are blocked
    List(ListArgs),
    /// One identity: who speaks for it, whether it is blocked, on how many proxies that is acknowledged, and until when it survives if its issuer stays down
    #[command(after_help = "Examples:\n  credence identity show spiffe://prod.example/web")]
    Show(IdentityShowArgs),
    /// Block an identity: its streams end, renewal and enrolment are refused
    #[command(
        after_help = "Without --now the identity gets nothing new, and certificates that it has work until they \
                            end. With it\nevery proxy refuses its requests within seconds, on open connections too, \
                            and nobody else's\nconnection ends.\n\nExamples:\n  credence identity block \
                            spiffe://prod.example/web --now --reason \"stolen key\""
    )]
    Block(BlockArgs),
    /// Lift a block
    Unblock(UnblockArgs),
}

/// `identity show`.
#[derive(Debug, Clone, Args)]
pub struct IdentityShowArgs {
    /// The SPIFFE ID
    pub id: String,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `identity unblock`.
#[derive(Debug, Clone, Args)]
pub struct UnblockArgs {
    /// The SPIFFE ID
    pub id: String,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `identity block`.
#[derive(Debug, Clone, Args)]
pub struct BlockArgs {
    /// The SPIFFE ID
    pub id: String,
    /// Make every proxy refuse it, on open connections too
    #[arg(long)]
    pub now: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `rollout`.
#[derive(Debug, Clone, Subcommand)]
pub enum RolloutCommand {
    /// What is replaced by itself next, and whether that is paused
    List(ListArgs),
    /// The rotation under way, live: bars, laggards by name, who would break now, and pauses; until it has ended
    #[command(
        after_help = "Examples:\n  credence rollout watch\n\nWith nothing under way it says so, and ends."
    )]
    Watch(ListArgs),
    /// Stop replacing authorities by itself for a while; leaves, nodes and our own certificate are renewed as before
    #[command(
        after_help = "Examples:\n  credence rollout pause --all --reason \"Black Friday\" --for 4h\n\nIt ends by itself, and \
                            never lets an authority get too old to sign. Commands of operators still rotate."
    )]
    Pause(PauseArgs),
    /// End the pause before its time
    Resume(ResumeArgs),
}

/// `rollout pause`.
#[derive(Debug, Clone, Args)]
pub struct PauseArgs {
    /// Everything that goes on by itself
    #[arg(long, required = true)]
    pub all: bool,
    /// Why, for every screen and the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// For how long, such as 4h, at most 7d
    #[arg(long = "for", value_name = "D")]
    pub length: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `rollout resume`.
#[derive(Debug, Clone, Args)]
pub struct ResumeArgs {
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
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
    /// At most this many
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The help of a command and of everything below it.
    fn help(command: &mut clap::Command, path: &str, out: &mut String) {
        out.push_str(&format!("$ {path} --help\n{}\n", command.render_long_help()));
        let names: Vec<String> = command.get_subcommands().map(|one| one.get_name().to_owned()).collect();
        for name in names.iter().filter(|name| *name != "help") {
            let below = command.find_subcommand_mut(name).unwrap();
            help(below, &format!("{path} {name}"), out);
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "one variable refreshes golden files")]
    fn help_is_what_the_golden_file_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli_help.txt");
        let mut now = String::new();
        help(&mut Cli::command().term_width(100), "credence", &mut now);
        let now: String = now.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        if std::env::var("CREDENCE_BLESS").is_ok() {
            std::fs::write(path, &now).unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap_or_default();
        assert!(golden == now, "{path} differs: set CREDENCE_BLESS=1, run again, and review the change");
    }

    #[test]
    fn reads_the_lines_of_the_contract() {
        for line in [
            "credence demo --duration 60s --json out.json",
            "credence init --trust-domain prod.example",
            "credence serve --dev",
            "credence check a.yaml b.yaml",
            "credence apply -n production -f web.yaml --prune --dry-run",
            "credence diff -f web.yaml",
            "credence get ProxyConfig",
            "credence delete Endpoints api --yes",
            "credence history ProxyConfig web -o json",
            "credence rollback ProxyConfig web --to 3",
            "credence proxy enroll web-1 -n production --label app=web --identity spiffe://td/web --ttl 1h",
            "credence proxy bootstrap web-1",
            "credence proxy list -o yaml",
            "credence proxy show web-1 --explain",
            "credence proxy watch",
            "credence proxy remove web-1 --yes",
            "credence agent join crd1_x --server cp:18001 --pin sha256:00 --state-dir d --envoy",
            "credence agent run",
            "credence expose http://127.0.0.1:3001 --as web --on web-1 --listen 8443 --mtls strict --allow spiffe://td/a",
            "credence verify web",
            "credence ca show",
            "credence ca rotate intermediate --dry-run",
            "credence ca csr --out request.pem",
            "credence ca csr --new --yes",
            "credence ca csr --drop --dry-run",
            "credence ca install chain.pem --automatic -o json",
            "credence cert list --all",
            "credence cert show 01ab",
            "credence cert revoke 01ab --code key-compromise --reason lost --dry-run",
            "credence status --expiring 7d -o json",
            "credence cert explain 01ab",
            "credence cert explain chain.pem --bundle b.pem --as issuing --key k.pem --at 2026-12-24T18:00:00Z",
            "credence cert explain - --for spiffe://td/web --usage server -o json",
            "credence cert lint a.pem b.der --as root",
            "credence identity list",
            "credence identity show spiffe://td/web",
            "credence identity block spiffe://td/web",
            "credence identity unblock spiffe://td/web",
            "credence rollout list -o json",
            "credence rollout pause --all --reason why --for 4h",
            "credence rollout resume --dry-run",
            "credence token list",
            "credence token revoke 0011223344556677",
            "credence audit list --since 1h",
            "credence audit accept --reason restored",
            "credence secret set db -n prod --grant spiffe://td/web --grant spiffe://td/api --value-file /dev/fd/3",
            "credence secret set tls --grant spiffe://td/web --cert a.crt --key a.key --dry-run",
            "credence secret list",
            "credence secret show db -n prod",
            "credence secret rotate db --value-file -",
            "credence secret remove db --yes",
            "credence kek status -o json",
            "credence kek add-slot recovery --dry-run",
            "credence kek remove-slot primary --yes",
            "credence kek rotate slot primary --to primary-2 --yes",
            "credence kek rotate root --leave-behind recovery",
            "credence kek rotate data --class tls",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "credence",
            "credence nothing",
            "credence init",
            "credence apply",
            "credence secret set db --value-file x",
            "credence secret set db --grant spiffe://td/web --cert a.crt",
            "credence secret set db --grant spiffe://td/web --value hunter2",
            "credence rollback ProxyConfig web",
            "credence ca install",
            "credence ca csr --new --drop",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
