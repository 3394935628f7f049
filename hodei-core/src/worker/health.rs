use std::time::Duration;

/// Tells from a worker's renewals whether it lives.
///
/// A lease is a renewal counter, not a point in time: no clock of another machine is trusted. A worker is lost
/// only when one watcher, on its own monotonic clock, has seen the same count for one whole lease without a
/// failure of its own to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerHealthService {
    /// How long the same count may stand; 20 s by default.
    pub lease: Duration,
}

/// One watcher's memory of one worker. Times are of the watcher's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseWatch {
    renewals: u64,
    since: Duration,
}

/// What a watch says.
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
    /// Begins to watch: also after a restart, a takeover or a failure to look.
    pub fn begin(renewals: u64, now: Duration) -> Self {
        Self { renewals, since: now }
    }

    /// Notes a count; only a new one counts as life.
    pub fn observe(&mut self, renewals: u64, now: Duration) {
        if renewals != self.renewals {
            *self = Self::begin(renewals, now);
        }
    }

    /// Whether the same count has stood for a whole lease.
    pub fn is_silent(&self, lease: Duration, now: Duration) -> bool {
        now.saturating_sub(self.since) >= lease
    }
}

impl WorkerHealthService {
    /// What the watch says at `now`.
    pub fn assess(&self, watch: &LeaseWatch, now: Duration) -> WorkerHealth {
        let silent = now.saturating_sub(watch.since);
        match silent {
            _ if watch.is_silent(self.lease, now) => WorkerHealth::Lost,
            _ if silent >= self.lease / 2 => WorkerHealth::Suspect,
            _ => WorkerHealth::Healthy,
        }
    }

    /// When the watch will say lost if nothing new comes.
    pub fn deadline(&self, watch: &LeaseWatch) -> Duration {
        watch.since + self.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_count_is_life() {
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
