//! The gRPC service of jobs: submit, read, watch, cancel, retry, artifacts and events.

use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::id::JobId;
use hodei_core::job::{Job, JobSpec};
use hodei_core::port::{FeedCursor, FeedPage, JobFilter};
use hodei_proto::convert::{
    ConvertError, artifact_to_wire, job_to_wire, parse, parse_some, spec_from_wire, status_from_wire,
};
use hodei_proto::v1::artifact_part::Part;
use hodei_proto::v1::job_execution_service_server::JobExecutionService;
use hodei_proto::v1::submit_result::Result as Submitted;
use hodei_proto::v1::{self, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Serving, pages};
use crate::wire::refusal::{malformed, malformed_refusal, refusal, status};
use crate::{Error, Hodei, JobChanges, JobFeed};

/// Serves jobs, from their submit to their end.
#[derive(Debug)]
pub(super) struct JobExecutionApi(pub(super) Serving);

/// Maximum number of jobs in one message of a watch: few, since each may be large.
const MAX_JOBS_PER_MESSAGE: usize = 16;
/// Maximum number of pieces of an artifact that are buffered for a slow reader.
const MAX_BUFFERED_PIECES: usize = 4;
/// Maximum number of jobs or events in one request or answer.
const MAX_ITEMS: usize = 1_000;

/// Refuses a field with more than [`MAX_ITEMS`] items.
fn check_count(field: &'static str, got: usize) -> Result<(), Status> {
    if got <= MAX_ITEMS {
        return Ok(());
    }
    let why = format!("has {got} items; the limit is {MAX_ITEMS}");
    Err(malformed(ConvertError::Text { field, why }))
}

fn spec(message: Option<v1::JobSpec>) -> Result<JobSpec, ConvertError> {
    spec_from_wire(message.ok_or(ConvertError::Missing("spec"))?)
}

fn job_id(text: &str) -> Result<JobId, Status> {
    parse("job_id", text).map_err(malformed)
}

fn answer(job: &Job) -> Option<v1::Job> {
    Some(job_to_wire(job))
}

/// The error of a server whose handle is the client of another daemon: it cannot follow states.
fn no_platform() -> Status {
    Status::unimplemented("this server passes calls to another daemon: call that one")
}

/// Splits states into messages of a watch, each with the cursor `place`.
fn messages(jobs: &[Arc<Job>], place: &FeedCursor) -> Vec<WatchResponse> {
    let mut left: Vec<v1::Job> = jobs.iter().map(|job| job_to_wire(job)).collect();
    let mut messages = Vec::new();
    while !left.is_empty() {
        let rest = left.split_off(pages::fitting(&left).min(MAX_JOBS_PER_MESSAGE));
        messages.push(WatchResponse { jobs: left, cursor: place.as_str().to_owned() });
        left = rest;
    }
    messages
}

impl JobExecutionApi {
    fn watch_all(&self, hodei: &Hodei, mut feed: JobFeed) -> ReceiverStream<Result<WatchResponse, Status>> {
        let (answers, stream) = mpsc::channel(16);
        self.0.follow("watch of all jobs", hodei, answers, move |answers| async move {
            // All messages but the last have the cursor before these changes, so that a broken stream repeats them all.
            let mut place = FeedCursor::default();
            loop {
                let JobChanges { jobs, next } = match feed.next().await {
                    Ok(changes) => changes,
                    Err(error) => return drop(answers.send(Err(status(error))).await),
                };
                let mut messages = messages(&jobs, &place);
                place = next;
                let mut last = messages.pop().unwrap_or_default();
                place.as_str().clone_into(&mut last.cursor);
                for message in messages.into_iter().chain([last]) {
                    if answers.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            }
        });
        ReceiverStream::new(stream)
    }
}

#[tonic::async_trait]
impl JobExecutionService for JobExecutionApi {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let v1::SubmitRequest { job_id, spec: message } = request.into_inner();
        let id = parse_some("job_id", &job_id).map_err(malformed)?;
        let spec = spec(message).map_err(malformed)?;
        let job = match id {
            Some(id) => hodei.submit_as(id, spec).await,
            None => hodei.submit(spec).await,
        };
        let job = job.map_err(status)?;
        Ok(Response::new(v1::SubmitResponse { job_id: job.id().to_string(), found: !job.is_new() }))
    }

