//! The scheduling context: jobs, workers and providers in memory, with the indexes that plans are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::provider_info::ProviderInfo;
use super::queue::{PlacementClass, Queue, QueueKey};
use crate::id::{AttemptId, JobId, ProviderId, WorkerId};
use crate::job::{Assignment, Job, JobResources, JobState, WaitReason};
use crate::provider::Provider;
use crate::time::{Deadline, Moment, Timestamp};
use crate::worker::{Worker, WorkerInput, WorkerState};

/// The input of a plan. It lives in memory: loaded once, then fed with each state that changes.
///
/// Feeding is idempotent and takes states in any order: a version older than the known one changes nothing.
#[derive(Debug, Default)]
pub struct SchedulingContext {
    now: Moment,
    /// How far the time of day was set back since the context was made.
    set_back: Duration,
    jobs: BTreeMap<JobId, Placed>,
    queue: Queue,
    workers: BTreeMap<WorkerId, WorkerInfo>,
    providers: BTreeMap<ProviderId, ProviderInfo>,
    concurrency: BTreeMap<String, u32>,
    /// Deadlines of waiting jobs by the time of day, and in `dues` by the monotonic clock: the first one reached
    /// counts.
    deadlines: BTreeSet<(Timestamp, JobId)>,
    dues: BTreeSet<(Duration, JobId)>,
    /// Jobs with an open attempt.
    active: BTreeSet<JobId>,
    /// Queued jobs that a worker gave back.
    given_back: BTreeSet<JobId>,
    /// Suspects that are queued or have an attempt; usually empty.
    pub(super) suspects: BTreeSet<JobId>,
}

#[derive(Debug)]
struct Placed {
    version: u64,
    /// Number of uncharged attempts.
    uncharged: u32,
    /// The first deadline, and whether that is its `start_by`.
    deadline: Option<(Deadline, bool)>,
    start_by: Option<Deadline>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Waiting,
    Queued { class: Arc<PlacementClass>, key: QueueKey },
    Active { attempt: ActiveAttempt, class: Arc<PlacementClass> },
}

/// An attempt that holds a slot of a worker, or waits in it for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveAttempt {
    /// Its id.
    pub id: AttemptId,
    /// Its worker.
    pub worker: WorkerId,
    /// The resources that it takes.
    pub resources: JobResources,
    /// Its number among the assignments of the worker, which starts attempts in this order.
    pub dispatch: u64,
    /// When it was first seen assigned, by the monotonic clock of the context.
    pub since: Duration,
    /// Whether its process is known to have started.
    pub started: bool,
    /// Whether it was asked to stop.
    pub cancelled: bool,
    /// Its position in the queue if it is given back.
    pub key: QueueKey,
    /// Whether its job may have ended a worker: no attempt begins beside it until it is trusted.
    pub suspect: bool,
    /// Time from its assignment until it is trusted not to end its worker; `None` where it never is.
    pub trial: Option<Duration>,
}

/// A worker as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// The worker itself.
    pub worker: Arc<Worker>,
    /// Whether its agent is connected.
    pub connected: bool,
    /// Its open attempts.
    pub active: BTreeSet<AttemptId>,
    /// Resources that its attempts take together.
    pub in_use: JobResources,
    /// Recent run time of its jobs, from start to end: a moving average over about eight jobs.
    pub run_time: Option<Duration>,
    /// When one of its slots was last taken or freed, by the monotonic clock of the context.
    pub turned: Duration,
    /// When its lifetime policy makes it drain.
    retires: Option<Deadline>,
    /// When it reaches its maximum age.
    aged: Option<Deadline>,
}

/// Run time of the jobs that may wait in a worker beyond its slots. A plan is stored and sent well within it, and a job
/// of higher priority does not wait longer behind them.
const PREFETCH_WINDOW: Duration = Duration::from_millis(50);

impl WorkerInfo {
    /// Returns the number of jobs that may wait in the worker beyond its slots at `now` of the monotonic clock: as many
    /// as it finishes in 50 ms, at most its `prefetch`; one a slot while no run time is known. Zero when all its slots
    /// are taken and none changed for 50 ms.
    pub fn prefetch(&self, now: Duration) -> u32 {
        let capacity = self.worker.capacity();
        if self.free_slots() == 0 && now.saturating_sub(self.turned) > PREFETCH_WINDOW {
            return 0;
        }
        let ahead = match self.run_time {
            None => u128::from(capacity.slots),
            Some(run_time) => {
                u128::from(capacity.slots) * PREFETCH_WINDOW.as_micros() / run_time.as_micros().max(1)
            }
        };
        capacity.prefetch.min(u32::try_from(ahead).unwrap_or(u32::MAX))
    }

