//! `cert …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{ChangeArgs, Format, ListArgs, ServerArgs};

/// `cert`.
#[derive(Debug, Clone, Subcommand)]
pub enum CertCommand {
    /// The newest valid certificate of each identity and node
    List(CertListArgs),
    /// One certificate
    Show(CertShowArgs),
    /// Have one certificate count no more
    #[command(
        long_about = "Have one certificate count no more.\n\nCredence's own doors refuse it at once and end its \
                      connections, and a proxy that shows it gets another. Other proxies refuse it on new connections \
                      where revocation lists are on (ca.revocation_lists); otherwise they accept it until it ends. \
                      The plan says which.",
        after_help = "Examples:\n  credence cert revoke 7f62035c1de84b90a6c2f5310e97d84b6a2c1f03 --dry-run\n  \
                      credence cert revoke 7f62035c1de84b90a6c2f5310e97d84b6a2c1f03 --code key-compromise --reason \
                      \"laptop lost\"\n\nThe beginning of a serial number is enough where no other begins so, 8 digits at least."
    )]
    Revoke(CertRevokeArgs),
    /// Every rule that a chain must keep, what breaks it, and what Envoy and rustls would say
    #[command(after_help = "Examples:\n  credence cert explain web.pem --bundle bundle.pem --for \
                            spiffe://prod.example/web\n  credence cert explain chain.pem --as issuing --key \
                            issuing.key\n  credence cert explain 7f62035c1de84b90a6c2f5310e97d84b6a2c1f03    # of the running server, by its \
                            serial number")]
    Explain(ExplainArgs),
    /// Whether certificates are what Credence itself would issue, without a server
    #[command(
        after_help = "Examples:\n  credence cert lint *.pem\n  credence cert lint issuing.pem --as issuing \
                            --bundle root.pem -o json"
    )]
    Lint(LintArgs),
}

/// `cert list`.
#[derive(Debug, Clone, Args)]
pub struct CertListArgs {
    /// One identity
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// One node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// One class: node, workload, server, operator
    #[arg(long)]
    pub class: Option<String>,
    /// Signed by this authority
    #[arg(long, value_name = "ID")]
    pub authority: Option<String>,
    /// Replaced, expired and failed ones too
    #[arg(long)]
    pub all: bool,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `cert show`.
#[derive(Debug, Clone, Args)]
pub struct CertShowArgs {
    /// The serial number in hexadecimal, or its beginning
    pub serial: String,
    /// How to list.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `cert revoke`.
#[derive(Debug, Clone, Args)]
pub struct CertRevokeArgs {
    /// The serial number in hexadecimal, or its beginning
    pub serial: String,
    /// Why, for the list: unspecified, key-compromise, superseded, cessation-of-operation or privilege-withdrawn
    #[arg(long, default_value = "unspecified", value_name = "WORD")]
    pub code: String,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which part a certificate is to play.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AsPart {
    /// At the end of a chain.
    Leaf,
    /// An authority that signs leaves.
    Issuing,
    /// Trusted by itself.
    Root,
}

/// What a leaf is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum UsedFor {
    /// Both ends of TLS.
    #[default]
    Both,
    /// A TLS server.
    Server,
    /// A TLS client.
    Client,
}

/// `cert explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// A file of PEM or DER, the certificate in question first; - for standard input; or the serial number of a
    /// certificate of the running server
    #[arg(value_name = "FILE|SERIAL")]
    pub subject: String,
    /// The roots that are trusted; for a serial number the server's own
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// What the first certificate is to be
    #[arg(long = "as", value_enum, default_value = "leaf")]
    pub part: AsPart,
    /// What a leaf is used for
    #[arg(long, value_enum, default_value_t)]
    pub usage: UsedFor,
    /// A private key; only whether the first certificate has its public half is looked at
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// At this time instead of now, such as 2026-12-24T18:00:00Z
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// The SPIFFE ID that a leaf must have
    #[arg(long = "for", value_name = "ID")]
    pub identity: Option<String>,
    /// How long leaves live that an issuing authority will sign
    #[arg(long, default_value = "12h", value_name = "D")]
    pub leaf_lifetime: String,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `cert lint`.
#[derive(Debug, Clone, Args)]
pub struct LintArgs {
    /// Files of PEM or DER; - for standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to look for issuers that do not stand in the same file
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// What each certificate is; default: as it says itself
    #[arg(long = "as", value_enum)]
    pub part: Option<AsPart>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}
