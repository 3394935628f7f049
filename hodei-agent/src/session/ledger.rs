//! The ledger: the attempts that the agent holds, and their unsent and unacknowledged messages. Its only I/O is that of
//! the spool.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, JobSpec};
use hodei_core::secret::{SecretName, SecretValue};
use hodei_core::time::Timestamp;
use hodei_proto::v1;
use tokio::sync::{Semaphore, watch};

use super::spool::{Spilled, Spool};
use crate::executor::{Chunk, OUTPUT_WINDOW_BYTES, ProcessSpan, Stop, StopReason};

/// The attempts that were assigned to the worker and that it still holds.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    held: BTreeMap<AttemptId, Held>,
    queue: VecDeque<AttemptId>,
    running: usize,
    seen: Seen,
    /// Attempts with output or a report that was not sent on the current stream, in order.
    unsent: VecDeque<AttemptId>,
    /// Bytes of output that were sent on the current stream and are not acknowledged.
    in_flight: usize,
    dropped_logs: u64,
    /// Attempts that were given back and whose executors still occupy their slots.
    given_back: BTreeSet<AttemptId>,
}

/// Maximum unacknowledged output on one stream, in bytes: the platform can buffer this much without delaying
/// heartbeats.
const MAX_IN_FLIGHT_BYTES: usize = 8 << 20;

/// Maximum number of unacknowledged results. At this number the agent starts no more jobs.
const MAX_UNACKNOWLEDGED_RESULTS: usize = 10_000;

/// An attempt that the agent holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) stage: Stage,
    pub(super) spool: Spool,
    pub(super) window: Arc<Semaphore>,
    process: ProcessSpan,
    /// Whether the attempt is in [`Ledger::unsent`].
    listed: bool,
}

impl Held {
    fn list(&mut self, attempt: AttemptId, unsent: &mut VecDeque<AttemptId>) {
        if !std::mem::replace(&mut self.listed, true) {
            unsent.push_back(attempt);
        }
    }
}

/// The stage of an attempt.
#[derive(Debug)]
pub(super) enum Stage {
    /// Waits for a slot.
    Waiting(Box<Work>),
    /// Has a slot; `started_at` is set once it has a process.
    Running { stop: watch::Sender<Option<Stop>>, started_at: Option<Timestamp>, abandoned: bool },
    /// Ended and not acknowledged by the platform. The report is sent once on each stream, and again if the platform
    /// asks.
    Ended { report: AttemptReport, sent: bool },
}

/// The content of an assignment.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) spec: JobSpec,
    pub(super) secrets: Vec<(SecretName, SecretValue)>,
}

/// The result of taking an assignment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The assignment is new.
    New,
    /// The attempt is held already. Its state should be sent again.
    Known,
    /// The attempt was held before and is over.
    Past,
}

/// A message for the platform that has to be acknowledged.
#[derive(Debug, PartialEq)]
pub(super) enum Outgoing {
    /// Unacknowledged output.
    Logs(v1::LogBatch),
    /// An unacknowledged report, behind all output of its attempt.
    Finished(AttemptId, AttemptReport),
}

/// The parts that the start of an attempt needs.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) attempt: AttemptId,
    pub(super) work: Work,
    pub(super) stop: watch::Receiver<Option<Stop>>,
    pub(super) window: Arc<Semaphore>,
    pub(super) process: ProcessSpan,
}

impl Ledger {
    /// Takes an assignment. Each dispatch number counts once.
    pub(super) fn accept(&mut self, attempt: AttemptId, dispatch: u64, work: Work) -> Accepted {
        if self.held.contains_key(&attempt) {
            return Accepted::Known;
        }
        if !self.seen.insert(dispatch) {
            return Accepted::Past;
        }
        self.hold(attempt, Stage::Waiting(Box::new(work)));
        self.queue.push_back(attempt);
        Accepted::New
    }

    /// Notes an assignment that will not run. Returns `New` if it was never held.
    pub(super) fn decline(&mut self, attempt: AttemptId, dispatch: u64) -> Accepted {
        if self.held.contains_key(&attempt) {
            Accepted::Known
        } else if self.seen.insert(dispatch) {
            Accepted::New
        } else {
            Accepted::Past
        }
    }

