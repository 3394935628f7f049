//! Recalls: no job waits in a worker behind a long one while another place is free. A simulation with workers that
//! start their jobs in order.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::Aggregate;
use hodei_core::id::{JobId, OrderId, ProviderId, StoreId, WorkerId};
use hodei_core::job::{
    AttemptReport, Job, JobInput, JobSpec, JobStatus, Labels, Outcome, Priority, Submission, TenantId, step,
};
use hodei_core::provider::{self, Provider, ProviderInput, ProviderProfile};
use hodei_core::scheduling::{PlanDecision, Scheduler, SchedulingContext, SmartScheduler};
use hodei_core::time::{Moment, Timestamp};
use hodei_core::worker::{self, Lifetime, Worker, WorkerCapacity, WorkerInput, WorkerOrder};
use uuid::Uuid;

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn id(number: u64) -> JobId {
    JobId::from_uuid(Uuid::from_u128(u128::from(number)))
}

/// Workers of one provider, each with a line of waiting jobs.
struct World {
    context: SchedulingContext,
    provider: Arc<Provider>,
    now: Duration,
    /// Time from the order of a worker until it is connected.
    start_up: Duration,
    jobs: BTreeMap<JobId, Arc<Job>>,
    runs: BTreeMap<JobId, Duration>,
    workers: BTreeMap<WorkerId, Machine>,
    dispatched: u64,
    recalled: usize,
}

struct Machine {
    worker: Arc<Worker>,
    ready_at: Duration,
    line: VecDeque<JobId>,
    running: BTreeMap<JobId, Duration>,
}

impl World {
    fn new(slots: u32, max_workers: u32, start_up: Duration) -> Self {
        let mut world = Self {
            context: SchedulingContext::default(),
            provider: configured(None, slots, max_workers),
            now: Duration::ZERO,
            start_up,
            jobs: BTreeMap::new(),
            runs: BTreeMap::new(),
            workers: BTreeMap::new(),
            dispatched: 0,
            recalled: 0,
        };
        world.context.observe_provider(&world.provider);
        world
    }

    fn moment(&self) -> Moment {
        Moment { wall: Timestamp::from_micros(1_000_000_000) + self.now, monotonic: self.now }
    }

    fn submit(&mut self, number: u64, run: Duration, priority: Priority) {
        let spec = Arc::new(JobSpec::command(["x"]).priority(priority).build().unwrap());
        let submission = Submission { id: id(number), tenant: TenantId::default(), spec, retry_of: None };
        self.runs.insert(id(number), run);
        let decision = step(None, JobInput::Submit(submission), self.moment().wall).unwrap();
        self.take(decision.next);
    }

    fn turn(&mut self, job: JobId, input: JobInput) {
        let decision = step(Some(&self.jobs[&job]), input, self.moment().wall).unwrap();
        self.take(decision.next);
    }

    fn take(&mut self, next: Aggregate) {
        let Aggregate::Job(job) = next else { panic!() };
        self.context.observe_job(&job);
        self.jobs.insert(job.id(), job);
    }

    fn change(&mut self, id: WorkerId, input: WorkerInput) {
        let current = self.workers.get(&id).map(|machine| &*machine.worker);
        let Some(decision) = worker::step(current, input, self.moment().wall) else { return };
        let Aggregate::Worker(worker) = decision.next else { panic!() };
        self.context.observe_worker(&worker);
        let ready_at = self.now + self.start_up;
        let fresh =
            || Machine { worker: worker.clone(), ready_at, line: VecDeque::new(), running: BTreeMap::new() };
        self.workers.entry(id).or_insert_with(fresh).worker = worker.clone();
    }

    fn order(&mut self) {
        let number = self.workers.len() as u128 + 1;
        let profile = self.provider.profile();
        let order = WorkerOrder {
            id: OrderId::from_uuid(Uuid::from_u128(number)),
            worker: WorkerId::from_uuid(Uuid::from_u128(number)),
            provider: self.provider.id(),
            owner: StoreId::from_uuid(Uuid::nil()),
            capacity: profile.capacity,
            labels: Labels::new(),
            lifetime: profile.lifetime,
        };
        self.change(order.worker, WorkerInput::Order(order));
    }

