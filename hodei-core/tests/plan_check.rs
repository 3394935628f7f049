//! The check of plans: it refuses each decision that breaks a rule, and keeps all others.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::{Aggregate, Score};
use hodei_core::id::{JobId, OrderId, ProviderId, StoreId, WorkerId};
use hodei_core::job::{
    Blame, FailureCause, Job, JobInput, JobResources, JobSpec, JobSpecBuilder, Labels, Loss, Submission,
    TenantId, step,
};
use hodei_core::provider::{self, ProviderInput, ProviderProfile};
use hodei_core::scheduling::{
    PlanDecision, PlanFault, QueuedJob, Scheduler, SchedulingContext, SchedulingStrategy, SmartScheduler,
    WorkerInfo, check,
};
use hodei_core::time::{Moment, Timestamp};
use hodei_core::worker::{self, Lifetime, Worker, WorkerCapacity, WorkerInput, WorkerOrder};
use proptest::prelude::*;
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);
const CAPACITY: WorkerCapacity = WorkerCapacity {
    slots: 2,
    prefetch: 1,
    resources: JobResources { cpu_millis: 1000, memory_bytes: 0, disk_bytes: 0, gpus: 0, pids: 0 },
};

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn worker(number: u128, max_jobs: Option<u32>) -> Arc<Worker> {
    let order = WorkerOrder {
        id: OrderId::from_uuid(id(number)),
        worker: WorkerId::from_uuid(id(number)),
        provider: ProviderId::from_uuid(id(1)),
        owner: StoreId::from_uuid(id(number)),
        capacity: CAPACITY,
        labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
        lifetime: Lifetime { max_jobs, ..Lifetime::default() },
    };
    let join = WorkerInput::Join { capacity: CAPACITY, labels: Labels::new(), incarnation: Uuid::nil() };
    let ordered = worker::step(None, WorkerInput::Order(order), NOW).unwrap();
    let Aggregate::Worker(registering) = ordered.next else { panic!() };
    let Aggregate::Worker(ready) = worker::step(Some(&registering), join, NOW).unwrap().next else {
        panic!()
    };
    ready
}

fn job(number: u128, spec: JobSpecBuilder) -> Arc<Job> {
    let spec = Arc::new(spec.build().unwrap());
    let (id, tenant) = (JobId::from_uuid(id(number)), TenantId::default());
    let submission = Submission { id, tenant, spec, retry_of: None };
    let Aggregate::Job(job) = step(None, JobInput::Submit(submission), NOW).unwrap().next else { panic!() };
    job
}

fn command() -> JobSpecBuilder {
    JobSpec::command(["true"])
}

/// Makes a context of a provider, two workers, the second of which is spent after one job, and these jobs.
fn context(jobs: &[Arc<Job>]) -> SchedulingContext {
    let profile = ProviderProfile {
        name: "p".into(),
        kind: "test".into(),
        runs_images: false,
        requires_limits: false,
        capacity: CAPACITY,
        labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
        max_workers: 3,
        lifetime: Lifetime::default(),
        secrets: Vec::new(),
    };
    let configure = ProviderInput::Configure { id: ProviderId::from_uuid(id(1)), profile };
    let Aggregate::Provider(provider) = provider::step(None, configure, NOW).unwrap().next else { panic!() };
    let mut context = SchedulingContext::default();
    context.observe_provider(&provider);
    context.observe_worker(&worker(1, None));
    context.observe_worker(&worker(2, Some(1)));
    jobs.iter().for_each(|job| context.observe_job(job));
    context.set_connected(|worker| worker.as_uuid() != id(3));
    context
}

fn assign(job: u128, worker: u128) -> PlanDecision {
    let (job, worker) = (JobId::from_uuid(id(job)), WorkerId::from_uuid(id(worker)));
    PlanDecision::Assign { job, worker, score: Score::default() }
}

fn order(provider: u128) -> PlanDecision {
    PlanDecision::Provision { provider: ProviderId::from_uuid(id(provider)) }
}

/// Returns the number of kept decisions, and the faults of the others.
fn outcome(context: &SchedulingContext, plan: Vec<PlanDecision>) -> (usize, Vec<PlanFault>) {
    let checked = check(context, plan);
    (checked.kept.len(), checked.refused.into_iter().map(|(_, fault)| fault).collect())
}

