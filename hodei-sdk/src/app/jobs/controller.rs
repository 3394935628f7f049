//! Operations of clients on jobs, as one facade over the use cases.

#[cfg(feature = "grpc")]
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use hodei_core::access::{Action, Caller};
use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::{Job, JobSpec};
use hodei_core::port::{FeedCursor, JobFilter, JobPage};
use hodei_core::scheduling::SchedulingDecision;

use crate::Error;
use crate::app::access::authorizer::Authorizer;
use crate::app::follow::completions::StoredCompletions;
use crate::app::follow::event_feed::EventFeed;
use crate::app::follow::job_feed::StoredChanges;
use crate::app::follow::job_states::JobStates;
use crate::app::follow::job_watch::StoredStates;
use crate::app::follow::log_notifier::LogNotifier;
use crate::app::jobs::cancel_job::CancelJobUseCase;
use crate::app::jobs::create_job::{Accepted, CreateJobUseCase, NewJob};
use crate::app::jobs::queries::JobQueries;
use crate::app::logs::reader::StoredOutput;
use crate::app::ports::Ports;
use crate::app::scheduling::queue_status::QueueQueries;
use crate::batch::fitting;
use crate::seam::{JobCompletions, JobFeed, JobLogs, JobSeam, JobWatch, Submitted};

/// Implements the client operations on jobs.
#[derive(Debug)]
pub(crate) struct JobController {
    pub(crate) ports: Arc<Ports>,
    pub(crate) create: CreateJobUseCase,
    pub(crate) cancel: CancelJobUseCase,
    pub(crate) queries: JobQueries,
    pub(crate) queue: QueueQueries,
    pub(crate) authorizer: Authorizer,
    pub(crate) log_notifier: LogNotifier,
    pub(crate) closed: AtomicBool,
}

/// Jobs created in one batch.
const MAX_BATCH_JOBS: usize = 1000;
/// Bytes of specs created in one batch, unless a single spec is longer.
const MAX_BATCH_BYTES: usize = 2 << 20;

impl JobController {
    /// Refuses every submit from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Follows the states of jobs that are newer than the versions in `seen`; with `ends_only`, only terminal states.
    #[cfg(feature = "grpc")]
    pub(crate) fn states(&self, caller: &Caller, seen: BTreeMap<JobId, u64>, ends_only: bool) -> JobStates {
        JobStates::new(self.queries.clone(), caller.tenant.clone(), seen, ends_only)
    }

    fn new_id(&self) -> JobId {
        JobId::from_uuid(self.ports.ids.uuid(self.ports.clock.now()))
    }

    async fn submit_new(
        &self,
        caller: &Caller,
        mut jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Accepted, Error>>, Error> {
        self.authorizer.allow(caller, Action::SubmitJobs)?;
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::ShuttingDown);
        }
        let mut accepted = Vec::with_capacity(jobs.len());
        while !jobs.is_empty() {
            let rest = jobs.split_off(fitting(
                jobs.iter().map(|job| job.spec.size()),
                MAX_BATCH_JOBS,
                MAX_BATCH_BYTES,
            ));
            accepted.extend(self.create.create(&caller.tenant, std::mem::replace(&mut jobs, rest)).await?);
        }
        Ok(accepted)
    }
}

#[async_trait]
impl JobSeam for JobController {
    async fn submit(
        &self,
        caller: &Caller,
        jobs: Vec<(Option<JobId>, JobSpec)>,
    ) -> Result<Vec<Result<Submitted, Error>>, Error> {
        let new = |(id, spec): (Option<JobId>, JobSpec)| {
            let id = id.unwrap_or_else(|| self.new_id());
            NewJob { id, spec: Arc::new(spec), retry_of: None }
        };
        let answers = self.submit_new(caller, jobs.into_iter().map(new).collect()).await?;
        let submitted = |accepted: Accepted| Submitted { id: accepted.job.id(), is_new: accepted.is_new };
        Ok(answers.into_iter().map(|answer| answer.map(submitted)).collect())
    }

    async fn retry(&self, caller: &Caller, id: JobId, force: bool) -> Result<JobId, Error> {
        self.authorizer.allow(caller, Action::SubmitJobs)?;
        let old = self.queries.get(&caller.tenant, id).await?;
        if !old.is_terminal() && !force {
            return Err(Error::StillOpen { job: id, status: old.status() });
        }
        let spec = Arc::new(old.spec().again());
        let new = NewJob { id: self.new_id(), spec, retry_of: Some(id) };
        let accepted = self.submit_new(caller, vec![new]).await?.pop();
        Ok(accepted.unwrap_or(Err(Error::ShuttingDown))?.job.id())
    }

    async fn get(&self, caller: &Caller, id: JobId) -> Result<Arc<Job>, Error> {
        self.queries.get(&caller.tenant, id).await
    }

    async fn page(&self, caller: &Caller, filter: JobFilter) -> Result<JobPage, Error> {
        self.queries.page(&JobFilter { tenant: caller.tenant.clone(), ..filter }).await
    }

    async fn cancel(&self, caller: &Caller, id: JobId) -> Result<Arc<Job>, Error> {
        self.cancel.cancel(caller, id).await
    }

    async fn history(&self, caller: &Caller, id: JobId) -> Result<Vec<Envelope>, Error> {
        self.queries.history(&caller.tenant, id).await
    }

    async fn explain(&self, caller: &Caller, id: JobId) -> Result<SchedulingDecision, Error> {
        self.queries.explain(&caller.tenant, id, &self.queue).await
    }

    fn watch(&self, caller: &Caller, id: JobId) -> JobWatch {
        JobWatch::new(Box::new(StoredStates::new(self.queries.clone(), caller.tenant.clone(), id)))
    }

    fn watch_all(&self, caller: &Caller, from: Option<FeedCursor>) -> JobFeed {
        JobFeed::new(Box::new(StoredChanges {
            store: self.ports.store.clone(),
            feed: EventFeed::new(self.ports.clone(), FeedCursor::default()),
            tenant: caller.tenant.clone(),
            from,
            begun: false,
            page: None,
        }))
    }

    fn completions(&self, caller: &Caller, ids: Vec<JobId>) -> JobCompletions {
        let seen = ids.into_iter().map(|id| (id, 0)).collect();
        let states = JobStates::new(self.queries.clone(), caller.tenant.clone(), seen, true);
        JobCompletions::new(Box::new(StoredCompletions { states, ready: VecDeque::new() }))
    }

    fn logs(&self, caller: &Caller, id: JobId) -> JobLogs {
        JobLogs::new(Box::new(StoredOutput {
            queries: self.queries.clone(),
            store: self.ports.logs.clone(),
            log_notifier: self.log_notifier.clone(),
            tenant: caller.tenant.clone(),
            job: id,
            is_known: false,
        }))
    }
}
