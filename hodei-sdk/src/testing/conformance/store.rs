//! Conformance suite for stores.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hodei_core::artifact::{Artifact, Digest};
use hodei_core::audit;
use hodei_core::decision::{AggregateId, Decision};
use hodei_core::event::DomainEvent;
use hodei_core::id::{JobId, ProviderId, WorkerId};
use hodei_core::job::{
    AttemptReport, FailureCause, Job, JobInput, JobSpec, JobStatus, Labels, Loss, Outcome, Priority,
    TenantId, Usage,
};
use hodei_core::port::{CommitError, FeedCursor, Fence, JobFilter, KEY_OUTLIVES, Store, StoreError};
use hodei_core::provider::{ProviderHealth, ProviderInput, ProviderProfile};
use hodei_core::secret::SecretPattern;
use hodei_core::time::Timestamp;
use hodei_core::worker::{Lifetime, TerminationCause, WorkerCapacity, WorkerInput};
use uuid::Uuid;

use super::model::walk;
use super::world::{Maker, command, feed, job, worker};
use super::{access, leases, secrets};

/// Checks the contract of a [`Store`]. `make` returns a fresh, empty store with the given id.
///
/// # Panics
/// When the store breaks the contract.
pub async fn store<S: Store>(make: impl AsyncFn(Uuid) -> Arc<S>) {
    let maker = Maker::new(1);
    let fresh = async || {
        let id = maker.uuid();
        let store: Arc<dyn Store> = make(id).await;
        assert_eq!(store.id().as_uuid(), id, "a store keeps its id");
        store
    };
    every_state_of_a_job_round_trips(&maker, &*fresh().await).await;
    workers_and_providers_round_trip(&maker, &*fresh().await).await;
    secrets::secrets_round_trip(&maker, &*fresh().await).await;
    access::tokens_round_trip(&maker, &*fresh().await).await;
    access::ended_tokens_are_forgotten(&maker, &*fresh().await).await;
    access::events_of_the_platform_are_kept_until_they_are_old(&maker, &*fresh().await).await;
    a_stale_version_is_refused(&maker, &*fresh().await).await;
    a_rejected_item_does_not_affect_the_others(&maker, &*fresh().await).await;
    items_of_one_aggregate_are_applied_in_order(&maker, &*fresh().await).await;
    items_after_a_conflict_on_their_aggregate_conflict_too(&maker, &*fresh().await).await;
    an_idempotency_key_is_unique_in_its_tenant(&maker, &*fresh().await).await;
    the_history_leads_to_the_state(&maker, &*fresh().await).await;
    the_feed_is_one_sequence(&maker, &*fresh().await).await;
    open_jobs_come_in_pages(&maker, &*fresh().await).await;
    a_list_filters_and_pages(&maker, &*fresh().await).await;
    lists_omit_long_parts_and_pages_have_a_size_limit(&maker, &*fresh().await).await;
    leases::only_the_newest_epoch_may_plan(&maker, &*fresh().await).await;
    leases::a_lease_has_one_holder(&maker, &*fresh().await).await;
    leases::daemons_know_each_other(&maker, &*fresh().await).await;
    a_large_batch_is_one_commit(&maker, &*fresh().await).await;
    an_ended_job_is_forgotten_and_its_key_outlives_it(&maker, &*fresh().await).await;
    concurrent_writers_take_turns(&maker, fresh().await).await;
    for seed in 0..4 {
        walk(&maker, &*fresh().await, seed).await;
    }
}

async fn a_large_batch_is_one_commit(maker: &Maker, store: &dyn Store) {
    let large = "x".repeat(hodei_core::job::limits::SPEC_BYTES / 2);
    let mut decisions: Vec<_> = (0..1500).map(|_| maker.submit("t", command())).collect();
    decisions.push(maker.submit("t", command().env("LARGE", large).stdin(vec![255; 1 << 20])));
    let writes: Vec<_> = decisions.iter().map(|decision| maker.write(decision)).collect();
    let outcomes = store.commit(Fence::None, &writes).await.expect("a commit");
    assert!(outcomes.len() == 1501 && outcomes.iter().all(Result::is_ok));
    let ids: Vec<_> = decisions.iter().map(|decision| job(decision).id()).collect();
    let found = store.jobs(&ids).await.expect("a read");
    assert!(found.iter().zip(&decisions).all(|(found, decision)| *found == Some(job(decision))));
    assert_eq!(store.commit(Fence::None, &[]).await.expect("an empty commit"), []);
}

