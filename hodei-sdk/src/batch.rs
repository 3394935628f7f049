//! Batches that are bounded in count and in bytes.

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
