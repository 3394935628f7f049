use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::access::{Action, Caller};
use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::event::{Actor, DomainEvent};
use hodei_core::id::{AttemptId, ProviderId, WorkerId};
use hodei_core::job::{Blame, FailureCause, Job, JobInput, JobStatus, Labels, Loss, blames, step};
use hodei_core::port::{ClockExt, LogEnd, LogError, WorkerProvider};
use hodei_core::worker::{self, TerminationCause, Worker, WorkerCapacity, WorkerInput};
use uuid::Uuid;

use crate::Error;
use crate::app::access::authorizer::Authorizer;
use crate::app::commit::{CommitFailed, Committer};
use crate::app::follow::log_notifier::LogNotifier;
use crate::app::hints::hint;
use crate::app::ports::Ports;
use crate::app::workers::stream_registry::StreamRegistry;

/// Why attempts are closed that will never report.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Closing {
    /// Nobody knows what became of them.
    Lost(&'static str),
    /// They did not start in time.
    DispatchTimeout,
    /// The platform shuts down.
    Shutdown,
    /// Its agent left in good order: it has reported all that it started.
    Left,
}

impl Closing {
    const GONE: Self = Self::Lost("its worker is gone");

    fn cause(self) -> FailureCause {
        match self {
            Self::Lost(why) => FailureCause::Lost(why.to_owned()),
            Self::DispatchTimeout => FailureCause::DispatchTimeout,
            Self::Shutdown => FailureCause::Lost("the platform shut down".to_owned()),
            Self::Left => FailureCause::Lost("its agent left".to_owned()),
        }
    }
}

/// Tries at a change of something that changes in between.
const TRIES: usize = 8;

/// The providers of this platform, by id.
pub(crate) type Providers = Arc<BTreeMap<ProviderId, Arc<dyn WorkerProvider>>>;

/// Leads workers through their lives, and settles their jobs when they die.
#[derive(Debug, Clone)]
pub(crate) struct WorkerLifecycleManager {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
    pub(crate) providers: Providers,
    pub(crate) streams: StreamRegistry,
    pub(crate) log_notifier: LogNotifier,
    pub(crate) authorizer: Authorizer,
}

impl WorkerLifecycleManager {
    /// An agent said hello for the first time.
    pub(crate) async fn join(
        &self,
        worker: WorkerId,
        capacity: WorkerCapacity,
        labels: Labels,
        incarnation: Uuid,
    ) -> Result<Option<Arc<Worker>>, CommitFailed> {
        let input = WorkerInput::Join { capacity, labels, incarnation };
        self.change(worker, Actor::Agent, input).await?;
        let found = self.ports.store.workers(&[worker]).await?.pop().flatten();
        Ok(found.filter(|worker| !worker.is_terminated()))
    }

    /// An agent takes nothing more. When that cannot be stored, it is told with the next stream.
    pub(crate) async fn draining(&self, worker: WorkerId) {
        let drain = WorkerInput::Drain("its agent drains".into());
        if let Err(error) = self.change(worker, Actor::Agent, drain).await {
            tracing::warn!(%worker, %error, "that a worker drains was not stored");
        }
    }

    /// Somebody wants a worker gone, its jobs ended.
    pub(crate) async fn drain(&self, caller: &Caller, worker: WorkerId) -> Result<(), Error> {
        self.authorizer.allow(caller, Action::DrainWorkers)?;
        self.change(worker, Actor::Client, WorkerInput::Drain("somebody asked".into())).await?;
        Ok(())
    }

    /// An agent has nothing left and goes. What was sent to it since has not started.
    pub(crate) async fn retire(&self, worker: WorkerId) {
        self.end(worker, WorkerInput::Terminate(TerminationCause::Retired), Closing::Left).await;
    }

    /// An agent goes, whatever it still had.
    #[cfg(feature = "grpc")]
    pub(crate) async fn leave(&self, worker: WorkerId) {
        let closing = Closing::Lost("its agent went");
        self.end(worker, WorkerInput::Terminate(TerminationCause::Retired), closing).await;
    }

    /// A worker could not be created, or never came. Returns whether that is stored, or was not true.
    pub(crate) async fn fail(&self, worker: WorkerId, why: String) -> bool {
        let cause = TerminationCause::ProvisioningFailed(why);
        self.end(worker, WorkerInput::Terminate(cause), Closing::GONE).await
    }

