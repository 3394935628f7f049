//! Simulation of the whole platform from a seed: one thread, a clock that jumps from timer to timer, the memory store
//! behind faults, and agents that only pretend. The same seed gives the same run, event by event.

mod dice;
mod observer;
mod scenario;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::ManualClock;

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Hash of all stored events, in order.
    pub trace: u64,
    /// Number of stored events.
    pub events: u64,
    /// Names of the stored events.
    pub kinds: BTreeSet<&'static str>,
    /// Number of acknowledged jobs.
    pub jobs: usize,
    /// Number of created workers.
    pub workers: u32,
    /// Number of times that the platform was killed and restarted.
    pub restarts: u32,
}

/// Runs the scenario of one seed.
///
/// # Errors
/// The broken guarantee and the time. The same seed reproduces it.
pub fn run(seed: u64) -> Result<Report, String> {
    let clock = ManualClock::default();
    let parked = clock.clone();
    // No task can run: advance to the next timer.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(move || {
            parked.advance_to_next();
        })
        .build()
        .map_err(|error| error.to_string())?;
    let broken = Arc::new(Mutex::new(None));
    let result = runtime.block_on(scenario::run(seed, clock, broken.clone()));
    drop(runtime);
    match broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(why) => Err(format!("seed {seed}: {why}")),
        None => result.map_err(|why| format!("seed {seed}: {why}")),
    }
}