    /// Plans, and lets the workers start their jobs, until nothing changes at this point in time.
    fn settle(&mut self) {
        loop {
            self.context.set_time(self.moment());
            self.workers_work();
            let is_ready = |worker: WorkerId| self.workers[&worker].ready_at <= self.now;
            self.context.set_connected(is_ready);
            let plan = SmartScheduler::default().plan(&self.context, self.moment().wall);
            let mut changed = false;
            for line in plan {
                match line {
                    PlanDecision::Assign { job, worker, score } => {
                        self.dispatched += 1;
                        let dispatch = self.dispatched;
                        self.turn(job, JobInput::Assign { worker, dispatch, score });
                        self.change(worker, WorkerInput::Take(1));
                        self.workers.get_mut(&worker).unwrap().line.push_back(job);
                        changed = true;
                    }
                    PlanDecision::Provision { .. } => {
                        self.order();
                        changed = true;
                    }
                    _ => {}
                }
            }
            if !changed && self.give_back() == 0 {
                break;
            }
        }
    }

    fn give_back(&mut self) -> usize {
        let recalls = self.context.recalls();
        for attempt in &recalls {
            let line = &mut self.workers.get_mut(&attempt.worker).unwrap().line;
            line.retain(|job| *job != attempt.id.job);
            self.turn(attempt.id.job, JobInput::GiveBack { attempt: attempt.id.number });
        }
        self.recalled += recalls.len();
        recalls.len()
    }

    fn workers_work(&mut self) {
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in ids {
            let machine = &self.workers[&worker];
            if machine.ready_at > self.now {
                continue;
            }
            if machine.worker.incarnation().is_none() {
                let capacity = self.provider.profile().capacity;
                let incarnation = worker.as_uuid();
                self.change(worker, WorkerInput::Join { capacity, labels: Labels::new(), incarnation });
            }
            let over: Vec<JobId> = self.workers[&worker]
                .running
                .iter()
                .filter(|(_, end)| **end <= self.now)
                .map(|(job, _)| *job)
                .collect();
            for job in over {
                self.workers.get_mut(&worker).unwrap().running.remove(&job);
                self.finish(job);
            }
            let slots = self.provider.profile().capacity.slots as usize;
            while self.workers[&worker].running.len() < slots {
                let machine = self.workers.get_mut(&worker).unwrap();
                let Some(job) = machine.line.pop_front() else { break };
                machine.running.insert(job, self.now + self.runs[&job]);
                let (attempt, started_at) = (self.jobs[&job].attempt(), self.moment().wall);
                self.turn(job, JobInput::Start { attempt, started_at });
            }
        }
    }

    fn finish(&mut self, job: JobId) {
        let finished_at = self.moment().wall;
        let report = AttemptReport {
            outcome: Outcome::Succeeded,
            exit_code: Some(0),
            started_at: Some(finished_at - self.runs[&job]),
            finished_at,
            log_end: 0,
            usage: None,
            artifacts: Vec::new(),
            interrupted: false,
        };
        let attempt = self.jobs[&job].attempt();
        self.turn(job, JobInput::Finish { attempt, report, gap: None, jitter: 0.0 });
    }

    /// Returns the time of the next event.
    fn next(&self) -> Option<Duration> {
        let ends = self.workers.values().flat_map(|machine| machine.running.values().copied());
        let ready = self.workers.values().map(|machine| machine.ready_at);
        let recall = self.context.next_recall().map(|wait| self.now + wait);
        ends.chain(ready).chain(recall).filter(|at| *at > self.now).min()
    }

    fn run_until(&mut self, until: Duration, mut look: impl FnMut(&Self)) {
        self.settle();
        while let Some(next) = self.next().filter(|next| *next <= until) {
            self.now = next;
            self.settle();
            look(self);
        }
        self.now = until;
        self.settle();
        self.context.sanity_check().unwrap();
    }

    fn status(&self, number: u64) -> JobStatus {
        self.jobs[&id(number)].status()
    }

    /// Counts the jobs that wait in connected workers, and the free slots of those workers.
    fn stuck_and_idle(&self) -> (usize, usize) {
        let slots = self.provider.profile().capacity.slots as usize;
        let machines = || self.workers.values().filter(|machine| machine.ready_at <= self.now);
        let stuck = machines().map(|machine| machine.line.len()).sum();
        (stuck, machines().map(|machine| slots - machine.running.len()).sum())
    }
}

