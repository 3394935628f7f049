//! A simulation of minutes with jobs that end their worker: those jobs fail, and the jobs beside them succeed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::Aggregate;
use hodei_core::id::{JobId, OrderId, ProviderId, StoreId, WorkerId};
use hodei_core::job::{
    AttemptReport, Backoff, FailureCause, Job, JobInput, JobSpec, JobState, JobStatus, Labels, Loss, Outcome,
    RetryPolicy, Submission, TenantId, blames, step,
};
use hodei_core::provider::{self, ProviderInput, ProviderProfile};
use hodei_core::scheduling::{PlanDecision, Scheduler, SchedulingContext, SmartScheduler, check};
use hodei_core::time::{Moment, Timestamp};
use hodei_core::worker::{self, Lifetime, Worker, WorkerCapacity, WorkerInput, WorkerOrder};
use uuid::Uuid;

const SLOTS: u32 = 4;

/// The behaviour of a job.
#[derive(Clone, Copy)]
enum Kind {
    /// It succeeds after this many seconds.
    Innocent(u64),
    /// It ends its worker after this many seconds.
    Killer(u64),
}

use Kind::{Innocent, Killer};

/// One worker at a time, jobs, and a clock that advances by seconds.
struct World {
    context: SchedulingContext,
    second: u64,
    worker: Arc<Worker>,
    jobs: BTreeMap<JobId, (Kind, Arc<Job>)>,
    losses: u32,
}

fn at(second: u64) -> Timestamp {
    Timestamp::EPOCH + Duration::from_secs(1000 + second)
}

fn capacity() -> WorkerCapacity {
    WorkerCapacity { prefetch: 0, ..WorkerCapacity::slots(SLOTS) }
}

fn worker(number: u128) -> Arc<Worker> {
    let order = WorkerOrder {
        id: OrderId::from_uuid(Uuid::from_u128(number)),
        worker: WorkerId::from_uuid(Uuid::from_u128(number)),
        provider: ProviderId::from_uuid(Uuid::from_u128(1)),
        owner: StoreId::from_uuid(Uuid::from_u128(1)),
        capacity: capacity(),
        labels: Labels::new(),
        lifetime: Lifetime::default(),
    };
    let turn = |current: Option<&Worker>, input| {
        let Aggregate::Worker(next) = worker::step(current, input, at(0)).unwrap().next else { panic!() };
        next
    };
    let ordered = turn(None, WorkerInput::Order(order));
    let join = WorkerInput::Join { capacity: capacity(), labels: Labels::new(), incarnation: Uuid::nil() };
    turn(Some(&ordered), join)
}

impl World {
    fn new() -> Self {
        let profile = ProviderProfile {
            name: "p".into(),
            kind: "test".into(),
            runs_images: false,
            requires_limits: false,
            capacity: capacity(),
            labels: Labels::new(),
            max_workers: 1,
            lifetime: Lifetime::default(),
            secrets: Vec::new(),
        };
        let configure = ProviderInput::Configure { id: ProviderId::from_uuid(Uuid::from_u128(1)), profile };
        let Aggregate::Provider(provider) = provider::step(None, configure, at(0)).unwrap().next else {
            panic!()
        };
        let (mut context, worker) = (SchedulingContext::default(), worker(1));
        context.observe_provider(&provider);
        context.observe_worker(&worker);
        Self { context, second: 0, worker, jobs: BTreeMap::new(), losses: 0 }
    }

