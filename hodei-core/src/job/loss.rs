//! Who is to blame for the loss of a worker: the rule by which its attempts are closed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::state::{Job, JobStatus};
use crate::id::AttemptId;
use crate::time::Timestamp;

/// What the loss of its worker says of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blame {
    /// No other attempt had begun beside it: it may have ended its worker, and pays.
    #[default]
    Alone,
    /// Others had begun beside it, and each may have ended the worker. It pays nothing, and is on trial from now on.
    Shared,
    /// Another was on trial beside it, and is blamed. It pays nothing.
    Bystander,
    /// It had not begun.
    Unstarted {
        /// Whether that is proven; else it stood behind as many attempts as the worker has slots.
        proven: bool,
    },
}

/// How long a job that was lost once is on trial, and how long another runs before one on trial may begin beside it. Most
/// that end their worker do so at once.
const TRIAL: Duration = Duration::from_secs(5);
/// The longest trial doubles no more: 85 minutes.
const MAX_DOUBLINGS: u32 = 10;

impl Job {
    /// How long an attempt of it runs until it is trusted not to end its worker: twice as long after each loss, so that
    /// one that takes its time to do so is found out too.
    pub fn trial(&self) -> Duration {
        TRIAL * (1 << self.tally().lost.saturating_sub(1).min(MAX_DOUBLINGS))
    }

    fn is_trusted(&self, now: Timestamp) -> bool {
        self.started_at().is_some_and(|at| now.since(at) >= self.trial())
    }
}

/// The blame of each open attempt of a worker that was lost by `now`, in the order of `jobs`. `begun` are the attempts
/// that the worker ever began, where something on its host has kept that; a worker begins attempts in the order of their
/// dispatch. Of several, one that was on trial is blamed when all others had stood theirs.
pub fn blames(
    jobs: &[Arc<Job>],
    slots: u32,
    begun: Option<&BTreeSet<AttemptId>>,
    now: Timestamp,
) -> Vec<Blame> {
    let mut places: Vec<(u64, AttemptId)> =
        jobs.iter().filter_map(|job| Some((job.assignment()?.dispatch, job.attempt_id()))).collect();
    places.sort_unstable();
    let with_slots: BTreeSet<AttemptId> =
        places.into_iter().take(slots as usize).map(|(_, attempt)| attempt).collect();
    let may_have_begun = |job: &Arc<Job>| {
        job.status() == JobStatus::Running || begun.unwrap_or(&with_slots).contains(&job.attempt_id())
    };
    let suspects: Vec<&Arc<Job>> = jobs.iter().filter(|job| may_have_begun(job)).collect();
    let mut untrusted = suspects.iter().filter(|job| !job.is_trusted(now));
    let culprit = match (untrusted.next(), untrusted.next()) {
        _ if suspects.len() == 1 => suspects.first().map(|job| job.id()),
        (Some(job), None) if job.is_on_trial() => Some(job.id()),
        _ => None,
    };
    let blame = |job: &Arc<Job>| match (may_have_begun(job), culprit) {
        (false, _) => Blame::Unstarted { proven: begun.is_some() },
        (true, None) => Blame::Shared,
        (true, Some(culprit)) if culprit == job.id() => Blame::Alone,
        (true, Some(_)) => Blame::Bystander,
    };
    jobs.iter().map(blame).collect()
}