    fn hold(&mut self, attempt: AttemptId, stage: Stage) {
        let (window, process) = (Arc::new(Semaphore::new(OUTPUT_WINDOW_BYTES)), ProcessSpan::default());
        self.held.insert(attempt, Held { stage, spool: Spool::default(), window, process, listed: false });
    }

    /// Returns the next attempt to start, if a slot is free.
    pub(super) fn start_next(&mut self, slots: usize) -> Option<Start> {
        while self.running < slots && self.unacknowledged() < MAX_UNACKNOWLEDGED_RESULTS {
            let attempt = self.queue.pop_front()?;
            let Some(held) = self.held.get_mut(&attempt) else { continue };
            let (sender, stop) = watch::channel(None);
            let running = Stage::Running { stop: sender, started_at: None, abandoned: false };
            match std::mem::replace(&mut held.stage, running) {
                Stage::Waiting(work) => {
                    self.running += 1;
                    let (window, process) = (held.window.clone(), held.process.clone());
                    return Some(Start { attempt, work: *work, stop, window, process });
                }
                other => held.stage = other,
            }
        }
        None
    }

    fn unacknowledged(&self) -> usize {
        self.held.len().saturating_sub(self.running + self.queue.len())
    }

    /// Notes the start. Returns false if it should not be reported.
    pub(super) fn on_started(&mut self, attempt: AttemptId, at: Timestamp) -> bool {
        match self.held.get_mut(&attempt).map(|held| &mut held.stage) {
            Some(Stage::Running { started_at, abandoned, .. }) => {
                *started_at = Some(at);
                !*abandoned
            }
            _ => false,
        }
    }

