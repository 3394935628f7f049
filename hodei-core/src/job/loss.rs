//! Who is to blame for the loss of a worker: the rule by which its attempts are closed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::{Job, JobStatus};
use crate::id::AttemptId;

/// What the loss of its worker says of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blame {
    /// No other attempt had begun beside it: it may have ended its worker, and pays.
    #[default]
    Alone,
    /// Others had begun beside it, and each may have ended the worker. It pays nothing, and runs alone from now on.
    Shared,
    /// It had not begun.
    Unstarted {
        /// Whether that is proven; else it stood behind as many attempts as the worker has slots.
        proven: bool,
    },
}

/// The blame of each open attempt of a worker that was lost, in the order of `jobs`. `begun` are the attempts that the
/// worker ever began, where something on its host has kept that; a worker begins attempts in the order of their dispatch.
pub fn blames(jobs: &[Arc<Job>], slots: u32, begun: Option<&BTreeSet<AttemptId>>) -> Vec<Blame> {
    let mut places: Vec<(u64, AttemptId)> =
        jobs.iter().filter_map(|job| Some((job.assignment()?.dispatch, job.attempt_id()))).collect();
    places.sort_unstable();
    let with_slots: BTreeSet<AttemptId> =
        places.into_iter().take(slots as usize).map(|(_, attempt)| attempt).collect();
    let may_have_begun = |job: &Arc<Job>| {
        job.status() == JobStatus::Running || begun.unwrap_or(&with_slots).contains(&job.attempt_id())
    };
    let suspects = jobs.iter().filter(|job| may_have_begun(job)).count();
    let blame = |job: &Arc<Job>| match (may_have_begun(job), suspects) {
        (false, _) => Blame::Unstarted { proven: begun.is_some() },
        (true, 1) => Blame::Alone,
        (true, _) => Blame::Shared,
    };
    jobs.iter().map(blame).collect()
}