    fn note_run(&mut self, took: Duration) {
        self.run_time = Some(self.run_time.map_or(took, |before| (before * 7 + took) / 8));
    }

    fn retirement(&self, now: Moment) -> Option<Deadline> {
        let at = self.worker.retires_at()?;
        if let Some(aged) = self.aged.filter(|aged| aged.at == at) {
            return Some(aged);
        }
        let is_spent = self.worker.jobs_left() == Some(0);
        let idle = self.worker.order().lifetime.idle.filter(|_| !is_spent).unwrap_or_default();
        Some(Deadline::new(at, idle, now))
    }

    /// Returns the number of slots without an attempt.
    pub fn free_slots(&self) -> u32 {
        self.worker.capacity().slots.saturating_sub(self.active.len() as u32)
    }

    /// Whether the worker is connected and has more attempts than slots.
    pub(super) fn is_overfull(&self) -> bool {
        self.connected && self.active.len() > self.worker.capacity().slots as usize
    }

    /// Whether the worker is connected and in a state in which it takes jobs.
    pub fn takes_jobs(&self) -> bool {
        let state = self.worker.state();
        self.connected && matches!(state, WorkerState::Ready { .. } | WorkerState::Busy)
    }
}

/// Lag of the time of day behind the monotonic clock that does not count as set back.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(10);

impl SchedulingContext {
    /// Sets the current time. Waits are measured by the monotonic clock from then on.
    pub fn set_time(&mut self, now: Moment) {
        let passed = now.monotonic.saturating_sub(self.now.monotonic);
        let behind = (self.now.wall + passed).since(now.wall);
        if behind > CLOCK_TOLERANCE {
            self.set_back += behind;
        }
        self.now = now;
    }

    /// Returns the time that was set last.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Records a state of a job, unless a newer one is known.
    pub fn observe_job(&mut self, job: &Job) {
        if self.jobs.get(&job.id()).is_some_and(|placed| placed.version >= job.version()) {
            return;
        }
        self.replace_job(job);
    }

    /// Records the current state of a job, even if a newer one was known: a store that failed over may have lost the
    /// last transitions.
    pub fn replace_job(&mut self, job: &Job) {
        if self.jobs.get(&job.id()).is_some_and(|placed| placed.version == job.version()) {
            return;
        }
        let before = self.remove_job(job);
        let longest = |at: Timestamp| at.since(job.created_at());
        let start_by = before.as_ref().and_then(|placed| placed.start_by);
        let start_by =
            start_by.or_else(|| job.spec().start_by().map(|at| Deadline::new(at, longest(at), self.now)));
        let expiry = start_by.map(|start_by| (start_by, true));
        let (place, deadline) = match job.state() {
            JobState::Created { until, reason } => {
                let longest = match reason {
                    WaitReason::NotBefore => longest(*until),
                    WaitReason::Backoff => job.longest_backoff(),
                };
                let wait = Deadline::new(*until, longest, self.now);
                let first = expiry.filter(|(start_by, _)| start_by.at <= wait.at).unwrap_or((wait, false));
                (Place::Waiting, Some(first))
            }
            JobState::Pending { .. } => {
                let key = self.queue_key(job, before.as_ref());
                let class = self.queue.insert(PlacementClass::of(job), key);
                if job.tally().uncharged > 0 {
                    self.given_back.insert(job.id());
                }
                (Place::Queued { class, key }, expiry)
            }
            JobState::Assigned(assignment) | JobState::Running { assignment, .. } => {
                (self.activate(job, assignment, before), None)
            }
            JobState::Ended(ending) => {
                // The end counts once: only a job that had a place until now.
                if let (Some(_), Some(run)) = (before, &ending.run)
                    && let (Some(info), Some(started_at)) =
                        (self.workers.get_mut(&run.worker), run.started_at)
                {
                    info.note_run(run.finished_at.since(started_at));
                }
                return;
            }
        };
        self.deadlines.extend(deadline.map(|(wait, _)| (wait.at, job.id())));
        self.dues.extend(deadline.map(|(wait, _)| (wait.due, job.id())));
        if job.is_suspect() && !matches!(place, Place::Waiting) {
            self.suspects.insert(job.id());
        }
        let (version, uncharged) = (job.version(), job.tally().uncharged);
        self.jobs.insert(job.id(), Placed { version, uncharged, deadline, start_by, place });
    }