    /// Keeps chunks until they are acknowledged. Drops those of an ended attempt: its report already states the length
    /// of the output.
    pub(super) fn on_logs(&mut self, attempt: AttemptId, chunks: &[Chunk]) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        let Stage::Running { abandoned, .. } = held.stage else { return };
        if abandoned {
            held.window.add_permits(crate::executor::weight(chunks));
            return;
        }
        held.spool.push(attempt, chunks);
        held.list(attempt, &mut self.unsent);
    }

    /// Starts a new stream: marks everything held as unsent.
    pub(super) fn rewind(&mut self) {
        self.in_flight = 0;
        for (attempt, held) in &mut self.held {
            held.spool.rewind();
            if let Stage::Ended { sent, .. } = &mut held.stage {
                *sent = false;
            }
            held.list(*attempt, &mut self.unsent);
        }
    }

    /// Returns the next message to send. The attempts take turns, and each report follows the output of its attempt.
    pub(super) fn next_outgoing(&mut self) -> Option<Outgoing> {
        while self.in_flight < MAX_IN_FLIGHT_BYTES
            && let Some(attempt) = self.unsent.pop_front()
        {
            let Some(held) = self.held.get_mut(&attempt) else { continue };
            held.listed = false;
            if matches!(held.stage, Stage::Running { abandoned: true, .. }) {
                continue;
            }
            let before = held.spool.in_flight();
            if let Some(batch) = held.spool.next_batch() {
                self.in_flight += held.spool.in_flight() - before;
                held.list(attempt, &mut self.unsent);
                return Some(Outgoing::Logs(batch));
            }
            if let Stage::Ended { report, sent: sent @ false } = &mut held.stage {
                *sent = true;
                return Some(Outgoing::Finished(attempt, report.clone()));
            }
        }
        None
    }

    /// Moves output that would hold up its job to disk, up to `limit` bytes for all attempts. For when the platform is
    /// away.
    pub(super) fn spill(&mut self, dir: &Path, limit: u64) {
        let mut used: u64 = self.held.values().map(|held| held.spool.on_disk_bytes()).sum();
        for held in self.held.values_mut().filter(|held| held.spool.in_memory() >= OUTPUT_WINDOW_BYTES / 2) {
            let Spilled { permits, bytes, dropped } = held.spool.spill(dir, limit.saturating_sub(used));
            held.window.add_permits(permits);
            used += bytes;
            self.dropped_logs += dropped;
        }
    }

    /// Returns the bytes of output that wait for the platform, and the number of chunks that were dropped for lack of
    /// room.
    pub(super) fn spooled(&self) -> (u64, u64) {
        let bytes = |held: &Held| held.spool.in_memory() as u64 + held.spool.on_disk_bytes();
        (self.held.values().map(bytes).sum(), self.dropped_logs)
    }

    /// Frees the slot and keeps the report, unless the attempt was given back or abandoned. Only the first report
    /// counts: an executor that was given up may return a second one.
    pub(super) fn on_finished(&mut self, attempt: AttemptId, mut report: AttemptReport) {
        if self.given_back.remove(&attempt) {
            self.running = self.running.saturating_sub(1);
            return;
        }
        let Some(held) = self.held.get_mut(&attempt) else { return };
        let Stage::Running { abandoned, .. } = held.stage else { return };
        self.running = self.running.saturating_sub(1);
        // The executor must not wait for room if it still writes.
        held.window.close();
        if abandoned {
            self.remove(attempt);
            return;
        }
        report.log_end = held.spool.end();
        held.stage = Stage::Ended { report, sent: false };
        held.list(attempt, &mut self.unsent);
    }

    /// Stops an attempt. One that never started ends at once with `unstarted`. A cancel that arrives before its
    /// assignment leaves a tombstone.
    pub(super) fn cancel(&mut self, attempt: AttemptId, dispatch: u64, stop: Stop, unstarted: AttemptReport) {
        match self.held.get_mut(&attempt) {
            Some(Held { stage: Stage::Running { stop: sender, .. }, .. }) => {
                sender.send_replace(Some(stop));
            }
            Some(Held { stage: Stage::Ended { .. }, .. }) => self.resend_report(attempt),
            Some(held) => {
                self.queue.retain(|waiting| *waiting != attempt);
                held.stage = Stage::Ended { report: unstarted, sent: false };
                held.list(attempt, &mut self.unsent);
            }
            None if self.seen.insert(dispatch) => {
                self.hold(attempt, Stage::Ended { report: unstarted, sent: false });
                self.resend_report(attempt);
            }
            None => {}
        }
    }

    /// Marks the report of an attempt, if there is one, to be sent again.
    pub(super) fn resend_report(&mut self, attempt: AttemptId) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        if let Stage::Ended { sent, .. } = &mut held.stage {
            *sent = false;
            held.list(attempt, &mut self.unsent);
        }
    }

    /// Stops all running attempts because the agent ends. Their reports say that they were evicted.
    pub(super) fn evict(&mut self) {
        let stop = Stop { reason: StopReason::Evict, grace: Duration::ZERO };
        for held in self.held.values_mut() {
            if let Stage::Running { stop: sender, .. } = &mut held.stage {
                sender.send_if_modified(|asked| asked.is_none() && asked.replace(stop).is_none());
            }
        }
    }

    /// Removes an attempt that has not started. Returns whether it did.
    pub(super) fn recall(&mut self, attempt: AttemptId) -> bool {
        let waiting = matches!(self.held.get(&attempt), Some(Held { stage: Stage::Waiting(_), .. }));
        if waiting {
            self.remove(attempt);
            self.queue.retain(|queued| *queued != attempt);
        }
        waiting
    }

    /// Removes an attempt that has a slot and no process. Returns whether it did. The slot is freed by the report of
    /// the executor.
    pub(super) fn give_back(&mut self, attempt: AttemptId) -> bool {
        let has_none = matches!(
            self.held.get(&attempt),
            Some(Held { stage: Stage::Running { started_at: None, abandoned: false, .. }, .. })
        );
        if has_none {
            self.remove(attempt);
            self.given_back.insert(attempt);
        }
        has_none
    }

    /// Returns the attempts that wait for a slot.
    pub(super) fn waiting(&self) -> Vec<AttemptId> {
        self.queue.iter().copied().collect()
    }

    /// Stops an attempt that the platform no longer wants, and drops its output and report.
    pub(super) fn abandon(&mut self, attempt: AttemptId) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        if let Stage::Running { stop, abandoned, .. } = &mut held.stage {
            *abandoned = true;
            stop.send_replace(Some(Stop { reason: StopReason::Abandon, grace: Duration::ZERO }));
            self.acknowledge(attempt, u64::MAX);
        } else {
            self.remove(attempt);
            self.queue.retain(|queued| *queued != attempt);
        }
    }

    /// Closes all windows, so that no executor waits for room: output has no reader any more.
    pub(super) fn close(&self) {
        self.held.values().for_each(|held| held.window.close());
    }

    /// Handles the acknowledgement of the chunks below `next`.
    pub(super) fn on_log_ack(&mut self, attempt: AttemptId, next: u64) {
        self.acknowledge(attempt, next);
    }

    /// Handles the acknowledgement of a result.
    pub(super) fn on_result_ack(&mut self, attempt: AttemptId) {
        if matches!(self.held.get(&attempt), Some(Held { stage: Stage::Ended { .. }, .. })) {
            self.remove(attempt);
        }
    }

    fn acknowledge(&mut self, attempt: AttemptId, next: u64) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        let before = held.spool.in_flight();
        let freed = held.spool.acknowledge(next);
        self.in_flight -= before - held.spool.in_flight();
        held.window.add_permits(freed);
    }

    fn remove(&mut self, attempt: AttemptId) {
        self.in_flight -= self.held.remove(&attempt).map_or(0, |held| held.spool.in_flight());
    }

    /// Returns the held attempts that are not abandoned.
    pub(super) fn held(&self) -> impl Iterator<Item = (AttemptId, &Held)> {
        self.held
            .iter()
            .filter(|(_, held)| !matches!(held.stage, Stage::Running { abandoned: true, .. }))
            .map(|(attempt, held)| (*attempt, held))
    }

    /// Returns the process span of a running attempt.
    pub(super) fn process(&self, attempt: AttemptId) -> Option<ProcessSpan> {
        let held = self.held.get(&attempt)?;
        matches!(held.stage, Stage::Running { .. }).then(|| held.process.clone())
    }

    /// Returns when the process of a running attempt started, if its executor has reported that.
    pub(super) fn started_at(&self, attempt: AttemptId) -> Option<Timestamp> {
        match self.held.get(&attempt)?.stage {
            Stage::Running { started_at, .. } => started_at,
            _ => None,
        }
    }

    /// Tells an executor to stop its attempt, unless it was told so before.
    pub(super) fn stop(&self, attempt: AttemptId, stop: Stop) {
        if let Some(Held { stage: Stage::Running { stop: sender, .. }, .. }) = self.held.get(&attempt) {
            sender.send_if_modified(|asked| asked.is_none() && asked.replace(stop).is_none());
        }
    }

    /// Returns the attempts that left the queue and are not acknowledged.
    pub(super) fn begun(&self) -> impl Iterator<Item = AttemptId> {
        let begun = self.held.iter().filter(|(_, held)| !matches!(held.stage, Stage::Waiting(_)));
        begun.map(|(attempt, _)| *attempt)
    }

    /// Returns a held attempt.
    pub(super) fn get(&self, attempt: AttemptId) -> Option<&Held> {
        self.held.get(&attempt)
    }

    /// Returns whether no attempt is held and no executor of a given-back attempt runs.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.given_back.is_empty()
    }

    /// Returns the number of occupied slots.
    pub(super) fn running(&self) -> usize {
        self.running
    }
}

