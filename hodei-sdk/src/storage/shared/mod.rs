//! What the stores have in common: batches as they are decided, numbers of kinds, records, pages. No statement and no
//! file is here.

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
