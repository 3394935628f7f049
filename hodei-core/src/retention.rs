//! The retention horizon: before which time ended jobs are forgotten, although the clock may be wrong.

use std::time::Duration;

use crate::time::Timestamp;

/// The time before which ended jobs are forgotten. It follows the clock in steps of at most [`STEP`](Self::STEP), so
/// that a clock that is set wrong does not forget everything at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    reached: Timestamp,
    /// Since when the clock is ahead; of the monotonic clock.
    ahead_since: Option<Duration>,
}

/// One reading of the horizon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Jobs that ended before this may be forgotten.
    pub before: Timestamp,
    /// How far the clock alone would move the horizon beyond `before`; zero when the clock is trusted.
    pub held_back: Duration,
    /// Time until the first step.
    pub hold: Duration,
}

/// Evidence about the clock from the jobs of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence {
    /// End of the oldest job that the clock says may be forgotten.
    pub oldest: Option<Timestamp>,
    /// Time of the last submit before this start.
    pub newest: Option<Timestamp>,
}

impl Horizon {
    /// The farthest that one look moves the horizon.
    pub const STEP: Duration = Duration::from_secs(3600);
    /// How long nothing is forgotten once the clock is found ahead: time for an operator to read the log.
    pub const HOLD: Duration = Duration::from_secs(3600);

    /// Returns the horizon at the start of a platform whose clock says that jobs before `cutoff` are to be forgotten.
    /// The clock is trusted when a job was submitted after `cutoff`; otherwise it may be ahead of every job.
    pub fn begin(cutoff: Timestamp, evidence: Evidence) -> Self {
        let is_trusted = evidence.newest.is_some_and(|newest| newest >= cutoff);
        let reached = evidence.oldest.filter(|oldest| !is_trusted && *oldest < cutoff).unwrap_or(cutoff);
        Self { reached, ahead_since: None }
    }

    /// Reads the horizon at `now` of the monotonic clock, when the time of day says `cutoff`.
    pub fn look(&mut self, cutoff: Timestamp, now: Duration) -> Look {
        if cutoff.since(self.reached) <= Self::STEP {
            // Also when the clock was set back: jobs that ended since are kept longer.
            *self = Self { reached: cutoff, ahead_since: None };
            return Look { before: cutoff, held_back: Duration::ZERO, hold: Duration::ZERO };
        }
        let since = *self.ahead_since.get_or_insert(now);
        let hold = Self::HOLD.saturating_sub(now.saturating_sub(since));
        if hold.is_zero() {
            self.reached = self.reached + Self::STEP;
        }
        Look { before: self.reached, held_back: cutoff.since(self.reached), hold }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const LOOK_INTERVAL: Duration = Duration::from_secs(600);

    fn at(hour: u64) -> Timestamp {
        Timestamp::EPOCH + HOUR * u32::try_from(hour).unwrap()
    }

    fn begun(cutoff: u64, oldest: u64, newest: u64) -> Horizon {
        Horizon::begin(at(cutoff), Evidence { oldest: Some(at(oldest)), newest: Some(at(newest)) })
    }

    #[test]
    fn the_horizon_follows_a_clock_that_recent_jobs_confirm() {
        assert_eq!(begun(100, 50, 110).look(at(100), HOUR).before, at(100));
        assert_eq!(Horizon::begin(at(100), Evidence::default()).look(at(100), HOUR).before, at(100));
    }

    #[test]
    fn a_clock_ahead_of_every_job_forgets_nothing_for_an_hour_and_then_in_steps() {
        let mut horizon = begun(9000, 50, 200);
        let first = horizon.look(at(9000), HOUR);
        assert_eq!((first.before, first.hold, first.held_back), (at(50), HOUR, HOUR * 8950));
        let second = horizon.look(at(9000) + LOOK_INTERVAL, HOUR + LOOK_INTERVAL);
        assert_eq!((second.before, second.hold), (at(50), HOUR - LOOK_INTERVAL));
        let steps: Vec<_> =
            (0..3).map(|n| horizon.look(at(9001), HOUR * 2 + LOOK_INTERVAL * n).before).collect();
        assert_eq!(steps, [at(51), at(52), at(53)]);
    }

    #[test]
    fn the_horizon_follows_a_corrected_clock_at_once() {
        let mut horizon = begun(9000, 50, 200);
        assert_eq!(horizon.look(at(9000), HOUR).before, at(50));
        assert_eq!(horizon.look(at(40), HOUR + LOOK_INTERVAL).before, at(40));
        assert_eq!(horizon.look(at(41), HOUR * 2).held_back, Duration::ZERO);
    }

    #[test]
    fn the_horizon_does_not_follow_a_clock_that_jumps_while_the_platform_runs() {
        let mut horizon = begun(100, 50, 110);
        assert_eq!(horizon.look(at(100), HOUR).before, at(100));
        assert_eq!(horizon.look(at(5000), HOUR + LOOK_INTERVAL).before, at(100));
        assert_eq!(
            horizon.look(at(100) + LOOK_INTERVAL * 2, HOUR + LOOK_INTERVAL * 2).before,
            at(100) + LOOK_INTERVAL * 2
        );
    }
}
