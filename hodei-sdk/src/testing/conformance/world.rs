//! Helpers that create and store aggregates for the suites.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::{Aggregate, Decision};
use hodei_core::event::Actor;
use hodei_core::id::{EventId, JobId, OrderId, ProviderId, StoreId, WorkerId};
use hodei_core::job::{Job, JobInput, JobSpec, JobSpecBuilder, Labels, Submission, TenantId, step};
use hodei_core::port::{Clock, ClockExt, FeedCursor, FeedPage, Fence, IdGenerator, Store, Write};
use hodei_core::time::Timestamp;
use hodei_core::worker::{Lifetime, Worker, WorkerCapacity, WorkerInput, WorkerOrder};
use uuid::Uuid;

use crate::clock::SystemClock;
use crate::ids::SeededIds;

/// Creates aggregates and stores them.
#[derive(Debug)]
pub(super) struct Maker {
    ids: SeededIds,
    at: Timestamp,
}

impl Maker {
    pub(super) fn new(seed: u64) -> Self {
        Self { ids: SeededIds::new(seed), at: Timestamp::from_micros(1_800_000_000_000_000) }
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.ids.uuid(self.at)
    }

    pub(super) fn write(&self, decision: &Decision) -> Write {
        Write::of(decision, Actor::Platform, || EventId::from_uuid(self.uuid()))
    }

    pub(super) fn submit(&self, tenant: &str, spec: JobSpecBuilder) -> Decision {
        let spec = Arc::new(spec.build().expect("a valid spec"));
        let (id, tenant) = (JobId::from_uuid(self.uuid()), TenantId::new(tenant));
        step(None, JobInput::Submit(Submission { id, tenant, spec, retry_of: None }), self.at)
            .expect("a submit")
    }

    pub(super) fn step(&self, job: &Job, input: JobInput) -> Decision {
        step(Some(job), input, self.at).expect("a legal step")
    }

    pub(super) fn order(&self, owner: StoreId) -> WorkerOrder {
        WorkerOrder {
            id: OrderId::from_uuid(self.uuid()),
            worker: WorkerId::from_uuid(self.uuid()),
            provider: ProviderId::from_uuid(self.uuid()),
            owner,
            capacity: WorkerCapacity::slots(2),
            labels: Labels::from([("zone".to_owned(), "a".to_owned())]),
            lifetime: Lifetime::default(),
        }
    }

    pub(super) fn worker(&self, current: Option<&Worker>, input: WorkerInput) -> Decision {
        hodei_core::worker::step(current, input, self.at).expect("a legal step")
    }

    pub(super) async fn store(&self, store: &dyn Store, decision: &Decision) {
        let outcomes = store.commit(Fence::None, &[self.write(decision)]).await.expect("a commit");
        assert_eq!(outcomes, [Ok(())], "a valid write is stored");
    }
}

/// Returns the feed from `after` once it shows at least `count` events. A feed may lag behind its writers, but only
/// briefly if no transaction stays open.
pub(super) async fn feed(store: &dyn Store, after: &FeedCursor, count: usize) -> FeedPage {
    let clock = SystemClock::default();
    let caught_up = async {
        loop {
            let page = store.feed(after, usize::MAX >> 1).await.expect("a read");
            if page.events.len() >= count {
                return page;
            }
            clock.sleep(Duration::from_millis(5)).await;
        }
    };
    clock.timeout(Duration::from_secs(30), caught_up).await.expect("the feed catches up with its writers")
}

pub(super) fn job(decision: &Decision) -> Arc<Job> {
    match &decision.next {
        Aggregate::Job(job) => job.clone(),
        other => panic!("{other:?} is not a job"),
    }
}

pub(super) fn worker(decision: &Decision) -> Arc<Worker> {
    match &decision.next {
        Aggregate::Worker(worker) => worker.clone(),
        other => panic!("{other:?} is not a worker"),
    }
}

pub(super) fn command() -> JobSpecBuilder {
    JobSpec::command(["true"])
}
