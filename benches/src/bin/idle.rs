//! Measures the cost of an idle daemon and its agent, and the first job, which has to start its worker.
//!
//! `idle [SECONDS [ROUNDS]]`; 10 seconds and 9 cold workers by default.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use hodei_benches::programs::{Daemon, program};
use hodei_benches::{Failure, Kept, Targets, median, millis, numbers};
use hodei_sdk::JobSpec;

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let [seconds, rounds] = numbers([10, 9])?;
    let mut targets = Targets::default();
    let daemon = Daemon::start(Kept::Sqlite, &[]).await?;
    let hodei = daemon.connect().await?;
    let ended = hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
    let (server, agent) = (daemon.process(), daemon.agent(ended.worker().ok_or("the job has no worker")?)?);
    // The work that follows the job's end is done by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = (server.ticks()?, agent.ticks()?);
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let (of_server, of_agent) = (server.ticks()? - before.0, agent.ticks()? - before.1);
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let (daemon_memory, agent_memory) = (megabytes(server.memory("VmRSS")), megabytes(agent.memory("VmRSS")));
    println!("a daemon with a warm worker, {seconds} s without a job");
    let met = targets.check("idle", of_server + of_agent == 0);
    println!("ticks of 10 ms: daemon {of_server}, agent {of_agent} (none: {met})");
    let met = targets.check("memory of the daemon", daemon_memory <= 40.0);
    println!("resident memory of the daemon {daemon_memory:5.1} MB (at most 40: {met})");
    let met = targets.check("memory of the agent", agent_memory <= 12.0);
    println!("resident memory of the agent  {agent_memory:5.1} MB (at most 12: {met})");
    drop((hodei, daemon));

    let mut cold = Vec::new();
    for _ in 0..rounds {
        // A new daemon for each round has no worker yet.
        let daemon = Daemon::start(Kept::Sqlite, &[]).await?;
        let start = Instant::now();
        let run = Command::new(program("hodei")?)
            .args(["run", "--", "echo", "hello"])
            .env("HODEI_SERVER", daemon.url())
            .env("HODEI_TOKEN_FILE", daemon.token_file())
            .stdin(Stdio::null())
            .output()?;
        cold.push(millis(start.elapsed()));
        if run.stdout != b"hello\n" {
            return Err(format!("hodei run: {}", String::from_utf8_lossy(&run.stderr)).into());
        }
    }
    let cold = median(&cold);
    let met = targets.check("cold worker", cold <= 60.0);
    println!(
        "`hodei run -- echo hello` with a cold worker, median of {rounds}: {cold:.0} ms (at most 60: {met})"
    );
    Ok(targets.exit())
}
