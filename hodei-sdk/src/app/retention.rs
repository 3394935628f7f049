//! Retention: forgets jobs that ended long ago, with their output and artifacts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::TenantId;
use hodei_core::port::{ArtifactStore, JobFilter};
use hodei_core::retention::{Evidence, Horizon, Look};

use crate::Error;
use crate::app::portions::for_each_job;
use crate::app::ports::Ports;
use hodei_core::time::Timestamp;

/// Forgets jobs that ended before the retention period, in batches, so that no other work waits for it.
#[derive(Debug)]
pub(crate) struct RetentionService {
    pub(crate) ports: Arc<Ports>,
    pub(crate) artifacts: Option<Arc<dyn ArtifactStore>>,
    /// Start of this platform. Jobs created since then carry its own clock's time, so they cannot confirm the clock.
    pub(crate) started: Timestamp,
}

/// Interval between two retention runs.
const RUN_INTERVAL: Duration = Duration::from_secs(600);
/// Jobs forgotten in one transaction.
const MAX_BATCH_JOBS: usize = 500;
/// Stuck jobs that a run reads past. With more of them, the run forgets no further jobs.
const MAX_SKIPPED_JOBS: usize = 50_000;
/// Failed artifact removals after which a run tries no more jobs of the same tenant.
const MAX_TENANT_FAILURES: usize = 3;
/// Recent jobs among which the last one before this start is searched.
const MAX_RECENT_JOBS: usize = 100;
/// Pause between two batches, so that other work comes first.
const BATCH_PAUSE: Duration = Duration::from_millis(50);

impl RetentionService {
    /// Runs until the future is dropped; never returns.
    pub(crate) async fn run(&self) {
        let mut horizon = loop {
            match self.evidence().await {
                Ok(evidence) => {
                    break Horizon::begin(self.ports.clock.now() - self.ports.settings.history, evidence);
                }
                Err(error) => tracing::warn!(%error, "cannot read old jobs: the next run tries again"),
            }
            self.ports.clock.sleep(RUN_INTERVAL).await;
        };
        loop {
            let look = horizon
                .look(self.ports.clock.now() - self.ports.settings.history, self.ports.clock.monotonic());
            warn_of_clock(&look);
            let mut stuck = Stuck::default();
            loop {
                match self.forget_batch(look.before, &mut stuck).await {
                    Ok(MAX_BATCH_JOBS..) => self.ports.clock.sleep(BATCH_PAUSE).await,
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "could not forget old jobs: the next run tries again");
                        break;
                    }
                }
            }
            self.ports.clock.sleep(RUN_INTERVAL).await;
        }
    }

    /// Reads the evidence about the clock: the oldest job that ended, and the last one created before this start.
    async fn evidence(&self) -> Result<Evidence, Error> {
        let first =
            self.ports.store.ended_before(self.ports.clock.now() - self.ports.settings.history, 1).await?;
        let first: Vec<JobId> = first.iter().map(|last| last.job).collect();
        let oldest = self.ports.store.jobs(&first).await?.into_iter().flatten().next();
        let oldest = oldest.and_then(|job| job.ending().map(|ending| ending.at));
        let recent = JobFilter { limit: MAX_RECENT_JOBS, ..JobFilter::default() };
        let recent = self.ports.store.list_jobs(&recent).await?.jobs;
        let newest = recent.iter().map(|job| job.created_at()).filter(|at| *at < self.started).max();
        Ok(Evidence { oldest, newest })
    }

    /// Forgets one batch. Removes output and artifacts first: a crash in between leaves a job that the next run finds
    /// again, never output without a job. Returns the number of jobs that it read.
    async fn forget_batch(&self, before: Timestamp, stuck: &mut Stuck) -> Result<usize, Error> {
        let mut ended = self
            .ports
            .store
            .ended_before(before, MAX_BATCH_JOBS + stuck.jobs.len().min(MAX_SKIPPED_JOBS))
            .await?;
        ended.retain(|last| !stuck.jobs.contains(&last.job));
        let looked_at = ended.len();
        let jobs: Vec<JobId> = ended.iter().map(|last| last.job).collect();
        self.remove_artifacts(&jobs, stuck).await?;
        ended.retain(|last| !stuck.jobs.contains(&last.job));
        let attempts: Vec<AttemptId> = ended
            .iter()
            .flat_map(|last| (1..=last.number).map(|number| AttemptId { job: last.job, number }))
            .collect();
        self.ports.logs.remove(&attempts).await?;
        let gone: Vec<JobId> = ended.iter().map(|last| last.job).collect();
        self.ports.store.forget(&gone, before).await?;
        Ok(looked_at)
    }

    /// Removes the artifacts of jobs that declare outputs. A failed removal blocks no other job; after several failures
    /// the tenant's jobs are left for the next run.
    async fn remove_artifacts(&self, jobs: &[JobId], stuck: &mut Stuck) -> Result<(), Error> {
        let Some(artifacts) = &self.artifacts else { return Ok(()) };
        let mut by_tenant: BTreeMap<TenantId, Vec<JobId>> = BTreeMap::new();
        for_each_job(&*self.ports.store, jobs, |job| {
            if !job.spec().outputs().is_empty() {
                by_tenant.entry(job.tenant().clone()).or_default().push(job.id());
            }
        })
        .await?;
        for (tenant, jobs) in by_tenant {
            let failures = stuck.failures.entry(tenant.clone()).or_default();
            if *failures < MAX_TENANT_FAILURES && artifacts.remove(&tenant, &jobs).await.is_ok() {
                continue;
            }
            for job in jobs {
                if *failures < MAX_TENANT_FAILURES {
                    let Err(error) = artifacts.remove(&tenant, &[job]).await else { continue };
                    tracing::warn!(%error, %tenant, %job, "cannot remove artifacts: the next run tries again");
                    *failures += 1;
                }
                stuck.jobs.insert(job);
            }
        }
        Ok(())
    }
}

/// Logs a warning when the clock is ahead of the jobs, with the consequence for them.
fn warn_of_clock(look: &Look) {
    if look.held_back.is_zero() {
        return;
    }
    let Look { before, held_back, hold } = look;
    tracing::warn!(
        until_the_first = ?hold,
        ahead = ?held_back,
        "by the clock of this machine, jobs that ended after {before} are due to be forgotten, but no job was created \
         for a whole retention period: they are forgotten in steps of {:?}. If the clock is wrong, set it right",
        Horizon::STEP
    );
}

/// Jobs that a run could not forget and skips. The next run tries them again.
#[derive(Debug, Default)]
struct Stuck {
    failures: BTreeMap<TenantId, usize>,
    jobs: BTreeSet<JobId>,
}
