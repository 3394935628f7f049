use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::event::{Actor, DomainEvent};
use hodei_core::id::{AttemptId, ProviderId, WorkerId};
use hodei_core::job::{FailureCause, Job, JobInput, JobStatus, Labels, Loss, step};
use hodei_core::port::{Clock, ClockExt, EventBus, IdGenerator, LogEnd, LogStore, Store, WorkerProvider};
use hodei_core::worker::{self, TerminationCause, Worker, WorkerCapacity, WorkerInput};
use uuid::Uuid;

use super::commit::bus_only;
use super::{Committer, Sessions, Watches};
use crate::config::Settings;

/// Why attempts are closed that will never report.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Closing {
    /// Nobody knows what became of them.
    Lost(&'static str),
    /// They did not start in time.
    DispatchTimeout,
    /// The platform shuts down.
    Shutdown,
}

impl Closing {
    fn cause(self) -> FailureCause {
        match self {
            Self::Lost(why) => FailureCause::Lost(why.to_owned()),
            Self::DispatchTimeout => FailureCause::DispatchTimeout,
            Self::Shutdown => FailureCause::Lost("the platform shut down".to_owned()),
        }
    }
}

/// The providers of this platform, by id.
pub(crate) type Providers = Arc<BTreeMap<ProviderId, Arc<dyn WorkerProvider>>>;

/// Leads workers through their lives, and settles their jobs when they die.
#[derive(Debug, Clone)]
pub(crate) struct WorkerLifecycleManager {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) bus: Arc<dyn EventBus>,
    pub(crate) committer: Committer,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    pub(crate) providers: Providers,
    pub(crate) sessions: Sessions,
    pub(crate) log_news: Watches<AttemptId, u64>,
    pub(crate) settings: Settings,
}

impl WorkerLifecycleManager {
    /// An agent said hello for the first time.
    pub(crate) async fn join(
        &self,
        worker: WorkerId,
        capacity: WorkerCapacity,
        labels: Labels,
        incarnation: Uuid,
    ) -> Option<Arc<Worker>> {
        let input = WorkerInput::Join { capacity, labels, incarnation };
        self.change(worker, Actor::Agent, input).await;
        let worker = self.store.workers(&[worker]).await.ok()?.pop().flatten()?;
        (!worker.is_terminated()).then_some(worker)
    }

    /// An agent takes nothing more.
    pub(crate) async fn draining(&self, worker: WorkerId) {
        self.change(worker, Actor::Agent, WorkerInput::Drain("its agent drains".into())).await;
    }

    /// Somebody wants a worker gone, its jobs ended.
    pub(crate) async fn drain(&self, worker: WorkerId) {
        self.change(worker, Actor::Client, WorkerInput::Drain("somebody asked".into())).await;
    }

    /// An agent has nothing left and goes.
    pub(crate) async fn retire(&self, worker: WorkerId) {
        self.end(worker, WorkerInput::Terminate(TerminationCause::Retired)).await;
    }

    /// A worker could not be created, or never came.
    pub(crate) async fn fail(&self, worker: WorkerId, why: String) {
        self.end(worker, WorkerInput::Terminate(TerminationCause::ProvisioningFailed(why))).await;
    }

    /// A worker is lost.
    pub(crate) async fn lose(&self, worker: WorkerId, why: String) {
        self.end(worker, WorkerInput::Lose(why)).await;
    }

    /// The platform shuts down: whatever the worker still runs is killed, and nobody pays for it.
    pub(crate) async fn stop(&self, worker: WorkerId) {
        self.end(worker, WorkerInput::Terminate(TerminationCause::Shutdown)).await;
    }

