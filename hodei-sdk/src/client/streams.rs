//! Streams of states, changes and output from a daemon. A broken stream is reopened at its place.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::access::Caller;
use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_core::port::FeedCursor;
use hodei_proto::v1;
use tonic::{Status, Streaming};

use super::DaemonClient;
use super::patience::Patience;
use crate::error::Error;
use crate::seam::{JobChanges, JobFeedSource, JobSeam, LogItem, LogPlace, OutputSource, StateSource};
use crate::wire::item::item_from_wire;

/// The states of one job.
#[derive(Debug)]
pub(super) struct RemoteStates {
    client: DaemonClient,
    id: JobId,
    open: Option<(bool, Streaming<v1::WatchResponse>)>,
}

impl RemoteStates {
    pub(super) fn new(client: DaemonClient, id: JobId) -> Self {
        Self { client, id, open: None }
    }

    async fn read(&mut self, seen: u64, ends_only: bool) -> Result<Option<v1::WatchResponse>, Status> {
        if self.open.as_ref().is_some_and(|(ends, _)| *ends != ends_only) {
            self.open = None;
        }
        let (_, stream) = match &mut self.open {
            Some(open) => open,
            none => {
                let cursor = v1::JobCursor { job_id: self.id.to_string(), after_version: seen };
                let request = v1::WatchRequest { jobs: vec![cursor], ends_only, cursor: None };
                none.insert((ends_only, self.client.job_stub().watch(request).await?.into_inner()))
            }
        };
        stream.message().await
    }
}

#[async_trait]
impl StateSource for RemoteStates {
    async fn newer(&mut self, seen: u64, ends_only: bool) -> Result<Option<Arc<Job>>, Error> {
        let mut waits = Patience::new(&self.client);
        loop {
            match self.read(seen, ends_only).await {
                Ok(Some(answer)) => {
                    waits = Patience::new(&self.client);
                    let job = self.client.job(answer.jobs.into_iter().last())?;
                    if job.version() > seen {
                        return Ok(Some(job));
                    }
                }
                Ok(None) => {
                    self.open = None;
                    let job = self.client.get(&Caller::default(), self.id).await?;
                    if job.version() > seen && (job.is_terminal() || !ends_only) {
                        return Ok(Some(job));
                    }
                    if job.is_terminal() {
                        return Ok(None);
                    }
                    waits.after(Status::unavailable("the stream ended before the job")).await?;
                }
                Err(status) => {
                    self.open = None;
                    waits.after(status).await?;
                }
            }
        }
    }
}

/// The changes of all jobs.
#[derive(Debug)]
pub(super) struct RemoteChanges {
    client: DaemonClient,
    /// The place at which the stream is opened.
    from: Option<FeedCursor>,
    begun: bool,
    open: Option<Streaming<v1::WatchResponse>>,
}

impl RemoteChanges {
    pub(super) fn new(client: DaemonClient, from: Option<FeedCursor>) -> Self {
        Self { client, from, begun: false, open: None }
    }

    async fn read(&mut self, ends_only: bool) -> Result<v1::WatchResponse, Status> {
        let stream = match &mut self.open {
            Some(stream) => stream,
            none => {
                let cursor = self.from.as_ref().map(|from| from.as_str().to_owned());
                let request = v1::WatchRequest { jobs: Vec::new(), ends_only, cursor };
                none.insert(self.client.job_stub().watch(request).await?.into_inner())
            }
        };
        let answer = stream.message().await?;
        answer.ok_or_else(|| Status::unavailable("the stream of all jobs ended"))
    }
}

#[async_trait]
impl JobFeedSource for RemoteChanges {
    async fn next(&mut self, ends_only: bool) -> Result<JobChanges, Error> {
        let mut waits = Patience::new(&self.client);
        loop {
            match self.read(ends_only).await {
                Ok(v1::WatchResponse { jobs, cursor }) => {
                    waits = Patience::new(&self.client);
                    let next = FeedCursor::new(cursor);
                    self.from = Some(next.clone());
                    // An empty answer only says where a stream begins, which is known after a reopen.
                    if jobs.is_empty() && std::mem::replace(&mut self.begun, true) {
                        continue;
                    }
                    self.begun = true;
                    let jobs = jobs.into_iter().map(|job| self.client.job(Some(job)));
                    return Ok(JobChanges { jobs: jobs.collect::<Result<_, _>>()?, next });
                }
                Err(status) => {
                    self.open = None;
                    waits.after(status).await?;
                }
            }
        }
    }
}

/// The output of one job.
#[derive(Debug)]
pub(super) struct RemoteOutput {
    client: DaemonClient,
    id: JobId,
    open: Option<Streaming<v1::SubscribeResponse>>,
}

impl RemoteOutput {
    pub(super) fn new(client: DaemonClient, id: JobId) -> Self {
        Self { client, id, open: None }
    }

    /// Returns the next items; `None` at the end of the output.
    async fn read(&mut self, place: LogPlace, follow: bool) -> Result<Option<Vec<v1::LogItem>>, Status> {
        let job_id = self.id.to_string();
        let from = Some(v1::LogCursor { attempt: place.attempt, sequence: place.next });
        if !follow {
            let answer = self.client.log_stub().get(v1::GetLogsRequest { job_id, from }).await?.into_inner();
            return Ok((!answer.items.is_empty()).then_some(answer.items));
        }
        let stream = match &mut self.open {
            Some(stream) => stream,
            none => {
                let request = v1::SubscribeRequest { job_id, from };
                none.insert(self.client.log_stub().subscribe(request).await?.into_inner())
            }
        };
        match stream.message().await? {
            Some(answer) => Ok((!answer.over).then_some(answer.items)),
            None => Err(Status::unavailable("the stream ended before the output")),
        }
    }
}

#[async_trait]
impl OutputSource for RemoteOutput {
    async fn more(&mut self, place: &mut LogPlace, follow: bool) -> Result<Vec<LogItem>, Error> {
        let mut waits = Patience::new(&self.client);
        loop {
            match self.read(*place, follow).await {
                Ok(Some(items)) if items.is_empty() => waits = Patience::new(&self.client),
                Ok(Some(items)) => {
                    let items = items.into_iter().map(item_from_wire).collect::<Result<_, _>>();
                    return items.map_err(|error| self.client.malformed(&error));
                }
                Ok(None) => {
                    self.open = None;
                    place.over = follow;
                    return Ok(Vec::new());
                }
                Err(status) => {
                    self.open = None;
                    waits.after(status).await?;
                }
            }
        }
    }
}
