//! The state machine of jobs: retries, losses and cancels by example, and its invariants under random inputs.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::{Aggregate, Decision, Expect};
use hodei_core::event::{Charge, DomainEvent, LogGap};
use hodei_core::id::{JobId, WorkerId};
use hodei_core::job::{
    AttemptReport, Backoff, Blame, FailureCause, Job, JobInput, JobSpec, JobSpecBuilder, JobStatus, Loss,
    Outcome, Refused, RetryPolicy, Submission, Tally, TenantId, blames, replay, step,
};
use hodei_core::time::Timestamp;
use proptest::prelude::*;
use uuid::Uuid;

fn at(second: u64) -> Timestamp {
    Timestamp::EPOCH + Duration::from_secs(second)
}

fn worker() -> WorkerId {
    WorkerId::from_uuid(Uuid::from_u128(9))
}

fn submit(spec: JobSpecBuilder) -> Job {
    let submission = Submission {
        id: JobId::from_uuid(Uuid::from_u128(1)),
        tenant: TenantId::default(),
        spec: Arc::new(spec.build().unwrap()),
        retry_of: None,
    };
    job(&step(None, JobInput::Submit(submission), at(0)).unwrap())
}

fn job(decision: &Decision) -> Job {
    let Aggregate::Job(job) = &decision.next else { panic!("not a job") };
    Job::clone(job)
}

fn take(current: &Job, input: JobInput, second: u64) -> Job {
    job(&step(Some(current), input, at(second)).unwrap())
}

fn assign() -> JobInput {
    JobInput::Assign { worker: worker(), dispatch: 1, score: hodei_core::decision::Score::default() }
}

fn finish(attempt: u32, outcome: Outcome) -> JobInput {
    let report = AttemptReport {
        outcome,
        exit_code: None,
        started_at: Some(at(1)),
        finished_at: at(2),
        log_end: 0,
        usage: None,
        artifacts: Vec::new(),
        interrupted: false,
    };
    JobInput::Finish { attempt, report, gap: None, jitter: 0.0 }
}

fn lose(attempt: u32, unstarted: bool) -> JobInput {
    lose_by(attempt, if unstarted { Blame::Unstarted { proven: true } } else { Blame::Alone })
}

fn lose_by(attempt: u32, blame: Blame) -> JobInput {
    let loss = Loss { cause: FailureCause::Lost("test".into()), blame, interrupted: false, log_end: 0 };
    JobInput::Lose { attempt, loss, jitter: 0.0 }
}

fn exit(code: i32) -> Outcome {
    Outcome::Failed(FailureCause::Exit(code))
}

#[test]
fn a_short_job_is_started_and_ended_by_one_decision() {
    let assigned = take(&submit(JobSpec::command(["true"])), assign(), 1);
    let decision = step(Some(&assigned), finish(1, Outcome::Succeeded), at(2)).unwrap();
    let names: Vec<_> = decision.events.iter().map(DomainEvent::name).collect();
    assert_eq!(names, ["JobStarted", "JobSucceeded"]);
    assert_eq!(decision.expect, Expect::Version(2));
    assert_eq!(job(&decision).started_at(), Some(at(1)));
}

#[test]
fn retries_are_charged_to_the_user_or_the_platform_by_their_cause() {
    let mut current = submit(JobSpec::command(["x"]).retries(1));
    for attempt in 1..=3 {
        current = take(&take(&current, assign(), 1), lose(attempt, false), 2);
        if current.status() == JobStatus::Created {
            current = take(&current, JobInput::Due, 9);
        }
        assert_eq!(current.status(), JobStatus::Pending, "the platform pays for three losses");
    }
    current = take(&take(&current, assign(), 10), finish(4, exit(1)), 11);
    assert_eq!((current.status(), current.tally().user), (JobStatus::Created, 1), "the user's retry waits");
    current = take(&take(&take(&current, JobInput::Due, 20), assign(), 21), lose(5, false), 22);
    assert_eq!(current.status(), JobStatus::Failed, "the fourth loss exceeds the budget");
}