#[test]
fn an_assignment_over_a_concurrency_limit_is_refused() {
    let keyed = |number| job(number, command().concurrency("key", 1));
    let context = context(&[keyed(10), keyed(11), job(12, command())]);
    let plan = vec![assign(10, 1), assign(11, 1), assign(12, 1)];
    let limit = PlanFault::Concurrency { key: "default/key".into(), limit: 1 };
    assert_eq!(outcome(&context, plan), (2, vec![limit]), "the other decisions are kept");
}

#[test]
fn an_assignment_over_slots_or_lifetime_is_refused() {
    let jobs: Vec<_> = (10..16).map(|number| job(number, command())).collect();
    let keyed = job(20, command().concurrency("key", 9));
    let context = context(&[&jobs[..], &[keyed]].concat());
    let (kept, faults) = outcome(&context, (10..14).map(|number| assign(number, 1)).collect());
    let full = PlanFault::NoSlot { worker: WorkerId::from_uuid(id(1)), taken: 3, most: 3 };
    assert_eq!((kept, faults), (3, vec![full]), "two run and one waits in the worker");
    let (kept, faults) = outcome(&context, vec![assign(10, 1), assign(11, 1), assign(20, 1)]);
    let full = PlanFault::NoSlot { worker: WorkerId::from_uuid(id(1)), taken: 2, most: 2 };
    assert_eq!((kept, faults), (2, vec![full]), "a job with a key waits in no worker");
    let (kept, faults) = outcome(&context, vec![assign(10, 2), assign(11, 2)]);
    assert_eq!((kept, faults), (1, vec![PlanFault::Spent(WorkerId::from_uuid(id(2)))]));
}

#[test]
fn an_assignment_to_an_unsuitable_worker_is_refused() {
    let cpu = |cpu_millis| JobResources { cpu_millis, ..JobResources::default() };
    let context = context(&[
        job(10, command().constraint("zone EQ b".parse().unwrap())),
        job(11, command().image("busybox")),
        job(12, command().resources(cpu(5000))),
        job(13, command().resources(cpu(600))),
        job(14, command().resources(cpu(600))),
    ]);
    let unsuited = PlanFault::Unsuited(WorkerId::from_uuid(id(1)));
    for number in [10, 11, 12] {
        assert_eq!(outcome(&context, vec![assign(number, 1)]), (0, vec![unsuited.clone()]), "{number}");
    }
    let (kept, faults) = outcome(&context, vec![assign(13, 1), assign(14, 1)]);
    let (worker, field) = (WorkerId::from_uuid(id(1)), "resources.cpu_millis");
    assert_eq!((kept, faults), (1, vec![PlanFault::Resources { worker, field, needed: 1200, size: 1000 }]));
}

#[test]
fn unknown_ids_and_repeated_decisions_are_refused() {
    let context = context(&[job(10, command())]);
    let unknown_job = PlanFault::NotQueued(JobId::from_uuid(id(99)));
    let unknown_worker = PlanFault::TakesNoJobs(WorkerId::from_uuid(id(99)));
    let twice = PlanFault::Twice(JobId::from_uuid(id(10)));
    let plan = vec![assign(99, 1), assign(10, 99), assign(10, 1), assign(10, 1)];
    assert_eq!(outcome(&context, plan), (1, vec![unknown_job, unknown_worker, twice.clone()]));
    let reject = PlanDecision::Reject { job: JobId::from_uuid(id(10)), why: String::new() };
    assert_eq!(outcome(&context, vec![assign(10, 1), reject]), (1, vec![twice]));
    let provider = ProviderId::from_uuid(id(1));
    let faults = vec![
        PlanFault::ProviderFull { provider, most: 3 },
        PlanFault::UnknownProvider(ProviderId::from_uuid(id(7))),
    ];
    assert_eq!(
        outcome(&context, vec![order(1), order(1), order(7)]),
        (1, faults),
        "two of three workers exist"
    );
}

#[test]
fn a_score_that_is_not_finite_is_refused() {
    let context = context(&[job(10, command())]);
    let PlanDecision::Assign { job, worker, .. } = assign(10, 1) else { panic!() };
    let score = Score { parts: vec![("mine".into(), f64::NAN)] };
    assert_eq!(
        outcome(&context, vec![PlanDecision::Assign { job, worker, score }]),
        (0, vec![PlanFault::Score])
    );
}