/// The dispatch numbers that were seen: a watermark and the numbers above it.
#[derive(Debug, Default)]
struct Seen {
    floor: u64,
    above: BTreeSet<u64>,
}

impl Seen {
    /// Maximum number of seen numbers that are kept above the watermark.
    const MAX_ABOVE: usize = 16_384;

    /// Returns true the first time. Numbers rise, except for jobs that waited for their secrets. A number below the
    /// watermark was therefore seen or counts as seen: its assignment is given back.
    fn insert(&mut self, number: u64) -> bool {
        if number <= self.floor || !self.above.insert(number) {
            return false;
        }
        if self.above.len() > Self::MAX_ABOVE {
            self.floor = self.above.pop_first().unwrap_or(self.floor);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::job::Outcome;

    use super::*;
    use hodei_core::id::JobId;

    fn attempt(number: u32) -> AttemptId {
        AttemptId { job: JobId::from_uuid(uuid::Uuid::from_u128(1)), number }
    }

    fn work() -> Work {
        Work { spec: JobSpec::command(["true"]).build().unwrap(), secrets: Vec::new() }
    }

    const CANCEL: Stop = Stop { reason: StopReason::Cancel, grace: Duration::from_secs(1) };

    #[test]
    fn a_repeated_assignment_starts_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.accept(attempt(1), 5, work()), Accepted::New);
        assert_eq!(ledger.accept(attempt(1), 5, work()), Accepted::Known);
        assert!(ledger.start_next(2).is_some() && ledger.start_next(2).is_none());
        ledger.on_finished(attempt(1), AttemptReport::unstarted(Outcome::Cancelled, Timestamp::EPOCH));
        assert!(ledger.next_outgoing().is_some() && ledger.next_outgoing().is_none());
        ledger.on_result_ack(attempt(1));
        assert_eq!(ledger.accept(attempt(1), 5, work()), Accepted::Past, "it is over and stays over");
    }

