//! Attempts that do not start on their worker: decides which to recall and which to give up. Does no I/O: the
//! coordinator acts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::scheduling::{ActiveAttempt, SchedulingContext};

/// Tracks attempts that do not start and the recalls sent for them. All times are on the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct OverdueTracker {
    /// Attempts that have a slot and do not start: since when, or since the recall, and whether they were recalled.
    unstarted: BTreeMap<AttemptId, (Duration, bool)>,
    /// Attempts that wait behind others and were recalled, with the time of the last recall.
    recalled: BTreeMap<AttemptId, Duration>,
}

/// Actions that are due now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// Attempts to recall, by worker.
    pub(crate) recall: BTreeMap<WorkerId, Vec<AttemptId>>,
    /// Attempts to close: they had a slot, were recalled, and their worker did not give them back.
    pub(crate) give_up: Vec<ActiveAttempt>,
}

/// Interval between two recalls of the same attempt: the first may be lost with its stream.
const RECALL_RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl OverdueTracker {
    /// Returns the actions that are due at the time of the context. An attempt with a slot has `limit` to start, and
    /// `limit` again to be given back.
    pub(crate) fn overdue(&mut self, context: &SchedulingContext, limit: Duration) -> Overdue {
        let now = context.now().monotonic;
        let mut overdue = Overdue::default();
        let late = context.unstarted();
        let ids: BTreeSet<AttemptId> = late.iter().map(|attempt| attempt.id).collect();
        self.unstarted.retain(|attempt, _| ids.contains(attempt));
        for attempt in late {
            // Counted from when it is first seen with a slot: before that, the job may have waited long behind another.
            let unstarted = self.unstarted.entry(attempt.id).or_insert((now, false));
            let (since, recalled) = *unstarted;
            if since + limit > now {
                continue;
            }
            *unstarted = (now, true);
            if recalled {
                overdue.give_up.push(attempt);
            } else {
                overdue.recall.entry(attempt.worker).or_default().push(attempt.id);
            }
        }
        let stuck = context.recalls();
        let ids: BTreeSet<AttemptId> = stuck.iter().map(|attempt| attempt.id).collect();
        self.recalled.retain(|attempt, _| ids.contains(attempt));
        for attempt in stuck {
            if self.recalled.get(&attempt.id).is_none_or(|asked| *asked + RECALL_RETRY_INTERVAL <= now) {
                self.recalled.insert(attempt.id, now);
                overdue.recall.entry(attempt.worker).or_default().push(attempt.id);
            }
        }
        overdue
    }

    /// Returns the time until an action may be due; `None` while none can be.
    pub(crate) fn next(&self, context: &SchedulingContext, limit: Duration) -> Option<Duration> {
        let unstarted = context.attempts().any(|attempt| !attempt.started).then_some(limit / 2);
        let again = (!self.recalled.is_empty()).then_some(RECALL_RETRY_INTERVAL);
        unstarted.into_iter().chain(again).chain(context.next_recall()).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hodei_core::decision::{Aggregate, Score};
    use hodei_core::id::{JobId, OrderId, ProviderId, StoreId};
    use hodei_core::job::{Job, JobInput, JobSpec, Labels, Submission, TenantId, step};
    use hodei_core::time::{Moment, Timestamp};
    use hodei_core::worker::{self, Lifetime, Worker, WorkerCapacity, WorkerInput, WorkerOrder};
    use uuid::Uuid;

    use super::*;

    const DISPATCH_TIMEOUT: Duration = Duration::from_secs(2);

    fn ready(number: u128) -> Arc<Worker> {
        let (id, capacity) = (Uuid::from_u128(number), WorkerCapacity::slots(1));
        let order = WorkerOrder {
            id: OrderId::from_uuid(id),
            worker: WorkerId::from_uuid(id),
            provider: ProviderId::from_uuid(id),
            owner: StoreId::from_uuid(id),
            capacity,
            labels: Labels::new(),
            lifetime: Lifetime::default(),
        };
        let join = WorkerInput::Join { capacity, labels: Labels::new(), incarnation: id };
        [WorkerInput::Order(order), join]
            .into_iter()
            .fold(None, |worker: Option<Arc<Worker>>, input| {
                let next = worker::step(worker.as_deref(), input, Timestamp::EPOCH).unwrap().next;
                let Aggregate::Worker(next) = next else { panic!() };
                Some(next)
            })
            .unwrap()
    }

    fn next_state(job: Option<&Job>, input: JobInput) -> Arc<Job> {
        let Aggregate::Job(next) = step(job, input, Timestamp::EPOCH).unwrap().next else { panic!() };
        next
    }

    fn assigned(number: u64) -> Arc<Job> {
        let id = JobId::from_uuid(Uuid::from_u128(u128::from(number)));
        let spec = Arc::new(JobSpec::command(["true"]).build().unwrap());
        let submission = Submission { id, tenant: TenantId::default(), spec, retry_of: None };
        let job = next_state(None, JobInput::Submit(submission));
        let worker = WorkerId::from_uuid(Uuid::from_u128(1));
        next_state(Some(&job), JobInput::Assign { worker, dispatch: number, score: Score::default() })
    }

    fn at(context: &mut SchedulingContext, millis: u64) {
        context.set_time(Moment { wall: Timestamp::EPOCH, monotonic: Duration::from_millis(millis) });
    }

    #[test]
    fn stuck_attempts_are_recalled_until_they_are_given_back() {
        let mut context = SchedulingContext::default();
        [ready(1), ready(2)].iter().for_each(|worker| context.observe_worker(worker));
        let (first, second) = (assigned(11), assigned(12));
        context.observe_job(&next_state(
            Some(&first),
            JobInput::Start { attempt: 1, started_at: Timestamp::EPOCH },
        ));
        context.observe_job(&second);
        context.set_connected(|_| true);
        let mut tracker = OverdueTracker::default();
        let mut recalls = |context: &SchedulingContext| {
            tracker.overdue(context, DISPATCH_TIMEOUT).recall.into_values().flatten().count()
        };
        assert_eq!((recalls(&context), context.next_recall()), (0, Some(Duration::from_millis(500))));
        at(&mut context, 500);
        assert_eq!(recalls(&context), 1, "recalled, since the other worker has room");
        at(&mut context, 1400);
        assert_eq!(recalls(&context), 0, "no second recall yet: the first may still be answered");
        at(&mut context, 1500);
        assert_eq!(recalls(&context), 1, "recalled again: the first may be lost");
        context.observe_job(&next_state(Some(&second), JobInput::GiveBack { attempt: 1 }));
        at(&mut context, 9000);
        assert_eq!(recalls(&context), 0);
    }

    #[test]
    fn an_attempt_with_a_slot_that_does_not_start_is_recalled_and_then_given_up() {
        let mut context = SchedulingContext::default();
        context.observe_worker(&ready(1));
        context.observe_job(&assigned(11));
        context.set_connected(|_| true);
        let mut tracker = OverdueTracker::default();
        let mut look = |context: &mut SchedulingContext, millis| {
            at(context, millis);
            let overdue = tracker.overdue(context, DISPATCH_TIMEOUT);
            (overdue.recall.len(), overdue.give_up.len())
        };
        assert_eq!(
            [0, 1999, 2000, 3999, 4000].map(|millis| look(&mut context, millis)),
            [(0, 0), (0, 0), (1, 0), (0, 0), (0, 1)]
        );
    }
}
