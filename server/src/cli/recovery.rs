//! `recover`.

use clap::{ArgGroup, Args};

use super::ChangeArgs;

/// `recover`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("what").args(["window", "close", "list"]))]
pub struct RecoverArgs {
    /// Let nodes come back for this time, such as 24h, at most 7d
    #[arg(long, value_name = "D")]
    pub window: Option<String>,
    /// How long ago their certificates may have ended; default: 7d, at most 90d
    #[arg(long, value_name = "D", requires = "window")]
    pub reach: Option<String>,
    /// Close the window before its time
    #[arg(long)]
    pub close: bool,
    /// Only list who has expired and who came back
    #[arg(long)]
    pub list: bool,
    /// Show it again as it changes, until nobody is awaited any more or the window ends
    #[arg(long, conflicts_with = "close")]
    pub watch: bool,
    /// Why, for the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// How to change.
    #[command(flatten)]
    pub change: ChangeArgs,
}
