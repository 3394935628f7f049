//! What the agent has: pure bookkeeping over the messages of the protocol, without any I/O.

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
use crate::executor::{Chunk, ProcessSpan, Stop, StopReason, WINDOW};

/// Everything one worker has been given and is not rid of.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    held: BTreeMap<AttemptId, Held>,
    queue: VecDeque<AttemptId>,
    running: usize,
    seen: Seen,
    /// Attempts with something to say that was not said on the present stream, in order.
    unsaid: VecDeque<AttemptId>,
    /// Bytes of output that were said on the present stream and are not acknowledged.
    under_way: usize,
    dropped_logs: u64,
    /// Given back; their executors still have their slots.
    given_back: BTreeSet<AttemptId>,
}

/// Output under way on one stream, at most: the platform can hold so much without keeping heartbeats waiting.
const UNDER_WAY: usize = 8 << 20;

/// Results that the platform has not acknowledged, at most: nothing more is started beyond it.
const RESULTS: usize = 10_000;

/// One attempt.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) stage: Stage,
    pub(super) spool: Spool,
    pub(super) window: Arc<Semaphore>,
    process: ProcessSpan,
    /// Whether it stands in the line of those with something to say.
    listed: bool,
}

impl Held {
    fn list(&mut self, attempt: AttemptId, unsaid: &mut VecDeque<AttemptId>) {
        if !std::mem::replace(&mut self.listed, true) {
            unsaid.push_back(attempt);
        }
    }
}

/// How far an attempt is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Waits for a slot.
    Waiting(Box<Work>),
    /// Has a process.
    Running { stop: watch::Sender<Option<Stop>>, started_at: Option<Timestamp>, abandoned: bool },
    /// Ended; the platform has not acknowledged it. Said at most once on a stream.
    Ended { report: AttemptReport, said: bool },
}

/// What an assignment brings.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) spec: JobSpec,
    pub(super) secrets: Vec<(SecretName, SecretValue)>,
}

/// What became of an assignment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// It will run.
    New,
    /// It is here already; its state should be told again.
    Known,
    /// It was here and is over.
    Past,
}

/// Something to say to the platform.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// Output, not acknowledged.
    Logs(v1::LogBatch),
    /// A report, not acknowledged, with nothing before it unsaid.
    Finished(AttemptId, AttemptReport),
}

/// What a start takes.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) attempt: AttemptId,
    pub(super) work: Work,
    pub(super) stop: watch::Receiver<Option<Stop>>,
    pub(super) window: Arc<Semaphore>,
    pub(super) process: ProcessSpan,
}

impl Ledger {
    /// Takes an assignment, each dispatch number once.
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

