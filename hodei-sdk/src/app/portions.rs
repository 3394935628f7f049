//! Jobs that are read a few at a time.

use std::sync::Arc;

use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::port::{JobRepository, StoreError};

/// Jobs held in memory at once with their whole spec, which may have 2 MiB.
const MAX_WHOLE_JOBS: usize = 32;

/// Calls `look` with each of the jobs that the store has, reading a few at a time. For callers that keep little of
/// each.
pub(crate) async fn for_each_job(
    store: &(impl JobRepository + ?Sized),
    ids: &[JobId],
    mut look: impl FnMut(Arc<Job>) + Send,
) -> Result<(), StoreError> {
    for portion in ids.chunks(MAX_WHOLE_JOBS) {
        store.jobs(portion).await?.into_iter().flatten().for_each(&mut look);
    }
    Ok(())
}
