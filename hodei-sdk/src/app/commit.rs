//! The single write path: takes the decisions of all callers, stores them in batches, then acts on them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hodei_core::decision::{Aggregate, Decision, Expect};
use hodei_core::event::{Actor, Envelope};
use hodei_core::id::EventId;
use hodei_core::port::{CommitError, Fence, StoreError, Write};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::app::dispatch::dispatcher::JobDispatcher;
use crate::app::follow::job_notifier::JobNotifier;
use crate::app::hints::{MAX_HINTED_ATTEMPTS, dispatch_requested};
use crate::app::ports::Ports;
use crate::task::Tasks;

/// Hands decisions to the committing task. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Committer {
    requests: mpsc::Sender<Request>,
}

/// Decisions of one caller, committed in a batch with those of other callers.
#[derive(Debug)]
struct Request {
    fence: Fence,
    actor: Actor,
    decisions: Vec<Decision>,
    reply: oneshot::Sender<Outcome>,
}

/// One result per decision, or the failure of all of them.
pub(crate) type Outcome = Result<Vec<Result<Aggregate, CommitError>>, CommitFailed>;

/// Reason for which a commit stored nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitFailed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the platform has stopped")]
    Stopped,
}

impl From<CommitFailed> for crate::Error {
    fn from(error: CommitFailed) -> Self {
        match error {
            CommitFailed::Store(error) => Self::Store(error),
            CommitFailed::Stopped => Self::ShuttingDown,
        }
    }
}

/// Requests that may queue; when the queue is full, callers wait.
const MAX_QUEUED_REQUESTS: usize = 1024;
/// Requests taken from the queue at once.
const MAX_TAKEN_REQUESTS: usize = 256;
/// Requests below which a batch waits for more, or for the running transactions to end.
const MIN_BATCH_REQUESTS: usize = 16;
/// Decisions stored in one transaction, unless a single request has more.
const MAX_BATCH_DECISIONS: usize = 1000;
/// Bytes of specs stored in one transaction, unless a single request has more.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Dependencies of the committing task.
pub(crate) struct CommitterParts {
    pub(crate) ports: Arc<Ports>,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) job_notifier: JobNotifier,
    pub(crate) failures: Failures,
}

/// The failure that was logged last. An unreachable store fails in the same way many times a second.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<Option<(String, Duration)>>);

/// Interval after which the same failure is logged again.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(30);

impl Failures {
    /// Remembers a failure; returns whether to log it, since it is new or was last logged some time ago.
    fn is_to_be_logged(&self, failure: &str, now: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known =
            last.as_ref().is_some_and(|(last, at)| last == failure && now < *at + FAILURE_LOG_INTERVAL);
        if !is_known {
            *last = Some((failure.to_owned(), now));
        }
        !is_known
    }
}

impl Committer {
    /// Starts the committing task.
    pub(crate) fn start(tasks: &Tasks, parts: CommitterParts) -> Self {
        let (requests, waiting) = mpsc::channel(MAX_QUEUED_REQUESTS);
        tasks.spawn("committer", Arc::new(parts).run(waiting, tasks.clone()));
        Self { requests }
    }

    /// Stores decisions; returns once they are stored, published and acted on.
    ///
    /// Not cancel safe: when dropped, the decisions may have been stored or not.
    pub(crate) async fn commit(&self, fence: Fence, actor: Actor, decisions: Vec<Decision>) -> Outcome {
        if decisions.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let request = Request { fence, actor, decisions, reply };
        self.requests.send(request).await.map_err(|_| CommitFailed::Stopped)?;
        answer.await.map_err(|_| CommitFailed::Stopped)?
    }

    /// Stores one decision.
    pub(crate) async fn commit_one(
        &self,
        actor: Actor,
        decision: Decision,
    ) -> Result<Result<Aggregate, CommitError>, CommitFailed> {
        let mut outcomes = self.commit(Fence::None, actor, vec![decision]).await?;
        outcomes.pop().ok_or(CommitFailed::Stopped)
    }
}

