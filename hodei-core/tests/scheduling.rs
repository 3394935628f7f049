//! Plans of the built-in scheduler: a context in, decisions out. Also the invariants of workers under random inputs.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::Aggregate;
use hodei_core::id::{JobId, OrderId, ProviderId, StoreId, WorkerId};
use hodei_core::job::{
    AttemptReport, Job, JobInput, JobResources, JobSpec, JobSpecBuilder, Labels, Outcome, Priority,
    Submission, TenantId, step,
};
use hodei_core::provider::{self, Provider, ProviderHealth, ProviderInput, ProviderProfile};
use hodei_core::scheduling::strategy::{FirstAvailable, LeastLoaded};
use hodei_core::scheduling::{
    PlanDecision, Scheduler, SchedulingContext, SchedulingStrategy, SmartScheduler, WaitCause,
};
use hodei_core::time::Timestamp;
use hodei_core::worker::{self, Lifetime, LimitHold, Worker, WorkerCapacity, WorkerInput, WorkerOrder};
use proptest::prelude::*;
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_micros(1_000_000);

fn provider(max_workers: u32) -> Arc<Provider> {
    configured(profile(max_workers))
}

fn configured(profile: ProviderProfile) -> Arc<Provider> {
    let id = ProviderId::from_uuid(Uuid::from_u128(1));
    let decision = provider::step(None, ProviderInput::Configure { id, profile }, NOW).unwrap();
    let Aggregate::Provider(provider) = decision.next else { panic!() };
    provider
}

fn profile(max_workers: u32) -> ProviderProfile {
    ProviderProfile {
        name: "p".into(),
        kind: "test".into(),
        runs_images: false,
        capacity: WorkerCapacity { prefetch: 1, ..WorkerCapacity::slots(2) },
        labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
        max_workers,
        lifetime: Lifetime::default(),
        secrets: vec!["dev-*".parse().unwrap()],
        requires_limits: false,
    }
}

fn next(current: Option<&Worker>, input: WorkerInput) -> Arc<Worker> {
    let Some(Aggregate::Worker(worker)) = worker::step(current, input, NOW).map(|decision| decision.next)
    else {
        panic!("refused")
    };
    worker
}

fn registering(number: u128) -> Arc<Worker> {
    let id = Uuid::from_u128(number);
    next(
        None,
        WorkerInput::Order(WorkerOrder {
            id: OrderId::from_uuid(id),
            worker: WorkerId::from_uuid(id),
            provider: ProviderId::from_uuid(Uuid::from_u128(1)),
            owner: StoreId::from_uuid(id),
            capacity: WorkerCapacity { prefetch: 1, ..WorkerCapacity::slots(2) },
            labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
            lifetime: Lifetime::default(),
        }),
    )
}

fn ready(number: u128) -> Arc<Worker> {
    let capacity = WorkerCapacity { prefetch: 1, ..WorkerCapacity::slots(2) };
    let join = WorkerInput::Join { capacity, labels: Labels::new(), incarnation: Uuid::nil() };
    next(Some(&registering(number)), join)
}

fn job(number: u128, spec: JobSpecBuilder) -> Arc<Job> {
    let submission = Submission {
        id: JobId::from_uuid(Uuid::from_u128(number)),
        tenant: TenantId::default(),
        spec: Arc::new(spec.build().unwrap()),
        retry_of: None,
    };
    let decision = step(None, JobInput::Submit(submission), NOW).unwrap();
    let Aggregate::Job(job) = decision.next else { panic!() };
    job
}

fn command() -> JobSpecBuilder {
    JobSpec::command(["true"])
}

fn context(max_workers: u32, workers: &[Arc<Worker>], jobs: &[Arc<Job>]) -> SchedulingContext {
    let mut context = SchedulingContext::default();
    context.observe_provider(&provider(max_workers));
    workers.iter().for_each(|worker| context.observe_worker(worker));
    jobs.iter().for_each(|job| context.observe_job(job));
    context.set_connected(|_| true);
    context.sanity_check().unwrap();
    context
}

fn assigned(plan: &[PlanDecision]) -> Vec<(u128, u128)> {
    let pairs = plan.iter().filter_map(|decision| match decision {
        PlanDecision::Assign { job, worker, .. } => {
            Some((job.as_uuid().as_u128(), worker.as_uuid().as_u128()))
        }
        _ => None,
    });
    pairs.collect()
}

