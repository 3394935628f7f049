//! Decides which worker runs which job. The coordinator feeds a [`SchedulingContext`]; a [`Scheduler`] plans from it.

mod check;
mod context;
mod filter;
mod placement;
mod planner;
mod provider_info;
mod queue;
mod recall;
mod score;
pub mod strategy;
mod trial;

pub use crate::queue::{QueueStatus, WaitCause, WaitingClass};
pub use check::{CheckedPlan, PlanFault, check};
pub use context::{ActiveAttempt, SchedulingContext, WorkerInfo};
pub use placement::{Behind, Placement, PlacementEnd, SchedulingDecision, behind, placements};
pub use planner::{PlanDecision, Scheduler, SmartScheduler};
pub use provider_info::ProviderInfo;
pub use queue::{PlacementClass, QueueKey, QueuedJob};
pub use score::{SchedulingStrategy, Score};
