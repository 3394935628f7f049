//! The whole platform under a seed: one thread, a clock that jumps from timer to timer, the memory store behind
//! faults, and agents that only pretend. The same seed gives the same run, event by event.

mod dice;
mod observer;
mod scenario;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::ManualClock;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// A hash over every event that was stored, in order.
    pub trace: u64,
    /// How many events were stored.
    pub events: u64,
    /// The names of the events that were stored.
    pub kinds: BTreeSet<&'static str>,
    /// How many jobs were acknowledged.
    pub jobs: usize,
    /// How many workers were created.
    pub workers: u32,
    /// How often the platform was killed and started again.
    pub restarts: u32,
}

/// Runs the scenario of one seed.
///
/// # Errors
/// The promise that was broken, and when. Run the same seed again to see it again.
pub fn run(seed: u64) -> Result<Report, String> {
    let clock = ManualClock::default();
    let parked = clock.clone();
    // Nothing can run any more: let time go on to the next timer.
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
