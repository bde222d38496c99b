//! The binary: reads what was typed, and says how it ended.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use server::{
    cli::{Cli, Format},
    host,
};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let typed: Vec<_> = std::env::args_os().collect();
    match Cli::read(&typed) {
        Ok((cli, format)) => host::main(cli.command, format),
        Err(error) => host::misread(&error, Format::guess(&typed)),
    }
}
