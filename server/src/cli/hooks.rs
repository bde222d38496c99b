//! `hook …`.

use clap::{Args, Subcommand};

use super::ListArgs;

/// `hook`.
#[derive(Debug, Clone, Subcommand)]
pub enum HookCommand {
    /// The hooks of the server's credence.yaml, and how they stand
    List(ListArgs),
    /// Tell a hook that this is a test, and wait for what it makes of it
    #[command(
        after_help = "Examples:\n  credence hook test page\n\nExits with 1 if the hook does not take it."
    )]
    Test(HookTestArgs),
}

/// `hook test`.
#[derive(Debug, Clone, Args)]
pub struct HookTestArgs {
    /// The hook's name
    pub name: String,
    /// How to print the outcome.
    #[command(flatten)]
    pub list: ListArgs,
}
