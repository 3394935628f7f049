use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::id::{AttemptId, OrderId, StoreId, WorkerId};
use crate::provider::ProviderProfile;
use crate::worker::WorkerOrder;

/// Creates workers. It never runs a job itself: it starts an agent, which connects back.
///
/// The platform limits how long each call may take, and a panic of one counts as [`ProviderError::Unknown`]: what fails
/// is tried again, and a provider that creates nothing is left alone for some seconds.
#[async_trait]
pub trait WorkerProvider: Debug + Send + Sync + 'static {
    /// What it offers.
    fn profile(&self) -> ProviderProfile;

    /// Creates the worker of an order and returns what the provider calls it. Idempotent by order id: a
    /// repeated call finds the first. Returns once the worker is under way, not once it is connected.
    ///
    /// # Errors
    /// [`ProviderError`]; after [`ProviderError::Unknown`] the worker may be there.
    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError>;

    /// Removes what an earlier process of this owner left behind and nobody can take up again. Called once, before
    /// anything else is asked of it.
    ///
    /// # Errors
    /// [`ProviderError`] when some of it may still be there.
    async fn recover(&self, owner: StoreId) -> Result<(), ProviderError> {
        let _ = owner;
        Ok(())
    }

    /// Asks the agent of a worker to end its jobs and to say how, with the last of their output; returns once it is asked.
    /// Does nothing where an agent cannot be asked.
    ///
    /// # Errors
    /// [`ProviderError`] when it was not asked.
    async fn evict(&self, worker: WorkerId) -> Result<(), ProviderError> {
        let _ = worker;
        Ok(())
    }

    /// Removes a worker with every process of its jobs, after `grace` for those. Ok when it is gone already.
    ///
    /// # Errors
    /// [`ProviderError`] when it may still be there.
    async fn destroy(&self, worker: WorkerId, grace: Duration) -> Result<(), ProviderError>;

    /// The attempts that a worker ever began, as far as its host has kept that: asked once the worker is destroyed, so
    /// that it begins no more. `None` when it is not known; then a job that may start at most once and that the worker
    /// may have begun is ended.
    ///
    /// # Errors
    /// [`ProviderError`], which counts as not known.
    async fn begun(&self, worker: WorkerId) -> Result<Option<BTreeSet<AttemptId>>, ProviderError> {
        let _ = worker;
        Ok(None)
    }

    /// Every worker of this owner that is there.
    ///
    /// # Errors
    /// [`ProviderError`] when that cannot be told.
    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError>;

    /// Why a worker that was created has not connected yet, and the remedy, where its agent could say so. Asked each
    /// second, so it should cost little.
    async fn trouble(&self, worker: WorkerId) -> Option<String> {
        let _ = worker;
        None
    }
}

/// A worker as its provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvidedWorker {
    /// Read from its labels.
    pub worker: WorkerId,
    /// Read from its labels.
    pub order: OrderId,
    /// Why it died, if it did and its remains are still there.
    pub exited: Option<String>,
}

/// Why a provider did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// It refuses for good: trying again is useless.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// It cannot now; nothing was done.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
    /// Whether it was done is unknown.
    #[error("the provider did not answer: {0}")]
    Unknown(String),
}

impl ProviderError {
    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}
