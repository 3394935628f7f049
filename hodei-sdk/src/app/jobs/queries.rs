//! Reading jobs: states, pages, histories and explanations.

use std::sync::Arc;

use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::{Job, JobStatus, TenantId};
use hodei_core::port::{JobFilter, JobPage};
use hodei_core::scheduling::{Behind, SchedulingDecision, behind, placements};

use crate::Error;
use crate::app::follow::job_notifier::JobNotifier;
use crate::app::ports::Ports;
use crate::app::scheduling::queue_status::QueueQueries;

/// Reads jobs; changes nothing.
#[derive(Debug, Clone)]
pub(crate) struct JobQueries {
    pub(crate) ports: Arc<Ports>,
    pub(crate) job_notifier: JobNotifier,
}

impl JobQueries {
    pub(crate) async fn get(&self, tenant: &TenantId, id: JobId) -> Result<Arc<Job>, Error> {
        let job = self.ports.store.jobs(&[id]).await?.pop().flatten();
        job.filter(|job| job.tenant() == tenant).ok_or(Error::NotFound(id))
    }

    /// Returns one page of jobs, each without its long fields. A page may be short and still have a cursor to go on
    /// from.
    pub(crate) async fn page(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        Ok(self.ports.store.list_jobs(filter).await?)
    }

    pub(crate) async fn history(&self, tenant: &TenantId, id: JobId) -> Result<Vec<Envelope>, Error> {
        self.get(tenant, id).await?;
        Ok(self.ports.store.history(AggregateId::Job(id)).await?)
    }

    /// Explains the placement of a job: its waiting class, the jobs before it, and its past placements.
    pub(crate) async fn explain(
        &self,
        tenant: &TenantId,
        id: JobId,
        queue: &QueueQueries,
    ) -> Result<SchedulingDecision, Error> {
        let job = self.get(tenant, id).await?;
        let placements = placements(&self.ports.store.history(AggregateId::Job(id)).await?);
        let is_pending = job.status() == JobStatus::Pending;
        let waiting = if is_pending { queue.class_of(tenant, &job).await? } else { None };
        let behind = self.behind(&job).await?;
        Ok(SchedulingDecision { job, waiting, behind, placements })
    }

    /// Returns the jobs behind which an assigned job waits on its worker; `None` when it is not assigned.
    async fn behind(&self, job: &Job) -> Result<Option<Behind>, Error> {
        let Some(worker) = job.worker().filter(|_| job.status() == JobStatus::Assigned) else {
            return Ok(None);
        };
        let Some(found) = self.ports.store.workers(&[worker]).await?.pop().flatten() else { return Ok(None) };
        let others = self.ports.store.jobs_of_workers(&[worker]).await?;
        Ok(behind(job, &others, found.capacity().slots))
    }
}
