//! Pages with a size limit.

/// Maximum size of a page of the feed. Its first event does not count: that of a new job holds its whole spec.
pub(in crate::storage) const FEED_PAGE_BYTES: usize = 1 << 20;

/// Maximum size of a page of jobs, without its first job.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::storage) const LIST_PAGE_BYTES: usize = 1 << 20;

/// Specs above this size in bytes are also stored in the short form that lists show.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::storage) const MAX_LISTED_SPEC_BYTES: usize = 4096;