fn orders(plan: &[PlanDecision]) -> usize {
    plan.iter().filter(|decision| matches!(decision, PlanDecision::Provision { .. })).count()
}

fn causes(plan: &[PlanDecision]) -> Vec<(usize, WaitCause)> {
    let causes = plan.iter().filter_map(|decision| match decision {
        PlanDecision::Enqueue { waiting, cause, .. } => Some((*waiting, *cause)),
        _ => None,
    });
    causes.collect()
}

fn with(strategy: impl SchedulingStrategy) -> SmartScheduler {
    SmartScheduler::new([(Arc::new(strategy) as Arc<dyn SchedulingStrategy>, 2.0)])
}

fn joined(number: u128, hold: LimitHold) -> Arc<Worker> {
    let capacity = WorkerCapacity::slots(2);
    let labels = Labels::from([hold.label()]);
    next(Some(&registering(number)), WorkerInput::Join { capacity, labels, incarnation: Uuid::nil() })
}

#[test]
fn a_job_with_required_limits_runs_only_on_workers_that_enforce_them() {
    let limited =
        || JobSpec::command(["true"]).resources(JobResources { pids: 9, ..JobResources::default() });
    let plan = |provider_says: Option<LimitHold>, workers: &[Arc<Worker>], requires_limits, job: Arc<Job>| {
        let mut asked = ProviderProfile { requires_limits, ..profile(1) };
        asked.labels.extend(provider_says.map(LimitHold::label));
        let mut context = SchedulingContext::default();
        context.observe_provider(&configured(asked));
        workers.iter().for_each(|worker| context.observe_worker(worker));
        context.observe_job(&job);
        context.set_connected(|_| true);
        SmartScheduler::default().plan(&context, NOW)
    };
    let (held, unheld) = (joined(1, LimitHold::Held), joined(2, LimitHold::Unheld));
    let both = [unheld.clone(), held];
    assert_eq!(assigned(&plan(Some(LimitHold::Held), &both, true, job(10, limited()))), [(10, 1)]);
    let alone = plan(Some(LimitHold::Held), std::slice::from_ref(&unheld), true, job(10, limited()));
    assert_eq!((assigned(&alone), causes(&alone).len()), (vec![], 1), "it waits");
    for says in [Some(LimitHold::Unheld), None] {
        let refused = plan(says, std::slice::from_ref(&unheld), true, job(10, limited()));
        assert!(matches!(&refused[..], [PlanDecision::Reject { .. }]), "{refused:?}");
        let spec = limited().build().unwrap();
        let mut asked = ProviderProfile { requires_limits: true, ..profile(1) };
        asked.labels.extend(says.map(LimitHold::label));
        let why = asked.can_honour(&spec).unwrap_err();
        assert!(why.field == "resources.pids" && why.why.contains("require"), "{why}");
    }
    let warned = plan(Some(LimitHold::Unheld), std::slice::from_ref(&unheld), false, job(10, limited()));
    assert_eq!(assigned(&warned), [(10, 2)], "where limits are not required");
    let plain = plan(Some(LimitHold::Unheld), &[unheld], true, job(10, command()));
    assert_eq!(assigned(&plain), [(10, 2)], "a job without limits");
}

#[test]
fn the_strategy_chooses_the_worker_and_is_named_in_the_score() {
    let jobs = [job(10, command()), job(11, command())];
    let spread = with(LeastLoaded).plan(&context(2, &[ready(1), ready(2)], &jobs), NOW);
    assert_eq!(assigned(&spread), [(10, 1), (11, 2)]);
    let packed = with(FirstAvailable).plan(&context(2, &[ready(1), ready(2)], &jobs), NOW);
    assert_eq!(assigned(&packed), [(10, 1), (11, 1)]);
    let PlanDecision::Assign { score, .. } = &spread[0] else { panic!("{spread:?}") };
    assert_eq!((&score.parts[..], score.total()), (&[("least_loaded".into(), 2.0)][..], 2.0));
}

