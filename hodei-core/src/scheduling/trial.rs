//! Jobs on trial: each was lost with its worker, which it may have ended. Which worker takes one, and when it takes others.

use std::time::Duration;

use super::context::{ActiveAttempt, SchedulingContext, WorkerInfo};

impl ActiveAttempt {
    /// Whether it has run long enough to be trusted, at `now` of the monotonic clock.
    pub fn is_trusted(&self, now: Duration) -> bool {
        self.started && self.since + self.trial <= now
    }
}

impl SchedulingContext {
    /// Whether a worker has an attempt on trial: it takes no other until that has stood it, or has ended.
    pub fn is_held(&self, info: &WorkerInfo) -> bool {
        !self.on_trial.is_empty() && self.untrusted(info).any(|attempt| attempt.on_trial)
    }

    /// Whether an attempt on trial may begin in a worker: each that it has is trusted, so the new one is blamed when it is
    /// lost.
    pub fn may_try(&self, info: &WorkerInfo) -> bool {
        // While none is on trial this is asked of each worker in vain.
        self.on_trial.is_empty() || self.untrusted(info).next().is_none()
    }

    fn untrusted(&self, info: &WorkerInfo) -> impl Iterator<Item = &ActiveAttempt> {
        let attempts = info.active.iter().filter_map(|attempt| self.active(attempt.job));
        attempts.filter(|attempt| !attempt.is_trusted(self.now().monotonic))
    }

    /// How long it is until an attempt is trusted, while that may make room.
    pub(super) fn next_trusted(&self) -> Option<Duration> {
        if self.on_trial.is_empty() {
            return None;
        }
        let now = self.now().monotonic;
        let left = self.attempts().filter(|attempt| attempt.started && !attempt.is_trusted(now));
        left.map(|attempt| attempt.since + attempt.trial - now).min()
    }
}
