//! Preparation of assignments that need secrets or artifacts: secret values are resolved just before a job is sent, and
//! go nowhere else. An agent that supports neither receives no such job.

use std::sync::Arc;

use hodei_core::id::WorkerId;
use hodei_core::job::{AttemptReport, FailureCause, Job, JobStatus, Outcome};
use hodei_core::port::{ClockExt, StoreError};
use hodei_proto::v1::server_message::Body;
use hodei_proto::{convert, v1};
use tokio::sync::{Semaphore, mpsc};

use crate::app::dispatch::messages::{Preparation, assignment};
use crate::app::ports::Ports;
use crate::app::secrets::{SECRETS_TIMEOUT, SecretService, Undelivered, Values};
use crate::app::workers::results::{Report, ReportKind, ResultIntake};
use crate::app::workers::stream_registry::{StreamRegistry, Terms};
use crate::task::Tasks;

/// Delivers jobs with their secrets. The sweep of `RemoteDispatch` queues dropped
/// deliveries again.
#[derive(Debug)]
pub(crate) struct AssignmentPreparer {
    pub(crate) ports: Arc<Ports>,
    pub(crate) secrets: SecretService,
    pub(crate) streams: StreamRegistry,
    pub(crate) results: ResultIntake,
}

/// Deliveries that may queue.
pub(crate) const MAX_PREPARATIONS: usize = 1024;
/// Concurrent deliveries: resolving values may call another machine.
const MAX_CONCURRENT_DELIVERIES: usize = 16;

impl AssignmentPreparer {
    pub(crate) async fn run(self, mut waiting: mpsc::Receiver<Preparation>, tasks: Tasks) {
        let (delivery, free) = (Arc::new(self), Arc::new(Semaphore::new(MAX_CONCURRENT_DELIVERIES)));
        while let Some(next) = waiting.recv().await {
            // The semaphore is never closed.
            let Ok(room) = free.clone().acquire_owned().await else { return };
            let delivery = delivery.clone();
            tasks.spawn("preparation of an assignment", async move {
                delivery.deliver(next).await;
                drop(room);
            });
        }
    }

    async fn deliver(&self, Preparation { worker, job }: Preparation) {
        let attempt = job.attempt_id();
        let resolved = self.ports.clock.timeout(SECRETS_TIMEOUT, self.resolve(worker, &job)).await;
        let resolved = resolved.unwrap_or_else(|elapsed| Err(Undelivered::NotNow(elapsed.to_string())));
        match resolved {
            Ok(Some((stream, run))) => {
                let run = Body::RunJobs(v1::RunJobs { assignments: vec![run] });
                self.streams.deliver(worker, stream, attempt, run);
            }
            Ok(None) => tracing::debug!(%attempt, "the assignment needs no delivery any more"),
            Err(Undelivered::NotNow(why)) => {
                tracing::warn!(%attempt, why, "cannot prepare an assignment now: the sweep tries again");
            }
            Err(Undelivered::Never(cause)) => {
                // Do not fail an attempt that was delivered before or is over.
                if !self.is_due(worker, &job).await.unwrap_or(false) {
                    return;
                }
                let outcome = Outcome::Failed(cause);
                let finished_at = self.ports.clock.now();
                let report = AttemptReport::unstarted(outcome, finished_at);
                let kind = ReportKind::Finished { report, gap: None };
                self.results.report(Report { worker, attempt, kind }).await;
            }
        }
    }

    /// Returns the assignment with its secret values, and the number of the stream that they are for; `None` when the
    /// job needs no delivery to this worker any more.
    async fn resolve(
        &self,
        worker: WorkerId,
        job: &Job,
    ) -> Result<Option<(u64, v1::Assignment)>, Undelivered> {
        let unavailable = |error: StoreError| Undelivered::NotNow(error.to_string());
        let Some((stream, terms)) = self.streams.terms(worker) else { return Ok(None) };
        if self.streams.has_delivered(worker, job.attempt_id())
            || !self.is_due(worker, job).await.map_err(unavailable)?
        {
            return Ok(None);
        }
        if !terms.knows_secrets_and_artifacts() {
            // Another worker may have a newer agent.
            let why = "the agent of its worker does not support secrets and artifacts: update it";
            return Err(Undelivered::Never(FailureCause::Infrastructure(why.into())));
        }
        let values = match job.spec().secrets() {
            [] => Values::new(),
            _ => match self.values(worker, job, terms).await? {
                Some(values) => values,
                None => return Ok(None),
            },
        };
        // Resolving took a while, and an attempt that is over meanwhile must not start.
        if !self.is_due(worker, job).await.map_err(unavailable)? {
            return Ok(None);
        }
        let secrets = convert::secrets_to_wire(&values);
        Ok(assignment(job).map(|run| (stream, v1::Assignment { secrets, ..run })))
    }

    /// Resolves the values of a job's secrets; `None` when its worker is gone.
    async fn values(&self, worker: WorkerId, job: &Job, terms: Terms) -> Result<Option<Values>, Undelivered> {
        let unavailable = |error: StoreError| Undelivered::NotNow(error.to_string());
        if !terms.is_private {
            let why =
                "its worker is connected over a channel that others can read: configure TLS on the daemon";
            return Err(Undelivered::Never(FailureCause::SecretInjection(why.into())));
        }
        let found = self.ports.store.workers(&[worker]).await.map_err(unavailable)?.pop().flatten();
        let Some(found) = found else { return Ok(None) };
        let providers = self.ports.store.providers().await.map_err(unavailable)?;
        let Some(provider) = providers.iter().find(|provider| provider.id() == found.order().provider) else {
            return Err(Undelivered::NotNow("the provider of its worker is unknown".into()));
        };
        self.secrets.values(job.tenant(), job.spec(), provider.profile()).await.map(Some)
    }

    /// Whether the worker should have this attempt and is not known to run it.
    async fn is_due(&self, worker: WorkerId, job: &Job) -> Result<bool, StoreError> {
        let now = self.ports.store.recent_jobs(&[job.id()]).await?.pop().flatten();
        Ok(now.is_some_and(|now| {
            now.attempt_id() == job.attempt_id()
                && now.status() == JobStatus::Assigned
                && now.assignment().is_some_and(|at| at.worker == worker && !at.cancel_requested)
        }))
    }
}
