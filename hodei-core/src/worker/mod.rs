//! The worker: a place with slots, created for the jobs, that leaves again.

mod capacity;
mod health;
mod machine;
mod state;

pub use capacity::{Lifetime, WorkerCapacity};
pub use health::{LeaseWatch, WorkerHealth, WorkerHealthService};
pub use machine::{WorkerInput, replay, step};
pub use state::{TerminationCause, Worker, WorkerOrder, WorkerState, WorkerStatus};
