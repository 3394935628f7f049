//! Suspects: jobs that were lost with their worker, which they may have ended. An attempt of one is on trial at first. Which
//! worker takes one, and when that takes others again.

use std::time::Duration;

use super::context::{ActiveAttempt, SchedulingContext, WorkerInfo};
use super::queue::PlacementClass;
use crate::job::{JobResources, TRIAL};

impl ActiveAttempt {
    /// Whether it has been there long enough to be trusted, at `now` of the monotonic clock.
    pub fn is_trusted(&self, now: Duration) -> bool {
        self.trial.is_some_and(|trial| self.since + trial <= now)
    }

    /// Whether its end is not to be waited for: it has been there for longer than short jobs are.
    fn is_settled(&self, now: Duration) -> bool {
        self.since + TRIAL <= now
    }
}

impl SchedulingContext {
    /// Whether a worker has a suspect on trial: it takes no other job until that is trusted, or has ended.
    pub fn is_held(&self, info: &WorkerInfo) -> bool {
        self.has_suspects() && self.untrusted(info).any(|attempt| attempt.suspect)
    }

    /// Whether each attempt of a worker is trusted, so that a suspect that begins beside them is blamed when the worker is
    /// lost.
    pub fn are_trusted(&self, info: &WorkerInfo) -> bool {
        // While there is no suspect this is asked of each worker in vain.
        !self.has_suspects() || self.untrusted(info).next().is_none()
    }

    /// Whether there is a suspect, queued or with an attempt.
    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Whether a worker took a suspect last: others begin before the next one does, so that they wait for one trial at most.
    pub(super) fn is_turn_of_others(&self, info: &WorkerInfo) -> bool {
        let last = || self.attempts_of(info).max_by_key(|attempt| attempt.since);
        self.has_suspects() && last().is_some_and(|attempt| attempt.suspect)
    }

    /// Whether keeping others from a worker soon makes a place for a suspect: once what began there of late has ended, or
    /// is trusted. Long jobs are not waited for.
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

    /// How long it is until an attempt is trusted, while that may make room.
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
