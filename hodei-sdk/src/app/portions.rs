//! Work in portions: batches limited by count and size, and jobs that are read a few at a time.

use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::port::{JobRepository, StoreError};
use std::sync::Arc;

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

/// Returns how many of the first items form one batch: at most `most`, and at most `bytes` in total unless the first
/// alone is larger. 0 only when there are no items.
pub(crate) fn fitting(sizes: impl IntoIterator<Item = usize>, most: usize, bytes: usize) -> usize {
    let mut sum = 0_usize;
    let fits = sizes.into_iter().take(most).enumerate().take_while(|(number, size)| {
        sum = sum.saturating_add(*size);
        *number == 0 || sum <= bytes
    });
    fits.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_item_always_fits_and_others_while_there_is_room() {
        assert_eq!(fitting([], 9, 9), 0);
        assert_eq!(fitting([20, 1], 9, 9), 1);
        assert_eq!(fitting([4, 5, 1], 9, 9), 2);
        assert_eq!(fitting([1, 1, 1], 2, 9), 2);
    }
}