    /// Notes an assignment that will not be run; `New` when it never was here.
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
        let (window, process) = (Arc::new(Semaphore::new(WINDOW)), ProcessSpan::default());
        self.held.insert(attempt, Held { stage, spool: Spool::default(), window, process, listed: false });
    }

    /// The next that may start, if a slot is free.
    pub(super) fn start_next(&mut self, slots: usize) -> Option<Start> {
        while self.running < slots && self.unacknowledged() < RESULTS {
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

    /// Notes the start; false when nobody should be told.
    pub(super) fn on_started(&mut self, attempt: AttemptId, at: Timestamp) -> bool {
        match self.held.get_mut(&attempt).map(|held| &mut held.stage) {
            Some(Stage::Running { started_at, abandoned, .. }) => {
                *started_at = Some(at);
                !*abandoned
            }
            _ => false,
        }
    }

    /// Keeps chunks until they are acknowledged. Those of an attempt that is over are dropped: its report has counted
    /// them.
    pub(super) fn on_logs(&mut self, attempt: AttemptId, chunks: &[Chunk]) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        let Stage::Running { abandoned, .. } = held.stage else { return };
        if abandoned {
            held.window.add_permits(crate::executor::weight(chunks));
            return;
        }
        held.spool.push(attempt, chunks);
        held.list(attempt, &mut self.unsaid);
    }

    /// A new stream: everything that is held is to be said again.
    pub(super) fn rewind(&mut self) {
        self.under_way = 0;
        for (attempt, held) in &mut self.held {
            held.spool.rewind();
            if let Stage::Ended { said, .. } = &mut held.stage {
                *said = false;
            }
            held.list(*attempt, &mut self.unsaid);
        }
    }

    /// The next thing to say: output of each attempt in turn, its report behind the last of it.
    pub(super) fn next_said(&mut self) -> Option<Said> {
        while self.under_way < UNDER_WAY
            && let Some(attempt) = self.unsaid.pop_front()
        {
            let Some(held) = self.held.get_mut(&attempt) else { continue };
            held.listed = false;
            if matches!(held.stage, Stage::Running { abandoned: true, .. }) {
                continue;
            }
            let before = held.spool.under_way();
            if let Some(batch) = held.spool.next_batch() {
                self.under_way += held.spool.under_way() - before;
                held.list(attempt, &mut self.unsaid);
                return Some(Said::Logs(batch));
            }
            if let Stage::Ended { report, said: said @ false } = &mut held.stage {
                *said = true;
                return Some(Said::Finished(attempt, report.clone()));
            }
        }
        None
    }

    /// The platform is away: output that would hold up its job goes to disk, up to `limit` bytes for all.
    pub(super) fn spill(&mut self, dir: &Path, limit: u64) {
        let mut used: u64 = self.held.values().map(|held| held.spool.on_disk_bytes()).sum();
        for held in self.held.values_mut().filter(|held| held.spool.in_memory() >= WINDOW / 2) {
            let Spilled { permits, bytes, dropped } = held.spool.spill(dir, limit.saturating_sub(used));
            held.window.add_permits(permits);
            used += bytes;
            self.dropped_logs += dropped;
        }
    }

    /// Bytes of output that wait for the platform, and the pieces that found no room.
    pub(super) fn spooled(&self) -> (u64, u64) {
        let bytes = |held: &Held| held.spool.in_memory() as u64 + held.spool.on_disk_bytes();
        (self.held.values().map(bytes).sum(), self.dropped_logs)
    }

    /// Frees the slot and keeps the report, unless nobody wants it. The first report counts: an executor that was given
    /// up may come with another.
    pub(super) fn on_finished(&mut self, attempt: AttemptId, mut report: AttemptReport) {
        if self.given_back.remove(&attempt) {
            self.running = self.running.saturating_sub(1);
            return;
        }
        let Some(held) = self.held.get_mut(&attempt) else { return };
        let Stage::Running { abandoned, .. } = held.stage else { return };
        self.running = self.running.saturating_sub(1);
        // An executor that still writes must not wait for room.
        held.window.close();
        if abandoned {
            self.remove(attempt);
            return;
        }
        report.log_end = held.spool.end();
        held.stage = Stage::Ended { report, said: false };
        held.list(attempt, &mut self.unsaid);
    }

    /// Stops an attempt. One that never started ends at once, with `unstarted`; a cancel that overtook its
    /// assignment leaves a tombstone.
    pub(super) fn cancel(&mut self, attempt: AttemptId, dispatch: u64, stop: Stop, unstarted: AttemptReport) {
        match self.held.get_mut(&attempt) {
            Some(Held { stage: Stage::Running { stop: sender, .. }, .. }) => {
                sender.send_replace(Some(stop));
            }
            Some(Held { stage: Stage::Ended { .. }, .. }) => self.say_again(attempt),
            Some(held) => {
                self.queue.retain(|waiting| *waiting != attempt);
                held.stage = Stage::Ended { report: unstarted, said: false };
                held.list(attempt, &mut self.unsaid);
            }
            None if self.seen.insert(dispatch) => {
                self.hold(attempt, Stage::Ended { report: unstarted, said: false });
                self.say_again(attempt);
            }
            None => {}
        }
    }

    /// The platform asks once more about something that is here: its report, if there is one, is said again.
    pub(super) fn say_again(&mut self, attempt: AttemptId) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        if let Stage::Ended { said, .. } = &mut held.stage {
            *said = false;
            held.list(attempt, &mut self.unsaid);
        }
    }

    /// Ends everything because the agent itself has to go: what runs is stopped, and reported as that.
    pub(super) fn evict(&mut self) {
        let stop = Stop { reason: StopReason::Evict, grace: Duration::ZERO };
        for held in self.held.values_mut() {
            if let Stage::Running { stop: sender, .. } = &mut held.stage {
                sender.send_if_modified(|asked| asked.is_none() && asked.replace(stop).is_none());
            }
        }
    }

    /// Takes an attempt back out, if it has not started.
    pub(super) fn recall(&mut self, attempt: AttemptId) -> bool {
        let waiting = matches!(self.held.get(&attempt), Some(Held { stage: Stage::Waiting(_), .. }));
        if waiting {
            self.remove(attempt);
            self.queue.retain(|queued| *queued != attempt);
        }
        waiting
    }

    /// Lets go of an attempt that has a slot and no process; its report is yet to come, and frees the slot.
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

    /// Every attempt that has not started.
    pub(super) fn waiting(&self) -> Vec<AttemptId> {
        self.queue.iter().copied().collect()
    }

    /// Stops an attempt that nobody wants any more; what it still says is dropped.
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

    /// Nobody reads output any more: no executor waits for room.
    pub(super) fn close(&self) {
        self.held.values().for_each(|held| held.window.close());
    }

    /// The platform has stored chunks below `next`.
    pub(super) fn on_log_ack(&mut self, attempt: AttemptId, next: u64) {
        self.acknowledge(attempt, next);
    }

    /// The platform has stored the result.
    pub(super) fn on_result_ack(&mut self, attempt: AttemptId) {
        if matches!(self.held.get(&attempt), Some(Held { stage: Stage::Ended { .. }, .. })) {
            self.remove(attempt);
        }
    }

    fn acknowledge(&mut self, attempt: AttemptId, next: u64) {
        let Some(held) = self.held.get_mut(&attempt) else { return };
        let before = held.spool.under_way();
        let freed = held.spool.acknowledge(next);
        self.under_way -= before - held.spool.under_way();
        held.window.add_permits(freed);
    }

    fn remove(&mut self, attempt: AttemptId) {
        self.under_way -= self.held.remove(&attempt).map_or(0, |held| held.spool.under_way());
    }

    /// Everything held that somebody still wants, for Hello.
    pub(super) fn held(&self) -> impl Iterator<Item = (AttemptId, &Held)> {
        self.held
            .iter()
            .filter(|(_, held)| !matches!(held.stage, Stage::Running { abandoned: true, .. }))
            .map(|(attempt, held)| (*attempt, held))
    }

    /// The clock of an attempt that runs.
    pub(super) fn process(&self, attempt: AttemptId) -> Option<ProcessSpan> {
        let held = self.held.get(&attempt)?;
        matches!(held.stage, Stage::Running { .. }).then(|| held.process.clone())
    }

    /// When the process of an attempt that runs started, as far as its executor said so.
    pub(super) fn started_at(&self, attempt: AttemptId) -> Option<Timestamp> {
        match self.held.get(&attempt)?.stage {
            Stage::Running { started_at, .. } => started_at,
            _ => None,
        }
    }

    /// Tells an executor to stop its attempt, unless it was told so already.
    pub(super) fn stop(&self, attempt: AttemptId, stop: Stop) {
        if let Some(Held { stage: Stage::Running { stop: sender, .. }, .. }) = self.held.get(&attempt) {
            sender.send_if_modified(|asked| asked.is_none() && asked.replace(stop).is_none());
        }
    }

    /// The attempts that have begun and are not acknowledged.
    pub(super) fn begun(&self) -> impl Iterator<Item = AttemptId> {
        let begun = self.held.iter().filter(|(_, held)| !matches!(held.stage, Stage::Waiting(_)));
        begun.map(|(attempt, _)| *attempt)
    }

    /// One attempt.
    pub(super) fn get(&self, attempt: AttemptId) -> Option<&Held> {
        self.held.get(&attempt)
    }

    /// True when nothing is held at all.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.given_back.is_empty()
    }

    /// Processes that run.
    pub(super) fn running(&self) -> usize {
        self.running
    }
}

