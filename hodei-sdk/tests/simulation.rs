//! Simulations of the whole platform. `HODEI_SEED=n` replays one seed; `HODEI_SEEDS=n` sets the number of seeds.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use hodei_sdk::testing::simulation;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn the_guarantees_hold_under_every_seed() {
    if let Some(seed) = variable("HODEI_SEED") {
        println!("{:?}", simulation::run(seed).unwrap());
        return;
    }
    let seeds = variable("HODEI_SEEDS").unwrap_or(200);
    let halves = [0, 1].map(|half| {
        std::thread::spawn(move || (half..seeds).step_by(2).map(simulation::run).collect::<Vec<_>>())
    });
    let results: Vec<_> = halves.into_iter().flat_map(|half| half.join().unwrap()).collect();
    let broken: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(broken.is_empty(), "{} of {seeds} seeds: {broken:#?}", broken.len());
    let sum = |of: fn(&simulation::Report) -> u64| results.iter().flatten().map(of).sum::<u64>();
    println!(
        "{seeds} seeds: {} jobs, {} workers, {} events, {} restarts",
        sum(|r| r.jobs as u64),
        sum(|r| r.workers.into()),
        sum(|r| r.events),
        sum(|r| r.restarts.into())
    );
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 1000..1020 {
        assert_eq!(simulation::run(seed), simulation::run(seed), "seed {seed}");
    }
}
