use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::TenantId;
use hodei_core::port::{ArtifactStore, Clock, LogStore, Store};

use crate::Error;
use hodei_core::time::Timestamp;

/// Forgets what ended long ago: in batches, so that nothing else waits for it.
#[derive(Debug)]
pub(crate) struct RetentionService {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) artifacts: Option<Arc<dyn ArtifactStore>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long what ended is kept.
    pub(crate) history: Duration,
}

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(600);
/// Jobs forgotten in one transaction.
const BATCH: usize = 500;
/// Between two batches: others come first.
const PAUSE: Duration = Duration::from_millis(50);

impl RetentionService {
    /// Looks for as long as it is asked to.
    pub(crate) async fn run(&self) {
        loop {
            match self.forget_batch(self.clock.now() - self.history).await {
                Ok(BATCH..) => self.clock.sleep(PAUSE).await,
                Ok(_) => self.clock.sleep(PERIOD).await,
                Err(error) => {
                    tracing::warn!(%error, "old jobs could not be forgotten: the next look tries again");
                    self.clock.sleep(PERIOD).await;
                }
            }
        }
    }

    /// Output and artifacts first: a crash in between leaves a job that the next look finds again, never output of
    /// nobody.
    async fn forget_batch(&self, before: Timestamp) -> Result<usize, Error> {
        let ended = self.store.ended_before(before, BATCH).await?;
        let attempts: Vec<AttemptId> = ended
            .iter()
            .flat_map(|last| (1..=last.number).map(|number| AttemptId { job: last.job, number }))
            .collect();
        self.logs.remove(&attempts).await?;
        let jobs: Vec<JobId> = ended.iter().map(|last| last.job).collect();
        let left = self.remove_artifacts(&jobs).await?;
        let gone: Vec<JobId> = jobs.into_iter().filter(|job| !left.contains(job)).collect();
        self.store.forget(&gone, before).await?;
        Ok(gone.len())
    }

    /// Of those that were to have any; returns the jobs that are to be kept for the next look, since theirs could not be
    /// removed.
    async fn remove_artifacts(&self, jobs: &[JobId]) -> Result<BTreeSet<JobId>, Error> {
        let Some(artifacts) = &self.artifacts else { return Ok(BTreeSet::new()) };
        let mut with_some: BTreeMap<TenantId, Vec<JobId>> = BTreeMap::new();
        for job in self.store.jobs(jobs).await?.into_iter().flatten() {
            if !job.spec().outputs().is_empty() {
                with_some.entry(job.tenant().clone()).or_default().push(job.id());
            }
        }
        let mut left = BTreeSet::new();
        for (tenant, jobs) in with_some {
            if let Err(error) = artifacts.remove(&tenant, &jobs).await {
                tracing::warn!(%error, %tenant, "artifacts of old jobs cannot be removed now");
                left.extend(jobs);
            }
        }
        Ok(left)
    }
}
