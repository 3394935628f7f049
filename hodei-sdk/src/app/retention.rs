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

/// Forgets what ended long ago: in batches, so that nothing else waits for it.
#[derive(Debug)]
pub(crate) struct RetentionService {
    pub(crate) ports: Arc<Ports>,
    pub(crate) artifacts: Option<Arc<dyn ArtifactStore>>,
    /// When this platform started: jobs that came since say nothing about its clock.
    pub(crate) started: Timestamp,
}

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(600);
/// Jobs forgotten in one transaction.
const BATCH: usize = 500;
/// Jobs that a look goes past: so many old ones that cannot be forgotten hold up all others.
const STUCK: usize = 50_000;
/// Jobs of a tenant whose artifacts cannot be removed in one look, before the others are not tried.
const FAILURES: usize = 3;
/// Jobs that are looked at for the last that came before this start.
const RECENT: usize = 100;
/// Between two batches: others come first.
const PAUSE: Duration = Duration::from_millis(50);

impl RetentionService {
    /// Looks for as long as it is asked to.
    pub(crate) async fn run(&self) {
        let mut horizon = loop {
            match self.evidence().await {
                Ok(evidence) => {
                    break Horizon::begin(self.ports.clock.now() - self.ports.settings.history, evidence);
                }
                Err(error) => tracing::warn!(%error, "what is old cannot be read: the next look tries again"),
            }
            self.ports.clock.sleep(PERIOD).await;
        };
        loop {
            let look = horizon
                .look(self.ports.clock.now() - self.ports.settings.history, self.ports.clock.monotonic());
            say(&look);
            let mut stuck = Stuck::default();
            loop {
                match self.forget_batch(look.before, &mut stuck).await {
                    Ok(BATCH..) => self.ports.clock.sleep(PAUSE).await,
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "old jobs could not be forgotten: the next look tries again");
                        break;
                    }
                }
            }
            self.ports.clock.sleep(PERIOD).await;
        }
    }

    /// What the store says about the clock: the oldest job that ended, and the last that came before this start.
    async fn evidence(&self) -> Result<Evidence, Error> {
        let first =
            self.ports.store.ended_before(self.ports.clock.now() - self.ports.settings.history, 1).await?;
        let first: Vec<JobId> = first.iter().map(|last| last.job).collect();
        let oldest = self.ports.store.jobs(&first).await?.into_iter().flatten().next();
        let oldest = oldest.and_then(|job| job.ending().map(|ending| ending.at));
        let recent = JobFilter { limit: RECENT, ..JobFilter::default() };
        let recent = self.ports.store.list_jobs(&recent).await?.jobs;
        let newest = recent.iter().map(|job| job.created_at()).filter(|at| *at < self.started).max();
        Ok(Evidence { oldest, newest })
    }

    /// Output and artifacts first: a crash in between leaves a job that the next look finds again, never output of
    /// nobody. Returns how many it looked at.
    async fn forget_batch(&self, before: Timestamp, stuck: &mut Stuck) -> Result<usize, Error> {
        let mut ended = self.ports.store.ended_before(before, BATCH + stuck.jobs.len().min(STUCK)).await?;
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

    /// Of those that were to have any. One that cannot be removed holds up no other, and a tenant of whom several cannot
    /// is left for the next look.
    async fn remove_artifacts(&self, jobs: &[JobId], stuck: &mut Stuck) -> Result<(), Error> {
        let Some(artifacts) = &self.artifacts else { return Ok(()) };
        let mut with_some: BTreeMap<TenantId, Vec<JobId>> = BTreeMap::new();
        for_each_job(&*self.ports.store, jobs, |job| {
            if !job.spec().outputs().is_empty() {
                with_some.entry(job.tenant().clone()).or_default().push(job.id());
            }
        })
        .await?;
        for (tenant, jobs) in with_some {
            let failures = stuck.failures.entry(tenant.clone()).or_default();
            if *failures < FAILURES && artifacts.remove(&tenant, &jobs).await.is_ok() {
                continue;
            }
            for job in jobs {
                if *failures < FAILURES {
                    let Err(error) = artifacts.remove(&tenant, &[job]).await else { continue };
                    tracing::warn!(%error, %tenant, %job, "artifacts of an old job cannot be removed now");
                    *failures += 1;
                }
                stuck.jobs.insert(job);
            }
        }
        Ok(())
    }
}

/// Says what a clock that is ahead of the jobs means for them.
fn say(look: &Look) {
    if look.held_back.is_zero() {
        return;
    }
    let Look { before, held_back, hold } = look;
    tracing::warn!(
        until_the_first = ?hold,
        ahead = ?held_back,
        "by the clock of this machine jobs that ended after {before} are to be forgotten, and no job came for as long as \
         they are kept: they are forgotten in steps of {:?}. If the clock is wrong, set it right",
        Horizon::STEP
    );
}

/// What a look could not forget, and goes past: the next look tries again.
#[derive(Debug, Default)]
struct Stuck {
    failures: BTreeMap<TenantId, usize>,
    jobs: BTreeSet<JobId>,
}
