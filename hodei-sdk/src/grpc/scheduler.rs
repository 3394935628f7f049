//! The gRPC service of the queue and of workers.

use hodei_proto::convert::{parse, worker_to_wire};
use hodei_proto::v1;
use hodei_proto::v1::scheduler_service_server::SchedulerService;
use tonic::{Request, Response, Status};

use super::{Serving, pages};
use crate::Error;
use crate::wire::refusal::{malformed, status};
use crate::wire::scheduling::{decision_to_wire, queue_to_wire};

/// Serves the queue and the workers.
#[derive(Debug)]
pub(super) struct SchedulerApi(pub(super) Serving);

#[tonic::async_trait]
impl SchedulerService for SchedulerApi {
    async fn get_queue_status(
        &self,
        request: Request<v1::GetQueueStatusRequest>,
    ) -> Result<Response<v1::GetQueueStatusResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let queue = hodei.queue().status().await.map_err(status)?;
        Ok(Response::new(queue_to_wire(&queue)))
    }

    async fn get_scheduling_decision(
        &self,
        request: Request<v1::GetSchedulingDecisionRequest>,
    ) -> Result<Response<v1::GetSchedulingDecisionResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let id = parse("job_id", &request.into_inner().job_id).map_err(malformed)?;
        let decision = hodei.jobs().explain(id).await.map_err(status)?;
        Ok(Response::new(decision_to_wire(&decision)))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let workers = hodei.workers().list().await.map_err(status)?;
        let after = request.into_inner().page_token;
        let (workers, next_page_token) =
            pages::page(workers.iter().map(worker_to_wire), &after, |worker| &worker.id);
        Ok(Response::new(v1::ListWorkersResponse { workers, next_page_token }))
    }

    async fn get_worker(
        &self,
        request: Request<v1::GetWorkerRequest>,
    ) -> Result<Response<v1::GetWorkerResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let id = parse("worker_id", &request.into_inner().worker_id).map_err(malformed)?;
        let found = hodei.workers().get(id).await.map_err(status)?;
        let worker = found.ok_or_else(|| status(Error::NoWorker(id)))?;
        Ok(Response::new(v1::GetWorkerResponse { worker: Some(worker_to_wire(&worker)) }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let id = parse("worker_id", &request.into_inner().worker_id).map_err(malformed)?;
        let worker = hodei.workers().drain(id).await.map_err(status)?;
        Ok(Response::new(v1::DrainWorkerResponse { worker: Some(worker_to_wire(&worker)) }))
    }
}
