use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::queue::{PlacementClass, Queue, QueueKey, concurrency_of};
use crate::id::{AttemptId, JobId, ProviderId, WorkerId};
use crate::job::{Job, JobResources, JobState};
use crate::provider::Provider;
use crate::time::Timestamp;
use crate::worker::{Worker, WorkerInput, WorkerState};

/// All that a plan is made from. It lives in memory: loaded once, then fed with each state that changes.
///
/// Feeding is idempotent and takes states in any order: an older version than the one seen changes nothing.
#[derive(Debug, Default)]
pub struct SchedulingContext {
    jobs: BTreeMap<JobId, Placed>,
    queue: Queue,
    workers: BTreeMap<WorkerId, WorkerInfo>,
    providers: BTreeMap<ProviderId, ProviderInfo>,
    concurrency: BTreeMap<String, u32>,
    deadlines: BTreeSet<(Timestamp, JobId)>,
    /// The jobs that have an attempt: few, however many wait.
    active: BTreeSet<JobId>,
}

#[derive(Debug)]
struct Placed {
    version: u64,
    deadline: Option<Timestamp>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Waiting,
    Queued { class: Arc<PlacementClass>, key: QueueKey },
    Active { attempt: ActiveAttempt, concurrency: Option<String> },
}

/// An attempt that holds a slot of a worker, or waits in it for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveAttempt {
    /// Which.
    pub id: AttemptId,
    /// Where.
    pub worker: WorkerId,
    /// What it takes.
    pub resources: JobResources,
    /// When it was assigned.
    pub assigned_at: Timestamp,
    /// Whether its process is known to run.
    pub started: bool,
}

/// A worker as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// The worker itself.
    pub worker: Arc<Worker>,
    /// Whether its agent is connected.
    pub connected: bool,
    /// The attempts it has.
    pub active: BTreeSet<AttemptId>,
    /// What they take together.
    pub in_use: JobResources,
    /// How long its jobs run of late, from start to end: a moving average over about eight.
    pub run_time: Option<Duration>,
}

/// Jobs that wait in a worker should last about this long: a plan is stored and sent well within it, and what comes
/// with a higher priority does not wait longer.
const AHEAD: Duration = Duration::from_millis(50);

impl WorkerInfo {
    /// Jobs that may wait in it beyond its slots now: many short ones or one long one, within what it takes at most.
    pub fn prefetch(&self) -> u32 {
        let capacity = self.worker.capacity();
        let ahead = match self.run_time {
            None => u128::from(capacity.slots),
            Some(run_time) => u128::from(capacity.slots) * AHEAD.as_micros() / run_time.as_micros().max(1),
        };
        capacity.prefetch.min(u32::try_from(ahead).unwrap_or(u32::MAX).max(1))
    }

    fn note_run(&mut self, took: Duration) {
        self.run_time = Some(self.run_time.map_or(took, |before| (before * 7 + took) / 8));
    }

    /// Slots without an attempt.
    pub fn free_slots(&self) -> u32 {
        self.worker.capacity().slots.saturating_sub(self.active.len() as u32)
    }

    /// Whether it takes jobs at all.
    pub fn takes_jobs(&self) -> bool {
        let state = self.worker.state();
        self.connected && matches!(state, WorkerState::Ready { .. } | WorkerState::Busy)
    }
}

/// A provider as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct ProviderInfo {
    /// The provider itself.
    pub provider: Arc<Provider>,
    /// Its workers that are not terminated.
    pub workers: u32,
    /// Whether a daemon carries out orders for it.
    pub served: bool,
}

impl SchedulingContext {
    /// Takes in a state of a job, unless a newer one is known.
    pub fn observe_job(&mut self, job: &Job) {
        if self.jobs.get(&job.id()).is_some_and(|placed| placed.version >= job.version()) {
            return;
        }
        self.replace_job(job);
    }

    /// Takes in the present state of a job, whatever was known of it: a store that failed over may have lost the last of
    /// it.
    pub fn replace_job(&mut self, job: &Job) {
        if self.jobs.get(&job.id()).is_some_and(|placed| placed.version == job.version()) {
            return;
        }
        let was_placed = self.jobs.contains_key(&job.id());
        self.forget_job(job.id());
        let start_by = job.spec().start_by();
        let (place, deadline) = match job.state() {
            JobState::Created { until, .. } => {
                (Place::Waiting, Some(start_by.map_or(*until, |start_by| start_by.min(*until))))
            }
            JobState::Pending { since } => {
                let key = QueueKey { priority: Reverse(job.spec().priority()), since: *since, job: job.id() };
                let class = self.queue.insert(PlacementClass::of(job), key);
                (Place::Queued { class, key }, start_by)
            }
            JobState::Assigned(assignment) | JobState::Running { assignment, .. } => {
                let attempt = ActiveAttempt {
                    id: job.attempt_id(),
                    worker: assignment.worker,
                    resources: *job.spec().resources(),
                    assigned_at: assignment.at,
                    started: matches!(job.state(), JobState::Running { .. }),
                };
                if let Some(info) = self.workers.get_mut(&attempt.worker) {
                    info.active.insert(attempt.id);
                    info.in_use = info.in_use.plus(&attempt.resources);
                }
                self.active.insert(job.id());
                let concurrency = concurrency_of(job).map(|concurrency| concurrency.key);
                if let Some(key) = &concurrency {
                    *self.concurrency.entry(key.clone()).or_default() += 1;
                }
                (Place::Active { attempt, concurrency }, None)
            }
            JobState::Ended(ending) => {
                // Only the first sight of its end: it had a place until now.
                if let (true, Some(run)) = (was_placed, &ending.run)
                    && let (Some(info), Some(started_at)) =
                        (self.workers.get_mut(&run.worker), run.started_at)
                {
                    info.note_run(run.finished_at.since(started_at));
                }
                return;
            }
        };
        self.deadlines.extend(deadline.map(|at| (at, job.id())));
        self.jobs.insert(job.id(), Placed { version: job.version(), deadline, place });
    }

