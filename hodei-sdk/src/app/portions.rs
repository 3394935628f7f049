//! Work in portions: how many items go together, and jobs that are read a few at a time.

use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::port::{JobRepository, StoreError};
use std::sync::Arc;

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

/// How many of the first items go together: at most `most`, and at most `bytes` in all unless the first alone has more.
/// None only of nothing.
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
    fn the_first_always_goes_and_others_while_there_is_room() {
        assert_eq!(fitting([], 9, 9), 0);
        assert_eq!(fitting([20, 1], 9, 9), 1);
        assert_eq!(fitting([4, 5, 1], 9, 9), 2);
        assert_eq!(fitting([1, 1, 1], 2, 9), 2);
    }
}
