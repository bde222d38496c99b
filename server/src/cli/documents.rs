//! Documents: what proxies are told.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ChangeArgs, Format, ListArgs, ServerArgs};

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
    /// The namespace of documents that name none, and the one that --prune is about
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// `apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// Which documents.
    #[command(flatten)]
    pub files: FileArgs,
    /// End every other document of the namespace; refused where the files have none of it
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
    /// A ProxyConfig, each listener of which is tried, or a listener; PROXYCONFIG/LISTENER where several have that name
    pub name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Where to reach it, if it is one listener (of a ProxyConfig the one of its name); default: as the document says, on this host for a wildcard address
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}