#[test]
fn deterministic_causes_are_not_retried_unless_named() {
    let missing = || Outcome::Failed(FailureCause::CommandNotFound("x".into()));
    let plain = take(&submit(JobSpec::command(["x"]).retries(3)), assign(), 1);
    assert_eq!(take(&plain, finish(1, missing()), 2).status(), JobStatus::Failed);
    let on = vec![hodei_core::job::CauseKind::CommandNotFound];
    let backoff = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
    let named = RetryPolicy { max: 1, on, backoff, ..RetryPolicy::default() };
    let named = take(&submit(JobSpec::command(["x"]).retry(named)), assign(), 1);
    assert_eq!(take(&named, finish(1, missing()), 2).status(), JobStatus::Pending);
}

#[test]
fn an_at_most_once_job_runs_again_only_when_proven_unstarted() {
    let assigned = take(&submit(JobSpec::command(["x"]).at_most_once()), assign(), 1);
    assert_eq!(take(&assigned, lose(1, true), 2).status(), JobStatus::Pending);
    let lost = take(&assigned, lose(1, false), 2);
    assert_eq!(lost.cause().unwrap().as_str(), "lost");
}

#[test]
fn a_loss_is_charged_only_to_an_attempt_that_was_alone() {
    let assigned = take(&submit(JobSpec::command(["x"])), assign(), 1);
    let beside = take(&assigned, lose_by(1, Blame::Shared), 2);
    assert_eq!(
        (beside.status(), beside.tally().infrastructure, beside.is_suspect()),
        (JobStatus::Pending, 0, true)
    );
    let waited = take(&assigned, lose_by(1, Blame::Unstarted { proven: false }), 2);
    assert_eq!((waited.status(), waited.is_suspect()), (JobStatus::Pending, false));
    let mut alone = beside;
    for attempt in 2..=5 {
        alone = take(&take(&alone, assign(), 3), lose_by(attempt, Blame::Alone), 4);
        if alone.status() == JobStatus::Created {
            alone = take(&alone, JobInput::Due, 9);
        }
    }
    assert_eq!(
        (alone.status(), alone.cause().unwrap().as_str()),
        (JobStatus::Failed, "lost"),
        "its budget is spent"
    );
}

#[test]
fn a_bystander_is_not_charged_and_fails_only_if_it_may_not_run_again() {
    let assigned = take(&submit(JobSpec::command(["x"])), assign(), 1);
    let bystander = take(&assigned, lose_by(1, Blame::Bystander), 2);
    assert_eq!(
        (bystander.status(), bystander.tally().uncharged, bystander.is_suspect()),
        (JobStatus::Pending, 1, false)
    );
    let last = RetryPolicy { max_infrastructure: 0, ..RetryPolicy::default() };
    for spec in [JobSpec::command(["x"]).at_most_once(), JobSpec::command(["x"]).retry(last)] {
        let assigned = take(&submit(spec), assign(), 1);
        assert_eq!(assigned.trial(), None, "it is never trusted, so no suspect begins beside it");
        assert_eq!(take(&assigned, lose_by(1, Blame::Bystander), 2).status(), JobStatus::Failed);
    }
}

#[test]
fn a_shared_loss_fails_a_job_that_may_not_run_again() {
    for spec in [
        JobSpec::command(["x"]).at_most_once(),
        JobSpec::command(["x"]).retry(RetryPolicy { max_infrastructure: 0, ..RetryPolicy::default() }),
    ] {
        let assigned = take(&submit(spec), assign(), 1);
        assert_eq!(take(&assigned, lose_by(1, Blame::Shared), 2).status(), JobStatus::Failed);
        assert_eq!(
            take(&assigned, lose_by(1, Blame::Unstarted { proven: true }), 2).status(),
            JobStatus::Pending
        );
    }
    let once = take(&submit(JobSpec::command(["x"]).at_most_once()), assign(), 1);
    assert_eq!(take(&once, lose_by(1, Blame::Unstarted { proven: false }), 2).status(), JobStatus::Failed);
}

