//! Identities, and blocking them.

use clap::{Args, Subcommand};

use super::{ChangeArgs, ListArgs};

/// `identity`.
#[derive(Debug, Clone, Subcommand)]
pub enum IdentityCommand {
    /// Who speaks for which identity, and which are blocked
    List(ListArgs),
    /// One identity: who speaks for it, whether it is blocked, on how many proxies that is acknowledged, and until when
    /// it survives if its issuer stays down
    #[command(after_help = "Examples:\n  credence identity show spiffe://prod.example/web")]
    Show(IdentityShowArgs),
    /// Block an identity: its streams end, renewal and enrolment are refused
    #[command(
        after_help = "Without --now the identity gets nothing new, and certificates that it has work until they \
                            end.\nWith it every proxy refuses its requests within seconds, on open connections too, \
                            and nobody\nelse's connection ends; TCP sessions that are open go on. --evict ends \
                            these, and those of others\nbeside them: --dry-run says where and how soon.\n\n\
                            Examples:\n  credence identity block \
                            spiffe://prod.example/web --now --reason \"stolen key\"\n  credence identity block \
                            spiffe://prod.example/web --now --evict --dry-run"
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
    /// End its open TCP sessions too, and with them those of others on the same listeners
    #[arg(long, requires = "now")]
    pub evict: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
