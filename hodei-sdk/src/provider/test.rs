//! Scripted provider for tests: real agents in this process, with an executor that only pretends to run jobs, and every
//! kind of fault.

mod cloud;
mod executor;
mod liar;
mod wire;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::id::{AttemptId, StoreId, WorkerId};
use hodei_core::port::{ProvidedWorker, ProviderError, WorkerProvider};
use hodei_core::provider::ProviderProfile;
use hodei_core::worker::WorkerOrder;

pub use cloud::{TestCloud, WorkerFault};
pub use executor::ScriptedJob;

use super::ProviderContext;

/// A provider over a [`TestCloud`]. The cloud's workers outlive the platform that ordered them, and connect to the
/// platform that was last created with the cloud.
#[derive(Debug, Clone)]
pub struct TestWorkerProvider {
    cloud: TestCloud,
}

impl TestWorkerProvider {
    /// Creates a provider for the platform of this context.
    pub fn new(context: &ProviderContext, cloud: &TestCloud) -> Self {
        cloud.face(context.door());
        Self { cloud: cloud.clone() }
    }
}

#[async_trait]
impl WorkerProvider for TestWorkerProvider {
    fn profile(&self) -> ProviderProfile {
        self.cloud.profile()
    }

    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        self.cloud.create(order).await
    }

    async fn destroy(&self, worker: WorkerId, _: Duration) -> Result<(), ProviderError> {
        self.cloud.destroy(worker).await;
        Ok(())
    }

    async fn begun(&self, worker: WorkerId) -> Result<Option<BTreeSet<AttemptId>>, ProviderError> {
        Ok(self.cloud.begun(worker))
    }

    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        Ok(self.cloud.list(owner))
    }
}
