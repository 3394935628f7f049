//! Life cycle of workers: stores their transitions, destroys them, and closes the attempts of those that end.

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

/// Reason for closing attempts that will never report.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Closing {
    /// Their outcome is unknown.
    Lost(&'static str),
    /// They did not start in time.
    DispatchTimeout,
    /// The platform shuts down.
    Shutdown,
    /// Their agent left in good order: it has reported every attempt that it started.
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

/// Commits of one change that are tried while other writers cause conflicts.
const MAX_COMMIT_TRIES: usize = 8;

/// The providers of this platform, by id.
pub(crate) type Providers = Arc<BTreeMap<ProviderId, Arc<dyn WorkerProvider>>>;

/// Changes the state of workers, destroys them, and closes their attempts when they end.
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
    /// Records the first hello of an agent. Returns its worker, or `None` when that is terminated or unknown.
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

    /// Records that an agent takes no more jobs. When that cannot be stored, the agent repeats it over its next stream.
    pub(crate) async fn draining(&self, worker: WorkerId) {
        let drain = WorkerInput::Drain("its agent drains".into());
        if let Err(error) = self.change(worker, Actor::Agent, drain).await {
            tracing::warn!(%worker, %error, "could not store a drain: the agent repeats it when it reconnects");
        }
    }

    /// Drains a worker at a client's request: it takes no more jobs, and ends when its jobs have.
    pub(crate) async fn drain(&self, caller: &Caller, worker: WorkerId) -> Result<(), Error> {
        self.authorizer.allow(caller, Action::DrainWorkers)?;
        self.change(worker, Actor::Client, WorkerInput::Drain("a client asked for it".into())).await?;
        Ok(())
    }

    /// Retires a worker whose agent leaves empty. Jobs sent to it since have not started, and go back to the queue.
    pub(crate) async fn retire(&self, worker: WorkerId) {
        self.end(worker, WorkerInput::Terminate(TerminationCause::Retired), Closing::Left).await;
    }

    /// Terminates a worker whose agent unregisters. Its open attempts are lost.
    #[cfg(feature = "grpc")]
    pub(crate) async fn leave(&self, worker: WorkerId) {
        let closing = Closing::Lost("its agent unregistered");
        self.end(worker, WorkerInput::Terminate(TerminationCause::Retired), closing).await;
    }

    /// Ends a worker that could not be created or never connected. Returns whether the end is stored or unnecessary.
    pub(crate) async fn fail(&self, worker: WorkerId, why: String) -> bool {
        let cause = TerminationCause::ProvisioningFailed(why);
        self.end(worker, WorkerInput::Terminate(cause), Closing::GONE).await
    }

    /// Ends a worker that is lost.
    pub(crate) async fn lose(&self, worker: WorkerId, why: String) {
        self.end(worker, WorkerInput::Lose(why), Closing::GONE).await;
    }

    /// Terminates a worker for shutdown. Its running jobs are killed, and the kill does not count as their failure.
    pub(crate) async fn stop(&self, worker: &Worker) {
        let id = worker.id();
        let input = WorkerInput::Terminate(TerminationCause::Shutdown);
        match self.change(id, Actor::Platform, input).await {
            Ok(Some(ended)) => self.after_end(&ended, Closing::Shutdown).await,
            // Its agent has left by itself, and the task that destroys it for that ends with this platform.
            Ok(None) => self.destroy_in_time(worker).await,
            Err(error) => {
                tracing::warn!(worker = %id, %error, "could not store the end of a worker: the next start tries again");
            }
        }
    }

    /// Ends a worker: destroys it first, then frees its jobs for their next attempt. A destruction that does not answer
    /// delays the jobs for a bounded time; from then on the fence alone protects them. Returns whether the end is
    /// stored or unnecessary.
    async fn end(&self, id: WorkerId, input: WorkerInput, closing: Closing) -> bool {
        match self.change(id, Actor::Platform, input).await {
            Ok(Some(worker)) => self.after_end(&worker, closing).await,
            Ok(None) => {}
            // The caller that found it dead finds it again.
            Err(error) => {
                tracing::warn!(worker = %id, %error, "could not store the end of a worker: the next check tries again");
                return false;
            }
        }
        true
    }

    async fn after_end(&self, worker: &Worker, closing: Closing) {
        self.streams.cut(worker.id());
        if !self.providers.contains_key(&worker.order().provider) && !self.ports.store.is_exclusive() {
            // The daemon that has its provider destroys it; the coordinator waits up to the destroy timeout for that.
            return;
        }
        self.destroy_in_time(worker).await;
        self.close_all(worker.id(), closing).await;
    }

    async fn destroy_in_time(&self, worker: &Worker) {
        let limit = self.ports.settings.destroy_timeout;
        if self.ports.clock.timeout(limit, self.destroy(worker, Duration::ZERO)).await.is_err() {
            tracing::warn!(worker = %worker.id(), "could not destroy a worker in time: reconciliation tries again");
        }
    }

    /// Frees the jobs of a destroyed worker, whose end was stored elsewhere, for their next attempt.
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

    /// Returns for each job of a lost worker whether it may have caused the loss. The worker is destroyed or out of
    /// reach.
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
        // When the worker is unknown, each of its jobs may have begun.
        let slots = worker.map_or(u32::MAX, |worker| worker.capacity().slots);
        blames(jobs, slots, begun.as_ref(), self.ports.clock.now())
    }

    /// Asks the agent of a worker to end its jobs and to report their outcomes.
    pub(crate) async fn evict(&self, worker: &Worker) {
        let Some(provider) = self.providers.get(&worker.order().provider) else { return };
        if let Err(error) = provider.evict(worker.id()).await {
            tracing::debug!(worker = %worker.id(), %error, "could not ask an agent to end its jobs: they are killed");
        }
    }

    /// Destroys a worker and everything that its jobs left behind.
    pub(crate) async fn destroy(&self, worker: &Worker, grace: Duration) {
        let Some(provider) = self.providers.get(&worker.order().provider) else { return };
        if let Err(error) = provider.destroy(worker.id(), grace).await {
            tracing::warn!(worker = %worker.id(), %error, "could not destroy a worker: reconciliation tries again");
        }
    }

    /// Closes attempts that will never report, each independently. Their worker goes on.
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
                        tracing::warn!(%attempt, %error, "cannot reach the log of a lost attempt: it is closed later");
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

    /// Builds the input that loses an attempt. Seals its log before counting its end, so that nothing is written after.
    /// An attempt that may still start keeps its log open until it is known to be lost. An attempt that provably never
    /// began misses no output.
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
                tracing::error!(%attempt, %error, "a log is broken: its length is taken as 0");
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
        for _ in 0..MAX_COMMIT_TRIES {
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

    /// Commits one transition of a worker. Returns `None` when the worker is unknown or its state does not allow it.
    pub(crate) async fn change(
        &self,
        id: WorkerId,
        actor: Actor,
        input: WorkerInput,
    ) -> Result<Option<Arc<Worker>>, CommitFailed> {
        for _ in 0..MAX_COMMIT_TRIES {
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
        tracing::warn!(worker = %id, "gave up changing a worker: other changes keep conflicting");
        Ok(None)
    }
}
