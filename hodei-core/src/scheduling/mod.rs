//! Who runs what, where: pure. The coordinator feeds a [`SchedulingContext`], a [`Scheduler`] makes a plan of it.

mod check;
mod context;
mod filter;
mod placement;
mod planner;
mod queue;
mod recall;
mod score;
pub mod strategy;

pub use crate::queue::{QueueStatus, WaitCause, WaitingClass};
pub use check::{CheckedPlan, PlanFault, check};
pub use context::{ActiveAttempt, ProviderInfo, SchedulingContext, WorkerInfo};
pub use placement::{Behind, Placement, PlacementEnd, SchedulingDecision, behind, placements};
pub use planner::{PlanDecision, Scheduler, SmartScheduler};
pub use queue::{PlacementClass, QueueKey, QueuedJob};
pub use score::{SchedulingStrategy, Score};