    /// Ends a worker: it is destroyed first, then its jobs are free for their next attempt. Destruction that does
    /// not answer holds them up for a bounded time; from then on the fence alone protects them.
    async fn end(&self, id: WorkerId, input: WorkerInput) {
        let closing = match &input {
            WorkerInput::Terminate(TerminationCause::Shutdown) => Closing::Shutdown,
            _ => Closing::Lost("its worker is gone"),
        };
        let Some(worker) = self.change(id, Actor::Platform, input).await else { return };
        self.sessions.cut(id);
        let limit = self.settings.destroy_timeout;
        if self.clock.timeout(limit, self.destroy(&worker, Duration::ZERO)).await.is_err() {
            tracing::warn!(worker = %id, "a worker could not be destroyed in time");
        }
        if let Ok(jobs) = self.store.jobs_of_worker(id).await {
            self.close_attempts(id, jobs, closing).await;
        }
    }

    /// Removes a worker with all that its jobs left.
    pub(crate) async fn destroy(&self, worker: &Worker, grace: Duration) {
        let Some(provider) = self.providers.get(&worker.order().provider) else { return };
        if let Err(error) = provider.destroy(worker.id(), grace).await {
            tracing::warn!(worker = %worker.id(), %error, "a worker was not destroyed: reconciliation tries again");
        }
    }

    /// Closes attempts that will never report.
    pub(crate) async fn close_attempts(&self, worker: WorkerId, jobs: Vec<Arc<Job>>, closing: Closing) {
        let mut closed = Vec::new();
        for job in jobs {
            let attempt = job.attempt_id();
            // Nothing may be written to a log once its end is counted. One that may still start keeps its log until it
            // is known to be lost.
            let sealed = match closing {
                Closing::DispatchTimeout => Ok(()),
                _ => self.logs.seal(attempt, LogEnd::Torn).await,
            };
            let state = self.logs.state(attempt).await;
            let (Ok(()), Ok(state)) = (sealed, state) else { continue };
            let (cause, interrupted) = (closing.cause(), matches!(closing, Closing::Shutdown));
            let loss = Loss { cause, unstarted: false, interrupted, log_end: state.next };
            let input = JobInput::Lose { attempt: attempt.number, loss, jitter: self.ids.fraction() };
            if self.lose_attempt(job, input).await {
                closed.push(attempt);
                if let Closing::DispatchTimeout = closing {
                    let _ = self.logs.seal(attempt, LogEnd::Torn).await;
                }
            }
            self.log_news.notify(attempt, u64::MAX, true);
        }
        if !closed.is_empty() {
            let aggregate = AggregateId::Worker(worker);
            let event = DomainEvent::WorkerReadyForJob { closed };
            let hint = bus_only(&*self.ids, &*self.clock, aggregate, Actor::Platform, event);
            let _ = self.bus.publish(&[hint]).await;
        }
    }

    async fn lose_attempt(&self, mut job: Arc<Job>, input: JobInput) -> bool {
        let unstarted_only =
            matches!(&input, JobInput::Lose { loss, .. } if loss.cause == FailureCause::DispatchTimeout);
        for _ in 0..8 {
            if unstarted_only && job.status() == JobStatus::Running {
                return false;
            }
            let Ok(decision) = step(Some(&job), input.clone(), self.clock.now()) else { return false };
            match self.committer.commit_one(Actor::Platform, decision).await {
                Ok(Ok(_)) => return true,
                Ok(Err(_)) => {}
                Err(_) => return false,
            }
            let Ok(found) = self.store.jobs(&[job.id()]).await else { return false };
            let Some(found) = found.into_iter().flatten().next() else { return false };
            job = found;
        }
        false
    }

    /// One transition of a worker; `None` when its state does not take it.
    pub(crate) async fn change(&self, id: WorkerId, actor: Actor, input: WorkerInput) -> Option<Arc<Worker>> {
        for _ in 0..8 {
            let current = self.store.workers(&[id]).await.ok()?.pop().flatten()?;
            let decision = worker::step(Some(&current), input.clone(), self.clock.now())?;
            match self.committer.commit_one(actor, decision).await.ok()? {
                Ok(Aggregate::Worker(worker)) => return Some(worker),
                _ => continue,
            }
        }
        None
    }
}