/// Returns jobs of one worker in the order of their dispatch; those with `true` are known to run since second 2.
fn on_one_worker(running: &[bool]) -> Vec<Arc<Job>> {
    let on_worker = |(number, running): (u64, &bool)| {
        let id = JobId::from_uuid(Uuid::from_u128(u128::from(number)));
        let spec = Arc::new(JobSpec::command(["x"]).build().unwrap());
        let submission = Submission { id, tenant: TenantId::default(), spec, retry_of: None };
        let pending = job(&step(None, JobInput::Submit(submission), at(0)).unwrap());
        let score = hodei_core::decision::Score::default();
        let assigned = take(&pending, JobInput::Assign { worker: worker(), dispatch: number, score }, 1);
        let start = JobInput::Start { attempt: 1, started_at: at(2) };
        Arc::new(if *running { take(&assigned, start, 2) } else { assigned })
    };
    (1..).zip(running).map(on_worker).collect()
}

#[test]
fn attempts_that_waited_behind_the_slots_had_not_begun() {
    let jobs = on_one_worker(&[true, false, false]);
    let unproven = Blame::Unstarted { proven: false };
    assert_eq!(blames(&jobs, 2, None, at(3)), [Blame::Shared, Blame::Shared, unproven]);
    assert_eq!(blames(&jobs, 1, None, at(3)), [Blame::Alone, unproven, unproven]);
    let begun = [jobs[0].attempt_id()].into();
    let proven = Blame::Unstarted { proven: true };
    assert_eq!(blames(&jobs, 2, Some(&begun), at(3)), [Blame::Alone, proven, proven]);
}

#[test]
fn a_job_on_trial_is_blamed_beside_those_that_are_trusted() {
    let start = |job: &Job, attempt, second| {
        let input = JobInput::Start { attempt, started_at: at(second) };
        take(&take(job, assign(), second), input, second)
    };
    let trusted = on_one_worker(&[true, true]).remove(1);
    let lost_once = take(&start(&submit(JobSpec::command(["x"])), 1, 2), lose_by(1, Blame::Shared), 3);
    let lost_twice = take(&start(&lost_once, 2, 4), lose_by(2, Blame::Shared), 5);
    assert_eq!(
        (lost_once.trial(), lost_twice.trial()),
        (Some(Duration::from_secs(5)), Some(Duration::from_secs(10)))
    );
    for (job, attempt, trial) in [(lost_once, 2, 5), (lost_twice, 3, 10)] {
        let tried = Arc::new(start(&job, attempt, 20));
        let jobs = [trusted.clone(), tried.clone()];
        let blamed = blames(&jobs, 4, None, at(20 + trial - 1));
        assert_eq!(blamed, [Blame::Bystander, Blame::Alone], "it has not run for {trial} s");
        assert_eq!(blames(&jobs, 4, None, at(20 + trial)), [Blame::Shared, Blame::Shared]);
        // A suspect that ends its worker late may hide behind the one on trial.
        let slow = take(&trusted, lose_by(1, Blame::Shared), 3);
        let jobs = [Arc::new(start(&slow, 2, 4)), tried];
        assert_eq!(blames(&jobs, 4, None, at(20 + trial - 1)), [Blame::Shared, Blame::Alone]);
    }
}

#[test]
fn no_job_is_blamed_when_several_just_began() {
    let lost = take(&take(&submit(JobSpec::command(["x"])), assign(), 1), lose_by(1, Blame::Shared), 2);
    let tried = Arc::new(take(&lost, assign(), 20));
    let began = on_one_worker(&[true, true]).remove(1);
    // The other was assigned at second 1.
    assert_eq!(blames(&[began.clone(), tried.clone()], 4, None, at(5)), [Blame::Shared, Blame::Shared]);
    assert_eq!(blames(&[began.clone(), tried], 4, None, at(21)), [Blame::Bystander, Blame::Alone]);
    let new = on_one_worker(&[false]).remove(0);
    assert_eq!(blames(&[began, new], 4, None, at(21)), [Blame::Shared; 2], "neither is on trial");
}

#[test]
fn a_cancel_forbids_every_retry() {
    let assigned = take(&submit(JobSpec::command(["x"]).retries(5)), assign(), 1);
    let asked = take(&assigned, JobInput::Cancel, 2);
    assert_eq!(step(Some(&asked), JobInput::Cancel, at(3)), Err(Refused::Unchanged));
    assert_eq!(
        take(&asked, finish(1, exit(1)), 3).status(),
        JobStatus::Failed,
        "it failed before the cancel reached it"
    );
    assert_eq!(take(&asked, lose(1, false), 3).status(), JobStatus::Cancelled);
    assert_eq!(take(&asked, JobInput::GiveBack { attempt: 1 }, 3).status(), JobStatus::Cancelled);
}

