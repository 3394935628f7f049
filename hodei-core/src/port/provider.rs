//! The port of providers, which create workers.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::id::{AttemptId, OrderId, StoreId, WorkerId};
use crate::provider::ProviderProfile;
use crate::worker::WorkerOrder;

/// Creates workers. It does not run jobs itself: it starts an agent, which connects back.
///
/// The platform limits how long each call may take. A panic counts as [`ProviderError::Unknown`]. The platform retries
/// failed calls, and orders nothing for some seconds from a provider whose workers fail to start.
#[async_trait]
pub trait WorkerProvider: Debug + Send + Sync + 'static {
    /// Returns the profile of the provider.
    fn profile(&self) -> ProviderProfile;

    /// Creates the worker of an order and returns its name at the provider. Idempotent by order id: a repeated call
    /// finds the first worker. Returns once the worker is under way, not once it is connected.
    ///
    /// # Errors
    /// [`ProviderError`]; after [`ProviderError::Unknown`] the worker may exist.
    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError>;

    /// Removes leftovers of an earlier process of this owner that cannot be used any more. Called once, before any
    /// other call.
    ///
    /// # Errors
    /// [`ProviderError`] when some leftovers may still exist.
    async fn recover(&self, owner: StoreId) -> Result<(), ProviderError> {
        let _ = owner;
        Ok(())
    }

    /// Asks the agent of a worker to end its jobs and to report their ends, with the last output; returns once the
    /// agent is asked. Does nothing where an agent cannot be asked.
    ///
    /// # Errors
    /// [`ProviderError`] when the agent was not asked.
    async fn evict(&self, worker: WorkerId) -> Result<(), ProviderError> {
        let _ = worker;
        Ok(())
    }

    /// Removes a worker with every process of its jobs, which get `grace` to end. Ok when the worker is gone already.
    ///
    /// # Errors
    /// [`ProviderError`] when the worker may still exist.
    async fn destroy(&self, worker: WorkerId, grace: Duration) -> Result<(), ProviderError>;

    /// Returns the attempts that a worker ever began, if its host kept a record. Called after the worker is destroyed,
    /// so that it begins no more. `None` when there is no record; then a job that may start at most once fails if the
    /// worker may have begun it.
    ///
    /// # Errors
    /// [`ProviderError`], which counts as no record.
    async fn begun(&self, worker: WorkerId) -> Result<Option<BTreeSet<AttemptId>>, ProviderError> {
        let _ = worker;
        Ok(None)
    }

    /// Returns every existing worker of this owner.
    ///
    /// # Errors
    /// [`ProviderError`] when the workers cannot be listed.
    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError>;

    /// Returns why a created worker has not connected yet, and the remedy, where its agent could report it. Called each
    /// second, so it should be cheap.
    async fn trouble(&self, worker: WorkerId) -> Option<String> {
        let _ = worker;
        None
    }
}

/// A worker as its provider sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvidedWorker {
    /// Id of the worker, read from its labels.
    pub worker: WorkerId,
    /// Id of its order, read from its labels.
    pub order: OrderId,
    /// Why it exited, if it did and its remains still exist.
    pub exited: Option<String>,
}

/// Why a call of a provider failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The provider refuses for good: a retry is useless.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The provider is unavailable now; nothing was done.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
    /// It is unknown whether the call had an effect.
    #[error("the provider did not answer: {0}")]
    Unknown(String),
}

impl ProviderError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}
