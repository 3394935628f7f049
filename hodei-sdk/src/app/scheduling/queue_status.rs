//! Status of the queue: the result of the last scheduling round, and the causes for which jobs wait.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::access::Caller;
use hodei_core::id::JobId;
use hodei_core::job::{Job, TenantId};
use hodei_core::provider::{Provider, ProviderHealth};
use hodei_core::scheduling::{PlacementClass, QueueStatus, WaitingClass};
use hodei_core::worker::{LimitHold, WorkerStatus};

use crate::Error;
use crate::app::cluster::membership::Membership;
use crate::app::ports::Ports;
use crate::seam::QueueSeam;

/// Reads the queue; changes nothing.
#[derive(Debug, Clone)]
pub(crate) struct QueueQueries {
    pub(crate) ports: Arc<Ports>,
    pub(crate) membership: Membership,
}

/// Time after a provider's retry time for which its trouble is still reported.
const TROUBLE_REPORT_TIME: Duration = Duration::from_secs(120);

#[async_trait]
impl QueueSeam for QueueQueries {
    async fn status(&self, caller: &Caller) -> Result<QueueStatus, Error> {
        let feed_lag = self.ports.store.feed_lag(self.ports.clock.now()).await?;
        let queue = self.membership.queue();
        let waiting = self.classes(&caller.tenant, queue.waiting).await?;
        let providers = self.ports.store.providers().await?;
        let mut troubles = self.troubles(&providers);
        troubles.extend(self.unheard().await?);
        let limits = if providers.is_empty() {
            // No provider is stored yet: a platform started on this store adds one of this machine.
            Some(LimitHold::from(hodei_agent::holds_limits()))
        } else {
            hold_of(&providers)
        };
        Ok(QueueStatus { feed_lag, waiting, troubles, limits, ..queue })
    }
}

impl QueueQueries {
    /// Returns the class in which a pending job waits, as its tenant sees it.
    pub(crate) async fn class_of(&self, tenant: &TenantId, job: &Job) -> Result<Option<WaitingClass>, Error> {
        let classes = self.membership.queue().waiting;
        let own = PlacementClass::of(job);
        for (class, head) in classes.iter().zip(self.heads(&classes).await?) {
            if head.as_ref().is_some_and(|head| PlacementClass::of(head) == own) {
                return Ok(Some(seen_by(tenant, class, head.as_deref())));
            }
        }
        Ok(None)
    }

    /// Returns the waiting classes without the ids of other tenants' jobs.
    async fn classes(
        &self,
        tenant: &TenantId,
        classes: Vec<WaitingClass>,
    ) -> Result<Vec<WaitingClass>, Error> {
        let heads = self.heads(&classes).await?;
        Ok(classes.iter().zip(heads).map(|(class, head)| seen_by(tenant, class, head.as_deref())).collect())
    }

    /// Returns the first job of each class; `None` where it is not stored any more.
    async fn heads(&self, classes: &[WaitingClass]) -> Result<Vec<Option<Arc<Job>>>, Error> {
        let known: Vec<JobId> = classes.iter().filter_map(|class| class.head).collect();
        let mut found = self.ports.store.jobs(&known).await?.into_iter();
        Ok(classes.iter().map(|class| class.head.and_then(|_| found.next().flatten())).collect())
    }

    /// Returns for each provider with recent trouble why its workers cannot be created or do not connect.
    fn troubles(&self, providers: &[Arc<Provider>]) -> Vec<String> {
        let now = self.ports.clock.now();
        let of = |provider: &Arc<Provider>| {
            let ProviderHealth::Unhealthy { retry_at, .. } = provider.health() else { return None };
            let is_recent = now.since(*retry_at) < TROUBLE_REPORT_TIME;
            provider
                .trouble()
                .filter(|_| is_recent)
                .map(|why| format!("provider `{}`: {why}", provider.profile().name))
        };
        providers.iter().filter_map(of).collect()
    }

    /// Returns a message about workers that no daemon hears, for example after a restart on an address that their
    /// agents do not know.
    async fn unheard(&self) -> Result<Option<String>, Error> {
        let mut workers = self.ports.store.live_workers().await?;
        workers.retain(|worker| {
            worker.status() != WorkerStatus::Registering && !self.membership.hears(worker.id())
        });
        let Some(first) = workers.first().map(|worker| worker.id()) else { return Ok(None) };
        let others = match workers.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        Ok(Some(format!(
            "worker {first}{others} is not connected: its agent looks for a daemon at the addresses that it knows and \
             in the data directory that it was started from; after a lease of silence the worker is ended and its jobs \
             run elsewhere"
        )))
    }
}

/// Returns whether jobs with limits find workers that enforce them; one provider is enough. `None` when no provider
/// says.
fn hold_of(providers: &[Arc<Provider>]) -> Option<LimitHold> {
    let said: Vec<LimitHold> =
        providers.iter().filter_map(|provider| LimitHold::of(&provider.profile().labels)).collect();
    said.iter().find(|hold| **hold == LimitHold::Held).or(said.first()).copied()
}

/// Returns a class, whose first job is `head`, as a tenant sees it: without the id of another tenant's job.
fn seen_by(tenant: &TenantId, class: &WaitingClass, head: Option<&Job>) -> WaitingClass {
    let own = head.filter(|head| head.tenant() == tenant).map(Job::id);
    WaitingClass { head: own, ..class.clone() }
}