    async fn submit_batch(
        &self,
        request: Request<v1::SubmitBatchRequest>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let jobs = request.into_inner().jobs;
        check_count("jobs", jobs.len())?;
        let (mut accepted, mut answers) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
        for v1::SubmitRequest { job_id, spec: message } in jobs {
            let read = parse_some("job_id", &job_id).and_then(|id| Ok((id, spec(message)?)));
            answers.push(read.map(|item| accepted.push(item)));
        }
        let stored = hodei.submit_many(accepted).await.map_err(status)?;
        let mut stored = stored.into_iter();
        let results = answers.into_iter().map(|answer| match answer {
            Err(error) => (Submitted::Refusal(malformed_refusal(error)), false),
            Ok(()) => match stored.next().unwrap_or(Err(Error::ShuttingDown)) {
                Ok(job) => (Submitted::JobId(job.id().to_string()), !job.is_new()),
                Err(error) => (Submitted::Refusal(refusal(&error)), false),
            },
        });
        let result = |(result, found)| v1::SubmitResult { result: Some(result), found };
        let results = results.map(result).collect();
        Ok(Response::new(v1::SubmitBatchResponse { results }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let id = job_id(&request.into_inner().job_id)?;
        let job = hodei.jobs().get(id).await.map_err(status)?;
        Ok(Response::new(v1::GetResponse { job: answer(&job) }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let v1::ListRequest { statuses, labels, page_size, page_token } = request.into_inner();
        check_count("page_size", page_size as usize)?;
        let filter = JobFilter {
            statuses: statuses
                .into_iter()
                .map(status_from_wire)
                .collect::<Result<_, _>>()
                .map_err(malformed)?,
            labels: labels.into_iter().collect(),
            limit: page_size as usize,
            after: parse_some("page_token", &page_token).map_err(malformed)?,
            ..JobFilter::default()
        };
        let page = hodei.jobs().page(filter).await.map_err(status)?;
        let (jobs, is_all) = pages::jobs(page.jobs.iter().map(|job| &**job));
        let next_page_token =
            if is_all { page.next.map(|id| id.to_string()) } else { jobs.last().map(|last| last.id.clone()) };
        Ok(Response::new(v1::ListResponse { jobs, next_page_token: next_page_token.unwrap_or_default() }))
    }

    type GetArtifactStream = ReceiverStream<Result<v1::GetArtifactResponse, Status>>;

    async fn get_artifact(
        &self,
        request: Request<v1::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let hodei = self.0.hodei(&request)?;
        let v1::GetArtifactRequest { job_id: id, name } = request.into_inner();
        let name = parse("name", &name).map_err(malformed)?;
        let mut reader = hodei.artifacts().get(job_id(&id)?, &name).await.map_err(status)?;
        let (answers, stream) = mpsc::channel(MAX_BUFFERED_PIECES);
        self.0.follow("reader of an artifact", &hodei, answers, move |answers| async move {
            let mut part = Some(Part::Artifact(artifact_to_wire(reader.artifact())));
            while let Some(sent) = part {
                let answer = v1::GetArtifactResponse { part: Some(v1::ArtifactPart { part: Some(sent) }) };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
                part = match reader.next().await {
                    Ok(piece) => piece.map(Part::Data),
                    Err(error) => return drop(answers.send(Err(status(error))).await),
                };
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let id = job_id(&request.into_inner().job_id)?;
        let job = hodei.jobs().cancel(id).await.map_err(status)?;
        Ok(Response::new(v1::CancelResponse { job: answer(&job) }))
    }

    async fn retry(&self, request: Request<v1::RetryRequest>) -> Result<Response<v1::RetryResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let v1::RetryRequest { job_id: id, force } = request.into_inner();
        let id = job_id(&id)?;
        let job = if force { hodei.jobs().retry_open(id).await } else { hodei.jobs().retry(id).await };
        let job = job.map_err(status)?;
        Ok(Response::new(v1::RetryResponse { job_id: job.id().to_string() }))
    }

    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let hodei = self.0.hodei(&request)?;
        let v1::WatchRequest { jobs, ends_only, cursor } = request.into_inner();
        check_count("jobs", jobs.len())?;
        if jobs.is_empty() {
            let feed = hodei.jobs().watch_all(cursor.map(FeedCursor::new)).ends_only(ends_only);
            return Ok(Response::new(self.watch_all(&hodei, feed)));
        }
        let mut seen = BTreeMap::new();
        for v1::JobCursor { job_id: id, after_version } in jobs {
            seen.insert(job_id(&id)?, after_version);
        }
        let mut watched = hodei.states(seen, ends_only).ok_or_else(no_platform)?;
        let (answers, stream) = mpsc::channel(16);
        self.0.follow("watch of jobs", &hodei, answers, move |answers| async move {
            loop {
                let found = match watched.next().await {
                    Ok(found) if found.is_empty() => return,
                    Ok(found) => found,
                    Err(error) => return drop(answers.send(Err(status(error))).await),
                };
                for message in messages(&found, &FeedCursor::default()) {
                    if answers.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let v1::ListEventsRequest { job_id, cursor, limit } = request.into_inner();
        check_count("limit", limit as usize)?;
        let (limit, after) = (if limit == 0 { MAX_ITEMS } else { limit as usize }, FeedCursor::new(cursor));
        let page = match parse_some("job_id", &job_id).map_err(malformed)? {
            Some(job) => {
                let seen = after.sequence().map_err(|error| status(error.into()))?;
                let history = hodei.jobs().history(job).await.map_err(status)?;
                let mut events: Vec<_> =
                    history.into_iter().filter(|event| event.sequence > seen).take(limit).collect();
                let sent: Vec<_> = events.iter().map(pages::event).collect();
                events.truncate(pages::fitting(&sent));
                FeedPage::by_sequence(events, &after)
            }
            None => hodei.events().read(&after, limit).await.map_err(status)?,
        };
        let (events, next_cursor) = (page.events.iter().map(pages::event), page.next.as_str().to_owned());
        Ok(Response::new(v1::ListEventsResponse { events: events.collect(), next_cursor }))
    }
}
