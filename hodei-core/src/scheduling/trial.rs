//! Suspects: jobs that were lost with their worker and may have ended it. An attempt of a suspect begins on trial. This
//! file decides which worker takes a suspect, and when that worker takes other jobs again.

use std::time::Duration;

use super::context::{ActiveAttempt, SchedulingContext, WorkerInfo};
use super::queue::PlacementClass;
use crate::job::{FIRST_TRIAL, JobResources};

impl ActiveAttempt {
    /// Whether the attempt has been in its worker long enough to be trusted, at `now` of the monotonic clock.
    pub fn is_trusted(&self, now: Duration) -> bool {
        self.trial.is_some_and(|trial| self.since + trial <= now)
    }

    /// Whether the attempt has been in its worker for longer than a short job, so that waiting for its end is
    /// pointless.
    fn is_settled(&self, now: Duration) -> bool {
        self.since + FIRST_TRIAL <= now
    }
}

impl SchedulingContext {
    /// Whether a worker has a suspect on trial: it takes no other job until the suspect is trusted or has ended.
    pub fn is_held(&self, info: &WorkerInfo) -> bool {
        self.has_suspects() && self.untrusted(info).any(|attempt| attempt.suspect)
    }

    /// Whether every attempt of a worker is trusted, so that a suspect that begins beside them is blamed when the
    /// worker is lost. Always true while there is no suspect.
    pub fn are_trusted(&self, info: &WorkerInfo) -> bool {
        // Without a suspect the answer is not needed: skip the scan.
        !self.has_suspects() || self.untrusted(info).next().is_none()
    }

    /// Whether a suspect is queued or has an attempt.
    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Whether the last attempt of a worker is of a suspect: other jobs begin before the next suspect does, so that
    /// they wait for one trial at most.
    pub(super) fn is_turn_of_others(&self, info: &WorkerInfo) -> bool {
        let last = || self.attempts_of(info).max_by_key(|attempt| attempt.since);
        self.has_suspects() && last().is_some_and(|attempt| attempt.suspect)
    }

    /// Whether holding a worker soon makes a place for a suspect: once the attempts that began there recently have
    /// ended or are trusted. Long-running attempts are not waited for.
    pub(super) fn has_place_soon(&self, class: &PlacementClass, info: &WorkerInfo) -> bool {
        let now = self.now().monotonic;
        let settled = || self.attempts_of(info).filter(|attempt| attempt.is_settled(now));
        let (count, capacity) = (settled().count(), info.worker.capacity());
        let in_use = settled().fold(JobResources::default(), |sum, attempt| sum.plus(&attempt.resources));
        let fits = class.resources.is_one_slot()
            || in_use.plus(&class.resources).exceeds(&capacity.resources).is_none();
        let may_begin =
            if class.alone { count == 0 } else { settled().all(|attempt| attempt.trial.is_some()) };
        may_begin && fits && count < capacity.slots as usize
    }

    /// Returns the time until the next attempt is trusted; `None` while there is no suspect.
    pub(super) fn next_trusted(&self) -> Option<Duration> {
        if !self.has_suspects() {
            return None;
        }
        let now = self.now().monotonic;
        let left = self.attempts().filter(|attempt| !attempt.is_trusted(now));
        left.filter_map(|attempt| Some(attempt.since + attempt.trial? - now)).min()
    }

    fn untrusted(&self, info: &WorkerInfo) -> impl Iterator<Item = &ActiveAttempt> {
        let now = self.now().monotonic;
        self.attempts_of(info).filter(move |attempt| !attempt.is_trusted(now))
    }

    fn attempts_of(&self, info: &WorkerInfo) -> impl Iterator<Item = &ActiveAttempt> {
        info.active.iter().filter_map(|attempt| self.active(attempt.job))
    }
}
