//! `edge …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ChangeArgs, ListArgs};

/// `edge`.
#[derive(Debug, Clone, Subcommand)]
pub enum EdgeCommand {
    /// Want a certificate for public names; it is tried whole, and refused with everything that does not work
    #[command(
        after_help = "Examples:\n  credence edge add api.example.com --listener web --issuer public \\\n    --challenge \
                      http-01 --http-listener plain\n  credence edge add api.example.com --listener web --issuer public \
                      --challenge tls-alpn-01 --dry-run\n  credence edge add shop --listener web --issuer public \
                      --challenge dns-01 \\\n    --dns-command /usr/local/bin/publish-txt --domain shop.example \
                      --domain '*.shop.example'\n\nProxies show it at a listener of theirs with tls: {edge: NAME}. \
                      How its names are shown to be ours:\n  http-01      by plain HTTP at --http-listener, which the \
                      public reaches at port 80\n  tls-alpn-01  at the listener itself, which the public reaches at \
                      port 443\n  dns-01       by a program of the server's host: PROGRAM publish|withdraw \
                      RECORD VALUE;\n               or by updates of a name server (RFC 2136); wildcards take this"
    )]
    Add(Box<AddEdgeArgs>),
    /// Certificates for public names: until when, renewed when, which proxies have them, and what fails
    List(ListArgs),
    /// One of them
    Show(NamedEdgeArgs),
    /// Obtain or renew it now, as far as its server lets us
    #[command(
        after_help = "Examples:\n  credence edge renew api.example.com --reason \"DNS was mended\"\n\nA pause that \
                      the server asked for is kept. The certificate of now is shown until the next one is \
                      here."
    )]
    Renew(RenewEdgeArgs),
    /// Want it no more: its certificate and keys are destroyed
    Remove(RemoveEdgeArgs),
}

/// How names are shown to be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ChallengeKind {
    /// A text, by plain HTTP at another listener of the same proxies
    #[value(name = "http-01")]
    Http01,
    /// A certificate, at the listener itself
    #[value(name = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record
    #[value(name = "dns-01")]
    Dns01,
}

/// `edge add`.
#[derive(Debug, Clone, Args)]
pub struct AddEdgeArgs {
    /// Its name: the DNS name, where there is one
    pub name: String,
    /// The listener that shows it
    #[arg(long, value_name = "NAME")]
    pub listener: String,
    /// The namespace of the documents that have this listener
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Who is asked for it
    #[arg(long, value_name = "NAME")]
    pub issuer: String,
    /// How its names are shown to be ours
    #[arg(long, value_enum)]
    pub challenge: ChallengeKind,
    /// For http-01: the listener that takes plain HTTP for the same names
    #[arg(long, value_name = "NAME", required_if_eq("challenge", "http-01"))]
    pub http_listener: Option<String>,
    /// For dns-01: a program that edges.dns_commands of credence.yaml names; it publishes and withdraws records
    #[arg(long, value_name = "PROGRAM", conflicts_with = "dns_server")]
    pub dns_command: Option<PathBuf>,
    /// For dns-01: the name server that takes updates of the zone, by TCP
    #[arg(long, value_name = "ADDRESS:PORT", requires_all = ["dns_zone", "dns_key", "dns_key_file"])]
    pub dns_server: Option<String>,
    /// The zone that the names stand in
    #[arg(long, value_name = "ZONE", requires = "dns_server")]
    pub dns_zone: Option<String>,
    /// The name of the key that signs updates
    #[arg(long, value_name = "NAME", requires = "dns_server")]
    pub dns_key: Option<String>,
    /// That key in base64: a file, /dev/fd/N, or - for standard input
    #[arg(long, value_name = "FILE", requires = "dns_server")]
    pub dns_key_file: Option<PathBuf>,
    /// Its algorithm: hmac-sha256, hmac-sha384 or hmac-sha512
    #[arg(long, value_name = "ALGORITHM", default_value = "hmac-sha256")]
    pub dns_algorithm: String,
    /// A DNS name, *.NAME or an address; can be repeated [default: what it is called]
    #[arg(long = "domain", value_name = "NAME")]
    pub domains: Vec<String>,
    /// By which profile of the server [default: that of the issuer]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Names an edge.
#[derive(Debug, Clone, Args)]
pub struct NamedEdgeArgs {
    /// Its name
    pub name: String,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `edge renew`.
#[derive(Debug, Clone, Args)]
pub struct RenewEdgeArgs {
    /// Its name
    pub name: String,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `edge remove`.
#[derive(Debug, Clone, Args)]
pub struct RemoveEdgeArgs {
    /// Its name
    pub name: String,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
