//! A store in memory: everything a durable one does, but for durability.

mod logs;
mod state;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hodei_core::access::AccessToken;
use hodei_core::decision::AggregateId;
use hodei_core::event::{DomainEvent, Envelope};
use hodei_core::id::{AttemptId, DaemonId, JobId, SecretId, StoreId, TokenId, WorkerId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{
    AccessRepository, AuditRepository, Cluster, CommitError, DaemonBeat, Epoch, FeedCursor, FeedPage, Fence,
    JobFilter, JobPage, JobQueue, JobRepository, LeaseStore, ProviderConfigRepository, SecretInfo,
    SecretRepository, Store, StoreError, WorkerRegistry, Write,
};
use hodei_core::provider::Provider;
use hodei_core::secret::Secret;
use hodei_core::time::Timestamp;
use hodei_core::worker::Worker;
use uuid::Uuid;

use super::{FEED_PAGE_BYTES, fitting};

pub use logs::MemoryLogStore;
use state::State;

/// A store in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    id: StoreId,
    state: Arc<Mutex<State>>,
    shared: bool,
}

impl MemoryStore {
    /// Jobs that ended and are kept, by default.
    pub const HISTORY: usize = 100_000;
    /// Jobs that may be open, by default.
    pub const QUEUE: usize = 10_000_000;

    /// An empty store. `id` must be new: it owns all that is created for it.
    pub fn new(id: Uuid) -> Self {
        Self::with_limits(id, Self::HISTORY, Self::QUEUE)
    }

    /// An empty store that keeps at most `history` ended jobs and takes at most `queue` open ones.
    pub fn with_limits(id: Uuid, history: usize, queue: usize) -> Self {
        let state = Arc::new(Mutex::new(State::new(history, queue)));
        Self { id: StoreId::from_uuid(id), state, shared: false }
    }

    /// The same, for several platforms at once, each with a clone of it: they share the work as daemons do that have
    /// one database.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn id(&self) -> StoreId {
        self.id
    }

    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let mut state = self.lock();
        state.check_fence(fence)?;
        let mut refused = BTreeSet::new();
        let outcomes = writes.iter().map(|write| {
            let id = write.next.id();
            let stored = if refused.contains(&id) { state.conflict(id) } else { state.write(write) };
            if let Err(CommitError::Conflict { .. }) = stored {
                refused.insert(id);
            }
            stored
        });
        Ok(outcomes.collect())
    }

    async fn forget(&self, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
        self.lock().forget(jobs, before);
        Ok(())
    }
}

#[async_trait]
impl JobRepository for MemoryStore {
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.jobs.get(id).cloned()).collect())
    }

    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
        let mut page = self.lock().list(filter);
        page.jobs.iter_mut().for_each(|job| *job = Arc::new(job.listing()));
        Ok(page)
    }

    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
        Ok(self.lock().keys.get(&(tenant.clone(), key.to_owned())).map(|known| known.job))
    }

    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError> {
        Ok(self.lock().ended_before(before, limit))
    }
}

#[async_trait]
impl JobQueue for MemoryStore {
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError> {
        let state = self.lock();
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let ids = state.open.range((from, std::ops::Bound::Unbounded)).take(limit);
        Ok(ids.filter_map(|id| state.jobs.get(id)).map(|job| Arc::new(job.listing())).collect())
    }

    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError> {
        let state = self.lock();
        let ids = workers.iter().filter_map(|worker| state.assigned.get(worker)).flatten();
        let mut jobs: Vec<Arc<Job>> = ids.filter_map(|id| state.jobs.get(id).cloned()).collect();
        jobs.sort_by_key(|job| job.id());
        Ok(jobs)
    }
}

#[async_trait]
impl WorkerRegistry for MemoryStore {
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.workers.get(id).cloned()).collect())
    }

    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        Ok(self.lock().workers.values().filter(|worker| !worker.is_terminated()).cloned().collect())
    }
}

#[async_trait]
impl ProviderConfigRepository for MemoryStore {
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
        Ok(self.lock().providers.values().cloned().collect())
    }
}

#[async_trait]
impl SecretRepository for MemoryStore {
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.secrets.get(id).cloned()).collect())
    }

    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError> {
        let state = self.lock();
        let mine =
            state.secrets.values().filter(|secret| secret.tenant() == tenant && secret.sealed().is_some());
        let info = |secret: &Arc<Secret>| SecretInfo {
            name: secret.name().clone(),
            changed_at: secret.changed_at(),
        };
        let mut listed: Vec<_> = mine.map(info).collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }
}

#[async_trait]
impl AccessRepository for MemoryStore {
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.tokens.get(id).cloned()).collect())
    }

    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError> {
        Ok(self.lock().tokens.values().cloned().collect())
    }
}

#[async_trait]
impl AuditRepository for MemoryStore {
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
        Ok(self.lock().history(aggregate))
    }

    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError> {
        let first = after.sequence()?.saturating_add(1);
        let state = self.lock();
        let found = || state.events.range(first..).take(limit).map(|(_, event)| event);
        let sizes = found().map(|event| match &event.event {
            DomainEvent::JobCreated { spec, .. } => spec.size(),
            _ => 0,
        });
        let fits = fitting(sizes, FEED_PAGE_BYTES);
        Ok(FeedPage::by_sequence(found().take(fits).cloned().collect(), after))
    }

    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError> {
        self.lock().record(events);
        Ok(())
    }

    async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
        let last = self.lock().events.last_key_value().map_or(0, |(sequence, _)| *sequence);
        Ok(FeedCursor::new(last.to_string()))
    }
}

#[async_trait]
impl LeaseStore for MemoryStore {
    fn is_exclusive(&self) -> bool {
        !self.shared
    }

    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError> {
        Ok(self.lock().presence.beat(beat))
    }

    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError> {
        let presence = &mut self.lock().presence;
        let offered = presence.offer(name, seen);
        offered.into_iter().for_each(|epoch| presence.taken(name, epoch, holder));
        Ok(offered)
    }

    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        self.lock().presence.leave(daemon);
        Ok(())
    }
}
