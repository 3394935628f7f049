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
    /// Others had begun beside it, and each may have ended the worker. It pays nothing, and is a suspect from now on.
    Shared,
    /// Another was on trial beside it, and is blamed. It pays nothing, and is no suspect.
    Bystander,
    /// It had not begun.
    Unstarted {
        /// Whether that is proven; else it stood behind as many attempts as the worker has slots.
        proven: bool,
    },
}

/// How long a job that was lost once is on trial, and how long another has run before one on trial may begin beside it.
/// Most jobs that end their worker do so at once.
pub(crate) const TRIAL: Duration = Duration::from_secs(5);
/// Losses after which a job is not tried beside others any more: its trial would take ten minutes.
const MAX_TRIALS: u32 = 8;
/// Losses that a job paid for after which it is not tried beside others any more.
const MAX_PAID_TRIALS: u32 = 2;

impl Job {
    /// Whether it may have ended a worker: one was lost with it, after it had begun there.
    pub fn is_suspect(&self) -> bool {
        self.tally().lost > 0
    }

    /// Whether it begins on an empty worker alone, and nothing begins beside it: trials have not cleared it, so that it
    /// fails for its own deeds at last, or not at all.
    pub fn runs_alone(&self) -> bool {
        let tally = self.tally();
        tally.lost >= MAX_TRIALS || (self.is_suspect() && tally.infrastructure >= MAX_PAID_TRIALS)
    }

    /// How long an attempt of it runs until it is trusted not to end its worker: twice as long after each loss, so that
    /// one that takes its time to do so is found out too. `None` where it never is, and where nothing that may end its
    /// worker should begin beside it, since it may not run again.
    pub fn trial(&self) -> Option<Duration> {
        let may_rerun = !self.spec().at_most_once() && self.spec().retry().max_infrastructure > 0;
        let doublings = self.tally().lost.saturating_sub(1);
        (may_rerun && !self.runs_alone()).then(|| TRIAL * (1 << doublings.min(MAX_TRIALS)))
    }

    /// By the clock of the platform: that of an agent may differ.
    fn is_trusted(&self, now: Timestamp) -> bool {
        let trial = self.assignment().zip(self.trial());
        trial.is_some_and(|(assignment, trial)| now.since(assignment.at) >= trial)
    }
}

/// The blame of each open attempt of a worker that was lost by `now`, in the order of `jobs`. `begun` are the attempts
/// that the worker ever began, where something on its host has kept that; a worker begins attempts in the order of their
/// dispatch. Of several, a suspect that was on trial is blamed when all others were trusted; other suspects among those
/// stay such, since one that takes its time may hide behind it.
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
