//! The worker seam of the client: lists, reads and drains workers of a daemon.

use async_trait::async_trait;
use hodei_core::access::Caller;
use hodei_core::id::WorkerId;
use hodei_core::worker::WorkerView;
use hodei_proto::convert::worker_from_wire;
use hodei_proto::v1;
use tonic::{Code, Response};

use super::DaemonClient;
use crate::error::Error;
use crate::seam::WorkerSeam;

#[async_trait]
impl WorkerSeam for DaemonClient {
    async fn list(&self, _: &Caller) -> Result<Vec<WorkerView>, Error> {
        let (mut workers, mut request) = (Vec::new(), v1::ListWorkersRequest::default());
        loop {
            let answer =
                self.call(|| async { self.scheduler_stub().list_workers(request.clone()).await }).await?;
            let page = answer.workers.into_iter().map(worker_from_wire).collect::<Result<Vec<_>, _>>();
            workers.extend(page.map_err(|error| self.malformed(&error))?);
            if answer.next_page_token.is_empty() {
                return Ok(workers);
            }
            request.page_token = answer.next_page_token;
        }
    }

    async fn get(&self, _: &Caller, id: WorkerId) -> Result<Option<WorkerView>, Error> {
        let worker_id = id.to_string();
        let call = || async {
            match self
                .scheduler_stub()
                .get_worker(v1::GetWorkerRequest { worker_id: worker_id.clone() })
                .await
            {
                Err(status) if status.code() == Code::NotFound => {
                    Ok(Response::new(v1::GetWorkerResponse::default()))
                }
                answer => answer,
            }
        };
        let found = self.call(call).await?.worker.map(worker_from_wire).transpose();
        found.map_err(|error| self.malformed(&error))
    }

    async fn drain(&self, _: &Caller, id: WorkerId) -> Result<WorkerView, Error> {
        let request = v1::DrainWorkerRequest { worker_id: id.to_string() };
        let answer =
            self.call(|| async { self.scheduler_stub().drain_worker(request.clone()).await }).await?;
        let worker = answer.worker.ok_or_else(|| self.malformed(&"the worker is missing"))?;
        worker_from_wire(worker).map_err(|error| self.malformed(&error))
    }
}
