use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hodei_core::id::JobId;
use hodei_core::job::{Job, TenantId};
use hodei_core::port::ClockExt;

use crate::Error;
use crate::app::backoff::PollBackoff;
use crate::app::follow::watchers::Watcher;
use crate::app::jobs::queries::JobQueries;

/// The states of some jobs as they come, from the store of this platform: read together, however many there are.
#[derive(Debug)]
pub(crate) struct JobStates {
    queries: JobQueries,
    tenant: TenantId,
    /// The version that was seen last of each that has not ended.
    seen: BTreeMap<JobId, u64>,
    /// Those to look at.
    news: BTreeSet<JobId>,
    watcher: Watcher<JobId>,
    ends_only: bool,
    backoff: PollBackoff,
}

/// Jobs read at once.
const AT_ONCE: usize = 64;

impl JobStates {
    /// States above some versions; with `ends_only`, the terminal ones.
    pub(crate) fn new(
        queries: JobQueries,
        tenant: TenantId,
        seen: BTreeMap<JobId, u64>,
        ends_only: bool,
    ) -> Self {
        let (news, backoff) = (seen.keys().copied().collect(), PollBackoff::of_jobs(&*queries.ports.store));
        let watcher = queries.news.subscribe(seen.keys().copied(), ends_only);
        Self { queries, tenant, seen, news, watcher, ends_only, backoff }
    }

    /// Some newer states, waiting for one; none when all have ended. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Job>>, Error> {
        while !self.seen.is_empty() {
            if self.news.is_empty() {
                self.wait().await;
            }
            let ids: Vec<JobId> = self.news.iter().copied().take(AT_ONCE).collect();
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
                // The next call says what is missing.
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