    /// Drops a job that the store does not have, or that ended.
    pub fn forget_job(&mut self, id: JobId) {
        let Some(placed) = self.jobs.remove(&id) else { return };
        if let Some(at) = placed.deadline {
            self.deadlines.remove(&(at, id));
        }
        match placed.place {
            Place::Waiting => {}
            Place::Queued { class, key } => self.queue.remove(&class, &key),
            Place::Active { attempt, concurrency } => {
                self.active.remove(&id);
                if let Some(info) = self.workers.get_mut(&attempt.worker) {
                    info.active.remove(&attempt.id);
                    info.in_use = info.in_use.minus(&attempt.resources);
                }
                if let Some(key) = concurrency {
                    let left = self.concurrency.get(&key).map_or(0, |count| count.saturating_sub(1));
                    if left == 0 {
                        self.concurrency.remove(&key)
                    } else {
                        self.concurrency.insert(key, left)
                    };
                }
            }
        }
    }

    /// Takes in the present state of a worker.
    pub fn observe_worker(&mut self, worker: &Arc<Worker>) {
        let seen = self.workers.get(&worker.id());
        if seen.is_some_and(|info| info.worker.version() >= worker.version()) {
            return;
        }
        let provider = worker.order().provider;
        if worker.is_terminated() {
            return self.forget_worker(worker.id());
        }
        if let Some(info) = self.workers.get_mut(&worker.id()) {
            info.worker = worker.clone();
            return;
        }
        let attempts = self.attempts().filter(|attempt| attempt.worker == worker.id());
        let (mut active, mut in_use) = (BTreeSet::new(), JobResources::default());
        for attempt in attempts {
            active.insert(attempt.id);
            in_use = in_use.plus(&attempt.resources);
        }
        let info = WorkerInfo { worker: worker.clone(), connected: false, active, in_use, run_time: None };
        self.workers.insert(worker.id(), info);
        self.count_worker(provider, |count| count + 1);
    }

    /// Takes in the present state of a provider.
    pub fn observe_provider(&mut self, provider: &Arc<Provider>) {
        let id = provider.id();
        match self.providers.get_mut(&id) {
            Some(info) if info.provider.version() >= provider.version() => {}
            Some(info) => info.provider = provider.clone(),
            None => {
                let workers = self.workers.values().filter(|info| info.worker.order().provider == id).count();
                let info = ProviderInfo { provider: provider.clone(), workers: workers as u32, served: true };
                self.providers.insert(id, info);
            }
        }
    }

    /// Notes which workers have a stream now.
    pub fn set_connected(&mut self, connected: impl Fn(WorkerId) -> bool) {
        for (id, info) in &mut self.workers {
            info.connected = connected(*id);
        }
    }

    /// Notes which providers have a daemon now that carries out orders for them.
    pub fn set_served(&mut self, served: impl Fn(ProviderId) -> bool) {
        for (id, info) in &mut self.providers {
            info.served = served(*id);
        }
    }

    fn count_worker(&mut self, provider: ProviderId, change: impl Fn(u32) -> u32) {
        if let Some(info) = self.providers.get_mut(&provider) {
            info.workers = change(info.workers);
        }
    }

    /// Jobs whose wait or `start_by` is over at `now`, the earliest first.
    pub fn due_jobs(&self, now: Timestamp) -> impl Iterator<Item = JobId> {
        self.deadlines.iter().take_while(move |(at, _)| *at <= now).map(|(_, job)| *job)
    }

