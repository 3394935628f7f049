use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::access::{Action, Caller};
use hodei_core::decision::AggregateId;
use hodei_core::event::{DomainEvent, Envelope};
use hodei_core::id::{JobId, WorkerId};
use hodei_core::job::{Job, JobStatus, TenantId};
use hodei_core::port::{ClockExt, FeedCursor, FeedPage, JobFilter, JobPage};
use hodei_core::provider::{Provider, ProviderHealth};
use hodei_core::scheduling::{Behind, PlacementClass, SchedulingDecision, WaitingClass, behind, placements};
use hodei_core::worker::{Worker, WorkerStatus, WorkerView};

use crate::Error;
use crate::app::follow::job_notifier::JobNews;
use crate::app::follow::job_states::{JobStates, LookAgain};
use crate::app::follow::watchers::Watcher;
use crate::app::portions::for_each_job;
use crate::app::ports::Ports;
use crate::app::workers::stream_registry::Sessions;

/// Reads; changes nothing.
#[derive(Debug, Clone)]
pub(crate) struct JobQueries {
    pub(crate) ports: Arc<Ports>,
    pub(crate) news: JobNews,
    pub(crate) sessions: Sessions,
}

impl JobQueries {
    pub(crate) async fn get(&self, tenant: &TenantId, id: JobId) -> Result<Arc<Job>, Error> {
        let job = self.ports.store.jobs(&[id]).await?.pop().flatten();
        job.filter(|job| job.tenant() == tenant).ok_or(Error::NotFound(id))
    }

    /// One page of jobs, each without what may be long of it. It may end early, with a place to go on from.
    pub(crate) async fn list(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        Ok(self.ports.store.list_jobs(filter).await?)
    }

    pub(crate) async fn history(&self, tenant: &TenantId, id: JobId) -> Result<Vec<Envelope>, Error> {
        self.get(tenant, id).await?;
        Ok(self.ports.store.history(AggregateId::Job(id)).await?)
    }

    /// Why a job is where it is; `classes` wait, as of the last round.
    pub(crate) async fn explain(
        &self,
        tenant: &TenantId,
        id: JobId,
        classes: &[WaitingClass],
    ) -> Result<SchedulingDecision, Error> {
        let job = self.get(tenant, id).await?;
        let placements = placements(&self.ports.store.history(AggregateId::Job(id)).await?);
        let mut waiting = None;
        if job.status() == JobStatus::Pending {
            let own = PlacementClass::of(&job);
            for (class, head) in classes.iter().zip(self.heads(classes).await?) {
                if head.as_ref().is_some_and(|head| PlacementClass::of(head) == own) {
                    waiting = Some(seen_by(tenant, class, head.as_deref()));
                    break;
                }
            }
        }
        let behind = self.behind(&job).await?;
        Ok(SchedulingDecision { job, waiting, behind, placements })
    }

    /// Which jobs a job waits behind in its worker.
    async fn behind(&self, job: &Job) -> Result<Option<Behind>, Error> {
        let Some(worker) = job.worker().filter(|_| job.status() == JobStatus::Assigned) else {
            return Ok(None);
        };
        let Some(found) = self.ports.store.workers(&[worker]).await?.pop().flatten() else { return Ok(None) };
        let others = self.ports.store.jobs_of_workers(&[worker]).await?;
        Ok(behind(job, &others, found.capacity().slots))
    }

    /// What waits, without the ids of jobs that are not the tenant's.
    pub(crate) async fn classes(
        &self,
        tenant: &TenantId,
        classes: Vec<WaitingClass>,
    ) -> Result<Vec<WaitingClass>, Error> {
        let heads = self.heads(&classes).await?;
        Ok(classes.iter().zip(heads).map(|(class, head)| seen_by(tenant, class, head.as_deref())).collect())
    }

    /// The first job of each class.
    async fn heads(&self, classes: &[WaitingClass]) -> Result<Vec<Option<Arc<Job>>>, Error> {
        let known: Vec<JobId> = classes.iter().filter_map(|class| class.head).collect();
        let mut found = self.ports.store.jobs(&known).await?.into_iter();
        Ok(classes.iter().map(|class| class.head.and_then(|_| found.next().flatten())).collect())
    }

