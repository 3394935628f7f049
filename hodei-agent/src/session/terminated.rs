//! Jobs that SIGTERM ended: by their own doing, or because the agent is told to end at the same moment.
//!
//! A reboot, `systemctl stop` (KillMode=control-group) and `kill -TERM -1` send SIGTERM to the daemon, to its agents and to
//! their jobs at once. A job that this ends has not failed: it is given back, at no cost. Which process hears it first is
//! chance, so the end of a job that looks like it waits for a moment.

use std::collections::VecDeque;
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, FailureCause, Outcome};
use hodei_core::port::BoxFuture;

use super::Session;

/// How long the end of a job by a signal waits for the same signal to this agent.
const SIGNAL_SPREAD: Duration = Duration::from_millis(150);
/// A job that handles SIGTERM and fails within this of the agent's own was ended by it.
const CLEANUP: Duration = Duration::from_secs(5);

/// Signals that end everything on a machine or in a service: HUP, INT, TERM.
const ENDING: [i32; 3] = [1, 2, 15];

/// Ends that wait, and whether the agent was told to end.
#[derive(Default)]
pub(super) struct Doubtful {
    ends: VecDeque<(Duration, AttemptId, AttemptReport)>,
    /// When the first of them is settled.
    pub(super) due: Option<BoxFuture<'static, ()>>,
    terminated_at: Option<Duration>,
}

impl Doubtful {
    /// Whether the agent was told to end.
    pub(super) fn is_terminated(&self) -> bool {
        self.terminated_at.is_some()
    }
}

impl Session {
    /// The agent itself is told to end: what ended a moment ago by the same signal did not fail.
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
            Some(at) if is_by_signal(&report) || (is_failure(&report) && now < at + CLEANUP) => {
                self.ledger.on_finished(attempt, interrupted(report));
            }
            None if is_by_signal(&report) => {
                self.doubtful.ends.push_back((now + SIGNAL_SPREAD, attempt, report));
                self.doubtful.due.get_or_insert_with(|| self.agent.clock.sleep(SIGNAL_SPREAD));
            }
            _ => self.ledger.on_finished(attempt, report),
        }
    }

    /// No signal came to this agent: these jobs ended by their own doing.
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

/// Whether the main process was ended by such a signal, or says of itself what shells say then.
fn is_by_signal(report: &AttemptReport) -> bool {
    match report.outcome {
        Outcome::Failed(FailureCause::Signal(signal)) => ENDING.contains(&signal),
        Outcome::Failed(FailureCause::Exit(code)) => ENDING.contains(&(code - 128)),
        _ => false,
    }
}

fn is_failure(report: &AttemptReport) -> bool {
    matches!(report.outcome, Outcome::Failed(FailureCause::Exit(_) | FailureCause::Signal(_)))
}

/// The outcome stays, for a job that may not run twice.
fn interrupted(report: AttemptReport) -> AttemptReport {
    AttemptReport { interrupted: true, ..report }
}
