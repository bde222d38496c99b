//! The binary: reads what was typed, and says how it ended.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use server::{cli::Cli, host};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => host::main(cli.command),
        Err(error) => host::misread(&error),
    }
}