    /// The events of the feed that a caller may see. A page may be empty and not be the last: that is where its `next`
    /// is another place.
    pub(crate) async fn feed(
        &self,
        caller: &Caller,
        after: &FeedCursor,
        limit: usize,
    ) -> Result<FeedPage, Error> {
        let mut after = after.clone();
        for _ in 0..PAGES {
            let FeedPage { events, next } = self.ports.store.feed(&after, limit).await?;
            if events.is_empty() {
                return Ok(FeedPage { events, next });
            }
            let events = self.visible(caller, events).await?;
            if !events.is_empty() {
                return Ok(FeedPage { events, next });
            }
            after = next;
        }
        Ok(FeedPage { events: Vec::new(), next: after })
    }

    /// Of jobs and secrets those of the caller's tenant; of what all share what its role may see.
    async fn visible(&self, caller: &Caller, events: Vec<Envelope>) -> Result<Vec<Envelope>, Error> {
        let jobs: BTreeSet<JobId> = events.iter().filter_map(|event| job_of(event.aggregate)).collect();
        let jobs: Vec<JobId> = jobs.into_iter().collect();
        let mut own = BTreeSet::new();
        for_each_job(&*self.ports.store, &jobs, |job| {
            own.extend((*job.tenant() == caller.tenant).then(|| job.id()));
        })
        .await?;
        let is_visible = |envelope: &Envelope| match (&envelope.event, envelope.aggregate) {
            // One that was forgotten meanwhile is somebody's whom nobody knows any more.
            (_, AggregateId::Job(id)) => own.contains(&id),
            (
                DomainEvent::SecretStored { tenant, .. } | DomainEvent::SecretDeleted { tenant, .. },
                AggregateId::Secret(_),
            ) => *tenant == caller.tenant && caller.may(Action::ListSecrets).is_ok(),
            (_, AggregateId::Secret(_)) => false,
            (_, AggregateId::Token(_) | AggregateId::Platform(_)) => caller.may(Action::ManageTokens).is_ok(),
            (_, AggregateId::Worker(_) | AggregateId::Provider(_)) => {
                caller.may(Action::DrainWorkers).is_ok()
            }
        };
        Ok(events.into_iter().filter(is_visible).collect())
    }

    pub(crate) async fn feed_lag(&self) -> Result<Duration, Error> {
        Ok(self.ports.store.feed_lag(self.ports.clock.now()).await?)
    }

    pub(crate) async fn providers(&self) -> Result<Vec<Arc<Provider>>, Error> {
        Ok(self.ports.store.providers().await?)
    }

    pub(crate) async fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        Ok(self.ports.store.live_workers().await?.iter().map(|worker| self.view(worker)).collect())
    }

    pub(crate) async fn worker(&self, id: WorkerId) -> Result<Option<WorkerView>, Error> {
        Ok(self.ports.store.workers(&[id]).await?.pop().flatten().map(|worker| self.view(&worker)))
    }

    /// Why workers cannot be created, or do not connect, by provider; what was so some time ago is nobody's trouble now.
    pub(crate) async fn troubles(&self) -> Result<Vec<String>, Error> {
        let now = self.ports.clock.now();
        let of = |provider: &Arc<Provider>| {
            let ProviderHealth::Unhealthy { retry_at, .. } = provider.health() else { return None };
            let is_recent = now.since(*retry_at) < TROUBLE;
            provider
                .trouble()
                .filter(|_| is_recent)
                .map(|why| format!("provider `{}`: {why}", provider.profile().name))
        };
        Ok(self.ports.store.providers().await?.iter().filter_map(of).collect())
    }

    /// A sentence about workers that no daemon hears, as after a start that their agents do not find.
    pub(crate) async fn unheard(&self, is_heard: impl Fn(WorkerId) -> bool) -> Result<Option<String>, Error> {
        let mut workers = self.ports.store.live_workers().await?;
        workers.retain(|worker| worker.status() != WorkerStatus::Registering && !is_heard(worker.id()));
        let Some(first) = workers.first().map(|worker| worker.id()) else { return Ok(None) };
        let others = match workers.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        Ok(Some(format!(
            "worker {first}{others} is not connected: its agent looks for a daemon at the addresses that it knows and in \
             the data directory that it was started from; a lease after it was last heard it is given up, and its jobs \
             run elsewhere"
        )))
    }

    fn view(&self, worker: &Worker) -> WorkerView {
        let (connected, metrics) = self.sessions.state(worker.id());
        WorkerView::new(worker, connected, metrics)
    }

    pub(crate) fn watch(&self, tenant: &TenantId, id: JobId) -> JobWatch {
        let (queries, tenant) = (self.clone(), tenant.clone());
        let (news, look_again) = (self.news.subscribe([id], false), LookAgain::new(self));
        JobWatch::new(Box::new(StoredStates { news, queries, tenant, id, look_again }))
    }

    /// States of some jobs above some versions.
    pub(crate) fn states(&self, tenant: &TenantId, seen: BTreeMap<JobId, u64>, ends_only: bool) -> JobStates {
        JobStates::new(self.clone(), tenant.clone(), seen, ends_only)
    }
}

