//! The worker: an agent with slots for jobs, created on demand and removed at the end of its lifetime.

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
