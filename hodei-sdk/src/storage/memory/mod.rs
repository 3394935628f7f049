//! Store in memory: it does everything that a durable store does, except survive the process.

mod audit;
mod jobs;
mod leases;
mod logs;
mod providers;
mod queue;
mod secrets;
mod state;
mod tokens;
mod workers;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hodei_core::id::{JobId, StoreId};
use hodei_core::port::{CommitError, Fence, Store, StoreError, Write};
use hodei_core::time::Timestamp;
use uuid::Uuid;

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
    /// Default maximum number of ended jobs that are kept.
    pub const HISTORY: usize = 100_000;
    /// Default maximum number of open jobs.
    pub const QUEUE: usize = 10_000_000;

    /// Creates an empty store. `id` must be new: it owns everything that is created for the store.
    pub fn new(id: Uuid) -> Self {
        Self::with_limits(id, Self::HISTORY, Self::QUEUE)
    }

    /// Creates an empty store that keeps at most `history` ended jobs and accepts at most `queue` open ones.
    pub fn with_limits(id: Uuid, history: usize, queue: usize) -> Self {
        let state = Arc::new(Mutex::new(State::new(history, queue)));
        Self { id: StoreId::from_uuid(id), state, shared: false }
    }

    /// Lets several platforms use clones of this store at once: they share the work as daemons with one database do.
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
