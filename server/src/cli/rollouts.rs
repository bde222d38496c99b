//! What goes on by itself: `rollout`.

use clap::{Args, Subcommand};

use super::{ChangeArgs, ListArgs};

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
        override_usage = "credence rollout pause [OPTIONS] --all --reason <TEXT> --for <D>",
        after_help = "Examples:\n  credence rollout pause --all --reason \"Black Friday\" --for 4h\n  credence rollout pause --all \
                            --reason deployment --for 1h --yes    # in a script: nobody is asked\n\nIt ends by itself, and \
                            never lets an authority get too old to sign. Commands of operators still rotate."
    )]
    Pause(PauseArgs),
    /// End the pause before its time
    Resume(ResumeArgs),
}

/// `rollout pause`.
#[derive(Debug, Clone, Args)]
pub struct PauseArgs {
    /// Everything that goes on by itself; a pause of less is not to be had
    #[arg(long)]
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