    #[test]
    fn a_cancel_before_its_assignment_is_remembered() {
        let mut ledger = Ledger::default();
        ledger.cancel(attempt(1), 5, CANCEL, AttemptReport::unstarted(Outcome::Cancelled, Timestamp::EPOCH));
        assert!(
            matches!(ledger.next_outgoing(), Some(Outgoing::Finished(_, report)) if report.started_at.is_none())
        );
        assert_eq!(ledger.accept(attempt(1), 5, work()), Accepted::Known);
        ledger.on_result_ack(attempt(1));
        assert_eq!(ledger.accept(attempt(1), 5, work()), Accepted::Past);
        assert!(ledger.start_next(9).is_none());
    }

    #[test]
    fn waiting_attempts_can_be_recalled_and_running_ones_cannot() {
        let mut ledger = Ledger::default();
        ledger.accept(attempt(1), 1, work());
        ledger.accept(attempt(2), 2, work());
        ledger.start_next(1).unwrap();
        assert!(!ledger.recall(attempt(1)) && ledger.recall(attempt(2)));
        assert!(ledger.waiting().is_empty());
    }

    #[test]
    fn an_attempt_given_back_leaves_no_report_and_frees_its_slot() {
        let mut ledger = Ledger::default();
        ledger.accept(attempt(1), 1, work());
        ledger.start_next(1).unwrap();
        assert!(ledger.give_back(attempt(1)) && !ledger.give_back(attempt(1)));
        assert_eq!(
            ledger.accept(attempt(1), 1, work()),
            Accepted::Past,
            "the repeated assignment is to be given back again"
        );
        assert_eq!(ledger.running(), 1, "the executor still occupies the slot");
        ledger.on_finished(attempt(1), AttemptReport::unstarted(Outcome::Cancelled, Timestamp::EPOCH));
        assert_eq!((ledger.next_outgoing(), ledger.running(), ledger.is_empty()), (None, 0, true));
        ledger.accept(attempt(2), 2, work());
        ledger.start_next(1).unwrap();
        ledger.on_started(attempt(2), Timestamp::EPOCH);
        assert!(!ledger.give_back(attempt(2)), "a started attempt cannot be given back");
    }

    #[test]
    fn a_repeat_is_never_declined_as_new() {
        let mut ledger = Ledger::default();
        ledger.accept(attempt(1), 1, work());
        ledger.start_next(1).unwrap();
        assert_eq!(ledger.decline(attempt(1), 1), Accepted::Known);
        assert_eq!(ledger.decline(attempt(2), 2), Accepted::New);
        assert_eq!(ledger.decline(attempt(2), 2), Accepted::Past);
    }

    #[test]
    fn an_abandoned_attempt_sends_nothing_more() {
        let mut ledger = Ledger::default();
        ledger.accept(attempt(1), 1, work());
        let start = ledger.start_next(1).unwrap();
        ledger.abandon(attempt(1));
        assert_eq!(start.stop.borrow().unwrap().reason, StopReason::Abandon);
        assert!(!ledger.on_started(attempt(1), Timestamp::EPOCH));
        ledger.on_logs(attempt(1), &[]);
        ledger.on_finished(attempt(1), AttemptReport::unstarted(Outcome::Cancelled, Timestamp::EPOCH));
        assert_eq!(ledger.next_outgoing(), None);
        assert!(ledger.is_empty());
    }

    #[test]
    fn old_dispatch_numbers_stay_seen() {
        let mut seen = Seen::default();
        assert!((1..=100_000).all(|number| seen.insert(number)));
        assert!((1..=100_000).all(|number| !seen.insert(number)));
    }
}