    /// A worker is lost.
    pub(crate) async fn lose(&self, worker: WorkerId, why: String) {
        self.end(worker, WorkerInput::Lose(why), Closing::GONE).await;
    }

    /// The platform shuts down: whatever the worker still runs is killed, and nobody pays for it.
    pub(crate) async fn stop(&self, worker: WorkerId) {
        self.end(worker, WorkerInput::Terminate(TerminationCause::Shutdown), Closing::Shutdown).await;
    }

    /// Ends a worker: it is destroyed first, then its jobs are free for their next attempt. Destruction that does
    /// not answer holds them up for a bounded time; from then on the fence alone protects them. Returns whether the end is
    /// stored, or there was none.
    async fn end(&self, id: WorkerId, input: WorkerInput, closing: Closing) -> bool {
        let worker = match self.change(id, Actor::Platform, input).await {
            Ok(Some(worker)) => worker,
            Ok(None) => return true,
            // Whoever found it dead will find it again.
            Err(error) => {
                tracing::warn!(worker = %id, %error, "the end of a worker was not stored");
                return false;
            }
        };
        self.streams.cut(id);
        if !self.providers.contains_key(&worker.order().provider) && !self.ports.store.is_exclusive() {
            // The daemon that has its provider destroys it; the coordinator waits for that as long as is allowed.
            return true;
        }
        let limit = self.ports.settings.destroy_timeout;
        if self.ports.clock.timeout(limit, self.destroy(&worker, Duration::ZERO)).await.is_err() {
            tracing::warn!(worker = %id, "a worker could not be destroyed in time");
        }
        self.close_all(id, closing).await;
        true
    }

    /// A worker is no more that ended elsewhere: its jobs are free for their next attempt.
    pub(crate) async fn destroyed(&self, worker: WorkerId) {
        self.close_all(worker, Closing::GONE).await;
    }

    async fn close_all(&self, id: WorkerId, closing: Closing) {
        let Ok(jobs) = self.ports.store.jobs_of_workers(&[id]).await else { return };
        if jobs.is_empty() {
            return;
        }
        let blames = match closing {
            Closing::Lost(_) => self.blames(id, &jobs).await,
            _ => vec![Blame::Alone; jobs.len()],
        };
        self.close_blamed(id, jobs.into_iter().zip(blames), closing).await;
    }

    /// Which of the jobs of a lost worker may have ended it. It is destroyed, or beyond reach.
    async fn blames(&self, id: WorkerId, jobs: &[Arc<Job>]) -> Vec<Blame> {
        let worker = self.ports.store.workers(&[id]).await.ok().and_then(|mut found| found.pop().flatten());
        let provider = worker.as_ref().and_then(|worker| self.providers.get(&worker.order().provider));
        let begun = match provider {
            Some(provider) => {
                let asked =
                    self.ports.clock.timeout(self.ports.settings.destroy_timeout, provider.begun(id)).await;
                asked.ok().and_then(Result::ok).flatten()
            }
            None => None,
        };
        // Of a worker that nobody knows any more, each may have begun.
        let slots = worker.map_or(u32::MAX, |worker| worker.capacity().slots);
        blames(jobs, slots, begun.as_ref(), self.ports.clock.now())
    }

    /// Asks the agent of a worker to end its jobs and to say how.
    pub(crate) async fn evict(&self, worker: &Worker) {
        let Some(provider) = self.providers.get(&worker.order().provider) else { return };
        if let Err(error) = provider.evict(worker.id()).await {
            tracing::debug!(worker = %worker.id(), %error, "an agent was not asked to end its jobs: they are killed");
        }
    }

    /// Removes a worker with all that its jobs left.
    pub(crate) async fn destroy(&self, worker: &Worker, grace: Duration) {
        let Some(provider) = self.providers.get(&worker.order().provider) else { return };
        if let Err(error) = provider.destroy(worker.id(), grace).await {
            tracing::warn!(worker = %worker.id(), %error, "a worker was not destroyed: reconciliation tries again");
        }
    }

    /// Closes attempts that will never report, each for itself: their worker goes on.
    pub(crate) async fn close_attempts(&self, worker: WorkerId, jobs: Vec<Arc<Job>>, closing: Closing) {
        self.close_blamed(worker, jobs.into_iter().map(|job| (job, Blame::Alone)), closing).await;
    }

