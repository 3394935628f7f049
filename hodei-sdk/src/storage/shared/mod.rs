//! Code that the stores share: checks of batches, numbers of kinds, log records, pages. It has no SQL and no file
//! access.

#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::storage) mod batch;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::storage) mod column;
pub(in crate::storage) mod pages;
pub(in crate::storage) mod presence;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::storage) mod recent_jobs;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(in crate::storage) mod record;