#[test]
fn only_jobs_of_the_highest_priority_are_prefetched() {
    let jobs: Vec<_> = (10..13).map(|n| job(n, command().priority(Priority::HIGH))).collect();
    let low = [job(1, command()), job(2, command())];
    let plan = SmartScheduler::default().plan(&context(1, &[ready(1)], &[&jobs[..], &low].concat()), NOW);
    assert_eq!(assigned(&plan).len(), 3, "two slots and one prefetch, all of them high");
    let plan = SmartScheduler::default().plan(&context(1, &[ready(1)], &[&jobs[..2], &low].concat()), NOW);
    assert_eq!(assigned(&plan).len(), 2, "a low one is not prefetched behind a high one");
    assert_eq!(causes(&plan), [(2, WaitCause::Capacity)]);
    let plan = SmartScheduler::default().plan(&context(2, &[ready(1)], &jobs), NOW);
    assert_eq!((assigned(&plan).len(), orders(&plan)), (2, 1), "a new worker is better than prefetch");
}

#[test]
fn workers_are_ordered_for_the_queued_jobs_up_to_the_limit_of_the_provider() {
    let jobs: Vec<_> = (10..15).map(|n| job(n, command())).collect();
    let plan =
        |max, workers: &[Arc<Worker>]| SmartScheduler::default().plan(&context(max, workers, &jobs), NOW);
    assert_eq!(orders(&plan(9, &[])), 3, "five jobs on workers of two slots");
    assert_eq!(orders(&plan(2, &[])), 2);
    assert_eq!(orders(&plan(9, &[registering(1)])), 2, "one is ordered already");
    assert_eq!(causes(&plan(1, &[registering(1)])), [(5, WaitCause::Provisioning)]);
    assert_eq!(causes(&plan(0, &[])), [(5, WaitCause::Provider)]);
}

#[test]
fn nothing_is_ordered_from_an_unhealthy_provider_until_its_retry_time() {
    let mut context = context(9, &[], &[job(10, command())]);
    let healthy = provider(9);
    let retry_at = Timestamp::from_micros(NOW.as_micros() + 5);
    let unhealthy = ProviderInput::Observe(ProviderHealth::Unhealthy { retry_at, why: String::new() });
    let Some(Aggregate::Provider(unhealthy)) = provider::step(Some(&healthy), unhealthy, NOW).map(|d| d.next)
    else {
        panic!()
    };
    context.observe_provider(&unhealthy);
    assert_eq!(orders(&SmartScheduler::default().plan(&context, NOW)), 0);
    assert_eq!(orders(&SmartScheduler::default().plan(&context, retry_at)), 1);
}

#[test]
fn a_job_that_no_worker_can_run_is_rejected_and_does_not_block_others() {
    let impossible = job(1, command().constraint("zone EQ b".parse().unwrap()).priority(Priority::CRITICAL));
    let plan = SmartScheduler::default()
        .plan(&context(1, &[ready(1)], &[impossible.clone(), job(10, command())]), NOW);
    assert_eq!(assigned(&plan), [(10, 1)]);
    assert!(matches!(&plan[1], PlanDecision::Reject { job, .. } if *job == impossible.id()), "{plan:?}");
}

#[test]
fn a_secret_goes_only_where_its_provider_may_have_it() {
    let with = |number, secret: &str| job(number, command().secret(secret.parse().unwrap()));
    let context = context(1, &[ready(1)], &[with(1, "dev-key"), with(2, "prod-key")]);
    let plan = SmartScheduler::default().plan(&context, NOW);
    assert_eq!(assigned(&plan), [(1, 1)]);
    assert!(
        plan.iter().any(|decision| matches!(decision, PlanDecision::Reject { job, .. }
            if job.as_uuid().as_u128() == 2)),
        "no provider may have its secret: {plan:?}"
    );
}

#[test]
fn a_concurrency_limit_holds_within_one_plan() {
    let jobs: Vec<_> = (10..14).map(|n| job(n, command().concurrency("k", 1))).collect();
    let plan = SmartScheduler::default().plan(&context(1, &[ready(1)], &jobs), NOW);
    assert_eq!(assigned(&plan), [(10, 1)]);
    assert_eq!(causes(&plan), [(3, WaitCause::Concurrency)]);
}