fn configured(current: Option<&Provider>, slots: u32, max_workers: u32) -> Arc<Provider> {
    let profile = ProviderProfile {
        name: "p".into(),
        kind: "test".into(),
        runs_images: false,
        capacity: WorkerCapacity { prefetch: 100, ..WorkerCapacity::slots(slots) },
        labels: Labels::new(),
        max_workers,
        lifetime: Lifetime { idle: None, ..Lifetime::default() },
        secrets: Vec::new(),
        requires_limits: false,
    };
    let input = ProviderInput::Configure { id: ProviderId::from_uuid(Uuid::from_u128(1)), profile };
    let decision = provider::step(current, input, Timestamp::EPOCH).unwrap();
    let Aggregate::Provider(provider) = decision.next else { panic!() };
    provider
}

#[test]
fn a_short_job_does_not_wait_behind_a_long_one_while_a_worker_is_coming() {
    let mut world = World::new(1, 2, millis(500));
    world.submit(1, millis(40_000), Priority::NORMAL);
    world.run_until(millis(1500), |_| {});
    world.submit(2, millis(1), Priority::NORMAL);
    world.run_until(millis(2100), |_| {});
    assert_eq!(world.status(2), JobStatus::Succeeded, "it runs on its own worker");
    assert_eq!(world.recalled, 0, "it never waited in the first worker");
}

#[test]
fn a_burst_leaves_no_job_behind_another_while_a_worker_is_idle() {
    let workers = std::env::var("HODEI_BURST").map_or(100, |number| number.parse().unwrap());
    let mut world = World::new(1, workers, millis(2000));
    for number in 1..=u64::from(workers) * 4 {
        // Run times from ten milliseconds to forty seconds, in mixed order.
        world.submit(number, millis(10 + number * 7919 % 40_000), Priority::NORMAL);
    }
    let mut since: Option<Duration> = None;
    let mut longest = Duration::ZERO;
    world.run_until(millis(400_000), |world| {
        let (stuck, idle) = world.stuck_and_idle();
        if stuck > 0 && idle > 0 {
            let since = *since.get_or_insert(world.now);
            longest = longest.max(world.now - since);
        } else {
            since = None;
        }
    });
    assert!(world.jobs.values().all(|job| job.status() == JobStatus::Succeeded));
    assert_eq!(world.workers.len(), workers as usize);
    assert!(longest <= millis(500), "jobs were stuck beside idle workers for {longest:?}");
}

#[test]
fn a_stuck_job_moves_to_a_worker_with_room() {
    // Both jobs arrive before a second worker may be ordered, so the short one waits in the first worker.
    let mut world = World::new(1, 1, millis(10));
    world.submit(1, millis(40_000), Priority::NORMAL);
    world.submit(2, millis(1), Priority::NORMAL);
    world.run_until(millis(5000), |_| {});
    assert_eq!((world.status(2), world.recalled), (JobStatus::Assigned, 0), "there is no other place");
    world.provider = configured(Some(&world.provider), 1, 2);
    world.context.observe_provider(&world.provider);
    world.run_until(millis(5200), |_| {});
    assert_eq!((world.status(2), world.recalled), (JobStatus::Succeeded, 1));
    assert_eq!(world.jobs[&id(2)].tally().uncharged, 1, "it is not charged");
}

#[test]
fn a_job_of_higher_priority_takes_the_place_of_one_that_waits_in_a_worker() {
    let mut world = World::new(1, 1, millis(10));
    world.submit(1, millis(3000), Priority::NORMAL);
    world.submit(2, millis(3000), Priority::LOW);
    world.submit(3, millis(3000), Priority::LOW);
    // Beyond its slots a worker takes only jobs of the highest queued priority, here that of the first job.
    world.run_until(millis(20), |_| {});
    world.submit(4, millis(3000), Priority::LOW);
    world.run_until(millis(3100), |_| {});
    world.submit(5, millis(10), Priority::HIGH);
    world.run_until(millis(6100), |_| {});
    assert_eq!(world.status(5), JobStatus::Succeeded, "it starts when the running one ends");
    world.run_until(millis(12_200), |_| {});
    assert!((1..=4).all(|number| world.status(number) == JobStatus::Succeeded));
}

