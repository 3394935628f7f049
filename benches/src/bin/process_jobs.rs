//! Measures jobs that run `true`, embedded and as three processes, as a ratio to bare spawns of the same program on two
//! threads, and to HyperQueue if that is installed (`pip install hyperqueue`).
//!
//! `process-jobs [JOBS [ROUNDS]]`; 10,000 jobs and 3 rounds by default. Each round measures everything once, one after
//! the other; the medians are printed. Exits with 1 if a target is missed.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a measurement of real time")]

use std::process::ExitCode;

use hodei_benches::programs::{Daemon, hyperqueue};
use hodei_benches::{Failure, Kept, Rate, Stopwatch, Targets, bare_spawns, median, numbers, xargs};
use hodei_sdk::{Hodei, JobSpec, JobStatus};

/// The rates of each round.
#[derive(Default)]
struct Rates {
    bare: Vec<Rate>,
    one_thread: Vec<Rate>,
    xargs: Vec<Rate>,
    hyperqueue: Vec<f64>,
    embedded: [Vec<Rate>; 3],
    touched: Vec<Rate>,
    processes: [Vec<Rate>; 3],
}

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let [jobs, rounds] = numbers([10_000, 3])?;
    let mut rates = Rates::default();
    for _ in 0..rounds {
        round(jobs, &mut rates).await?;
    }
    println!(
        "{jobs} x true, medians of {rounds} rounds: jobs per second, the ratio to the first line, and processor time per job"
    );
    Ok(show(&rates).exit())
}

async fn round(jobs: usize, rates: &mut Rates) -> Result<(), Failure> {
    rates.bare.push(bare_spawns(jobs, 2));
    rates.one_thread.push(bare_spawns(jobs, 1));
    rates.xargs.push(xargs(jobs)?);
    // As many tasks at once as a worker of Hodei has slots here.
    rates.hyperqueue.extend(hyperqueue(jobs, 4)?);
    for (at, kept) in Kept::all().into_iter().enumerate() {
        rates.embedded[at].push(embedded(kept, jobs).await?);
        let daemon = Daemon::start(kept, &["--slots", "4"]).await?;
        rates.processes[at].push(rate(&daemon.connect().await?, jobs).await?);
    }
    let touched = touch(100 << 20);
    rates.touched.push(embedded(Kept::Memory, jobs).await?);
    drop(touched);
    Ok(())
}

fn show(rates: &Rates) -> Targets {
    let (mut targets, bare) = (Targets::default(), speed(&rates.bare));
    let line = |name: &str, rates: &[Rate]| {
        let micros = median(&rates.iter().map(|rate| rate.micros).collect::<Vec<_>>());
        format!("{name:<36}{:6.0}  {:.2}  {micros:5.0} µs", speed(rates), speed(rates) / bare)
    };
    println!("{}", line("posix_spawn loop, 2 threads", &rates.bare));
    println!("{}", line("posix_spawn loop, 1 thread", &rates.one_thread));
    println!("{}", line("xargs -P2", &rates.xargs));
    let peer = (!rates.hyperqueue.is_empty()).then(|| median(&rates.hyperqueue));
    match peer {
        Some(peer) => println!("{:<36}{peer:6.0}  {:.2}", "HyperQueue", peer / bare),
        None => println!("HyperQueue                          is not installed"),
    }
    for (kept, (rates, least)) in Kept::all().into_iter().zip(rates.embedded.iter().zip([0.6, 0.5, 0.45])) {
        let name = format!("embedded, {}", kept.name());
        let met = targets.check(&name, speed(rates) / bare >= least);
        println!("{} (at least {least:.2}: {met})", line(&name, rates));
    }
    let untouched = speed(&rates.touched) / speed(&rates.embedded[0]);
    let met = targets.check("100 MB touched", untouched >= 0.9);
    let name = "embedded, memory, 100 MB touched";
    println!("{}, {untouched:.2} of untouched (at least 0.90: {met})", line(name, &rates.touched));
    for (kept, rates) in Kept::all().into_iter().zip(&rates.processes) {
        let name = format!("three processes, {}", kept.name());
        let met = targets.check(&name, speed(rates) / bare >= 0.45);
        print!("{} (at least 0.45: {met})", line(&name, rates));
        if let Some(peer) = peer {
            let ratio = speed(rates) / peer;
            let met = targets.check(&format!("{name}, beside HyperQueue"), ratio >= 1.5);
            print!(", {ratio:.2} of HyperQueue (at least 1.50: {met})");
        }
        println!();
    }
    targets
}

fn speed(rates: &[Rate]) -> f64 {
    median(&rates.iter().map(|rate| rate.per_second).collect::<Vec<_>>())
}

async fn embedded(kept: Kept, jobs: usize) -> Result<Rate, Failure> {
    let (hodei, _dir) = kept.open().await?;
    let rate = rate(&hodei, jobs).await;
    hodei.shutdown().await;
    rate
}

/// Measures from the first submit to the last result, with a warm worker.
async fn rate(hodei: &Hodei, jobs: usize) -> Result<Rate, Failure> {
    hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
    let specs = (0..jobs).map(|_| JobSpec::command(["true"]).build()).collect::<Result<Vec<_>, _>>()?;
    let watch = Stopwatch::start();
    let submitted = hodei.submit_batch(specs).await?;
    let ids = submitted.into_iter().map(|job| job.map(|job| job.id())).collect::<Result<Vec<_>, _>>()?;
    let (mut ends, mut succeeded) = (hodei.jobs().completions(ids), 0);
    while let Some(job) = ends.next().await? {
        succeeded += usize::from(job.status() == JobStatus::Succeeded);
    }
    let rate = watch.rate(jobs);
    assert_eq!(succeeded, jobs, "all jobs succeeded");
    Ok(rate)
}

/// Allocates memory and writes to each page of it.
fn touch(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(memory)
}
