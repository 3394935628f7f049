//! What is known of the attempts that dead workers of this host began.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hodei_agent::{Marks, begun_by, begun_by_workers_of};
use hodei_core::id::{AttemptId, StoreId, WorkerId};

use crate::task::blocking;

/// By worker, for as long as their jobs may be open: the files that it is read from go with the workers.
#[derive(Debug, Clone, Default)]
pub(super) struct BegunByDead(Arc<Mutex<BTreeMap<WorkerId, BTreeSet<AttemptId>>>>);

/// Workers that are remembered: their jobs are closed right after their end.
const REMEMBERED: usize = 1_000;

impl BegunByDead {
    /// Reads the journal of a worker that is dead; nothing where it is not whole.
    pub(super) async fn read(&self, worker: WorkerId, marks: &Marks, workspaces: &Path) {
        let (marks, dir) = (marks.clone(), workspaces.to_owned());
        let begun = blocking(move || begun_by(&marks, &dir)).await;
        self.remember(begun.map(|begun| (worker, begun)));
    }

    /// Reads the journals of all workers of a provider, but for those that live.
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
        while known.len() > REMEMBERED {
            // The oldest: ids are in the order of time.
            known.pop_first();
        }
    }

    /// What a worker began.
    pub(super) fn of(&self, worker: WorkerId) -> Option<BTreeSet<AttemptId>> {
        self.lock().get(&worker).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, BTreeSet<AttemptId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
