//! Authorities: `ca`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ChangeArgs, ConfigArgs, Format, ListArgs};

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
                            credence ca emergency --authority 2c26b46b68ffc68f --reason \"key seen in a dump\"\n  \
                            credence ca emergency --authority 2c26b46b68ffc68f --report stolen.json\n\nIt can be \
                            interrupted and given again: then it shows how far it is, and \
                            writes the report.\nExit code 7 says that somebody was left behind, by name.")]
    Emergency(EmergencyArgs),
    /// The request for an issuing authority that somebody else is to sign; its key is made in the server and stays
    /// there
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
    /// The key of the root
    #[command(subcommand)]
    Root(RootKeyCommand),
}

/// `ca root`.
#[derive(Debug, Clone, Subcommand)]
pub enum RootKeyCommand {
    /// Move the root's key out of the store into a file under a passphrase, on the server's host, with the server
    /// stopped
    #[command(
        after_help = "Examples:\n  credence ca root export --offline --out /media/vault/root.pem --passphrase-file \
                      /dev/fd/3 3<phrase\n  credence ca root export --offline --out root.pem --passphrase-file phrase \
                      --keep\n\nThe file is read back, opened and compared before the key is destroyed. Interrupted, the \
                      command goes on when it\nis given again. Afterwards Credence keeps an issuing authority only: \
                      credence ca csr and credence ca install\nreplace that. No call of the API does this: no \
                      operator's certificate gets at the key."
    )]
    Export(RootExportArgs),
}

/// `ca root export`.
#[derive(Debug, Clone, Args)]
pub struct RootExportArgs {
    /// The key leaves: it is destroyed here
    #[arg(long, required = true)]
    pub offline: bool,
    /// The file, mode 0600: certificate and encrypted key as PEM. One that is there is proven, never overwritten
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A file or descriptor with the passphrase, at least 16 characters
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: PathBuf,
    /// Only write and prove the file; the key stays until the command is given again without this
    #[arg(long)]
    pub keep: bool,
    /// Only print what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
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
    /// Where to write every certificate that its key may have signed, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
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
