//! Blame for the loss of a worker: which of its attempts may have ended it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::state::{Job, JobStatus};
use crate::id::AttemptId;
use crate::time::Timestamp;

/// The verdict on one attempt of a lost worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Blame {
    /// It is the one attempt that may have ended the worker. It is charged to the infrastructure budget.
    #[default]
    Alone,
    /// Other attempts had begun too, and each may have ended the worker. It is not charged, and its job is a suspect
    /// from now on.
    Shared,
    /// Another attempt, on trial beside it, is blamed. It is not charged, and its job does not become a suspect.
    Bystander,
    /// It had not begun.
    Unstarted {
        /// Whether that is proven; otherwise it waited behind as many attempts as the worker has slots.
        proven: bool,
    },
}

/// Trial of a job that was lost at most once: how long an attempt runs until it is trusted not to end its worker. Most
/// jobs that end their worker do so at once.
pub(crate) const FIRST_TRIAL: Duration = Duration::from_secs(5);
/// Losses after which a job runs alone, without a further trial beside other jobs: that would take ten minutes.
const MAX_LOSSES: u32 = 8;
/// Charged losses after which a job runs alone, without a further trial beside other jobs.
const MAX_CHARGED_LOSSES: u32 = 2;

impl Job {
    /// Whether the job may have ended a worker: it was lost with one, after it had begun there.
    pub fn is_suspect(&self) -> bool {
        self.tally().lost > 0
    }

    /// Whether the job begins only on an empty worker, and no job begins beside it: trials did not clear it, and alone
    /// only the job itself can be to blame for a loss.
    pub fn runs_alone(&self) -> bool {
        let tally = self.tally();
        tally.lost >= MAX_LOSSES || (self.is_suspect() && tally.infrastructure >= MAX_CHARGED_LOSSES)
    }

    /// Returns how long an attempt of the job runs until it is trusted not to end its worker. The time doubles with
    /// each loss, so that a job that ends its worker late is found too. `None` when the job is never trusted, or may
    /// not run again after a loss, so that no suspect may begin beside it.
    pub fn trial(&self) -> Option<Duration> {
        let may_rerun = !self.spec().at_most_once() && self.spec().retry().max_infrastructure > 0;
        let doublings = self.tally().lost.saturating_sub(1);
        (may_rerun && !self.runs_alone()).then(|| FIRST_TRIAL * (1 << doublings.min(MAX_LOSSES)))
    }

    /// Whether its open attempt is trusted, by the clock of the platform: the clock of an agent may differ.
    fn is_trusted(&self, now: Timestamp) -> bool {
        let trial = self.assignment().zip(self.trial());
        trial.is_some_and(|(assignment, trial)| now.since(assignment.at) >= trial)
    }
}

/// Returns the blame of each open attempt of a worker that was lost by `now`, in the order of `jobs`. `begun` holds the
/// attempts that the worker ever began, where its host has kept a record; otherwise the rule assumes that the worker
/// begins attempts in the order of their dispatch. An attempt that began alone is blamed. Of several, a suspect on
/// trial is blamed when all others were trusted; other suspects among those remain suspects, since a job that ends its
/// worker late may hide behind the trial.
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
    let begun_here: Vec<&Arc<Job>> = jobs.iter().filter(|job| may_have_begun(job)).collect();
    let mut untrusted = begun_here.iter().filter(|job| !job.is_trusted(now));
    let culprit = match (untrusted.next(), untrusted.next()) {
        _ if begun_here.len() == 1 => begun_here.first().map(|job| job.id()),
        (Some(job), None) if job.is_suspect() => Some(job.id()),
        _ => None,
    };
    let blame = |job: &Arc<Job>| match (may_have_begun(job), culprit) {
        (false, _) => Blame::Unstarted { proven: begun.is_some() },
        (true, None) => Blame::Shared,
        (true, Some(culprit)) if culprit == job.id() => Blame::Alone,
        (true, Some(_)) if job.is_suspect() => Blame::Shared,
        (true, Some(_)) => Blame::Bystander,
    };
    jobs.iter().map(blame).collect()
}