async fn an_ended_job_is_forgotten_and_its_key_outlives_it(maker: &Maker, store: &dyn Store) {
    let keyed = || command().idempotency_key("key");
    let ended = lead(maker, store, maker.submit("t", keyed()), vec![JobInput::Cancel]).await;
    let open = lead(maker, store, maker.submit("t", command()), vec![]).await;
    let at = ended.ending().expect("the job has ended").at;
    let just_after = at + Duration::from_micros(1);
    assert_eq!(store.ended_before(at, 10).await.expect("a read"), [], "not before its end");
    // A store may leave out a job whose id has a later time, so look from well after its end.
    let later = at + Duration::from_secs(3600);
    assert_eq!(store.ended_before(later, 10).await.expect("a read"), [ended.attempt_id()]);
    store.forget(&[ended.id(), open.id()], just_after).await.expect("an end");
    assert_eq!(store.jobs(&[ended.id(), open.id()]).await.expect("a read"), [None, Some(open)]);
    assert_eq!(store.history(AggregateId::Job(ended.id())).await.expect("a read"), []);
    let twin = maker.submit("t", keyed());
    let outcome = store.commit(Fence::None, &[maker.write(&twin)]).await.expect("a commit");
    assert_eq!(outcome, [Err(CommitError::Duplicate { existing: ended.id() })], "the key outlives the job");
    store.forget(&[], at + KEY_OUTLIVES + Duration::from_secs(1)).await.expect("an end");
    maker.store(store, &twin).await;

    let order = maker.order(store.id());
    let worker_id = order.worker;
    let ordered = maker.worker(None, WorkerInput::Order(order));
    maker.store(store, &ordered).await;
    let gone = WorkerInput::Terminate(TerminationCause::Retired);
    maker.store(store, &maker.worker(Some(&worker(&ordered)), gone)).await;
    store.forget(&[], at).await.expect("an end");
    assert!(
        store.workers(&[worker_id]).await.expect("a read")[0].is_some(),
        "the worker is forgotten too early"
    );
    store.forget(&[], later).await.expect("an end");
    assert_eq!(store.workers(&[worker_id]).await.expect("a read"), [None]);
    assert_eq!(store.history(AggregateId::Worker(worker_id)).await.expect("a read"), []);
}

async fn concurrent_writers_take_turns(maker: &Maker, store: Arc<dyn Store>) {
    let submit = maker.submit("t", command());
    maker.store(&*store, &submit).await;
    // Eight writers assign the same job; one succeeds.
    let wanted: Vec<_> = (0..8)
        .map(|_| {
            let worker = WorkerId::from_uuid(maker.uuid());
            maker.write(&maker.step(&job(&submit), assign(worker)))
        })
        .collect();
    let commits: Vec<_> = wanted
        .iter()
        .map(|write| {
            let store = store.clone();
            let write = write.clone();
            Box::pin(async move { store.commit(Fence::None, &[write]).await.expect("a commit").remove(0) })
        })
        .collect();
    let outcomes = together(commits).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let conflict = Err(CommitError::Conflict { actual: Some(2) });
    assert!(outcomes.iter().all(|outcome| outcome.is_ok() || *outcome == conflict), "{outcomes:?}");
    assert_eq!(store.history(AggregateId::Job(job(&submit).id())).await.expect("a read").len(), 3);
}