    /// Returns the position of a runnable job: behind the known ones, also after the clock was set back; its old
    /// position when it was given back.
    fn queue_key(&self, job: &Job, before: Option<&Placed>) -> QueueKey {
        let key = QueueKey::of(job);
        match before {
            Some(Placed { place: Place::Active { attempt, .. }, uncharged, .. })
                if job.tally().uncharged > *uncharged =>
            {
                attempt.key
            }
            _ if key.since <= self.now.wall => QueueKey { since: key.since + self.set_back, ..key },
            _ => key,
        }
    }

    /// Places an attempt in its worker, in a slot or behind the attempts that have one.
    fn activate(&mut self, job: &Job, assignment: &Assignment, before: Option<Placed>) -> Place {
        let (mut since, mut known, mut key) = (self.now.monotonic, None, QueueKey::returned(job));
        match before.map(|placed| placed.place) {
            Some(Place::Active { attempt, class }) => {
                if attempt.id == job.attempt_id() {
                    (since, key) = (attempt.since, attempt.key);
                }
                known = Some(class);
            }
            Some(Place::Queued { class, key: queued }) => (known, key) = (Some(class), queued),
            _ => {}
        }
        let attempt = ActiveAttempt {
            id: job.attempt_id(),
            worker: assignment.worker,
            resources: *job.spec().resources(),
            dispatch: assignment.dispatch,
            since,
            started: matches!(job.state(), JobState::Running { .. }),
            suspect: job.is_suspect(),
            trial: job.trial(),
            cancelled: assignment.cancel_requested,
            key,
        };
        if let Some(info) = self.workers.get_mut(&attempt.worker) {
            if info.free_slots() > 0 {
                info.turned = info.turned.max(since);
            }
            info.active.insert(attempt.id);
            info.in_use = info.in_use.plus(&attempt.resources);
        }
        self.active.insert(job.id());
        // The job may have become a suspect meanwhile or, after a failover of the store, be one no more.
        let known =
            known.filter(|class| (class.suspect, class.alone) == (job.is_suspect(), job.runs_alone()));
        let class = known.unwrap_or_else(|| Arc::new(PlacementClass::of(job)));
        if let Some(concurrency) = &class.concurrency {
            *self.concurrency.entry(concurrency.key.clone()).or_default() += 1;
        }
        Place::Active { attempt, class }
    }

    /// Removes a job from its place. A slot that its attempt frees counts as progress of the worker.
    fn remove_job(&mut self, job: &Job) -> Option<Placed> {
        let before = self.take_out(job.id())?;
        if let Place::Active { attempt, .. } = &before.place
            && (attempt.id != job.attempt_id() || job.assignment().is_none())
            && (attempt.started || job.is_terminal())
            && let Some(info) = self.workers.get_mut(&attempt.worker)
        {
            info.turned = self.now.monotonic;
        }
        Some(before)
    }

    /// Forgets a job that the store does not have, or that ended.
    pub fn forget_job(&mut self, id: JobId) {
        let _ = self.take_out(id);
    }

    fn take_out(&mut self, id: JobId) -> Option<Placed> {
        let placed = self.jobs.remove(&id)?;
        self.suspects.remove(&id);
        if let Some((wait, _)) = placed.deadline {
            self.deadlines.remove(&(wait.at, id));
            self.dues.remove(&(wait.due, id));
        }
        match &placed.place {
            Place::Waiting => {}
            Place::Queued { class, key } => {
                self.queue.remove(class, key);
                self.given_back.remove(&id);
            }
            Place::Active { attempt, class } => {
                self.active.remove(&id);
                if let Some(info) = self.workers.get_mut(&attempt.worker) {
                    info.active.remove(&attempt.id);
                    info.in_use = info.in_use.minus(&attempt.resources);
                }
                if let Some(concurrency) = &class.concurrency {
                    let key = &concurrency.key;
                    let left = self.concurrency.get(key).map_or(0, |count| count.saturating_sub(1));
                    if left == 0 {
                        self.concurrency.remove(key)
                    } else {
                        self.concurrency.insert(key.clone(), left)
                    };
                }
            }
        }
        Some(placed)
    }

