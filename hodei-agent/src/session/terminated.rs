//! Tells jobs that a signal ended along with the agent from jobs that ended by themselves.
//!
//! A reboot, `systemctl stop` (KillMode=control-group) and `kill -TERM -1` send SIGTERM to the daemon, its agents and
//! their jobs at once. A job that this ends has not failed: it is given back, free of charge. Any of the processes may
//! receive the signal first, so the end of a job by such a signal waits for a moment.

use std::collections::VecDeque;
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, FailureCause, Outcome};
use hodei_core::port::BoxFuture;

use super::Session;

/// How long the end of a job by a signal waits for the same signal to the agent.
const SIGNAL_SPREAD: Duration = Duration::from_millis(150);
/// A job that fails within this time after the agent's SIGTERM counts as ended by that signal: it may have handled it.
const CLEANUP_WINDOW: Duration = Duration::from_secs(5);

/// Signals that end all processes of a machine or service: HUP, INT, TERM.
const ENDING_SIGNALS: [i32; 3] = [1, 2, 15];

/// Ends of jobs that wait for a signal to the agent, and whether the agent received one.
#[derive(Default)]
pub(super) struct Doubtful {
    ends: VecDeque<(Duration, AttemptId, AttemptReport)>,
    /// Ends when the first of them is due.
    pub(super) due: Option<BoxFuture<'static, ()>>,
    terminated_at: Option<Duration>,
}

impl Doubtful {
    /// Returns whether the agent was told to end.
    pub(super) fn is_terminated(&self) -> bool {
        self.terminated_at.is_some()
    }
}

impl Session {
    /// Handles the signal to the agent: jobs that ended by a signal a moment ago count as interrupted.
    pub(super) fn on_terminated(&mut self) {
        self.doubtful.terminated_at = Some(self.agent.clock.monotonic());
        self.doubtful.due = None;
        for (_, attempt, report) in std::mem::take(&mut self.doubtful.ends) {
            self.ledger.on_finished(attempt, interrupted(report));
        }
        self.on_drain();
    }

    pub(super) fn on_finished(&mut self, attempt: AttemptId, report: AttemptReport) {
        let now = self.agent.clock.monotonic();
        match self.doubtful.terminated_at {
            Some(at) if is_by_signal(&report) || (is_failure(&report) && now < at + CLEANUP_WINDOW) => {
                self.ledger.on_finished(attempt, interrupted(report));
            }
            None if is_by_signal(&report) => {
                self.doubtful.ends.push_back((now + SIGNAL_SPREAD, attempt, report));
                self.doubtful.due.get_or_insert_with(|| self.agent.clock.sleep(SIGNAL_SPREAD));
            }
            _ => self.ledger.on_finished(attempt, report),
        }
    }

    /// Reports the ends that are due as they are: the agent received no signal.
    pub(super) fn settle_doubtful(&mut self) {
        let now = self.agent.clock.monotonic();
        while let Some((due, ..)) = self.doubtful.ends.front() {
            if *due > now {
                self.doubtful.due = Some(self.agent.clock.sleep(*due - now));
                return;
            }
            if let Some((_, attempt, report)) = self.doubtful.ends.pop_front() {
                self.ledger.on_finished(attempt, report);
            }
        }
    }
}

/// Returns whether such a signal ended the main process, or its exit code is that of a shell in this case.
fn is_by_signal(report: &AttemptReport) -> bool {
    match report.outcome {
        Outcome::Failed(FailureCause::Signal(signal)) => ENDING_SIGNALS.contains(&signal),
        Outcome::Failed(FailureCause::Exit(code)) => ENDING_SIGNALS.contains(&(code - 128)),
        _ => false,
    }
}

fn is_failure(report: &AttemptReport) -> bool {
    matches!(report.outcome, Outcome::Failed(FailureCause::Exit(_) | FailureCause::Signal(_)))
}

/// Marks a report as interrupted. The outcome stays, for a job that may not run twice.
fn interrupted(report: AttemptReport) -> AttemptReport {
    AttemptReport { interrupted: true, ..report }
}
