use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hodei_core::access::{Action, Caller};
use hodei_core::id::JobId;
use hodei_core::job::{Job, JobSpec};
use hodei_core::port::FeedCursor;

use crate::Error;
use crate::app::access::refusals::AuditService;
use crate::app::access::tokens::AccessService;
use crate::app::artifacts::service::ArtifactService;
use crate::app::batch::fitting;
use crate::app::follow::completions::{JobEnds, StoredEnds};
use crate::app::follow::event_feed::EventFeed;
use crate::app::follow::job_feed::{JobFeed, StoredChanges};
use crate::app::follow::log_notifier::LogNews;
use crate::app::jobs::cancel_job::CancelJobUseCase;
use crate::app::jobs::create_job::{Accepted, CreateJobUseCase, NewJob};
use crate::app::jobs::queries::JobQueries;
use crate::app::logs::reader::{JobLogs, StoredOutput};
use crate::app::ports::Ports;
use crate::app::secrets::SecretService;

/// The facade over all that a client does with jobs.
#[derive(Debug)]
pub(crate) struct JobController {
    pub(crate) create: CreateJobUseCase,
    pub(crate) cancel: CancelJobUseCase,
    pub(crate) queries: JobQueries,
    pub(crate) secrets: SecretService,
    pub(crate) artifacts: ArtifactService,
    pub(crate) access: AccessService,
    pub(crate) audit: AuditService,
    pub(crate) ports: Arc<Ports>,
    pub(crate) log_news: LogNews,
    pub(crate) closed: AtomicBool,
}

/// Jobs that are stored in one go.
const BATCH: usize = 1000;
/// Bytes of specs that are stored in one go, unless one alone is longer.
const BATCH_BYTES: usize = 2 << 20;

impl JobController {
    /// Accepts jobs, some of them under ids of the caller's.
    pub(crate) async fn submit_many(
        &self,
        caller: &Caller,
        jobs: Vec<(Option<JobId>, JobSpec)>,
    ) -> Result<Vec<Result<Accepted, Error>>, Error> {
        let new = |(id, spec): (Option<JobId>, JobSpec)| {
            let id = id.unwrap_or_else(|| JobId::from_uuid(self.ports.ids.uuid(self.ports.clock.now())));
            NewJob { id, spec: Arc::new(spec), retry_of: None }
        };
        self.submit_new(caller, jobs.into_iter().map(new).collect()).await
    }

    /// Accepts a job that repeats one that ended, or with `force` one that has not.
    pub(crate) async fn retry(&self, caller: &Caller, of: JobId, force: bool) -> Result<Arc<Job>, Error> {
        self.audit.allow(caller, Action::SubmitJobs)?;
        let old = self.queries.get(&caller.tenant, of).await?;
        if !old.is_terminal() && !force {
            return Err(Error::StillOpen { job: of, status: old.status() });
        }
        let id = JobId::from_uuid(self.ports.ids.uuid(self.ports.clock.now()));
        let new = NewJob { id, spec: Arc::new(old.spec().again()), retry_of: Some(of) };
        let accepted = self.submit_new(caller, vec![new]).await?.pop();
        Ok(accepted.unwrap_or(Err(Error::ShuttingDown))?.job)
    }

    async fn submit_new(
        &self,
        caller: &Caller,
        mut jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Accepted, Error>>, Error> {
        self.audit.allow(caller, Action::SubmitJobs)?;
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::ShuttingDown);
        }
        let mut accepted = Vec::with_capacity(jobs.len());
        while !jobs.is_empty() {
            let rest = jobs.split_off(fitting(jobs.iter().map(|job| job.spec.size()), BATCH, BATCH_BYTES));
            accepted.extend(self.create.create(&caller.tenant, std::mem::replace(&mut jobs, rest)).await?);
        }
        Ok(accepted)
    }

    /// Takes nothing more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// The ends of some jobs.
    pub(crate) fn ends(&self, caller: &Caller, jobs: Vec<JobId>) -> JobEnds {
        let seen = jobs.into_iter().map(|job| (job, 0)).collect();
        let states = self.queries.states(&caller.tenant, seen, true);
        JobEnds::new(Box::new(StoredEnds { states, ready: VecDeque::new() }))
    }

    /// All jobs, as they change.
    pub(crate) fn watch_all(&self, caller: &Caller, from: Option<FeedCursor>) -> JobFeed {
        let store = self.ports.store.clone();
        let feed = EventFeed::new(self.ports.clone(), FeedCursor::default());
        JobFeed::new(Box::new(StoredChanges {
            store,
            feed,
            tenant: caller.tenant.clone(),
            from,
            begun: false,
            page: None,
        }))
    }

    /// The output of a job, from its first attempt on.
    pub(crate) fn logs(&self, caller: &Caller, id: JobId) -> JobLogs {
        JobLogs::new(Box::new(StoredOutput {
            queries: self.queries.clone(),
            store: self.ports.logs.clone(),
            news: self.log_news.clone(),
            tenant: caller.tenant.clone(),
            job: id,
            is_known: false,
        }))
    }
}
