//! Pages that are bounded in bytes.

/// Bytes of events in one page of the feed, beyond those of its first: that of a new job has all of its spec.
pub(in crate::storage) const FEED_PAGE_BYTES: usize = 1 << 20;

/// Bytes of jobs in one page of a list, beyond those of its first.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::storage) const LIST_PAGE_BYTES: usize = 1 << 20;

/// A spec of more bytes is also kept as lists show it.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::storage) const LISTED_WHOLE: usize = 4096;

/// How many of the first rows have at most so many bytes together: one at least, where there is one.
pub(in crate::storage) fn fitting(sizes: impl IntoIterator<Item = usize>, bytes: usize) -> usize {
    let mut sum = 0_usize;
    let fits = sizes.into_iter().enumerate().take_while(|(number, size)| {
        sum = sum.saturating_add(*size);
        *number == 0 || sum <= bytes
    });
    fits.count()
}