    fn submit(&mut self, kind: Kind) -> JobId {
        let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(1) };
        let spec = JobSpec::command(["x"]).retry(RetryPolicy { backoff, ..RetryPolicy::default() });
        let id = JobId::from_uuid(Uuid::from_u128(100 + self.jobs.len() as u128));
        let spec = Arc::new(spec.build().unwrap());
        let submission = Submission { id, tenant: TenantId::default(), spec, retry_of: None };
        let created = step(None, JobInput::Submit(submission), at(self.second)).unwrap();
        let Aggregate::Job(job) = created.next else { panic!() };
        self.context.observe_job(&job);
        self.jobs.insert(id, (kind, job));
        id
    }

    fn turn(&mut self, id: JobId, input: JobInput) {
        let (_, job) = self.jobs.get_mut(&id).unwrap();
        let Aggregate::Job(next) = step(Some(job), input, at(self.second)).unwrap().next else { panic!() };
        self.context.observe_job(&next);
        *job = next;
    }

    fn status(&self, id: JobId) -> JobStatus {
        self.jobs[&id].1.status()
    }

    /// Advances the clock until all jobs have ended.
    fn run(&mut self) {
        while !self.jobs.values().all(|(_, job)| job.is_terminal()) {
            assert!(self.second < 100_000, "some jobs never end");
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.second += 1;
        let monotonic = Duration::from_secs(self.second);
        self.context.set_time(Moment { wall: at(self.second), monotonic });
        let mut is_lost = false;
        for (id, kind, job) in
            self.jobs.iter().map(|(id, (kind, job))| (*id, *kind, job.clone())).collect::<Vec<_>>()
        {
            match (job.state(), kind) {
                (JobState::Created { until, .. }, _) if *until <= at(self.second) => {
                    self.turn(id, JobInput::Due);
                }
                (JobState::Running { started_at, .. }, Innocent(seconds))
                    if at(self.second).since(*started_at).as_secs() >= seconds =>
                {
                    let report = AttemptReport {
                        started_at: Some(*started_at),
                        ..AttemptReport::unstarted(Outcome::Succeeded, at(self.second))
                    };
                    let attempt = job.attempt();
                    self.turn(id, JobInput::Finish { attempt, report, gap: None, jitter: 0.0 });
                }
                (JobState::Running { started_at, .. }, Killer(seconds)) => {
                    is_lost |= at(self.second).since(*started_at).as_secs() >= seconds;
                }
                _ => {}
            }
        }
        if is_lost {
            self.lose_worker();
        }
        self.context.set_connected(|_| true);
        let plan = SmartScheduler::default().plan(&self.context, at(self.second));
        let checked = check(&self.context, plan);
        assert_eq!(checked.refused, []);
        for decision in checked.kept {
            let PlanDecision::Assign { job, worker, score } = decision else { continue };
            self.turn(job, JobInput::Assign { worker, dispatch: self.second, score });
            let attempt = self.jobs[&job].1.attempt();
            self.turn(job, JobInput::Start { attempt, started_at: at(self.second) });
        }
        self.context.sanity_check().unwrap();
    }

    fn lose_worker(&mut self) {
        self.losses += 1;
        let here: Vec<Arc<Job>> = self
            .jobs
            .values()
            .filter(|(_, job)| job.worker().is_some() && !job.is_terminal())
            .map(|(_, job)| job.clone())
            .collect();
        let blames = blames(&here, SLOTS, None, at(self.second));
        for (job, blame) in here.iter().zip(blames) {
            let cause = FailureCause::Lost("test".into());
            let loss = Loss { cause, blame, interrupted: false, log_end: 0 };
            self.turn(job.id(), JobInput::Lose { attempt: job.attempt(), loss, jitter: 0.0 });
        }
        self.context.forget_worker(self.worker.id());
        self.worker = worker(1 + u128::from(self.losses));
        self.context.observe_worker(&self.worker);
    }
}

#[test]
fn killers_fail_and_the_jobs_beside_them_succeed() {
    for (killers, after, innocents, seconds) in [
        (1, 1, 10, 60),
        (1, 12, 10, 60),
        (1, 6, 10, 120),
        (1, 30, 6, 120),
        (1, 90, 6, 600),
        (3, 12, 6, 60),
        (8, 1, 1, 600),
        (8, 1, 4, 30),
    ] {
        let mut world = World::new();
        let killers: Vec<JobId> = (0..killers).map(|_| world.submit(Killer(after))).collect();
        let innocents: Vec<JobId> = (0..innocents).map(|_| world.submit(Innocent(seconds))).collect();
        world.run();
        let scenario = format!("a kill after {after} s beside jobs of {seconds} s");
        for id in innocents {
            let job = &world.jobs[&id].1;
            assert_eq!(job.status(), JobStatus::Succeeded, "{scenario}: {:?}", job.tally());
        }
        for id in killers {
            let job = &world.jobs[&id].1;
            assert_eq!(job.cause().map(hodei_core::job::CauseKind::as_str), Some("lost"), "{scenario}");
            println!("{scenario}: {} losses, {} s, {:?}", world.losses, world.second, job.tally());
        }
    }
}

#[test]
fn other_jobs_wait_for_one_trial_at_most_and_every_suspect_runs() {
    for killed_at in [1, 40] {
        let mut world = World::new();
        let long: Vec<JobId> = (0..SLOTS).map(|_| world.submit(Innocent(10_000))).collect();
        for _ in 0..killed_at {
            world.tick();
        }
        world.lose_worker();
        for _ in 0..3 {
            let other = world.submit(Innocent(1));
            let submitted = world.second;
            while world.status(other) != JobStatus::Succeeded {
                world.tick();
                assert!(world.second - submitted <= 7, "it waits for longer than a trial");
            }
        }
        let runs = |world: &World| long.iter().filter(|id| world.status(**id) == JobStatus::Running).count();
        while runs(&world) < SLOTS as usize {
            world.tick();
            assert!(world.second < 100, "{} of the long ones run", runs(&world));
        }
    }
}
