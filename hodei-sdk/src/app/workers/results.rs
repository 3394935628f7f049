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

/// Takes what agents report: fences it, stores it in batches, acknowledges it.
#[derive(Debug, Clone)]
pub(crate) struct ResultIntake {
    reports: mpsc::Sender<Report>,
}

/// A word of an agent about one attempt.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptId,
    pub(crate) kind: ReportKind,
}

/// What it says.
#[derive(Debug, Clone)]
pub(crate) enum ReportKind {
    Started(Timestamp),
    Finished { report: AttemptReport, gap: Option<LogGap> },
    GaveBack,
}

/// How the cause of a job begins whose result the store refuses.
const CANNOT_BE_STORED: &str = "its result cannot be stored";

impl Report {
    /// The report in the place of one that the store refuses for good: the attempt failed of that. `None` where there is
    /// none: a start is told by the end, and a second refusal is left to the agent, which reports again when it connects
    /// again.
    fn without_what_is_refused(self, why: &str) -> Option<Self> {
        let ReportKind::Finished { report, gap } = self.kind else { return None };
        if matches!(&report.outcome, Outcome::Failed(FailureCause::Io(said)) if said.starts_with(CANNOT_BE_STORED))
        {
            return None;
        }
        let plain: String =
            why.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).take(500).collect();
        let cause = FailureCause::Io(format!("{CANNOT_BE_STORED}: {plain}"));
        let report = AttemptReport { outcome: Outcome::Failed(cause), artifacts: Vec::new(), ..report };
        Some(Self { kind: ReportKind::Finished { report, gap }, ..self })
    }
}

/// What the intake task works with.
#[derive(Debug)]
pub(crate) struct IntakeParts {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
    pub(crate) streams: StreamRegistry,
    pub(crate) dispatcher: JobDispatcher,
    pub(crate) authorizer: Authorizer,
}

/// Reports that may wait; beyond it the streams of the agents wait.
const WAITING: usize = 1024;
/// Reports stored at once.
const BATCH: usize = 512;
/// From one batch to the next while they have more than one report: each costs the store the same, however many are in
/// it. One that comes alone waits for nothing.
const GATHER: Duration = Duration::from_millis(4);
/// Between two tries on a store that fails.
const AGAIN: Duration = Duration::from_millis(200);

impl ResultIntake {
    /// Starts the intake task.
    pub(crate) fn start(tasks: &Tasks, parts: IntakeParts) -> Self {
        let (reports, waiting) = mpsc::channel(WAITING);
        tasks.spawn("result intake", parts.run(waiting));
        Self { reports }
    }

    /// Hands a report over if there is room; gives it back when there is none.
    pub(crate) fn try_report(&self, report: Report) -> Option<Report> {
        self.reports.try_send(report).err().map(mpsc::error::TrySendError::into_inner)
    }

    /// Hands a report over; `None` when the platform stops.
    pub(crate) async fn report(&self, report: Report) -> Option<()> {
        self.reports.send(report).await.ok()
    }
}

/// What is to be said once a batch is stored.
#[derive(Default)]
struct Answers {
    acknowledged: BTreeMap<WorkerId, Vec<AttemptId>>,
    fenced: BTreeMap<WorkerId, Vec<AttemptId>>,
    closed: BTreeMap<WorkerId, Vec<AttemptId>>,
}

impl IntakeParts {
    async fn run(self, mut waiting: mpsc::Receiver<Report>) {
        let (mut batch, mut next) = (Vec::new(), None);
        while waiting.recv_many(&mut batch, BATCH).await > 0 {
            if let Some(next) = next {
                self.ports.clock.sleep(Duration::saturating_sub(next, self.ports.clock.monotonic())).await;
                while batch.len() < BATCH
                    && let Ok(more) = waiting.try_recv()
                {
                    batch.push(more);
                }
            }
            next = (batch.len() > 1).then(|| self.ports.clock.monotonic() + GATHER);
            let mut answers = Answers::default();
            let (mut left, mut afresh) = (std::mem::take(&mut batch), false);
            while !left.is_empty() {
                let stored = self.store_batch(left.clone(), afresh, &mut answers).await;
                afresh = true;
                left = match stored {
                    Some(undecided) => undecided,
                    None => {
                        // The agents keep what is not acknowledged, and so does this task: nothing is lost.
                        self.ports.clock.sleep(AGAIN).await;
                        left
                    }
                };
            }
            self.answer(answers).await;
        }
    }

    /// Stores what it can; returns the reports that are to be decided over the present state of their jobs, or `None`
    /// when the store failed. Unless it reads that `afresh`, it refuses nothing.
    async fn store_batch(
        &self,
        batch: Vec<Report>,
        afresh: bool,
        answers: &mut Answers,
    ) -> Option<Vec<Report>> {
        let mut ids: Vec<JobId> = batch.iter().map(|report| report.attempt.job).collect();
        ids.sort_unstable();
        ids.dedup();
        let found =
            if afresh { self.ports.store.jobs(&ids).await } else { self.ports.store.recent_jobs(&ids).await };
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
                Err(_) if !afresh => undecided.push(report),
                Err(Refused::Unchanged) => {}
                Err(Refused::Terminal(_)) if job.is_some_and(|job| job.attempt_id() == attempt) => {
                    answers.acknowledged.entry(worker).or_default().push(attempt);
                }
                Err(refused) => {
                    tracing::debug!(%worker, %attempt, %refused, "a report was refused");
                    if job.is_some_and(|job| job.assignment().is_none_or(|at| at.worker != worker)) {
                        self.authorizer.not_its(worker, attempt);
                    }
                    answers.fenced.entry(worker).or_default().push(attempt);
                }
            }
        }
        let outcomes = self.committer.commit(Fence::None, Actor::Agent, decisions).await.ok()?;
        for (report, outcome) in decided.into_iter().zip(outcomes) {
            let job = match outcome {
                Ok(Aggregate::Job(job)) => job,
                // The job ends all the same, with this for its cause.
                Err(CommitError::Rejected { why }) => {
                    undecided.extend(report.without_what_is_refused(&why));
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
            tracing::warn!(%error, "hints were lost");
        }
    }
}