    /// Records the current state of a worker.
    pub fn observe_worker(&mut self, worker: &Arc<Worker>) {
        let seen = self.workers.get(&worker.id());
        if seen.is_some_and(|info| info.worker.version() >= worker.version()) {
            return;
        }
        let provider = worker.order().provider;
        if worker.is_terminated() {
            return self.forget_worker(worker.id());
        }
        let now = self.now;
        if let Some(info) = self.workers.get_mut(&worker.id()) {
            info.worker = worker.clone();
            info.retires = info.retirement(now);
            return;
        }
        let attempts = self.attempts().filter(|attempt| attempt.worker == worker.id());
        let (mut active, mut in_use) = (BTreeSet::new(), JobResources::default());
        for attempt in attempts {
            active.insert(attempt.id);
            in_use = in_use.plus(&attempt.resources);
        }
        let aged = worker.order().lifetime.max_age;
        let aged = aged.map(|age| Deadline::new(worker.ordered_at() + age, age, now));
        let (worker, connected, run_time) = (worker.clone(), false, None);
        let (turned, retires) = (now.monotonic, None);
        let mut info = WorkerInfo { worker, connected, active, in_use, run_time, turned, retires, aged };
        info.retires = info.retirement(now);
        self.workers.insert(info.worker.id(), info);
        self.count_worker(provider, |count| count + 1);
    }

    /// Records the current state of a provider.
    pub fn observe_provider(&mut self, provider: &Arc<Provider>) {
        let id = provider.id();
        match self.providers.get_mut(&id) {
            Some(info) if info.provider.version() >= provider.version() => {}
            Some(info) => {
                info.rests = ProviderInfo::rest(provider, self.now);
                info.provider = provider.clone();
            }
            None => {
                let workers = self.workers.values().filter(|info| info.worker.order().provider == id).count();
                let (provider, rests) = (provider.clone(), ProviderInfo::rest(provider, self.now));
                let info = ProviderInfo { provider, workers: workers as u32, served: true, rests };
                self.providers.insert(id, info);
            }
        }
    }

    /// Sets which workers are connected now.
    pub fn set_connected(&mut self, connected: impl Fn(WorkerId) -> bool) {
        for (id, info) in &mut self.workers {
            info.connected = connected(*id);
        }
    }

    /// Sets for which providers a daemon carries out orders now.
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

    /// Returns the jobs whose deadline is reached, each with whether that is its `start_by`.
    pub fn due_jobs(&self) -> impl Iterator<Item = (JobId, bool)> {
        let by_day = self.deadlines.iter().take_while(|(at, _)| *at <= self.now.wall).map(|(_, job)| *job);
        let is_new = |job: &JobId| self.deadline_of(*job).is_some_and(|(wait, _)| wait.at > self.now.wall);
        let by_length =
            self.dues.iter().take_while(|(due, _)| *due <= self.now.monotonic).map(|(_, job)| *job);
        let due = by_day.chain(by_length.filter(is_new));
        due.filter_map(|job| Some((job, self.deadline_of(job)?.1)))
    }

    fn deadline_of(&self, job: JobId) -> Option<(Deadline, bool)> {
        self.jobs.get(&job)?.deadline
    }

    /// Returns the time until the next deadline of a job, a worker, a provider or a trial.
    pub fn next_deadline(&self) -> Option<Duration> {
        let retire = self.workers.values().filter_map(|info| info.retires).map(|wait| wait.left(self.now));
        let by_day = self.deadlines.first().map(|(at, _)| at.since(self.now.wall));
        let by_length = self.dues.first().map(|(due, _)| due.saturating_sub(self.now.monotonic));
        let rests =
            self.providers.values().filter_map(|info| info.rests).filter(|rest| !rest.is_over(self.now));
        let rests = rests.map(|rest| rest.left(self.now));
        retire.chain(by_day).chain(by_length).chain(rests).chain(self.next_trusted()).min()
    }

    /// Returns the inputs that workers need without an event: one without an attempt becomes idle, one whose lifetime
    /// is over drains, and one that is ready although it has attempts becomes busy.
    pub fn housekeeping(&self) -> Vec<(WorkerId, WorkerInput)> {
        let mut inputs = Vec::new();
        for (id, info) in &self.workers {
            let over = info.retires.is_some_and(|wait| wait.is_over(self.now));
            if over && (info.active.is_empty() || matches!(info.worker.state(), WorkerState::Busy)) {
                inputs.push((*id, WorkerInput::Drain("its lifetime is over".into())));
            } else if matches!(info.worker.state(), WorkerState::Busy) && info.active.is_empty() {
                inputs.push((*id, WorkerInput::Idle));
            } else if matches!(info.worker.state(), WorkerState::Ready { .. }) && !info.active.is_empty() {
                // Its assignments were stored and this was not, because another writer changed the worker meanwhile.
                inputs.push((*id, WorkerInput::Take(info.active.len() as u32)));
            }
        }
        inputs
    }