#[test]
fn tenants_do_not_share_a_concurrency_key() {
    let of = |number: u128, tenant: &str| {
        let submission = Submission {
            id: JobId::from_uuid(Uuid::from_u128(number)),
            tenant: TenantId::new(tenant),
            spec: Arc::new(command().concurrency("deploy", 1).build().unwrap()),
            retry_of: None,
        };
        let Aggregate::Job(job) = step(None, JobInput::Submit(submission), NOW).unwrap().next else {
            panic!()
        };
        job
    };
    let jobs = [of(1, "a"), of(2, "a"), of(3, "b")];
    let plan = SmartScheduler::default().plan(&context(1, &[ready(1)], &jobs), NOW);
    assert_eq!(assigned(&plan), [(1, 1), (3, 1)]);
}

fn worker_inputs() -> impl Strategy<Value = WorkerInput> {
    let join = WorkerInput::Join {
        capacity: WorkerCapacity::slots(1),
        labels: Labels::new(),
        incarnation: Uuid::from_u128(3),
    };
    prop_oneof![
        Just(WorkerInput::Created("r".into())),
        Just(join),
        (1..4u32).prop_map(WorkerInput::Take),
        Just(WorkerInput::Idle),
        Just(WorkerInput::Drain("x".into())),
        Just(WorkerInput::Lose("x".into())),
        Just(WorkerInput::Terminate(worker::TerminationCause::Retired)),
    ]
}

proptest! {
    #[test]
    fn the_worker_invariants_hold_for_any_inputs(inputs in prop::collection::vec(worker_inputs(), 0..40)) {
        let mut current = registering(1);
        let mut history = Some(Worker::clone(&current));
        for input in inputs {
            let Some(decision) = worker::step(Some(&current), input, NOW) else { continue };
            prop_assert!(!current.is_terminated(), "a terminated worker takes no input");
            let Aggregate::Worker(next) = decision.next else { panic!() };
            prop_assert_eq!(next.version(), current.version() + 1);
            prop_assert!(current.incarnation().is_none() || current.incarnation() == next.incarnation());
            history = decision.events.iter().fold(history, |w, e| worker::replay(w, e, next.version(), NOW));
            prop_assert_eq!(history.as_ref(), Some(&*next), "the history leads to the state");
            current = next;
        }
    }
}

#[test]
fn prefetch_depends_on_the_recent_run_time_of_jobs() {
    let worker = next(
        Some(&registering(1)),
        WorkerInput::Join {
            capacity: WorkerCapacity { prefetch: 100, ..WorkerCapacity::slots(2) },
            labels: Labels::new(),
            incarnation: Uuid::nil(),
        },
    );
    let mut context = SchedulingContext::default();
    context.observe_worker(&worker);
    let prefetch =
        |context: &SchedulingContext| context.worker(worker.id()).unwrap().prefetch(Duration::ZERO);
    assert_eq!(prefetch(&context), 2, "one a slot while nothing is known");
    let run = |context: &mut SchedulingContext, number, micros| {
        let job = step(
            Some(&job(number, JobSpec::command(["x"]))),
            JobInput::Assign {
                worker: worker.id(),
                dispatch: 1,
                score: hodei_core::decision::Score::default(),
            },
            NOW,
        );
        let Aggregate::Job(assigned) = job.unwrap().next else { panic!() };
        context.observe_job(&assigned);
        let report = AttemptReport {
            outcome: Outcome::Succeeded,
            exit_code: Some(0),
            started_at: Some(NOW),
            finished_at: NOW + Duration::from_micros(micros),
            log_end: 0,
            usage: None,
            artifacts: Vec::new(),
            interrupted: false,
        };
        let input = JobInput::Finish { attempt: 1, report, gap: None, jitter: 0.0 };
        let Aggregate::Job(ended) = step(Some(&assigned), input, NOW).unwrap().next else { panic!() };
        context.observe_job(&ended);
        context.observe_job(&ended);
    };
    run(&mut context, 10, 2000);
    assert_eq!(prefetch(&context), 50, "as many as run in 50 ms");
    run(&mut context, 11, 60_000_000);
    assert_eq!(prefetch(&context), 0, "long jobs leave no prefetch");
    (20..120).for_each(|number| run(&mut context, number, 100));
    assert_eq!(prefetch(&context), 100, "at most the prefetch of the worker");
}
