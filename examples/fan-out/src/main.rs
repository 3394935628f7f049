//! Runs ten thousand jobs with progress on a terminal. Prints `10000 jobs: 9900 succeeded, 100 failed`.
//!
//! `fan-out [JOBS]`.
#![allow(clippy::print_stdout, reason = "an example")]

use std::io::{IsTerminal, Write};

use hodei_sdk::{Hodei, JobSpec, JobStatus};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(10_000), |count| count.parse())?;
    let hodei = Hodei::local().await?;
    // One batch: the jobs are submitted together, but each is accepted or refused by itself.
    let specs = (0..count).map(|number| {
        let program = if number % 100 == 0 { "false" } else { "true" };
        JobSpec::command([program]).label("part", format!("{}", number % 10)).build()
    });
    let jobs = hodei.submit_batch(specs.collect::<Result<_, _>>()?).await?;
    let (mut succeeded, mut failed) = (0, 0);
    let mut terminal = std::io::stderr();
    for job in jobs {
        match job?.wait().await?.status() {
            JobStatus::Succeeded => succeeded += 1,
            _ => failed += 1,
        }
        let done = succeeded + failed;
        if terminal.is_terminal() && (done % 50 == 0 || done == count) {
            write!(terminal, "\r{done} of {count}")?;
        }
    }
    if terminal.is_terminal() {
        writeln!(terminal)?;
    }
    println!("{count} jobs: {succeeded} succeeded, {failed} failed");
    hodei.shutdown().await;
    Ok(())
}