#[test]
fn give_backs_are_not_charged_up_to_a_limit() {
    let mut current = submit(JobSpec::command(["x"]));
    for attempt in 1..=Tally::MAX_UNCHARGED {
        current = take(&take(&current, assign(), 1), JobInput::GiveBack { attempt }, 2);
        assert_eq!(current.status(), JobStatus::Pending);
    }
    let attempt = Tally::MAX_UNCHARGED + 1;
    current = take(&take(&current, assign(), 1), JobInput::GiveBack { attempt }, 2);
    assert_eq!(current.cause().unwrap().as_str(), "infrastructure");
}

#[test]
fn an_interrupted_attempt_is_not_charged_up_to_a_limit_and_is_final_if_the_job_may_run_once() {
    let interrupted = |attempt| {
        let JobInput::Finish { report, gap, jitter, .. } =
            finish(attempt, Outcome::Failed(FailureCause::Signal(15)))
        else {
            panic!()
        };
        JobInput::Finish { attempt, report: AttemptReport { interrupted: true, ..report }, gap, jitter }
    };
    let mut current = submit(JobSpec::command(["x"]));
    for attempt in 1..=Tally::MAX_UNCHARGED {
        current = take(&take(&current, assign(), 1), interrupted(attempt), 2);
        assert_eq!((current.status(), current.tally().uncharged), (JobStatus::Pending, attempt));
    }
    current = take(&take(&current, assign(), 1), interrupted(Tally::MAX_UNCHARGED + 1), 2);
    assert_eq!((current.status(), current.cause().unwrap().as_str()), (JobStatus::Failed, "signal"));
    let once = take(&submit(JobSpec::command(["x"]).at_most_once()), assign(), 1);
    assert_eq!(take(&once, interrupted(1), 2).cause().unwrap().as_str(), "signal");
    let JobInput::Finish { report, .. } = finish(1, Outcome::Succeeded) else { panic!() };
    let report = AttemptReport { interrupted: true, ..report };
    let ended = JobInput::Finish { attempt: 1, report, gap: None, jitter: 0.0 };
    assert_eq!(
        take(&once, ended, 2).status(),
        JobStatus::Succeeded,
        "a success is final although interrupted"
    );
}

#[test]
fn start_by_expires_a_waiting_job_and_not_before_delays_it() {
    let waiting = submit(JobSpec::command(["x"]).not_before(at(5)).start_by(at(8)));
    assert_eq!(waiting.status(), JobStatus::Created);
    assert_eq!(take(&waiting, JobInput::Expire, 8).status(), JobStatus::TimedOut);
    let running = take(&take(&waiting, JobInput::Due, 5), assign(), 6);
    assert!(step(Some(&running), JobInput::Expire, at(8)).is_err());
}

fn inputs() -> impl Strategy<Value = JobInput> {
    let attempt = 0..6u32;
    let outcome = prop_oneof![
        Just(Outcome::Succeeded),
        Just(exit(1)),
        Just(Outcome::Failed(FailureCause::Io("x".into()))),
        Just(Outcome::Cancelled),
        Just(Outcome::TimedOut),
    ];
    prop_oneof![
        3 => Just(assign()),
        2 => Just(JobInput::Due),
        1 => Just(JobInput::Cancel),
        1 => Just(JobInput::Expire),
        1 => Just(JobInput::Reject { why: "gone".into() }),
        3 => attempt.clone().prop_map(|attempt| JobInput::Start { attempt, started_at: at(1) }),
        3 => (attempt.clone(), outcome, any::<bool>(), any::<bool>()).prop_map(|(attempt, outcome, gap, interrupted)| {
            let JobInput::Finish { attempt, report, .. } = finish(attempt, outcome) else { unreachable!() };
            let gap = gap.then_some(LogGap { from: 0, to: 1, bytes: 0 });
            let report = AttemptReport { interrupted, ..report };
            JobInput::Finish { attempt, report, gap, jitter: 0.5 }
        }),
        2 => attempt.clone().prop_map(|attempt| JobInput::GiveBack { attempt }),
        2 => (attempt.clone(), any::<bool>()).prop_map(|(attempt, unstarted)| lose(attempt, unstarted)),
        2 => (attempt, 0..3_u8).prop_map(|(attempt, blame)| {
            lose_by(attempt, [Blame::Shared, Blame::Bystander, Blame::Unstarted { proven: false }][usize::from(blame)])
        }),
    ]
}