/// Makes a job that was lost with its worker and may have ended it.
fn suspect(number: u128) -> Arc<Job> {
    let worker = WorkerId::from_uuid(id(77));
    let assign = JobInput::Assign { worker, dispatch: 1, score: Score::default() };
    let pending = job(number, command());
    let Aggregate::Job(assigned) = step(Some(&pending), assign, NOW).unwrap().next else { panic!() };
    let cause = FailureCause::Lost("test".into());
    let loss = Loss { cause, blame: Blame::Shared, interrupted: false, log_end: 0 };
    let lose = JobInput::Lose { attempt: 1, loss, jitter: 0.0 };
    let Aggregate::Job(lost) = step(Some(&assigned), lose, NOW).unwrap().next else { panic!() };
    lost
}

#[test]
fn a_suspect_and_another_new_job_do_not_begin_on_one_worker() {
    let context = context(&[suspect(10), suspect(11), job(12, command())]);
    let held = PlanFault::Suspect(WorkerId::from_uuid(id(1)));
    for other in [11, 12] {
        assert_eq!(outcome(&context, vec![assign(10, 1), assign(other, 1)]), (1, vec![held.clone()]));
        assert_eq!(outcome(&context, vec![assign(other, 1), assign(10, 1)]), (1, vec![held.clone()]));
    }
    let plan = SmartScheduler::default().plan(&context, NOW);
    let (kept, faults) = outcome(&context, plan);
    assert!(kept >= 2 && faults.is_empty(), "{faults:?}");
}

/// The scheduler holds a worker for a waiting suspect, so that a stream of other jobs does not keep it waiting.
#[test]
fn a_suspect_gets_a_worker_despite_a_stream_of_other_jobs() {
    let mut context = context(&[]);
    context.forget_worker(WorkerId::from_uuid(id(2)));
    // The provider may have no more workers than these three.
    for number in [3, 4] {
        context.observe_worker(&worker(number, None));
    }
    context.set_connected(|_| true);
    let place = |context: &mut SchedulingContext, plan: &[PlanDecision]| {
        for decision in plan {
            let PlanDecision::Assign { job, worker, score } = decision else { continue };
            let number = job.as_uuid().as_u128();
            let job = if number < 50 { suspect(number) } else { self::job(number, command()) };
            let assign = JobInput::Assign { worker: *worker, dispatch: 9, score: score.clone() };
            let Aggregate::Job(next) = step(Some(&job), assign, NOW).unwrap().next else { panic!() };
            context.observe_job(&next);
        }
    };
    (100..112).for_each(|number| context.observe_job(&job(number, command())));
    let plan = SmartScheduler::default().plan(&context, NOW);
    place(&mut context, &plan);
    context.observe_job(&suspect(10));
    let mut next = 200;
    for round in 0..40 {
        // One job of the next worker in turn ends, and two others arrive.
        let ended = context.workers().nth(round % 3).unwrap().active.first().map(|attempt| attempt.job);
        ended.into_iter().for_each(|job| context.forget_job(job));
        (0..2).for_each(|_| {
            context.observe_job(&job(next, command()));
            next += 1;
        });
        let plan = SmartScheduler::default().plan(&context, NOW);
        assert_eq!(check(&context, plan.clone()).refused, []);
        place(&mut context, &plan);
        if let Some(attempt) = context.active(JobId::from_uuid(id(10))) {
            let neighbours = context.worker(attempt.worker).unwrap().active.len();
            assert_eq!(neighbours, 1);
            return;
        }
    }
    panic!("the suspect never ran");
}

/// Starts a job in the first worker of the context.
fn start(context: &mut SchedulingContext, job: &Job, attempt: u32) {
    let assign =
        JobInput::Assign { worker: WorkerId::from_uuid(id(1)), dispatch: 9, score: Score::default() };
    let Aggregate::Job(assigned) = step(Some(job), assign, NOW).unwrap().next else { panic!() };
    let start = JobInput::Start { attempt, started_at: NOW };
    let Aggregate::Job(started) = step(Some(&assigned), start, NOW).unwrap().next else { panic!() };
    context.observe_job(&started);
}

fn wait(context: &mut SchedulingContext, seconds: u64) {
    let Moment { wall, monotonic } = context.now();
    let passed = Duration::from_secs(seconds);
    context.set_time(Moment { wall: wall + passed, monotonic: monotonic + passed });
}

