//! Attempts that dead workers of this host began.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hodei_agent::{Marks, begun_by, begun_by_workers_of};
use hodei_core::id::{AttemptId, StoreId, WorkerId};

use crate::task::blocking;

/// Begun attempts by worker, kept while their jobs may be open: the journals are deleted with the workers.
#[derive(Debug, Clone, Default)]
pub(super) struct BegunByDead(Arc<Mutex<BTreeMap<WorkerId, BTreeSet<AttemptId>>>>);

/// Maximum number of remembered workers; their jobs are closed right after their end.
const MAX_REMEMBERED_WORKERS: usize = 1_000;

impl BegunByDead {
    /// Reads the journal of a dead worker; a damaged one counts as unknown.
    pub(super) async fn read(&self, worker: WorkerId, marks: &Marks, workspaces: &Path) {
        let (marks, dir) = (marks.clone(), workspaces.to_owned());
        let begun = blocking(move || begun_by(&marks, &dir)).await;
        self.remember(begun.map(|begun| (worker, begun)));
    }

    /// Reads the journals of all workers of a provider except the living ones.
    pub(super) async fn read_all(
        &self,
        owner: StoreId,
        provider: &str,
        workspaces: &Path,
        living: BTreeSet<WorkerId>,
    ) {
        let (provider, dir) = (provider.to_owned(), workspaces.to_owned());
        self.remember(blocking(move || begun_by_workers_of(owner, &provider, &dir, &living)).await);
    }

    fn remember(&self, begun: impl IntoIterator<Item = (WorkerId, BTreeSet<AttemptId>)>) {
        let mut known = self.lock();
        known.extend(begun);
        while known.len() > MAX_REMEMBERED_WORKERS {
            // Ids are ordered by time, so this removes the oldest.
            known.pop_first();
        }
    }

    /// Returns the attempts that a worker began.
    pub(super) fn of(&self, worker: WorkerId) -> Option<BTreeSet<AttemptId>> {
        self.lock().get(&worker).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, BTreeSet<AttemptId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
