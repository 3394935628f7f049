//! Limits the time of attempts whose executor misses a timeout or a stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::JobSpec;

use crate::executor::{ProcessSpan, Stop, StopReason};

/// The attempts with a time limit: those with a timeout, and those that were told to stop.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    attempts: BTreeMap<AttemptId, Watched>,
    due: BTreeSet<(Duration, AttemptId)>,
}

#[derive(Debug)]
struct Watched {
    limit: Limit,
    due: Duration,
    process: ProcessSpan,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    /// The executor should have stopped the attempt `timeout` after its start.
    Timeout { handed_over: Duration, timeout: Duration, grace: Duration },
    /// The executor was told to stop the attempt for this reason.
    Stop(StopReason),
}

/// An action of the session for an attempt beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Tell the executor to stop the attempt.
    Stop(AttemptId, Stop),
    /// End the attempt without its executor.
    GiveUp(AttemptId, StopReason),
}

/// How long beyond a timeout the watchdog waits for the executor to enforce it.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(1);
/// Interval between checks of an attempt without a process, such as one that transfers artifacts.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Watchdog {
    /// Watches an attempt that its executor receives now, if it has a timeout.
    pub(super) fn begin(&mut self, attempt: AttemptId, spec: &JobSpec, process: ProcessSpan, now: Duration) {
        let Some(timeout) = spec.timeout() else { return };
        let limit = Limit::Timeout { handed_over: now, timeout, grace: spec.kill_grace() };
        self.watch(attempt, Watched { limit, due: now + timeout + TIMEOUT_MARGIN, process });
    }

    /// Watches an attempt that was told to stop. The first stop counts, unless a later one is due sooner.
    pub(super) fn stop(&mut self, attempt: AttemptId, stop: Stop, due: Duration, process: ProcessSpan) {
        let sooner = |watched: &Watched| match watched.limit {
            Limit::Timeout { .. } => true,
            Limit::Stop(_) => watched.due > due,
        };
        if self.attempts.get(&attempt).is_none_or(sooner) {
            self.watch(attempt, Watched { limit: Limit::Stop(stop.reason), due, process });
        }
    }

    fn watch(&mut self, attempt: AttemptId, watched: Watched) {
        self.end(attempt);
        self.due.insert((watched.due, attempt));
        self.attempts.insert(attempt, watched);
    }

    /// Forgets an attempt that ended.
    pub(super) fn end(&mut self, attempt: AttemptId) {
        if let Some(watched) = self.attempts.remove(&attempt) {
            self.due.remove(&(watched.due, attempt));
        }
    }

    /// Returns when the next check is due, on the monotonic clock.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Returns an action for each attempt whose limit has passed at `now`, and stops watching them.
    pub(super) fn overdue(&mut self, now: Duration) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        while let Some((due, attempt)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, attempt));
            let Some(mut watched) = self.attempts.remove(&attempt) else { continue };
            match watched.over_at() {
                // The executor works without a process and may wait for the platform: the limit does not apply.
                None => watched.due = now + RECHECK_INTERVAL,
                Some(at) if at > now => watched.due = at,
                Some(_) => {
                    overdue.push(match watched.limit {
                        Limit::Timeout { grace, .. } => {
                            Overdue::Stop(attempt, Stop { reason: StopReason::Timeout, grace })
                        }
                        Limit::Stop(reason) => Overdue::GiveUp(attempt, reason),
                    });
                    continue;
                }
            }
            self.watch(attempt, watched);
        }
        overdue
    }
}

impl Watched {
    /// Returns when the limit passes; `None` while the attempt has no process.
    fn over_at(&self) -> Option<Duration> {
        let since = self.process.since()?;
        Some(match self.limit {
            Limit::Timeout { handed_over, timeout, .. } => since.max(handed_over) + timeout + TIMEOUT_MARGIN,
            Limit::Stop(_) => self.due,
        })
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::id::JobId;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn attempt(number: u32) -> AttemptId {
        AttemptId { job: JobId::from_uuid(uuid::Uuid::from_u128(1)), number }
    }

    fn spec() -> JobSpec {
        JobSpec::command(["true"]).timeout(SECOND * 5).kill_grace(SECOND).build().unwrap()
    }

    #[test]
    fn a_timeout_counts_from_the_start_of_the_process() {
        let (mut watchdog, process) = (Watchdog::default(), ProcessSpan::default());
        watchdog.begin(attempt(1), &spec(), process.clone(), SECOND);
        assert_eq!(watchdog.next(), Some(SECOND * 7));
        process.stop();
        assert_eq!((watchdog.overdue(SECOND * 7), watchdog.next()), (Vec::new(), Some(SECOND * 8)));
        process.start(SECOND * 10);
        assert_eq!((watchdog.overdue(SECOND * 10), watchdog.next()), (Vec::new(), Some(SECOND * 16)));
        let stop = Stop { reason: StopReason::Timeout, grace: SECOND };
        assert_eq!(watchdog.overdue(SECOND * 16), [Overdue::Stop(attempt(1), stop)]);
        assert_eq!(watchdog.next(), None);
    }

    #[test]
    fn a_stop_replaces_a_timeout_and_an_earlier_stop_replaces_a_later_one() {
        let (mut watchdog, process) = (Watchdog::default(), ProcessSpan::default());
        watchdog.begin(attempt(1), &spec(), process.clone(), SECOND);
        let stop = |reason| Stop { reason, grace: SECOND };
        watchdog.stop(attempt(1), stop(StopReason::Cancel), SECOND * 30, process.clone());
        watchdog.stop(attempt(1), stop(StopReason::Abandon), SECOND * 20, process.clone());
        watchdog.stop(attempt(1), stop(StopReason::Cancel), SECOND * 40, process.clone());
        assert_eq!(watchdog.overdue(SECOND * 19), []);
        assert_eq!(watchdog.overdue(SECOND * 20), [Overdue::GiveUp(attempt(1), StopReason::Abandon)]);
        assert_eq!(watchdog.overdue(SECOND * 99), []);
    }

    #[test]
    fn an_attempt_that_ended_is_forgotten() {
        let mut watchdog = Watchdog::default();
        watchdog.begin(attempt(1), &spec(), ProcessSpan::default(), SECOND);
        watchdog.end(attempt(1));
        assert_eq!((watchdog.next(), watchdog.overdue(SECOND * 99)), (None, Vec::new()));
    }
}
