//! The job seam of the client: submits, reads and follows jobs of a daemon.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::access::Caller;
use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::{Job, JobSpec};
use hodei_core::port::{FeedCursor, JobFilter, JobPage};
use hodei_core::scheduling::SchedulingDecision;
use hodei_proto::convert::{job_from_wire, parse, parse_some, spec_to_wire, status_to_wire};
use hodei_proto::v1;
use hodei_proto::v1::submit_result::Result as Answer;

use super::DaemonClient;
use super::completions::RemoteCompletions;
use super::streams::{RemoteChanges, RemoteOutput, RemoteStates};
use crate::batch::fitting;
use crate::error::Error;
use crate::seam::{JobCompletions, JobFeed, JobLogs, JobSeam, JobWatch, Submitted};
use crate::wire::refusal::{self, error_of};
use crate::wire::scheduling::decision_from_wire;

/// Maximum number of jobs of one batch: the server's limit.
const MAX_BATCH_JOBS: usize = 1_000;
/// Maximum bytes of the specs of one batch: it leaves room for the rest of a message of 4 MiB.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Maximum number of jobs of one page: the server's limit.
const MAX_PAGE_JOBS: usize = 1_000;

#[async_trait]
impl JobSeam for DaemonClient {
    async fn submit(
        &self,
        _: &Caller,
        mut jobs: Vec<(Option<JobId>, JobSpec)>,
    ) -> Result<Vec<Result<Submitted, Error>>, Error> {
        let mut answers = Vec::with_capacity(jobs.len());
        // The client chooses the ids, so that it can resend a batch whose answer was lost.
        let id = |id: Option<JobId>| id.unwrap_or_else(|| JobId::from_uuid(self.ids.uuid(self.clock.now())));
        while !jobs.is_empty() {
            let sizes = jobs.iter().map(|(_, spec)| spec.size());
            let rest = jobs.split_off(fitting(sizes, MAX_BATCH_JOBS, MAX_BATCH_BYTES));
            let is_given: Vec<bool> = jobs.iter().map(|(given, _)| given.is_some()).collect();
            let request = |(given, spec): (Option<JobId>, JobSpec)| v1::SubmitRequest {
                job_id: id(given).to_string(),
                spec: Some(spec_to_wire(&spec)),
            };
            let requests: Vec<_> = jobs.into_iter().map(request).collect();
            let made: Vec<String> = requests.iter().map(|request| request.job_id.clone()).collect();
            let submitted =
                self.submit_batch(requests).await?.into_iter().zip(made.into_iter().zip(is_given));
            answers.extend(submitted.map(|(answer, (asked, is_given))| {
                // If this call chose the id, a found job is its own: the answer to an earlier try was lost.
                answer.map(|(id, found)| Submitted {
                    id,
                    is_new: !found || !is_given && id.to_string() == asked,
                })
            }));
            jobs = rest;
        }
        Ok(answers)
    }

    /// Sent only once: the daemon chooses the id of the new job, so a repeat could create a second one.
    async fn retry(&self, _: &Caller, id: JobId, force: bool) -> Result<JobId, Error> {
        let answer = self.job_stub().retry(v1::RetryRequest { job_id: id.to_string(), force }).await;
        let answer = answer.map_err(|status| error_of(&status))?.into_inner();
        parse("job_id", &answer.job_id).map_err(|error| self.malformed(&error))
    }

    async fn get(&self, _: &Caller, id: JobId) -> Result<Arc<Job>, Error> {
        let answer =
            self.call(|| async { self.job_stub().get(v1::GetRequest { job_id: id.to_string() }).await });
        self.job(answer.await?.job)
    }

    async fn page(&self, _: &Caller, filter: JobFilter) -> Result<JobPage, Error> {
        let request = v1::ListRequest {
            statuses: filter.statuses.iter().map(|status| status_to_wire(*status).into()).collect(),
            labels: filter.labels.into_iter().collect(),
            page_size: u32::try_from(filter.limit.min(MAX_PAGE_JOBS)).unwrap_or(u32::MAX),
            page_token: filter.after.map(|id| id.to_string()).unwrap_or_default(),
        };
        let answer = self.call(|| async { self.job_stub().list(request.clone()).await }).await?;
        let jobs = answer.jobs.into_iter().map(|job| self.job(Some(job))).collect::<Result<_, _>>()?;
        let next = parse_some("next_page_token", &answer.next_page_token).map_err(|e| self.malformed(&e))?;
        Ok(JobPage { jobs, next })
    }

    async fn cancel(&self, _: &Caller, id: JobId) -> Result<Arc<Job>, Error> {
        let answer = self
            .call(|| async { self.job_stub().cancel(v1::CancelRequest { job_id: id.to_string() }).await });
        self.job(answer.await?.job)
    }

    async fn history(&self, _: &Caller, id: JobId) -> Result<Vec<Envelope>, Error> {
        let (mut all, mut after) = (Vec::new(), FeedCursor::default());
        loop {
            let page = self.events(Some(id), &after, 0).await?;
            if page.events.is_empty() {
                return Ok(all);
            }
            all.extend(page.events);
            after = page.next;
        }
    }

    async fn explain(&self, _: &Caller, id: JobId) -> Result<SchedulingDecision, Error> {
        let request = v1::GetSchedulingDecisionRequest { job_id: id.to_string() };
        let call = || async { self.scheduler_stub().get_scheduling_decision(request.clone()).await };
        decision_from_wire(self.call(call).await?).map_err(|error| self.malformed(&error))
    }

    fn watch(&self, _: &Caller, id: JobId) -> JobWatch {
        JobWatch::new(Box::new(RemoteStates::new(self.clone(), id)))
    }

    fn watch_all(&self, _: &Caller, from: Option<FeedCursor>) -> JobFeed {
        JobFeed::new(Box::new(RemoteChanges::new(self.clone(), from)))
    }

    fn completions(&self, _: &Caller, ids: Vec<JobId>) -> JobCompletions {
        JobCompletions::new(Box::new(RemoteCompletions::new(self.clone(), ids)))
    }

    fn logs(&self, _: &Caller, id: JobId) -> JobLogs {
        JobLogs::new(Box::new(RemoteOutput::new(self.clone(), id)))
    }
}

impl DaemonClient {
    async fn submit_batch(
        &self,
        jobs: Vec<v1::SubmitRequest>,
    ) -> Result<Vec<Result<(JobId, bool), Error>>, Error> {
        let request = v1::SubmitBatchRequest { jobs };
        let answer = self.call(|| async { self.job_stub().submit_batch(request.clone()).await }).await?;
        let read = |result: v1::SubmitResult| match result.result {
            Some(Answer::JobId(id)) => {
                let id = parse("job_id", &id).map_err(|error| self.malformed(&error))?;
                Ok((id, result.found))
            }
            Some(Answer::Refusal(refused)) => Err(refusal::error(refused)),
            None => Err(self.malformed(&"the result of a submit is empty")),
        };
        Ok(answer.results.into_iter().map(read).collect())
    }

    pub(super) fn job(&self, message: Option<v1::Job>) -> Result<Arc<Job>, Error> {
        let message = message.ok_or_else(|| self.malformed(&"the job is missing"))?;
        job_from_wire(message).map(Arc::new).map_err(|error| self.malformed(&error))
    }
}