/// A long job that was lost with its worker delays other jobs only for its trial.
#[test]
fn other_jobs_begin_beside_a_suspect_after_its_trial() {
    let mut context = context(&[]);
    context.forget_worker(WorkerId::from_uuid(id(2)));
    let not_yet = Err(PlanFault::Suspect(WorkerId::from_uuid(id(1))));
    let may_begin = |context: &SchedulingContext, number| {
        let refused = check(context, vec![assign(number, 1)]).refused;
        let planned = SmartScheduler::default().plan(context, NOW);
        let is_it = |decision: &PlanDecision| matches!(decision, PlanDecision::Assign { job, .. } if job.as_uuid() == id(number));
        assert_eq!(planned.iter().any(is_it), refused.is_empty());
        refused.into_iter().next().map_or(Ok(()), |(_, fault)| Err(fault))
    };
    start(&mut context, &suspect(10), 2);
    context.observe_job(&job(12, command()));
    assert_eq!(
        (may_begin(&context, 12), context.next_deadline()),
        (not_yet.clone(), Some(Duration::from_secs(5)))
    );
    wait(&mut context, 5);
    assert_eq!((may_begin(&context, 12), context.next_deadline()), (Ok(()), Some(Duration::from_secs(55))));
    // The next suspect begins once every attempt beside it is trusted.
    start(&mut context, &job(12, command()), 1);
    context.forget_job(JobId::from_uuid(id(10)));
    wait(&mut context, 2);
    context.observe_job(&suspect(11));
    assert_eq!((may_begin(&context, 11), context.next_deadline()), (not_yet, Some(Duration::from_secs(3))));
    wait(&mut context, 3);
    assert_eq!(may_begin(&context, 11), Ok(()));
    context.sanity_check().unwrap();
}

#[test]
fn a_suspect_does_not_begin_beside_a_job_that_may_not_run_again() {
    let mut context = context(&[]);
    context.forget_worker(WorkerId::from_uuid(id(2)));
    start(&mut context, &job(12, command().at_most_once()), 1);
    wait(&mut context, 3_600);
    context.observe_job(&suspect(10));
    context.observe_job(&job(13, command()));
    let refused = vec![PlanFault::Suspect(WorkerId::from_uuid(id(1)))];
    assert_eq!(outcome(&context, vec![assign(10, 1)]), (0, refused));
    assert_eq!(outcome(&context, vec![assign(13, 1)]), (1, vec![]));
    // The worker is not held for the suspect either: the other job may run for days.
    (3..5).for_each(|number| context.observe_worker(&worker(number, Some(0))));
    let plan = SmartScheduler::default().plan(&context, NOW);
    let is_assigned = |number| {
        plan.iter().any(
            |decision| matches!(decision, PlanDecision::Assign { job, .. } if job.as_uuid() == id(number)),
        )
    };
    assert_eq!((is_assigned(10), is_assigned(13)), (false, true));
}

/// A strategy that returns the given score.
#[derive(Debug)]
struct Wild(f64);

impl SchedulingStrategy for Wild {
    fn name(&self) -> &'static str {
        "wild"
    }

    fn score(&self, _: &QueuedJob<'_>, _: &WorkerInfo, _: u32) -> f64 {
        self.0
    }
}

#[test]
fn jobs_are_placed_although_a_strategy_returns_a_score_that_is_not_finite() {
    for wild in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let scheduler = SmartScheduler::new([(Arc::new(Wild(wild)) as Arc<dyn SchedulingStrategy>, 1.0)]);
        let context = context(&[job(10, command())]);
        let (kept, faults) = outcome(&context, scheduler.plan(&context, NOW));
        assert_eq!((kept, faults), (1, Vec::new()), "{wild}");
    }
}

proptest! {
    /// The built-in scheduler never breaks a rule.
    #[test]
    fn every_decision_of_the_built_in_scheduler_is_kept(
        kinds in prop::collection::vec(0_u8..5, 0..40),
    ) {
        let spec = |kind: u8| match kind {
            0 => command().concurrency("a", 1),
            1 => command().concurrency("b", 3),
            2 => command().resources(JobResources { cpu_millis: 300, ..JobResources::default() }),
            3 => command().constraint("zone EQ b".parse().unwrap()),
            _ => command(),
        };
        let jobs: Vec<_> = (10..).zip(kinds).map(|(number, kind)| job(number, spec(kind))).collect();
        let context = context(&jobs);
        let (_, faults) = outcome(&context, SmartScheduler::default().plan(&context, NOW));
        prop_assert_eq!(faults, Vec::new());
    }
}
