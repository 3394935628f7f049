//! The health of a worker, from the renewals of its lease.

use std::time::Duration;

/// Assesses the health of a worker from its renewals.
///
/// A lease is a renewal counter, not a point in time: no clock of another machine is trusted. A worker is lost only
/// when one watcher, on its own monotonic clock, has seen the same count for one whole lease while all its own reads
/// succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerHealthService {
    /// How long the count may stay the same; 20 s by default.
    pub lease: Duration,
}

/// One watcher's memory of one worker or daemon. Times are of the watcher's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseWatch {
    renewals: u64,
    since: Duration,
}

/// The verdict of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerHealth {
    /// Renewed within half a lease.
    Healthy,
    /// Not renewed for half a lease or more.
    Suspect,
    /// Not renewed for a whole lease.
    Lost,
}

impl LeaseWatch {
    /// Starts to watch; also used to restart after a takeover or a failed read.
    pub fn begin(renewals: u64, now: Duration) -> Self {
        Self { renewals, since: now }
    }

    /// Records a count; only a new count proves life.
    pub fn observe(&mut self, renewals: u64, now: Duration) {
        if renewals != self.renewals {
            *self = Self::begin(renewals, now);
        }
    }

    /// Whether the count has stayed the same for a whole lease.
    pub fn is_silent(&self, lease: Duration, now: Duration) -> bool {
        now.saturating_sub(self.since) >= lease
    }
}

impl WorkerHealthService {
    /// Returns the verdict at `now`.
    pub fn assess(&self, watch: &LeaseWatch, now: Duration) -> WorkerHealth {
        let silent = now.saturating_sub(watch.since);
        match silent {
            _ if watch.is_silent(self.lease, now) => WorkerHealth::Lost,
            _ if silent >= self.lease / 2 => WorkerHealth::Suspect,
            _ => WorkerHealth::Healthy,
        }
    }

    /// Returns when the verdict becomes lost, if no new count arrives.
    pub fn deadline(&self, watch: &LeaseWatch) -> Duration {
        watch.since + self.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_count_proves_life() {
        let service = WorkerHealthService { lease: Duration::from_secs(20) };
        let second = Duration::from_secs;
        let mut watch = LeaseWatch::begin(4, second(100));
        watch.observe(4, second(109));
        assert_eq!(service.assess(&watch, second(109)), WorkerHealth::Healthy);
        assert_eq!(service.assess(&watch, second(110)), WorkerHealth::Suspect);
        assert_eq!(service.assess(&watch, second(120)), WorkerHealth::Lost);
        watch.observe(5, second(119));
        assert_eq!(service.assess(&watch, second(120)), WorkerHealth::Healthy);
        assert_eq!(service.deadline(&watch), second(139));
    }
}
