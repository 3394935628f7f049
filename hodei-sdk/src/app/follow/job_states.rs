//! Follower of the states of many jobs, read together from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hodei_core::id::JobId;
use hodei_core::job::{Job, TenantId};
use hodei_core::port::ClockExt;

use crate::Error;
use crate::app::backoff::PollBackoff;
use crate::app::follow::watchers::Watcher;
use crate::app::jobs::queries::JobQueries;

/// Follows the states of any number of jobs in the store of this platform, with shared reads.
#[derive(Debug)]
pub(crate) struct JobStates {
    queries: JobQueries,
    tenant: TenantId,
    /// Last version seen of each job that has not ended.
    seen: BTreeMap<JobId, u64>,
    /// Jobs to read.
    news: BTreeSet<JobId>,
    watcher: Watcher<JobId>,
    ends_only: bool,
    backoff: PollBackoff,
}

/// Jobs read at once.
const MAX_JOBS_READ: usize = 64;

impl JobStates {
    /// Follows states newer than the versions in `seen`; with `ends_only`, only terminal states.
    pub(crate) fn new(
        queries: JobQueries,
        tenant: TenantId,
        seen: BTreeMap<JobId, u64>,
        ends_only: bool,
    ) -> Self {
        let (news, backoff) = (seen.keys().copied().collect(), PollBackoff::of_jobs(&*queries.ports.store));
        let watcher = queries.job_notifier.subscribe(seen.keys().copied(), ends_only);
        Self { queries, tenant, seen, news, watcher, ends_only, backoff }
    }

    /// Waits for at least one newer state; returns an empty list when all jobs have ended. Cancel safe.
    ///
    /// # Errors
    /// `Error::NotFound` for a job that the tenant does not have, and errors of the store.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Job>>, Error> {
        while !self.seen.is_empty() {
            if self.news.is_empty() {
                self.wait().await;
            }
            let ids: Vec<JobId> = self.news.iter().copied().take(MAX_JOBS_READ).collect();
            let jobs = self.queries.ports.store.jobs(&ids).await?;
            let (mut states, mut missing) = (Vec::new(), None);
            for (id, job) in ids.into_iter().zip(jobs) {
                let Some(job) = job.filter(|job| *job.tenant() == self.tenant) else {
                    missing = Some(id);
                    continue;
                };
                self.news.remove(&id);
                let Some(seen) = self.seen.get_mut(&id) else { continue };
                let (is_newer, is_over) = (job.version() > *seen, job.is_terminal());
                if is_over {
                    self.seen.remove(&id);
                    self.watcher.forget(id);
                }
                if is_newer && (is_over || !self.ends_only) {
                    self.seen.entry(id).and_modify(|seen| *seen = job.version());
                    states.push(job);
                }
            }
            if !states.is_empty() {
                // The next call returns the error for a missing job.
                return Ok(states);
            }
            if let Some(missing) = missing {
                return Err(Error::NotFound(missing));
            }
        }
        Ok(Vec::new())
    }

    async fn wait(&mut self) {
        let clock = self.queries.ports.clock.clone();
        match clock.timeout(self.backoff.next(), self.watcher.changed()).await {
            Ok(changed) => {
                self.backoff.reset();
                self.news = changed;
            }
            Err(_) => self.news = self.seen.keys().copied().collect(),
        }
    }
}