#[test]
fn a_job_does_not_wait_in_a_worker_behind_one_of_lower_priority() {
    let mut world = World::new(2, 1, millis(10));
    world.submit(1, millis(3000), Priority::NORMAL);
    world.submit(2, millis(3000), Priority::NORMAL);
    world.submit(3, millis(3000), Priority::NORMAL);
    world.run_until(millis(20), |_| {});
    assert_eq!(world.status(3), JobStatus::Assigned, "it waits in the worker");
    // No run time is known yet.
    world.submit(4, millis(10), Priority::HIGH);
    world.run_until(millis(30), |_| {});
    assert_eq!(world.status(4), JobStatus::Pending);
    world.run_until(millis(3100), |_| {});
    assert_eq!((world.status(4), world.recalled), (JobStatus::Succeeded, 1));
}

#[test]
fn a_job_that_was_given_back_keeps_its_place_and_waits_in_no_worker_again() {
    let mut world = World::new(1, 1, millis(10));
    world.submit(1, millis(2000), Priority::NORMAL);
    world.submit(2, millis(2000), Priority::NORMAL);
    world.run_until(millis(1000), |_| {});
    assert_eq!(world.status(2), JobStatus::Assigned);
    world.submit(3, millis(10), Priority::HIGH);
    world.run_until(millis(1100), |_| {});
    assert_eq!(
        (world.status(2), world.recalled),
        (JobStatus::Pending, 1),
        "the one of high priority goes first"
    );
    world.submit(4, millis(10), Priority::NORMAL);
    world.submit(5, millis(10), Priority::NORMAL);
    world.run_until(millis(2100), |_| {});
    assert_eq!(world.status(3), JobStatus::Succeeded);
    assert_eq!(
        (world.status(2), world.status(4)),
        (JobStatus::Running, JobStatus::Pending),
        "the older one goes first"
    );
    world.run_until(millis(5000), |_| {});
    assert_eq!((world.recalled, world.jobs[&id(2)].tally().uncharged), (1, 1));
}

#[test]
fn a_later_job_does_not_overtake_a_stuck_one() {
    let mut world = World::new(1, 1, millis(10));
    world.submit(1, millis(60_000), Priority::NORMAL);
    world.submit(2, millis(1000), Priority::NORMAL);
    world.run_until(millis(1000), |_| {});
    world.provider = configured(Some(&world.provider), 1, 2);
    // The first of many other jobs takes the second worker.
    (10..20).for_each(|number| world.submit(number, millis(400), Priority::NORMAL));
    world.context.observe_provider(&world.provider);
    world.run_until(millis(2500), |_| {});
    assert_ne!(world.status(2), JobStatus::Assigned, "it was recalled from the worker of the long job");
    world.run_until(millis(3000), |_| {});
    assert_eq!(world.status(2), JobStatus::Succeeded);
    assert_eq!(world.status(19), JobStatus::Pending);
}

#[test]
fn short_jobs_wait_in_the_only_worker_and_are_never_recalled() {
    let mut world = World::new(2, 1, millis(10));
    (1..=2000).for_each(|number| world.submit(number, millis(1), Priority::NORMAL));
    let mut longest_line = 0;
    world.run_until(millis(3000), |world| longest_line = longest_line.max(world.stuck_and_idle().0));
    assert!(world.jobs.values().all(|job| job.status() == JobStatus::Succeeded));
    assert_eq!(world.recalled, 0);
    assert!(longest_line > 50, "{longest_line} waited at most");
}

#[test]
fn a_running_or_cancelled_job_is_not_recalled() {
    let mut world = World::new(1, 1, millis(10));
    world.submit(1, millis(40_000), Priority::NORMAL);
    world.submit(2, millis(1), Priority::NORMAL);
    world.run_until(millis(1000), |_| {});
    world.turn(id(2), JobInput::Cancel);
    world.provider = configured(Some(&world.provider), 1, 2);
    world.context.observe_provider(&world.provider);
    world.run_until(millis(2000), |_| {});
    assert_eq!(world.recalled, 0);
}
