//! `credence-limits`: what the product costs, beside the least that it could.
//!
//! Every benchmark measures the product and its reference by turns, in rounds, in one run, and reports the median of
//! the rounds' ratios: the machine may be slow or shared, a ratio stays. What is measured is processor time, never
//! the time of day. `docs/reference/performance.md` says what each number means, and what was found.

mod authority;
mod bare;
mod beside;
mod bound;
mod clock;
mod durable;
mod outside;
mod p1;
mod p12;
mod p13;
mod p2;
mod p3;
mod renewals;
mod report;
mod served;
mod steps;
mod stub;
mod window;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mimalloc::MiMalloc;

use crate::report::Report;

/// As the product's own program has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What the product costs, beside the least that it could.
#[derive(Debug, Parser)]
#[command(name = "credence-limits")]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// A certificate, from request to leaf, in process and without storage.
    P1(Options),
    /// A durable certificate: journal and audit on a disk, 64 under way; in process, and over mTLS.
    P2(Options),
    /// Every leaf of 1000 proxies is replaced at once by a running control plane.
    P3(Options),
    /// Leaves that a Vault signs, beside bare calls of it; and what a slow one, or none, costs the streams beside it.
    P12(Options),
    /// Encryption at rest: writing and loading imported secrets.
    P13(Options),
    /// What stands for a Vault in p12.
    #[command(hide = true)]
    Stub(stub::Options),
}

#[derive(Debug, Args)]
struct Options {
    /// How often everything is measured.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Table,
    Json,
}

fn main() -> anyhow::Result<()> {
    let (options, run): (_, fn(usize) -> anyhow::Result<Report>) = match Cli::parse().benchmark {
        Benchmark::P1(options) => (options, p1::run),
        Benchmark::P2(options) => (options, p2::run),
        Benchmark::P3(options) => (options, p3::run),
        Benchmark::P12(options) => (options, p12::run),
        Benchmark::P13(options) => (options, p13::run),
        Benchmark::Stub(options) => return stub::serve(&options),
    };
    show(&run(options.rounds.max(1))?, options.output)
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn show(report: &Report, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Table => println!("{report}"),
        Form::Json => println!("{}", serde_json::to_string_pretty(report)?),
    }
    Ok(())
}