    /// Returns the open attempts whose worker is gone.
    pub fn stranded(&self) -> Vec<AttemptId> {
        let gone = self.attempts().filter(|attempt| !self.workers.contains_key(&attempt.worker));
        gone.map(|attempt| attempt.id).collect()
    }

    /// Forgets a worker that is terminated, or that the store does not have.
    pub fn forget_worker(&mut self, id: WorkerId) {
        if let Some(info) = self.workers.remove(&id) {
            self.count_worker(info.worker.order().provider, |count| count.saturating_sub(1));
        }
    }

    /// Returns every worker.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerInfo> {
        self.workers.values()
    }

    /// Returns one worker.
    pub fn worker(&self, id: WorkerId) -> Option<&WorkerInfo> {
        self.workers.get(&id)
    }

    /// Returns one provider.
    pub fn provider(&self, id: ProviderId) -> Option<&ProviderInfo> {
        self.providers.get(&id)
    }

    /// Returns every provider.
    pub fn providers(&self) -> impl Iterator<Item = &ProviderInfo> {
        self.providers.values()
    }

    /// Returns the runnable jobs by class, each class in order.
    pub fn queued(&self) -> impl Iterator<Item = (&PlacementClass, &BTreeSet<QueueKey>)> {
        self.queue.classes()
    }

    /// Returns the class of a queued job.
    pub fn queued_class(&self, job: JobId) -> Option<&PlacementClass> {
        match &self.jobs.get(&job)?.place {
            Place::Queued { class, .. } => Some(class),
            _ => None,
        }
    }

    /// Returns the number of runnable jobs.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    /// Returns the number of jobs that are not terminal.
    pub fn open_jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Returns the number of attempts with this concurrency key that are assigned or running.
    pub fn concurrency_in_use(&self, key: &str) -> u32 {
        self.concurrency.get(key).copied().unwrap_or(0)
    }

    /// Returns the open attempt of a job.
    pub fn active(&self, job: JobId) -> Option<&ActiveAttempt> {
        match &self.jobs.get(&job)?.place {
            Place::Active { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    /// Returns the class of a job with an open attempt.
    pub(super) fn active_class(&self, job: JobId) -> Option<&PlacementClass> {
        match &self.jobs.get(&job)?.place {
            Place::Active { class, .. } => Some(class),
            _ => None,
        }
    }

    /// Whether a worker gave a queued job back. Such a job goes only to a free slot and waits in no worker again, so
    /// that it is not given back endlessly.
    pub fn was_given_back(&self, job: JobId) -> bool {
        self.given_back.contains(&job)
    }

    /// Returns every open attempt.
    pub fn attempts(&self) -> impl Iterator<Item = &ActiveAttempt> {
        self.active.iter().filter_map(|id| self.active(*id))
    }

    /// Recomputes the derived indexes and compares them.
    ///
    /// # Errors
    /// Names the first difference.
    pub fn sanity_check(&self) -> Result<(), String> {
        let queued = self.jobs.values().filter(|placed| matches!(placed.place, Place::Queued { .. })).count();
        let in_classes: usize = self.queued().map(|(_, keys)| keys.len()).sum();
        if queued != in_classes || queued != self.queue.len() {
            return Err(format!(
                "{queued} jobs are queued, {in_classes} are in classes, the length is {}",
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
        let is_suspect = |placed: &&Placed| match &placed.place {
            Place::Waiting => false,
            Place::Queued { class, .. } | Place::Active { class, .. } => class.suspect,
        };
        let suspects = self.jobs.values().filter(is_suspect).count();
        if suspects != self.suspects.len() {
            return Err(format!("{suspects} jobs are suspects, {} are in the index", self.suspects.len()));
        }
        let deadlines = self.jobs.values().filter(|placed| placed.deadline.is_some()).count();
        if deadlines != self.deadlines.len() || deadlines != self.dues.len() {
            return Err(format!(
                "{deadlines} jobs have a deadline, {} are in the index",
                self.deadlines.len()
            ));
        }
        Ok(())
    }
}
