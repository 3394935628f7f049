//! Store layer that checks the platform's invariants after each commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, JobId, StoreId, WorkerId};
use hodei_core::invariant::{self, World};
use hodei_core::job::{Job, JobStatus, TenantId};
use hodei_core::port::{
    AuditRepository, BoxFuture, CommitError, Epoch, FeedCursor, FeedPage, Fence, JobFilter, JobPage,
    JobRepository, LogStore, Store, StoreError, Write,
};
use hodei_core::provider::Provider;
use hodei_core::time::Timestamp;
use hodei_core::worker::Worker;

use crate::layer::delegate::delegate_reads;
use crate::provider::test::TestCloud;
use crate::storage::memory::{MemoryLogStore, MemoryStore};

/// The store of a simulation, which checks the affected jobs after each commit.
#[derive(Debug, Clone)]
pub(super) struct ObservedStore {
    pub(super) inner: MemoryStore,
    pub(super) logs: MemoryLogStore,
    pub(super) cloud: TestCloud,
    pub(super) seen: Arc<Mutex<Seen>>,
    pub(super) broken: Arc<Mutex<Option<String>>>,
}

/// Observations so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) acknowledged: BTreeSet<JobId>,
    pub(super) endings: BTreeMap<JobId, JobStatus>,
    pub(super) trace: u64,
    pub(super) events: u64,
    pub(super) kinds: BTreeSet<&'static str>,
}

impl ObservedStore {
    async fn recent(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.inner.recent_jobs(ids).await
    }

    async fn read<'a, T>(
        &self,
        call: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        call().await
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether an invariant has been broken.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Checks the invariants of some jobs, or of all.
    pub(super) async fn check(&self, jobs: Option<&[JobId]>) {
        let world = self.world(jobs).await;
        if let Err(why) = invariant::check(&world) {
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        }
    }

    async fn world(&self, only: Option<&[JobId]>) -> World {
        let mut world = World { starts: self.cloud.starts(), ..World::default() };
        let ids: Vec<JobId> = match only {
            Some(ids) => ids.to_vec(),
            None => {
                let filter = JobFilter { limit: usize::MAX, ..JobFilter::default() };
                let page = self.inner.list_jobs(&filter).await.unwrap_or_default();
                page.jobs.iter().map(|job| job.id()).collect()
            }
        };
        for job in self.inner.jobs(&ids).await.unwrap_or_default().into_iter().flatten() {
            let id = job.id();
            let history = self.inner.history(AggregateId::Job(id)).await.unwrap_or_default();
            world.history.insert(id, history);
            for number in 1..=job.attempt() {
                let attempt = AttemptId { job: id, number };
                if let Ok(state) = self.logs.state(attempt).await {
                    world.logs.insert(attempt, state);
                }
            }
            world.jobs.insert(id, job);
        }
        let mut seen = self.seen();
        for (id, job) in world.jobs.iter().filter(|(_, job)| job.is_terminal()) {
            seen.endings.entry(*id).or_insert_with(|| job.status());
        }
        let wanted = |id: &JobId| only.is_none() || world.jobs.contains_key(id);
        world.acknowledged = seen.acknowledged.iter().copied().filter(wanted).collect();
        world.endings =
            seen.endings.iter().filter(|(id, _)| wanted(id)).map(|(id, status)| (*id, *status)).collect();
        world
    }

    /// Adds the stored events to the FNV-1a hash.
    fn trace(&self, writes: &[Write], outcomes: &[Result<(), CommitError>]) {
        let mut seen = self.seen();
        for (write, _) in writes.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok()) {
            for envelope in &write.events {
                seen.events += 1;
                seen.kinds.insert(envelope.event.name());
                for byte in format!("{envelope:?}").bytes() {
                    seen.trace = (seen.trace ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
                }
            }
        }
    }
}

#[async_trait]
impl Store for ObservedStore {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn owner(&self) -> StoreId {
        self.inner.owner()
    }

    fn commits_at_once(&self) -> usize {
        self.inner.commits_at_once()
    }

    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let outcomes = self.inner.commit(fence, writes).await?;
        self.trace(writes, &outcomes);
        let jobs: Vec<JobId> = writes
            .iter()
            .filter_map(|write| match &write.next {
                Aggregate::Job(job) => Some(job.id()),
                _ => None,
            })
            .collect();
        self.check(Some(&jobs)).await;
        Ok(outcomes)
    }

    async fn forget(&self, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
        self.inner.forget(jobs, before).await
    }
}

delegate_reads!(ObservedStore);