impl CommitterParts {
    /// Takes all queued requests and commits them together, so that load makes batches and an idle platform adds no
    /// delay.
    async fn run(self: Arc<Self>, mut waiting: mpsc::Receiver<Request>, tasks: Tasks) {
        let lanes = self.ports.store.commits_at_once();
        let free = Arc::new(Semaphore::new(lanes));
        let mut batch = Vec::new();
        while !batch.is_empty() || waiting.recv_many(&mut batch, MAX_TAKEN_REQUESTS).await > 0 {
            // A plan never shares a transaction with results or submits: its fence may fail all of it.
            batch.sort_by_key(|request: &Request| request.fence);
            let rest = split(&mut batch);
            let requests = std::mem::replace(&mut batch, rest);
            // With one lane there is nothing to run concurrently.
            if lanes == 1 {
                self.commit(requests).await;
                continue;
            }
            // A plan does not wait for more requests: they sort before it and could delay it again and again.
            let is_plan = requests.first().is_some_and(|request| request.fence != Fence::None);
            if !is_plan
                && requests.len() < MIN_BATCH_REQUESTS
                && batch.is_empty()
                && free.available_permits() < lanes
            {
                batch = requests;
                tokio::select! {
                    biased;
                    _ = waiting.recv_many(&mut batch, MAX_TAKEN_REQUESTS), if !waiting.is_closed() => {}
                    _ = free.acquire_many(u32::try_from(lanes).unwrap_or(u32::MAX)) => {}
                }
                continue;
            }
            // The semaphore is never closed.
            let Ok(lane) = free.clone().acquire_owned().await else { return };
            let parts = self.clone();
            tasks.spawn("commit", async move {
                parts.commit(requests).await;
                drop(lane);
            });
        }
    }

    async fn commit(&self, requests: Vec<Request>) {
        let fence = requests.first().map_or(Fence::None, |request| request.fence);
        let writes: Vec<Write> = requests
            .iter()
            .flat_map(|request| request.decisions.iter().map(|d| self.write(request.actor, d)))
            .collect();
        match self.ports.store.commit(fence, &writes).await {
            Ok(outcomes) => self.settle(requests, &writes, outcomes).await,
            Err(error @ (StoreError::Other(_) | StoreError::Rejected(_))) if requests.len() > 1 => {
                // A batch is never a unit of failure: halve it until the failing request is alone.
                tracing::warn!(%error, requests = requests.len(), "a batch failed: splitting it");
                let mut first = requests;
                let second = first.split_off(first.len() / 2);
                Box::pin(self.commit(first)).await;
                Box::pin(self.commit(second)).await;
            }
            Err(error) if error.is_disk_full() && is_mixed(&requests) => {
                // New jobs fail on a full disk; ends and cancels have space reserved for them.
                let (new, others) = requests.into_iter().partition(creates_jobs);
                Box::pin(self.commit(others)).await;
                self.fail(new, error);
            }
            Err(error @ StoreError::Rejected(_)) => {
                tracing::error!(%error, writes = writes.len(), "the store rejects a write for good");
                match self.commit_apart(fence, &writes, error).await {
                    Ok(outcomes) => self.settle(requests, &writes, outcomes).await,
                    Err(error) => self.fail(requests, error),
                }
            }
            Err(error) => self.fail(requests, error),
        }
    }

    /// Stores the writes of one request, of which the store rejected one for good, in halves until that one is alone.
    ///
    /// # Errors
    /// Any other error of the store. Writes stored before stay stored, and a repeated request finds them so.
    async fn commit_apart(
        &self,
        fence: Fence,
        writes: &[Write],
        refusal: StoreError,
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        if writes.len() <= 1 {
            let why = match refusal {
                StoreError::Rejected(why) => why,
                other => other.to_string(),
            };
            return Ok(writes.iter().map(|_| Err(CommitError::Rejected { why: why.clone() })).collect());
        }
        let (first, second) = writes.split_at(writes.len() / 2);
        let mut outcomes = Vec::with_capacity(writes.len());
        for half in [first, second] {
            outcomes.extend(match self.ports.store.commit(fence, half).await {
                Err(refusal @ StoreError::Rejected(_)) => {
                    Box::pin(self.commit_apart(fence, half, refusal)).await?
                }
                stored => stored?,
            });
        }
        Ok(outcomes)
    }

