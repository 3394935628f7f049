//! The job: its spec, its states and the state machine between them.

mod acceptance;
mod builder;
mod command;
mod constraint;
mod failure;
pub mod limits;
mod loss;
mod machine;
mod resources;
mod retry;
mod spec;
mod state;
mod tenant;

pub use acceptance::{check_new, check_new_id};
pub use builder::{JobSpecBuilder, SpecError};
pub use command::{Command, LISTED_COMMAND_BYTES};
pub use constraint::{Constraint, Labels, ParseConstraintError};
pub use failure::{CauseKind, FailureCause, Outcome};
pub(crate) use loss::FIRST_TRIAL;
pub use loss::{Blame, blames};
pub use machine::{JobInput, Loss, Refused, Submission, replay, step};
pub use resources::{JobResources, Usage};
pub use retry::{Backoff, RetryPolicy};
pub use spec::{Concurrency, JobSpec, ParsePriorityError, Priority};
pub use state::{
    Assignment, AttemptReport, Ending, Job, JobRecord, JobState, JobStatus, Run, Tally, WaitReason,
};
pub use tenant::{ParseTenantError, TenantId};
