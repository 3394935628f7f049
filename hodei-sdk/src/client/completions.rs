//! The ends of many jobs of a daemon, in consecutive watches of up to the server's limit.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::id::JobId;
use hodei_core::job::Job;
use hodei_proto::v1;
use tonic::{Status, Streaming};

use super::DaemonClient;
use super::patience::Patience;
use crate::error::Error;
use crate::seam::CompletionSource;

/// Maximum number of jobs of one watch: the server's limit.
const MAX_WATCHED_JOBS: usize = 1_000;

/// The ends of some jobs.
#[derive(Debug)]
pub(super) struct RemoteCompletions {
    client: DaemonClient,
    /// The jobs for the next watches.
    later: VecDeque<JobId>,
    /// The jobs of the current watch that have not ended.
    watched: BTreeSet<JobId>,
    open: Option<Streaming<v1::WatchResponse>>,
    ready: VecDeque<Arc<Job>>,
}

impl RemoteCompletions {
    pub(super) fn new(client: DaemonClient, jobs: Vec<JobId>) -> Self {
        let (watched, ready) = (BTreeSet::new(), VecDeque::new());
        Self { client, later: jobs.into(), watched, open: None, ready }
    }

    async fn read(&mut self) -> Result<Vec<v1::Job>, Status> {
        let stream = match &mut self.open {
            Some(stream) => stream,
            none => {
                let cursor = |id: &JobId| v1::JobCursor { job_id: id.to_string(), after_version: 0 };
                let jobs = self.watched.iter().map(cursor).collect();
                let request = v1::WatchRequest { jobs, ends_only: true, cursor: None };
                none.insert(self.client.job_stub().watch(request).await?.into_inner())
            }
        };
        let answer = stream.message().await?;
        Ok(answer.ok_or_else(|| Status::unavailable("the stream ended before the jobs"))?.jobs)
    }
}

#[async_trait]
impl CompletionSource for RemoteCompletions {
    async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        let mut waits = Patience::new(&self.client);
        loop {
            if let Some(job) = self.ready.pop_front() {
                return Ok(Some(job));
            }
            if self.watched.is_empty() {
                let next = self.later.len().min(MAX_WATCHED_JOBS);
                self.watched.extend(self.later.drain(..next));
                self.open = None;
                if self.watched.is_empty() {
                    return Ok(None);
                }
            }
            match self.read().await {
                Ok(jobs) => {
                    waits = Patience::new(&self.client);
                    for job in jobs {
                        let job = self.client.job(Some(job))?;
                        if job.is_terminal() && self.watched.remove(&job.id()) {
                            self.ready.push_back(job);
                        }
                    }
                }
                Err(status) => {
                    self.open = None;
                    waits.after(status).await?;
                }
            }
        }
    }
}