    /// Attempts that hold a free slot and should have started: assigned for longer than `limit`.
    ///
    /// A worker starts what it has in order, so an attempt behind as many others as there are slots has none.
    pub fn unstarted(&self, now: Timestamp, limit: Duration) -> Vec<ActiveAttempt> {
        let mut late = Vec::new();
        for info in self.workers.values().filter(|info| info.connected) {
            let mut attempts: Vec<_> = info
                .active
                .iter()
                .filter_map(|id| self.active(id.job))
                .map(|attempt| (attempt.assigned_at, attempt))
                .collect();
            let running = attempts.iter().filter(|(_, attempt)| attempt.started).count();
            attempts.retain(|(_, attempt)| !attempt.started);
            attempts.sort_by_key(|(at, attempt)| (*at, attempt.id));
            let free = (info.worker.capacity().slots as usize).saturating_sub(running);
            let overdue = attempts.into_iter().take(free).filter(|(at, _)| *at + limit <= now);
            late.extend(overdue.map(|(_, attempt)| *attempt));
        }
        late
    }

    /// The next point in time at which something is due by itself.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let retire = self.workers.values().filter_map(|info| info.worker.retires_at()).min();
        self.deadlines.first().map(|(at, _)| *at).into_iter().chain(retire).min()
    }

    /// What workers need by themselves at `now`: one without an attempt is idle again, one whose lifetime is
    /// over drains.
    pub fn housekeeping(&self, now: Timestamp) -> Vec<(WorkerId, WorkerInput)> {
        let mut inputs = Vec::new();
        for (id, info) in &self.workers {
            let over = info.worker.retires_at().is_some_and(|at| at <= now);
            if over && (info.active.is_empty() || matches!(info.worker.state(), WorkerState::Busy)) {
                inputs.push((*id, WorkerInput::Drain("its lifetime is over".into())));
            } else if matches!(info.worker.state(), WorkerState::Busy) && info.active.is_empty() {
                inputs.push((*id, WorkerInput::Idle));
            } else if matches!(info.worker.state(), WorkerState::Ready { .. }) && !info.active.is_empty() {
                // Its jobs were stored and this was not: somebody else changed the worker meanwhile.
                inputs.push((*id, WorkerInput::Take(info.active.len() as u32)));
            }
        }
        inputs
    }

    /// Open attempts whose worker is not there any more.
    pub fn stranded(&self) -> Vec<AttemptId> {
        let gone = self.attempts().filter(|attempt| !self.workers.contains_key(&attempt.worker));
        gone.map(|attempt| attempt.id).collect()
    }

    /// Forgets a worker that the store does not have.
    pub fn forget_worker(&mut self, id: WorkerId) {
        if let Some(info) = self.workers.remove(&id) {
            self.count_worker(info.worker.order().provider, |count| count.saturating_sub(1));
        }
    }

    /// Every worker.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerInfo> {
        self.workers.values()
    }

    /// One worker.
    pub fn worker(&self, id: WorkerId) -> Option<&WorkerInfo> {
        self.workers.get(&id)
    }

    /// Every provider.
    pub fn providers(&self) -> impl Iterator<Item = &ProviderInfo> {
        self.providers.values()
    }

    /// Runnable jobs by class, each in order.
    pub fn queued(&self) -> impl Iterator<Item = (&PlacementClass, &BTreeSet<QueueKey>)> {
        self.queue.classes()
    }

    /// How many jobs are runnable.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// How many jobs are not terminal.
    pub fn open_jobs(&self) -> usize {
        self.jobs.len()
    }

    /// How many attempts with this concurrency key are assigned or running.
    pub fn concurrency_in_use(&self, key: &str) -> u32 {
        self.concurrency.get(key).copied().unwrap_or(0)
    }

    /// The open attempt of a job.
    pub fn active(&self, job: JobId) -> Option<&ActiveAttempt> {
        match &self.jobs.get(&job)?.place {
            Place::Active { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    /// Every open attempt.
    pub fn attempts(&self) -> impl Iterator<Item = &ActiveAttempt> {
        self.active.iter().filter_map(|id| self.active(*id))
    }

    /// Recomputes every derived index and compares.
    ///
    /// # Errors
    /// What differs.
    pub fn sanity_check(&self) -> Result<(), String> {
        let queued = self.jobs.values().filter(|placed| matches!(placed.place, Place::Queued { .. })).count();
        let in_classes: usize = self.queued().map(|(_, keys)| keys.len()).sum();
        if queued != in_classes || queued != self.queue.len() {
            return Err(format!(
                "{queued} queued jobs, {in_classes} in classes, length {}",
                self.queue.len()
            ));
        }
        for (id, info) in &self.workers {
            let attempts: BTreeSet<_> =
                self.attempts().filter(|attempt| attempt.worker == *id).map(|attempt| attempt.id).collect();
            if attempts != info.active {
                return Err(format!("worker {id} has {:?}, and {attempts:?} are placed there", info.active));
            }
        }
        let active = self.jobs.values().filter(|placed| matches!(placed.place, Place::Active { .. })).count();
        if active != self.active.len() {
            return Err(format!("{active} jobs have an attempt, {} are in the index", self.active.len()));
        }
        let deadlines = self.jobs.values().filter(|placed| placed.deadline.is_some()).count();
        if deadlines != self.deadlines.len() {
            return Err(format!("{deadlines} deadlines of jobs, {} in the index", self.deadlines.len()));
        }
        Ok(())
    }
}
