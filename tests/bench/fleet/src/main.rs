//! `credence-fleet`: simulated nodes, driven on standard input. The library's first page is its manual.

use tokio::io::{BufReader, stdin, stdout};

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    fleet::run(BufReader::new(stdin()), stdout()).await?;
    // Reading standard input blocks a thread that nothing can interrupt: do not wait for it.
    std::process::exit(0)
}
