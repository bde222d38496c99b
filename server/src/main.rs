//! The binary: reads what was typed, and says how it ended.

use std::process::ExitCode;

use clap::Parser;
use server::{cli::Cli, host};

fn main() -> ExitCode {
    host::main(Cli::parse().command)
}