/// Runs all futures concurrently in one task.
async fn together<T, F: Future<Output = T> + Unpin>(mut futures: Vec<F>) -> Vec<T> {
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(value) = Pin::new(future).poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

fn assign(worker: WorkerId) -> JobInput {
    JobInput::Assign { worker, dispatch: 7, score: hodei_core::decision::Score::default() }
}

fn finish(attempt: u32, outcome: Outcome) -> JobInput {
    let (started_at, finished_at) = (Some(Timestamp::from_micros(5)), Timestamp::from_micros(6));
    let usage = Some(Usage { cpu_micros: 5, peak_memory_bytes: 6 });
    let (name, sha256) = ("out/a".parse().expect("a path"), Digest::from_bytes([7; 32]));
    let artifacts = vec![Artifact { name, bytes: 8, sha256, mode: Some(0o644), is_link: false }];
    let exit_code = Some(3);
    let report = AttemptReport {
        outcome,
        exit_code,
        started_at,
        finished_at,
        log_end: 2,
        usage,
        artifacts,
        interrupted: false,
    };
    JobInput::Finish { attempt, report, gap: None, jitter: 0.0 }
}

async fn load(store: &dyn Store, id: JobId) -> Arc<Job> {
    store.jobs(&[id]).await.expect("a read").pop().flatten().expect("the job is there")
}

/// Applies inputs to a job in turn, and reads it back after each one.
async fn lead(maker: &Maker, store: &dyn Store, submit: Decision, inputs: Vec<JobInput>) -> Arc<Job> {
    maker.store(store, &submit).await;
    let mut current = job(&submit);
    for input in inputs {
        let next = maker.step(&current, input);
        maker.store(store, &next).await;
        current = job(&next);
        assert_eq!(
            load(store, current.id()).await,
            current,
            "a {} job is read back unchanged",
            current.status()
        );
    }
    current
}

async fn every_state_of_a_job_round_trips(maker: &Maker, store: &dyn Store) {
    let worker = WorkerId::from_uuid(maker.uuid());
    let failed = |cause| Outcome::Failed(cause);
    let started = JobInput::Start { attempt: 1, started_at: Timestamp::from_micros(5) };
    let loss = Loss {
        cause: FailureCause::Lost("x".into()),
        blame: hodei_core::job::Blame::Alone,
        interrupted: false,
        log_end: 1,
    };
    let lose = JobInput::Lose { attempt: 1, loss, jitter: 0.5 };
    let text = || "why".to_owned();
    let mut seen = Vec::new();
    for inputs in [
        vec![],
        vec![assign(worker)],
        vec![assign(worker), started.clone()],
        vec![assign(worker), JobInput::Cancel],
        vec![assign(worker), JobInput::GiveBack { attempt: 1 }],
        vec![assign(worker), lose],
        vec![assign(worker), finish(1, Outcome::Succeeded)],
        vec![assign(worker), started, finish(1, Outcome::TimedOut)],
        vec![assign(worker), finish(1, failed(FailureCause::Exit(3)))],
        vec![assign(worker), finish(1, failed(FailureCause::Signal(9)))],
        vec![assign(worker), finish(1, failed(FailureCause::CommandNotFound(text())))],
        vec![assign(worker), finish(1, failed(FailureCause::PermissionDenied(text())))],
        vec![assign(worker), finish(1, failed(FailureCause::FileNotFound(text())))],
        vec![assign(worker), finish(1, failed(FailureCause::Spawn(text())))],
        vec![JobInput::Cancel],
        vec![JobInput::Expire],
        vec![JobInput::Reject { why: text() }],
    ] {
        let full = command()
            .name("n")
            .env("K", "v")
            .working_dir("x")
            .input(format!("{}/a:b", maker.uuid()).parse().expect("an input"))
            .output("c:always".parse().expect("an output"))
            .keep_workspace()
            .stdin(vec![0, 255])
            .timeout(std::time::Duration::from_millis(1))
            .constraint("zone IN a,b".parse().expect("a constraint"))
            .concurrency("k", 9)
            .priority(Priority::HIGH)
            .start_by(Timestamp::from_micros(i64::MAX))
            .label("l", "v");
        seen.push(lead(maker, store, maker.submit("t", full), inputs).await.status());
    }
    let waiting = maker.submit("t", command().not_before(Timestamp::from_micros(i64::MAX)));
    seen.push(lead(maker, store, waiting.clone(), vec![]).await.status());
    assert_eq!(load(store, job(&waiting).id()).await, job(&waiting));
    for status in JobStatus::ALL {
        assert!(seen.contains(&status), "no job of the suite reaches {status}");
    }
    let unknown = store.jobs(&[JobId::from_uuid(maker.uuid())]).await.expect("a read");
    assert_eq!(unknown, [None], "an unknown job is none");
}

async fn workers_and_providers_round_trip(maker: &Maker, store: &dyn Store) {
    let order = maker.order(store.id());
    let id = order.worker;
    let join = WorkerInput::Join {
        capacity: WorkerCapacity::slots(3),
        labels: Labels::new(),
        incarnation: maker.uuid(),
    };
    let inputs = [
        WorkerInput::Created("ref".into()),
        join,
        WorkerInput::Take(2),
        WorkerInput::Idle,
        WorkerInput::Drain("x".into()),
        WorkerInput::Terminate(TerminationCause::Retired),
    ];
    let mut current = maker.worker(None, WorkerInput::Order(order));
    maker.store(store, &current).await;
    assert_eq!(store.live_workers().await.expect("a read"), [worker(&current)]);
    for input in inputs {
        current = maker.worker(Some(&worker(&current)), input);
        maker.store(store, &current).await;
        assert_eq!(store.workers(&[id]).await.expect("a read"), [Some(worker(&current))]);
    }
    assert_eq!(store.live_workers().await.expect("a read"), [], "a terminated worker is not live");
    let history = store.history(AggregateId::Worker(id)).await.expect("a read");
    assert_eq!(audit::fold_worker(&history).as_ref(), Some(&*worker(&current)));

    let profile = ProviderProfile {
        name: "p".into(),
        kind: "k".into(),
        runs_images: true,
        capacity: WorkerCapacity::slots(1),
        labels: Labels::new(),
        max_workers: 3,
        lifetime: Lifetime::default(),
        secrets: vec![SecretPattern::any()],
        requires_limits: false,
    };
    let now = Timestamp::from_micros(9);
    let id = ProviderId::from_uuid(maker.uuid());
    let configure =
        hodei_core::provider::step(None, ProviderInput::Configure { id, profile }, now).expect("new");
    maker.store(store, &configure).await;
    let providers = store.providers().await.expect("a read");
    let sick = ProviderInput::Observe(ProviderHealth::Unhealthy { retry_at: now, why: "no agent".into() });
    let sick = hodei_core::provider::step(Some(&providers[0]), sick, now).expect("a change");
    maker.store(store, &sick).await;
    assert_eq!(store.providers().await.expect("a read")[0].version(), 2);
}

async fn a_stale_version_is_refused(maker: &Maker, store: &dyn Store) {
    let submit = maker.submit("t", command());
    maker.store(store, &submit).await;
    let first = job(&submit);
    let winner = maker.step(&first, assign(WorkerId::from_uuid(maker.uuid())));
    let loser = maker.step(&first, JobInput::Cancel);
    maker.store(store, &winner).await;
    let outcome = store.commit(Fence::None, &[maker.write(&loser)]).await.expect("a commit");
    assert_eq!(outcome, [Err(CommitError::Conflict { actual: Some(2) })]);
    let again = store.commit(Fence::None, &[maker.write(&submit)]).await.expect("a commit");
    assert_eq!(again, [Err(CommitError::Conflict { actual: Some(2) })], "a job is created once");
    assert_eq!(load(store, first.id()).await, job(&winner));
    assert_eq!(
        store.history(AggregateId::Job(first.id())).await.expect("a read").len(),
        3,
        "a refused write leaves no event"
    );
}

async fn a_rejected_item_does_not_affect_the_others(maker: &Maker, store: &dyn Store) {
    let (first, last) = (maker.submit("t", command()), maker.submit("t", command()));
    let missing = maker.step(&job(&maker.submit("t", command())), JobInput::Cancel);
    let writes: Vec<_> = [&first, &missing, &last].map(|decision| maker.write(decision)).into();
    let outcomes = store.commit(Fence::None, &writes).await.expect("a commit");
    assert_eq!(outcomes, [Ok(()), Err(CommitError::Conflict { actual: None }), Ok(())]);
    load(store, job(&last).id()).await;
}

async fn items_of_one_aggregate_are_applied_in_order(maker: &Maker, store: &dyn Store) {
    let submit = maker.submit("t", command());
    let assigned = maker.step(&job(&submit), assign(WorkerId::from_uuid(maker.uuid())));
    let cancelled = maker.step(&job(&assigned), JobInput::Cancel);
    let writes: Vec<_> = [&submit, &assigned, &cancelled].map(|decision| maker.write(decision)).into();
    let outcomes = store.commit(Fence::None, &writes).await.expect("a commit");
    assert_eq!(outcomes, [Ok(()), Ok(()), Ok(())]);
    assert_eq!(load(store, job(&submit).id()).await, job(&cancelled));
}

/// Another writer was faster and reached the version that the second item expects from the first.
async fn items_after_a_conflict_on_their_aggregate_conflict_too(maker: &Maker, store: &dyn Store) {
    let submit = maker.submit("t", command());
    let assigned = maker.step(&job(&submit), assign(WorkerId::from_uuid(maker.uuid())));
    maker.store(store, &submit).await;
    maker.store(store, &assigned).await;
    let asked = maker.step(&job(&assigned), JobInput::Cancel);
    maker.store(store, &asked).await;
    let started_at = Timestamp::EPOCH;
    let started = maker.step(&job(&assigned), JobInput::Start { attempt: 1, started_at });
    let given_up = maker.step(&job(&started), JobInput::Cancel);
    assert_eq!(job(&started).version(), job(&asked).version());
    let actual = Some(job(&asked).version());
    let other = maker.submit("t", command());
    let writes = [&started, &given_up, &other].map(|decision| maker.write(decision));
    let outcomes = store.commit(Fence::None, &writes).await.expect("a commit");
    let conflict = || Err(CommitError::Conflict { actual });
    assert_eq!(outcomes, [conflict(), conflict(), Ok(())]);
    assert_eq!(load(store, job(&submit).id()).await, job(&asked));
}

async fn an_idempotency_key_is_unique_in_its_tenant(maker: &Maker, store: &dyn Store) {
    let keyed = || command().idempotency_key("key");
    let (first, second, other) =
        (maker.submit("t", keyed()), maker.submit("t", keyed()), maker.submit("u", keyed()));
    maker.store(store, &first).await;
    let outcome = store.commit(Fence::None, &[maker.write(&second)]).await.expect("a commit");
    assert_eq!(outcome, [Err(CommitError::Duplicate { existing: job(&first).id() })]);
    maker.store(store, &other).await;
    let found = store.job_by_key(&TenantId::new("u"), "key").await.expect("a read");
    assert_eq!(found, Some(job(&other).id()));
    assert_eq!(store.job_by_key(&TenantId::new("t"), "none").await.expect("a read"), None);
}

async fn the_history_leads_to_the_state(maker: &Maker, store: &dyn Store) {
    let worker = WorkerId::from_uuid(maker.uuid());
    let inputs = vec![
        assign(worker),
        JobInput::GiveBack { attempt: 1 },
        assign(worker),
        finish(2, Outcome::Succeeded),
    ];
    let ended = lead(maker, store, maker.submit("t", command()), inputs).await;
    let history = store.history(AggregateId::Job(ended.id())).await.expect("a read");
    assert_eq!(audit::fold_job(&history).as_ref(), Some(&*ended));
    assert!(history.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
}

async fn the_feed_is_one_sequence(maker: &Maker, store: &dyn Store) {
    for _ in 0..5 {
        maker.store(store, &maker.submit("t", command())).await;
    }
    let beginning = FeedCursor::default();
    let all = feed(store, &beginning, 10).await.events;
    assert_eq!(all.len(), 10);
    let (mut paged, mut after) = (Vec::new(), beginning);
    loop {
        // Rebuild the cursor from its text, as a reader that stores it does.
        let page = store.feed(&FeedCursor::new(after.as_str()), 3).await.expect("a read");
        if page.events.is_empty() {
            assert_eq!(page.next, after, "the cursor moves at the end");
            break;
        }
        paged.extend(page.events);
        after = page.next;
    }
    let end = store.feed_end().await.expect("a read");
    maker.store(store, &maker.submit("t", command())).await;
    let more = feed(store, &after, 2).await.events;
    assert_eq!(more.len(), 2, "later events follow");
    assert_eq!(feed(store, &end, 2).await.events, more, "later events follow the previous end");
    let malformed = store.feed(&FeedCursor::new("yesterday"), 1).await;
    assert!(matches!(malformed, Err(StoreError::Cursor)), "{malformed:?}");
    assert_eq!(paged, all, "pages join without a hole");
}

async fn open_jobs_come_in_pages(maker: &Maker, store: &dyn Store) {
    let worker = WorkerId::from_uuid(maker.uuid());
    let mut open = Vec::new();
    for number in 0..7 {
        let inputs = match number % 3 {
            0 => vec![],
            1 => vec![assign(worker)],
            _ => vec![JobInput::Cancel],
        };
        let job = lead(maker, store, maker.submit("t", command()), inputs).await;
        open.extend((!job.is_terminal()).then(|| job.id()));
    }
    open.sort_unstable();
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.open_jobs(after, 2).await.expect("a read");
        let Some(last) = page.last() else { break };
        after = Some(last.id());
        paged.extend(page.iter().map(|job| job.id()));
    }
    assert_eq!(paged, open);
    let assigned = store.jobs_of_workers(&[worker]).await.expect("a read");
    assert!(assigned.len() == 2 && assigned.iter().all(|job| job.worker() == Some(worker)));
    let long = command().stdin("x".repeat(10_000)).env("LONG", "y".repeat(10_000));
    let long = lead(maker, store, maker.submit("t", long), vec![assign(worker)]).await;
    let whole = store.jobs_of_workers(&[worker]).await.expect("a read");
    assert!(whole.contains(&long), "a worker's jobs have their whole specs");
    let shown = store.open_jobs(None, 100).await.expect("a read");
    assert!(shown.iter().any(|job| **job == long.listing()), "waiting jobs are shown without their input");
    assert_eq!(store.jobs_of_workers(&[WorkerId::from_uuid(maker.uuid())]).await.expect("a read"), []);
}

async fn a_list_filters_and_pages(maker: &Maker, store: &dyn Store) {
    for number in 0..5 {
        let spec = command().label("parity", if number % 2 == 0 { "even" } else { "odd" });
        lead(
            maker,
            store,
            maker.submit("t", spec),
            if number == 0 { vec![JobInput::Cancel] } else { vec![] },
        )
        .await;
    }
    maker.store(store, &maker.submit("other", command())).await;
    let list = async |filter: JobFilter| store.list_jobs(&filter).await.expect("a read");
    let mine = JobFilter { tenant: TenantId::new("t"), ..JobFilter::default() };
    assert_eq!(list(mine.clone()).await.jobs.len(), 5, "a tenant sees its own jobs");
    let even = vec![("parity".to_owned(), "even".to_owned())];
    let pending = JobFilter { labels: even, statuses: vec![JobStatus::Pending], ..mine.clone() };
    assert_eq!(list(pending).await.jobs.len(), 2);
    let first = list(JobFilter { limit: 3, ..mine.clone() }).await;
    let second = list(JobFilter { limit: 3, after: first.next, ..mine }).await;
    let ids: Vec<_> = first.jobs.iter().chain(&second.jobs).map(|job| job.id()).collect();
    assert!(ids.len() == 5 && ids.is_sorted_by(|a, b| a > b), "newest first, without a hole");
    assert_eq!(second.next, None);
}

async fn lists_omit_long_parts_and_pages_have_a_size_limit(maker: &Maker, store: &dyn Store) {
    let long = "x".repeat(700_000);
    let mut jobs = Vec::new();
    for number in 0..6 {
        let spec = match number % 3 {
            0 => command().stdin(long.clone().into_bytes()).label("kind", "input"),
            1 => command().env("LONG", &long).env("SHORT", "y"),
            _ => JobSpec::script(format!("#!/bin/sh\n# {long}")),
        };
        jobs.push(lead(maker, store, maker.submit("t", spec.name("long")), vec![]).await);
    }
    let filter = JobFilter { tenant: TenantId::new("t"), limit: 100, ..JobFilter::default() };
    let listed = store.list_jobs(&filter).await.expect("a read");
    let mut expected: Vec<Job> = jobs.iter().map(|job| job.listing()).collect();
    expected.sort_by_key(|job| std::cmp::Reverse(job.id()));
    assert_eq!(listed.jobs.iter().map(|job| Job::clone(job)).collect::<Vec<_>>(), expected);
    assert!(expected.iter().all(|job| job.spec().size() < 2000 && job.spec().name() == "long"));
    for job in &jobs {
        assert_eq!(load(store, job.id()).await, *job, "a job is read by its id with its whole spec");
    }
    // The events of new jobs hold the whole specs.
    let (mut after, mut seen) = (FeedCursor::default(), 0);
    loop {
        let page = store.feed(&after, 100).await.expect("a read");
        let long = page.events.iter().filter(|event| matches!(event.event, DomainEvent::JobCreated { .. }));
        assert!(long.count() <= 1, "a page of the feed is too large");
        if page.events.is_empty() {
            break;
        }
        seen += page.events.len();
        after = page.next;
    }
    assert_eq!(seen, jobs.iter().map(|_| 2).sum::<usize>());
}