proptest! {
    /// At most one attempt is charged, and a running attempt is never taken for unstarted.
    #[test]
    fn at_most_one_attempt_of_a_lost_worker_is_charged(
        running in prop::collection::vec(any::<bool>(), 0..12),
        slots in 1..6_u32,
        begun in prop::option::of(prop::collection::vec(any::<bool>(), 12)),
    ) {
        let jobs = on_one_worker(&running);
        let begun = begun.map(|begun| {
            let known = jobs.iter().zip(begun).filter(|(_, begun)| *begun);
            known.map(|(job, _)| job.attempt_id()).collect::<std::collections::BTreeSet<_>>()
        });
        let blames = blames(&jobs, slots, begun.as_ref(), at(3));
        let count = |blame| blames.iter().filter(|other| **other == blame).count();
        let (alone, shared) = (count(Blame::Alone), count(Blame::Shared));
        prop_assert!(alone == 0 || (alone, shared) == (1, 0));
        prop_assert_ne!(shared, 1);
        for (job, blame) in jobs.iter().zip(&blames) {
            let is_unstarted = matches!(blame, Blame::Unstarted { .. });
            prop_assert!(!is_unstarted || job.status() == JobStatus::Assigned);
            if let (Blame::Unstarted { proven: true }, Some(begun)) = (blame, &begun) {
                prop_assert!(!begun.contains(&job.attempt_id()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_job_invariants_hold_for_any_inputs(
        inputs in prop::collection::vec(inputs(), 0..60),
        retries in 0..3u32,
        at_most_once in any::<bool>(),
    ) {
        let spec = JobSpec::command(["x"]);
        let mut current = submit(if at_most_once { spec.at_most_once() } else { spec.retries(retries) });
        let mut history: Option<Job> = Some(current.clone());
        for (second, input) in inputs.into_iter().enumerate() {
            let now = at(second as u64);
            let Ok(decision) = step(Some(&current), input.clone(), now) else { continue };
            let next = job(&decision);
            prop_assert!(!current.is_terminal(), "a terminal job took {input:?}");
            prop_assert_eq!(next.version(), current.version() + 1);
            prop_assert_eq!(decision.expect, Expect::Version(current.version()));
            prop_assert!(!decision.events.is_empty());
            let rises = u32::from(matches!(input, JobInput::Assign { .. }));
            prop_assert_eq!(next.attempt(), current.attempt() + rises, "only an assignment opens an attempt");
            match input {
                JobInput::Start { attempt, .. } | JobInput::Finish { attempt, .. } | JobInput::GiveBack { attempt }
                | JobInput::Lose { attempt, .. } => prop_assert_eq!(attempt, current.attempt()),
                _ => {}
            }
            let ends = decision.events.iter().filter(|event| event.ends_job()).count();
            prop_assert_eq!(ends, usize::from(next.is_terminal()));
            let charged = |budget| decision.events.iter().any(|e| matches!(e, DomainEvent::AttemptClosed { charge, .. } if *charge == budget));
            if current.assignment().is_some_and(|a| a.cancel_requested) {
                prop_assert!(!charged(Charge::User) && !charged(Charge::Infrastructure), "no retry after a cancel");
            }
            history = decision.events.iter().fold(history, |state, event| replay(state, event, next.version(), now));
            current = next;
        }
        prop_assert_eq!(history.as_ref(), Some(&current), "the history leads to the state");
        let tally = current.tally();
        prop_assert!(tally.user <= retries && tally.infrastructure <= 3 && tally.uncharged <= Tally::MAX_UNCHARGED);
        let json = serde_json::to_string(&current).unwrap();
        prop_assert_eq!(serde_json::from_str::<Job>(&json).unwrap(), current);
    }
}
