//! The worker: a place with slots, created for the jobs, that leaves again.

mod capacity;
mod credential;
mod health;
mod limits;
mod machine;
mod metrics;
mod state;
mod view;

pub use capacity::{Lifetime, WorkerCapacity};
pub use credential::{IssuedToken, NotAdmitted, SecretHash, worker_of};
pub use health::{LeaseWatch, WorkerHealth, WorkerHealthService};
pub use limits::LimitHold;
pub use machine::{WorkerInput, replay, step};
pub use metrics::WorkerMetrics;
pub use state::{TerminationCause, Worker, WorkerOrder, WorkerState, WorkerStatus};
pub use view::WorkerView;
