//! Intake of results: checks the reports of agents, stores them in batches and acknowledges them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::{Aggregate, AggregateId};
use hodei_core::event::{Actor, DomainEvent, LogGap};
use hodei_core::id::{AttemptId, JobId, WorkerId};
use hodei_core::job::{AttemptReport, FailureCause, Job, JobInput, Outcome, Refused, step};
use hodei_core::port::{CommitError, Fence};
use hodei_core::time::Timestamp;
use hodei_proto::v1::server_message::Body;
use hodei_proto::{convert, v1};
use tokio::sync::mpsc;

use crate::app::access::authorizer::Authorizer;
use crate::app::commit::Committer;
use crate::app::dispatch::dispatcher::JobDispatcher;
use crate::app::hints::{MAX_HINTED_ATTEMPTS, hint};
use crate::app::ports::Ports;
use crate::app::workers::stream_registry::StreamRegistry;
use crate::task::Tasks;

/// Hands reports of agents to the intake task, which fences, stores and acknowledges them. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ResultIntake {
    reports: mpsc::Sender<Report>,
}

/// A report of an agent about one attempt.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptId,
    pub(crate) kind: ReportKind,
}

/// Content of a report.
#[derive(Debug, Clone)]
pub(crate) enum ReportKind {
    Started(Timestamp),
    Finished { report: AttemptReport, gap: Option<LogGap> },
    GaveBack,
}

/// Prefix of the failure cause of a job whose result the store rejects.
const REJECTED_PREFIX: &str = "its result cannot be stored";

impl Report {
    /// Returns the report that replaces one that the store rejects for good: the attempt failed with that cause. `None`
    /// where there is no replacement: a start is implied by the end, and after a second rejection the agent reports
    /// again when it reconnects.
    fn replacement_for_rejected(self, why: &str) -> Option<Self> {
        let ReportKind::Finished { report, gap } = self.kind else { return None };
        if matches!(&report.outcome, Outcome::Failed(FailureCause::Io(said)) if said.starts_with(REJECTED_PREFIX))
        {
            return None;
        }
        let plain: String =
            why.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).take(500).collect();
        let cause = FailureCause::Io(format!("{REJECTED_PREFIX}: {plain}"));
        let report = AttemptReport { outcome: Outcome::Failed(cause), artifacts: Vec::new(), ..report };
        Some(Self { kind: ReportKind::Finished { report, gap }, ..self })
    }
}

/// Dependencies of the intake task.
#[derive(Debug)]
pub(crate) struct IntakeParts {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
    pub(crate) streams: StreamRegistry,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) authorizer: Authorizer,
}

/// Reports that may queue; when the queue is full, reports wait in the lanes of their streams.
const MAX_QUEUED_REPORTS: usize = 1024;
/// Reports stored in one batch.
const MAX_BATCH_REPORTS: usize = 512;
/// Shortest time between two batches while they have more than one report: a batch costs the store the same however
/// many reports it has. A report that arrives alone does not wait.
const BATCH_INTERVAL: Duration = Duration::from_millis(4);
/// Wait between two tries on a store that fails.
const STORE_RETRY_INTERVAL: Duration = Duration::from_millis(200);

impl ResultIntake {
    /// Starts the intake task.
    pub(crate) fn start(tasks: &Tasks, parts: IntakeParts) -> Self {
        let (reports, waiting) = mpsc::channel(MAX_QUEUED_REPORTS);
        tasks.spawn("result intake", parts.run(waiting));
        Self { reports }
    }

    /// Queues a report if there is room; returns it when there is none.
    pub(crate) fn try_report(&self, report: Report) -> Option<Report> {
        self.reports.try_send(report).err().map(mpsc::error::TrySendError::into_inner)
    }

    /// Queues a report, waiting for room; `None` when the platform stops.
    pub(crate) async fn report(&self, report: Report) -> Option<()> {
        self.reports.send(report).await.ok()
    }
}

/// Messages and hints to send once a batch is stored.
#[derive(Default)]
struct Answers {
    acknowledged: BTreeMap<WorkerId, Vec<AttemptId>>,
    fenced: BTreeMap<WorkerId, Vec<AttemptId>>,
    closed: BTreeMap<WorkerId, Vec<AttemptId>>,
}

impl IntakeParts {
    async fn run(self, mut waiting: mpsc::Receiver<Report>) {
        let (mut batch, mut next) = (Vec::new(), None);
        while waiting.recv_many(&mut batch, MAX_BATCH_REPORTS).await > 0 {
            if let Some(next) = next {
                self.ports.clock.sleep(Duration::saturating_sub(next, self.ports.clock.monotonic())).await;
                while batch.len() < MAX_BATCH_REPORTS
                    && let Ok(more) = waiting.try_recv()
                {
                    batch.push(more);
                }
            }
            next = (batch.len() > 1).then(|| self.ports.clock.monotonic() + BATCH_INTERVAL);
            let mut answers = Answers::default();
            let (mut pending, mut is_fresh) = (std::mem::take(&mut batch), false);
            while !pending.is_empty() {
                let stored = self.store_batch(pending.clone(), is_fresh, &mut answers).await;
                is_fresh = true;
                pending = match stored {
                    Some(undecided) => undecided,
                    None => {
                        // The agents keep unacknowledged reports, and so does this task: nothing is lost.
                        self.ports.clock.sleep(STORE_RETRY_INTERVAL).await;
                        pending
                    }
                };
            }
            self.answer(answers).await;
        }
    }