/// How long the trouble of a provider is told after it was to be tried again.
const TROUBLE: Duration = Duration::from_secs(120);

/// Pages of the feed that are looked through for one call.
const PAGES: usize = 16;

fn job_of(aggregate: AggregateId) -> Option<JobId> {
    match aggregate {
        AggregateId::Job(id) => Some(id),
        _ => None,
    }
}

/// A class as a tenant sees it, whose first job is `head`.
fn seen_by(tenant: &TenantId, class: &WaitingClass, head: Option<&Job>) -> WaitingClass {
    let own = head.filter(|head| head.tenant() == tenant).map(Job::id);
    WaitingClass { head: own, ..class.clone() }
}

/// The states of one job, as they come. It reads by the job's version, never from the feed of all.
#[derive(Debug)]
pub struct JobWatch {
    source: Box<dyn StateSource>,
    seen: u64,
    over: bool,
    ends_only: bool,
}

/// Where the states of a job come from: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait StateSource: Debug + Send {
    /// The first state with a version above `seen`, waiting for it; with `ends_only`, the terminal one. `None` when
    /// that was seen. Cancel safe.
    async fn newer(&mut self, seen: u64, ends_only: bool) -> Result<Option<Arc<Job>>, Error>;
}

impl JobWatch {
    pub(crate) fn new(source: Box<dyn StateSource>) -> Self {
        Self { source, seen: 0, over: false, ends_only: false }
    }

    /// Passes over versions up to this one; 0 passes over none.
    #[must_use]
    pub fn after(mut self, version: u64) -> Self {
        self.seen = version;
        self
    }

    /// Whether only the terminal state is wanted.
    #[must_use]
    pub fn ends_only(mut self, ends_only: bool) -> Self {
        self.ends_only = ends_only;
        self
    }

    /// The next state that is newer than the last; the first call gives the present one. States in between may
    /// be passed over. `None` after the terminal one. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such job, or the store's.
    pub async fn next(&mut self) -> Result<Option<Arc<Job>>, Error> {
        if self.over {
            return Ok(None);
        }
        let state = self.source.newer(self.seen, self.ends_only).await?;
        match &state {
            Some(job) => (self.seen, self.over) = (job.version(), job.is_terminal()),
            None => self.over = true,
        }
        Ok(state)
    }

    /// Waits for the end of the job. Cancel safe.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn ended(&mut self) -> Result<Arc<Job>, Error> {
        loop {
            // From the beginning: the end may have been seen.
            if let Some(job) = self.source.newer(0, true).await? {
                return Ok(job);
            }
        }
    }
}

/// States from the store of this platform.
#[derive(Debug)]
struct StoredStates {
    queries: JobQueries,
    tenant: TenantId,
    id: JobId,
    news: Watcher<JobId>,
    look_again: LookAgain,
}

#[async_trait]
impl StateSource for StoredStates {
    async fn newer(&mut self, seen: u64, ends_only: bool) -> Result<Option<Arc<Job>>, Error> {
        loop {
            let job = self.queries.get(&self.tenant, self.id).await?;
            let ended = job.is_terminal();
            if job.version() > seen && (ended || !ends_only) {
                return Ok(Some(job));
            }
            if ended {
                return Ok(None);
            }
            if self.queries.ports.clock.timeout(self.look_again.next(), self.news.changed()).await.is_ok() {
                self.look_again.reset();
            }
        }
    }
}
