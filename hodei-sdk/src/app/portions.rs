use std::sync::Arc;

use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::port::{JobRepository, StoreError};

/// Jobs that are in memory at once, whole: a spec may have 2 MiB.
const PORTION: usize = 32;

/// Shows each of some jobs, as far as the store has them, where little is wanted of each.
pub(crate) async fn for_each_job(
    store: &(impl JobRepository + ?Sized),
    ids: &[JobId],
    mut look: impl FnMut(Arc<Job>) + Send,
) -> Result<(), StoreError> {
    for portion in ids.chunks(PORTION) {
        store.jobs(portion).await?.into_iter().flatten().for_each(&mut look);
    }
    Ok(())
}