/// The dispatch numbers that were seen: a watermark and what is above it.
#[derive(Debug, Default)]
struct Seen {
    floor: u64,
    above: BTreeSet<u64>,
}

impl Seen {
    const MOST: usize = 16_384;

    /// True the first time. Numbers rise, but for jobs that waited for their secrets, so what falls below the watermark was
    /// seen, or is as good as that: it is given back.
    fn insert(&mut self, number: u64) -> bool {
        if number <= self.floor || !self.above.insert(number) {
            return false;
        }
        if self.above.len() > Self::MOST {
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
        assert!(ledger.next_said().is_some() && ledger.next_said().is_none());
        ledger.on_result_ack(attempt(1));
        assert_eq!(ledger.accept(attempt(1), 5, work()), Accepted::Past, "it is over and stays over");
    }

    #[test]
    fn a_cancel_that_overtakes_its_assignment_is_remembered() {
        let mut ledger = Ledger::default();
        ledger.cancel(attempt(1), 5, CANCEL, AttemptReport::unstarted(Outcome::Cancelled, Timestamp::EPOCH));
        assert!(matches!(ledger.next_said(), Some(Said::Finished(_, report)) if report.started_at.is_none()));
        assert_eq!(ledger.accept(attempt(1), 5, work()), Accepted::Known);
        ledger.on_result_ack(attempt(1));
        assert_eq!(ledger.accept(attempt(1), 5, work()), Accepted::Past);
        assert!(ledger.start_next(9).is_none());
    }

    #[test]
    fn what_waits_can_be_recalled_and_what_runs_cannot() {
        let mut ledger = Ledger::default();
        ledger.accept(attempt(1), 1, work());
        ledger.accept(attempt(2), 2, work());
        ledger.start_next(1).unwrap();
        assert!(!ledger.recall(attempt(1)) && ledger.recall(attempt(2)));
        assert!(ledger.waiting().is_empty());
    }

    #[test]
    fn what_is_given_back_leaves_no_report_and_frees_its_slot() {
        let mut ledger = Ledger::default();
        ledger.accept(attempt(1), 1, work());
        ledger.start_next(1).unwrap();
        assert!(ledger.give_back(attempt(1)) && !ledger.give_back(attempt(1)));
        assert_eq!(ledger.accept(attempt(1), 1, work()), Accepted::Past, "it is given back again");
        assert_eq!(ledger.running(), 1, "until the executor is done with it");
        ledger.on_finished(attempt(1), AttemptReport::unstarted(Outcome::Cancelled, Timestamp::EPOCH));
        assert_eq!((ledger.next_said(), ledger.running(), ledger.is_empty()), (None, 0, true));
        ledger.accept(attempt(2), 2, work());
        ledger.start_next(1).unwrap();
        ledger.on_started(attempt(2), Timestamp::EPOCH);
        assert!(!ledger.give_back(attempt(2)), "it runs");
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
    fn an_abandoned_attempt_says_nothing_more() {
        let mut ledger = Ledger::default();
        ledger.accept(attempt(1), 1, work());
        let start = ledger.start_next(1).unwrap();
        ledger.abandon(attempt(1));
        assert_eq!(start.stop.borrow().unwrap().reason, StopReason::Abandon);
        assert!(!ledger.on_started(attempt(1), Timestamp::EPOCH));
        ledger.on_logs(attempt(1), &[]);
        ledger.on_finished(attempt(1), AttemptReport::unstarted(Outcome::Cancelled, Timestamp::EPOCH));
        assert_eq!(ledger.next_said(), None);
        assert!(ledger.is_empty());
    }

    #[test]
    fn old_dispatch_numbers_stay_seen() {
        let mut seen = Seen::default();
        assert!((1..=100_000).all(|number| seen.insert(number)));
        assert!((1..=100_000).all(|number| !seen.insert(number)));
    }
}
