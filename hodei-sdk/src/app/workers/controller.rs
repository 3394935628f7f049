//! Operations of clients on workers: list, get and drain.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::access::Caller;
use hodei_core::id::WorkerId;
use hodei_core::worker::{Worker, WorkerView};

use crate::Error;
use crate::app::ports::Ports;
use crate::app::workers::lifecycle::WorkerLifecycleManager;
use crate::app::workers::stream_registry::StreamRegistry;
use crate::seam::WorkerSeam;

/// Implements the client operations on workers.
#[derive(Debug)]
pub(crate) struct WorkerController {
    pub(crate) ports: Arc<Ports>,
    pub(crate) streams: StreamRegistry,
    /// `None` on a platform that runs nothing.
    pub(crate) lifecycle: Option<WorkerLifecycleManager>,
}

impl WorkerController {
    fn view(&self, worker: &Worker) -> WorkerView {
        let (connected, metrics) = self.streams.state(worker.id());
        WorkerView::new(worker, connected, metrics)
    }
}

#[async_trait]
impl WorkerSeam for WorkerController {
    async fn list(&self, _: &Caller) -> Result<Vec<WorkerView>, Error> {
        Ok(self.ports.store.live_workers().await?.iter().map(|worker| self.view(worker)).collect())
    }

    async fn get(&self, _: &Caller, id: WorkerId) -> Result<Option<WorkerView>, Error> {
        Ok(self.ports.store.workers(&[id]).await?.pop().flatten().map(|worker| self.view(&worker)))
    }

    async fn drain(&self, caller: &Caller, id: WorkerId) -> Result<WorkerView, Error> {
        let lifecycle = self.lifecycle.as_ref().ok_or(Error::NoWorker(id))?;
        lifecycle.drain(caller, id).await?;
        self.get(caller, id).await?.ok_or(Error::NoWorker(id))
    }
}