    /// Logs a failure that stored nothing, and returns it to every caller.
    fn fail(&self, requests: Vec<Request>, error: StoreError) {
        if !matches!(error, StoreError::StaleEpoch { .. })
            && self.failures.is_to_be_logged(&error.to_string(), self.ports.clock.monotonic())
        {
            tracing::error!(%error, requests = requests.len(), "a commit failed: nothing was stored");
        }
        refuse(requests, error);
    }

    /// Follows up on a stored batch: wakes waiters, sends messages to workers, publishes hints, answers the callers.
    async fn settle(&self, requests: Vec<Request>, writes: &[Write], outcomes: Vec<Result<(), CommitError>>) {
        let stored =
            || writes.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()).map(|(write, _)| write);
        for write in stored() {
            if let Aggregate::Job(job) = &write.next {
                self.job_notifier.stored(job);
            }
        }
        let decisions = requests.iter().flat_map(|request| &request.decisions);
        let done: Vec<&Decision> = decisions
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(decision, _)| decision)
            .collect();
        let unreached = self.dispatcher.perform(&done);
        let mut events: Vec<Envelope> = stored().flat_map(|write| write.events.iter().cloned()).collect();
        if !self.ports.store.is_exclusive() {
            // Another daemon may hold the streams of these workers.
            for (worker, attempts) in unreached {
                for some in attempts.chunks(MAX_HINTED_ATTEMPTS) {
                    events.push(dispatch_requested(
                        &*self.ports.ids,
                        &*self.ports.clock,
                        worker,
                        some.to_vec(),
                        Vec::new(),
                    ));
                }
            }
        }
        if let Err(error) = self.ports.bus.publish(&events).await {
            tracing::warn!(%error, "could not publish hints: sweeps find the changes");
        }
        let mut outcomes = outcomes.into_iter();
        for request in requests {
            let answer = request.decisions.into_iter().zip(outcomes.by_ref());
            let answer = answer.map(|(decision, outcome)| outcome.map(|()| decision.next)).collect();
            let _ = request.reply.send(Ok(answer));
        }
    }

    fn write(&self, actor: Actor, decision: &Decision) -> Write {
        let at = self.ports.clock.now();
        Write::of(decision, actor, || EventId::from_uuid(self.ports.ids.uuid(at)))
    }
}

fn creates_jobs(request: &Request) -> bool {
    request.decisions.iter().any(|decision| decision.expect == Expect::Absent)
}

/// Whether some of the requests create jobs and others do not.
fn is_mixed(requests: &[Request]) -> bool {
    let new = requests.iter().filter(|request| creates_jobs(request)).count();
    new > 0 && new < requests.len()
}

/// Answers requests with the error of a commit that stored nothing.
fn refuse(requests: Vec<Request>, error: StoreError) {
    let why = match &error {
        StoreError::Other(source) => source.to_string(),
        error => error.to_string(),
    };
    let mut first = Some(error);
    for request in requests {
        // Every request gets the same error, but only one can own its source.
        let failed = match first.take() {
            Some(StoreError::Unavailable { retry_after, why }) => {
                first = Some(StoreError::Unavailable { retry_after, why: why.clone() });
                StoreError::Unavailable { retry_after, why }
            }
            Some(StoreError::Gone(why)) => {
                first = Some(StoreError::Gone(why.clone()));
                StoreError::Gone(why)
            }
            Some(error) => error,
            None => StoreError::Other(why.clone().into()),
        };
        let _ = request.reply.send(Err(failed.into()));
    }
}

/// Keeps the first requests that may share a transaction in `batch`, and returns the others.
fn split(batch: &mut Vec<Request>) -> Vec<Request> {
    let Some(fence) = batch.first().map(|request| request.fence) else { return Vec::new() };
    let (mut decisions, mut bytes) = (0, 0);
    let fits = batch.iter().take_while(|request| {
        let first = decisions == 0;
        decisions += request.decisions.len();
        bytes += request.decisions.iter().map(bytes_of).sum::<usize>();
        request.fence == fence && (first || (decisions <= MAX_BATCH_DECISIONS && bytes <= MAX_BATCH_BYTES))
    });
    let count = fits.count();
    batch.split_off(count)
}

/// Returns the size of the spec that a decision stores, in bytes; 0 unless it creates a job.
fn bytes_of(decision: &Decision) -> usize {
    match &decision.next {
        Aggregate::Job(job) if decision.expect == Expect::Absent => job.spec().size(),
        _ => 0,
    }
}
