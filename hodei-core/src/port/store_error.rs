//! Errors of a store.

use std::time::Duration;

use super::Epoch;

/// Why a call of a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store is unavailable now; the same call may succeed later.
    #[error("the store is unavailable, try again in {retry_after:?}: {why}")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
        /// The reason.
        why: String,
    },
    /// The epoch of the plan is over: another coordinator is active.
    #[error("another coordinator took the lease: its epoch is {current:?}")]
    StaleEpoch {
        /// The epoch in force.
        current: Epoch,
    },
    /// The store was removed while this process used it: nothing is acknowledged any more, and the platform stops.
    #[error("the store is gone: {0}")]
    Gone(String),
    /// An item can never be stored as it is, such as a text that the database cannot represent. A call with several
    /// items does not say which one: the caller tries each alone.
    #[error("the store refuses this for good: {0}")]
    Rejected(String),
    /// The cursor is not from this store.
    #[error(
        "the cursor is not from this store, or from a later state than the one that its database was restored to: begin again \
         without one"
    )]
    Cursor,
    /// Another error, which a retry does not fix.
    #[error("the store failed: {0}")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

const DISK_FULL: &str = "the disk of the data directory is full";

impl StoreError {
    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Makes the error of a store whose disk is full.
    pub fn disk_full() -> Self {
        Self::Unavailable { retry_after: Duration::from_secs(1), why: DISK_FULL.to_owned() }
    }

    /// Whether it is the error of a full disk.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Unavailable { why, .. } if why == DISK_FULL)
    }
}