    /// Stores the reports that it can. Returns those to decide again on the stored state of their jobs, or `None` when
    /// the store failed. With `is_fresh` it reads the stored state; without, it reads remembered states and refuses
    /// nothing.
    async fn store_batch(
        &self,
        batch: Vec<Report>,
        is_fresh: bool,
        answers: &mut Answers,
    ) -> Option<Vec<Report>> {
        let mut ids: Vec<JobId> = batch.iter().map(|report| report.attempt.job).collect();
        ids.sort_unstable();
        ids.dedup();
        let found = if is_fresh {
            self.ports.store.jobs(&ids).await
        } else {
            self.ports.store.recent_jobs(&ids).await
        };
        let found = found.ok()?;
        let mut jobs: BTreeMap<JobId, Arc<Job>> =
            found.into_iter().flatten().map(|job| (job.id(), job)).collect();
        let (mut decisions, mut decided, mut undecided) = (Vec::new(), Vec::new(), Vec::new());
        let now = self.ports.clock.now();
        for report in batch {
            let (worker, attempt) = (report.worker, report.attempt);
            let job = jobs.get(&attempt.job);
            match self.decide(job.map(|job| &**job), &report, now) {
                Ok(decision) => {
                    if let Aggregate::Job(next) = &decision.next {
                        jobs.insert(attempt.job, next.clone());
                    }
                    decisions.push(decision);
                    decided.push(report);
                }
                Err(_) if !is_fresh => undecided.push(report),
                Err(Refused::Unchanged) => {}
                Err(Refused::Terminal(_)) if job.is_some_and(|job| job.attempt_id() == attempt) => {
                    answers.acknowledged.entry(worker).or_default().push(attempt);
                }
                Err(refused) => {
                    tracing::debug!(%worker, %attempt, %refused, "refused a report");
                    if job.is_some_and(|job| job.assignment().is_none_or(|at| at.worker != worker)) {
                        self.authorizer.refuse_foreign_attempt(worker, attempt);
                    }
                    answers.fenced.entry(worker).or_default().push(attempt);
                }
            }
        }
        let outcomes = self.committer.commit(Fence::None, Actor::Agent, decisions).await.ok()?;
        for (report, outcome) in decided.into_iter().zip(outcomes) {
            let job = match outcome {
                Ok(Aggregate::Job(job)) => job,
                // The job still ends, with the rejection as its cause.
                Err(CommitError::Rejected { why }) => {
                    undecided.extend(report.replacement_for_rejected(&why));
                    continue;
                }
                _ => {
                    undecided.push(report);
                    continue;
                }
            };
            if !matches!(report.kind, ReportKind::Started(_)) {
                answers.acknowledged.entry(report.worker).or_default().push(report.attempt);
            }
            if job.assignment().is_none() {
                answers.closed.entry(report.worker).or_default().push(report.attempt);
            }
        }
        Some(undecided)
    }

    /// Turns a report into a decision on its job. Refuses it when another worker holds the job.
    fn decide(
        &self,
        job: Option<&Job>,
        report: &Report,
        now: Timestamp,
    ) -> Result<hodei_core::decision::Decision, Refused> {
        let attempt = report.attempt.number;
        let mine = |job: &&Job| {
            job.assignment().is_none_or(|at| at.worker == report.worker) || cfg!(hodei_break = "fence")
        };
        let Some(job) = job.filter(mine) else { return Err(Refused::Fenced { attempt, current: 0 }) };
        let input = match &report.kind {
            ReportKind::Started(started_at) => JobInput::Start { attempt, started_at: *started_at },
            ReportKind::Finished { report, gap } => JobInput::Finish {
                attempt,
                report: report.clone(),
                gap: *gap,
                jitter: self.ports.ids.fraction(),
            },
            ReportKind::GaveBack => JobInput::GiveBack { attempt },
        };
        step(Some(job), input, now)
    }

    /// Sends acknowledgements and fences to agents, and publishes which attempts are closed.
    async fn answer(&self, answers: Answers) {
        for (worker, attempts) in answers.acknowledged {
            let attempts = attempts.into_iter().map(convert::attempt_ref).collect();
            self.streams.send(worker, Body::ResultAck(v1::ResultAck { attempts }));
        }
        for (worker, attempts) in answers.fenced {
            self.dispatcher.fence(worker, &attempts);
        }
        let hints: Vec<_> = answers
            .closed
            .iter()
            .flat_map(|(worker, closed)| closed.chunks(MAX_HINTED_ATTEMPTS).map(|some| (*worker, some)))
            .map(|(worker, closed)| {
                let event = DomainEvent::WorkerReadyForJob { closed: closed.to_vec() };
                hint(
                    &*self.ports.ids,
                    &*self.ports.clock,
                    AggregateId::Worker(worker),
                    Actor::Platform,
                    event,
                )
            })
            .collect();
        if let Err(error) = self.ports.bus.publish(&hints).await {
            tracing::warn!(%error, "could not publish hints: sweeps find the changes");
        }
    }
}