    async fn close_blamed(
        &self,
        worker: WorkerId,
        jobs: impl Iterator<Item = (Arc<Job>, Blame)> + Send,
        closing: Closing,
    ) {
        let mut closed = Vec::new();
        for (job, blame) in jobs {
            let attempt = job.attempt_id();
            let input = match closing {
                Closing::Left if job.status() == JobStatus::Assigned => {
                    JobInput::GiveBack { attempt: attempt.number }
                }
                _ => match self.loss(attempt, closing, blame).await {
                    Ok(input) => input,
                    Err(error) => {
                        tracing::warn!(%attempt, %error, "a lost attempt is closed later: its log is out of reach");
                        continue;
                    }
                },
            };
            if self.lose_attempt(job, input).await {
                closed.push(attempt);
                if let Closing::DispatchTimeout = closing {
                    let _ = self.ports.logs.seal(attempt, LogEnd::Torn).await;
                }
            }
            self.log_notifier.notify(attempt);
        }
        if !closed.is_empty() {
            let aggregate = AggregateId::Worker(worker);
            let event = DomainEvent::WorkerReadyForJob { closed };
            let hint = hint(&*self.ports.ids, &*self.ports.clock, aggregate, Actor::Platform, event);
            let _ = self.ports.bus.publish(&[hint]).await;
        }
    }

    /// Nothing may be written to a log once its end is counted. An attempt that may still start keeps its log until
    /// it is known to be lost; of one that never began nothing is missing.
    async fn loss(&self, attempt: AttemptId, closing: Closing, blame: Blame) -> Result<JobInput, LogError> {
        let never_began = blame == Blame::Unstarted { proven: true };
        let seal = async {
            if !matches!(closing, Closing::DispatchTimeout) {
                let is_whole = never_began && self.ports.logs.state(attempt).await?.next == 0;
                let end = if is_whole { LogEnd::Complete } else { LogEnd::Torn };
                self.ports.logs.seal(attempt, end).await?;
            }
            Ok(self.ports.logs.state(attempt).await?.next)
        };
        let log_end = match seal.await {
            Ok(next) => next,
            Err(error) if LogError::is_retryable(&error) => return Err(error),
            Err(error) => {
                tracing::error!(%attempt, %error, "a log is broken: nothing of it is vouched for");
                0
            }
        };
        let interrupted = matches!(closing, Closing::Shutdown);
        let loss = Loss { cause: closing.cause(), blame, interrupted, log_end };
        Ok(JobInput::Lose { attempt: attempt.number, loss, jitter: self.ports.ids.fraction() })
    }

    async fn lose_attempt(&self, mut job: Arc<Job>, input: JobInput) -> bool {
        let unstarted_only =
            matches!(&input, JobInput::Lose { loss, .. } if loss.cause == FailureCause::DispatchTimeout);
        for _ in 0..TRIES {
            if unstarted_only && job.status() == JobStatus::Running {
                return false;
            }
            let Ok(decision) = step(Some(&job), input.clone(), self.ports.clock.now()) else { return false };
            match self.committer.commit_one(Actor::Platform, decision).await {
                Ok(Ok(_)) => return true,
                Ok(Err(_)) => {}
                Err(_) => return false,
            }
            let Ok(found) = self.ports.store.jobs(&[job.id()]).await else { return false };
            let Some(found) = found.into_iter().flatten().next() else { return false };
            job = found;
        }
        false
    }

    /// One transition of a worker; `None` when its state does not take it.
    pub(crate) async fn change(
        &self,
        id: WorkerId,
        actor: Actor,
        input: WorkerInput,
    ) -> Result<Option<Arc<Worker>>, CommitFailed> {
        for _ in 0..TRIES {
            let Some(current) = self.ports.store.workers(&[id]).await?.pop().flatten() else {
                return Ok(None);
            };
            let Some(decision) = worker::step(Some(&current), input.clone(), self.ports.clock.now()) else {
                return Ok(None);
            };
            if let Ok(Aggregate::Worker(worker)) = self.committer.commit_one(actor, decision).await? {
                return Ok(Some(worker));
            }
        }
        tracing::warn!(worker = %id, "a worker changes all the time");
        Ok(None)
    }
}
