//! The state machine of a job: inputs, transitions, and the fold of events into states.

use std::sync::Arc;

use super::state::{Assignment, AttemptReport, Ending, Job, JobState, JobStatus, Run, Tally, WaitReason};
use super::tenant::TenantId;
use super::{Blame, FailureCause, JobSpec, Outcome};
use crate::decision::{Aggregate, Decision, Effect, Expect, Score};
use crate::event::{Charge, DomainEvent, LogGap};
use crate::id::{JobId, WorkerId};
use crate::time::Timestamp;

/// The inputs of the state machine.
#[derive(Debug, Clone, PartialEq)]
pub enum JobInput {
    /// A caller submits the job. Legal only while it does not exist.
    Submit(Submission),
    /// The wait in CREATED is over.
    Due,
    /// The plan assigns the job to a worker.
    Assign {
        /// The worker.
        worker: WorkerId,
        /// Number of this assignment among those of the worker; it rises.
        dispatch: u64,
        /// Score of the worker.
        score: Score,
    },
    /// The agent reports the start of the process.
    Start {
        /// Number of the attempt.
        attempt: u32,
        /// Start of the process.
        started_at: Timestamp,
    },
    /// The agent reports the end of the attempt.
    Finish {
        /// Number of the attempt.
        attempt: u32,
        /// Its report.
        report: AttemptReport,
        /// Log chunks that did not arrive within the bounded wait.
        gap: Option<LogGap>,
        /// Jitter of the backoff, in `0.0..=1.0`.
        jitter: f64,
    },
    /// The agent gives the attempt back without having started it.
    GiveBack {
        /// Number of the attempt.
        attempt: u32,
    },
    /// The attempt is lost: no report of it will come.
    Lose {
        /// Number of the attempt.
        attempt: u32,
        /// Cause and blame of the loss.
        loss: Loss,
        /// Jitter of the backoff, in `0.0..=1.0`.
        jitter: f64,
    },
    /// A caller cancels the job.
    Cancel,
    /// The `start_by` of the job has passed.
    Expire,
    /// No provider can run the job any more.
    Reject {
        /// The reason.
        why: String,
    },
}

/// A job as it is submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Id of the job, made by the client.
    pub id: JobId,
    /// Tenant of the job.
    pub tenant: TenantId,
    /// Spec of the job.
    pub spec: Arc<JobSpec>,
    /// The job that this one repeats, after a manual retry.
    pub retry_of: Option<JobId>,
}

/// How an attempt was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// [`FailureCause::Lost`], [`FailureCause::DispatchTimeout`] or [`FailureCause::Infrastructure`].
    pub cause: FailureCause,
    /// Blame of the attempt. Only the agent or the provider can prove [`Blame::Unstarted`].
    pub blame: Blame,
    /// True when the platform itself ended the attempt, as in a shutdown: it is not charged.
    pub interrupted: bool,
    /// Number of its log chunks that are stored.
    pub log_end: u64,
}

impl Loss {
    /// Returns the failure cause of the attempt. Only an attempt that may have ended its worker counts as lost.
    fn into_cause(self) -> FailureCause {
        match self.cause {
            FailureCause::Lost(why) if self.blame == Blame::Bystander => {
                FailureCause::Infrastructure(format!("{why}, and another job may have ended it"))
            }
            cause => cause,
        }
    }
}

/// The reason why the current state does not take an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The job ended, which is final.
    #[error("the job is {0}, which is final")]
    Terminal(JobStatus),
    /// The attempt is not the open one.
    #[error("attempt {attempt} is not open; the last attempt of the job is {current}")]
    Fenced {
        /// Number of the attempt in the input.
        attempt: u32,
        /// Number of the last attempt of the job.
        current: u32,
    },
    /// The job is in the requested state already.
    #[error("the job is in the requested state already")]
    Unchanged,
    /// The input is not legal in this state.
    #[error("a job that is {state} does not take {input}")]
    Illegal {
        /// Name of the state; `unknown` where the job does not exist.
        state: String,
        /// Name of the input.
        input: &'static str,
    },
}

/// Computes the next state of a job. It is the only function that does.
///
/// # Errors
/// [`Refused`] when the state does not take the input; nothing changes then.
pub fn step(current: Option<&Job>, input: JobInput, now: Timestamp) -> Result<Decision, Refused> {
    let mut turn = Turn { now, events: Vec::new(), effects: Vec::new() };
    match (current, input) {
        (None, JobInput::Submit(submission)) => turn.on_submit(submission),
        (None, input) => return Err(illegal("unknown", &input)),
        (Some(_), JobInput::Submit(_)) => return Err(Refused::Unchanged),
        (Some(job), input) => {
            if let JobState::Ended(_) = job.state {
                return Err(Refused::Terminal(job.status()));
            }
            turn.take(job, input)?;
        }
    }
    Ok(turn.decide(current))
}

/// Folds one event into a job. [`step`] uses it too, so that history and state cannot differ.
///
/// `version` and `at` are those of the envelope of the event. Events of other aggregates change nothing.
pub fn replay(job: Option<Job>, event: &DomainEvent, version: u64, at: Timestamp) -> Option<Job> {
    if let DomainEvent::JobCreated { job, tenant, spec, retry_of } = event {
        return Some(Job {
            id: *job,
            tenant: tenant.clone(),
            spec: spec.clone(),
            version,
            state: JobState::Pending { since: at },
            attempt: 0,
            tally: Tally::default(),
            retry_of: *retry_of,
            created_at: at,
        });
    }
    let mut job = job?;
    job.version = version;
    apply(&mut job, event, at);
    Some(job)
}

fn apply(job: &mut Job, event: &DomainEvent, at: Timestamp) {
    match event {
        DomainEvent::JobWaiting { until, reason } => {
            job.state = JobState::Created { until: *until, reason: *reason };
        }
        DomainEvent::JobQueued { .. } => job.state = JobState::Pending { since: at },
        DomainEvent::JobAssigned { worker, attempt, dispatch, .. } => {
            job.attempt = *attempt;
            let (worker, dispatch) = (*worker, *dispatch);
            job.state = JobState::Assigned(Assignment { worker, dispatch, at, cancel_requested: false });
        }
        DomainEvent::JobStarted { started_at, .. } => {
            if let JobState::Assigned(assignment) = &job.state {
                job.state = JobState::Running { assignment: assignment.clone(), started_at: *started_at };
            }
        }
        DomainEvent::JobCancelRequested => match &mut job.state {
            JobState::Assigned(assignment) | JobState::Running { assignment, .. } => {
                assignment.cancel_requested = true;
            }
            _ => {}
        },
        DomainEvent::AttemptClosed { charge, outcome, .. } => {
            job.tally.lost += u32::from(matches!(outcome, Some(Outcome::Failed(FailureCause::Lost(_)))));
            match charge {
                Charge::User => job.tally.user += 1,
                Charge::Infrastructure => job.tally.infrastructure += 1,
                Charge::Nobody => job.tally.uncharged += 1,
            }
        }
        DomainEvent::JobSucceeded { run } => {
            job.state = JobState::Ended(Ending { outcome: Outcome::Succeeded, at, run: Some(run.clone()) });
        }
        DomainEvent::JobFailed { cause, run } => {
            job.state =
                JobState::Ended(Ending { outcome: Outcome::Failed(cause.clone()), at, run: run.clone() });
        }
        DomainEvent::JobCancelled { run } => {
            job.state = JobState::Ended(Ending { outcome: Outcome::Cancelled, at, run: run.clone() });
        }
        DomainEvent::JobTimedOut { run } => {
            job.state = JobState::Ended(Ending { outcome: Outcome::TimedOut, at, run: run.clone() });
        }
        _ => {}
    }
}

/// A transition in progress: it collects events first, and the next state follows from them.
struct Turn {
    now: Timestamp,
    events: Vec<DomainEvent>,
    effects: Vec<Effect>,
}

impl Turn {
    fn decide(self, current: Option<&Job>) -> Decision {
        let (expect, version) = match current {
            Some(job) => (Expect::Version(job.version), job.version + 1),
            None => (Expect::Absent, 1),
        };
        let folded =
            self.events.iter().fold(current.cloned(), |job, event| replay(job, event, version, self.now));
        let next = folded.map(|job| Aggregate::Job(Arc::new(job)));
        Decision {
            expect,
            at: self.now,
            next: next.expect("a job's first event creates it"),
            events: self.events,
            effects: self.effects,
        }
    }

    fn take(&mut self, job: &Job, input: JobInput) -> Result<(), Refused> {
        match (input, &job.state) {
            (JobInput::Due, JobState::Created { .. }) => self.queue(&job.spec),
            (JobInput::Assign { worker, dispatch, score }, JobState::Pending { .. }) => {
                let attempt = job.attempt + 1;
                self.events.push(DomainEvent::JobAssigned { worker, attempt, dispatch, score });
                self.effects.push(Effect::RunJob { worker, job: job.id });
            }
            (JobInput::Start { attempt, started_at }, state) => {
                self.on_start(job, state, attempt, started_at)?;
            }
            (JobInput::Finish { attempt, report, gap, jitter }, _) => {
                let assignment = fenced(job, attempt)?.clone();
                self.on_finish(job, &assignment, report, gap, jitter);
            }
            (JobInput::GiveBack { attempt }, JobState::Assigned(_)) => {
                let assignment = fenced(job, attempt)?.clone();
                self.on_give_back(job, &assignment);
            }
            (JobInput::Lose { attempt, loss, jitter }, _) => {
                let assignment = fenced(job, attempt)?.clone();
                self.on_loss(job, &assignment, loss, jitter);
            }
            (JobInput::Cancel, state) => self.on_cancel(job, state)?,
            (JobInput::Expire, JobState::Created { .. } | JobState::Pending { .. }) => {
                self.events.push(DomainEvent::JobTimedOut { run: None });
            }
            (JobInput::Reject { why }, JobState::Created { .. } | JobState::Pending { .. }) => {
                self.events
                    .push(DomainEvent::JobFailed { cause: FailureCause::Configuration(why), run: None });
            }
            (input, _) => return Err(illegal(job.status().as_str(), &input)),
        }
        Ok(())
    }

    fn on_submit(&mut self, submission: Submission) {
        let Submission { id, tenant, spec, retry_of } = submission;
        self.events.push(DomainEvent::JobCreated { job: id, tenant, spec: spec.clone(), retry_of });
        match spec.not_before {
            Some(until) if until > self.now => {
                self.events.push(DomainEvent::JobWaiting { until, reason: WaitReason::NotBefore });
            }
            _ => self.queue(&spec),
        }
    }

    fn on_start(&mut self, job: &Job, state: &JobState, attempt: u32, at: Timestamp) -> Result<(), Refused> {
        fenced(job, attempt)?;
        let JobState::Assigned(_) = state else { return Err(Refused::Unchanged) };
        self.events.push(DomainEvent::JobStarted { attempt, started_at: at });
        Ok(())
    }

    /// Ends an attempt. Legal in ASSIGNED too: the report carries the start, so that a short job costs one commit.
    fn on_finish(
        &mut self,
        job: &Job,
        at: &Assignment,
        report: AttemptReport,
        gap: Option<LogGap>,
        jitter: f64,
    ) {
        if let (JobState::Assigned(_), Some(started_at)) = (&job.state, report.started_at) {
            self.events.push(DomainEvent::JobStarted { attempt: job.attempt, started_at });
        }
        if let Some(gap) = gap {
            self.events.push(DomainEvent::LogGapRecorded { attempt: job.attempt, gap });
        }
        let AttemptReport {
            outcome,
            exit_code,
            started_at,
            finished_at,
            log_end,
            usage,
            artifacts,
            interrupted,
        } = report;
        let run = Run { worker: at.worker, started_at, finished_at, exit_code, log_end, usage, artifacts };
        let Some(cause) = outcome.cause().filter(|_| !at.cancel_requested) else {
            return self.end(outcome, Some(run));
        };
        let retry = &job.spec.retry;
        let may_rerun = !job.spec.at_most_once || started_at.is_none();
        if interrupted && may_rerun && job.tally.uncharged < Tally::MAX_UNCHARGED {
            let charge = Charge::Nobody;
            self.events.push(DomainEvent::AttemptClosed { attempt: job.attempt, outcome: None, charge });
            return self.queue(&job.spec);
        }
        let (charge, spent, budget) = if cause.is_users() {
            (Charge::User, job.tally.user, if retry.covers(cause) { retry.max } else { 0 })
        } else {
            let budget = if may_rerun { retry.max_infrastructure } else { 0 };
            (Charge::Infrastructure, job.tally.infrastructure, budget)
        };
        if spent >= budget {
            return self.end(outcome, Some(run));
        }
        self.events.push(DomainEvent::AttemptClosed { attempt: job.attempt, outcome: Some(outcome), charge });
        self.wait(job, spent + 1, jitter);
    }

    fn on_give_back(&mut self, job: &Job, at: &Assignment) {
        if at.cancel_requested {
            return self.end(Outcome::Cancelled, None);
        }
        if job.tally.uncharged >= Tally::MAX_UNCHARGED {
            let why = format!("workers gave the job back {} times", job.tally.uncharged + 1);
            return self.end(Outcome::Failed(FailureCause::Infrastructure(why)), None);
        }
        let charge = Charge::Nobody;
        self.events.push(DomainEvent::AttemptClosed { attempt: job.attempt, outcome: None, charge });
        self.queue(&job.spec);
    }

    fn on_loss(&mut self, job: &Job, at: &Assignment, loss: Loss, jitter: f64) {
        // The agent may still be alive: tell it to stop. The fence refuses its messages from now on.
        let attempt = job.attempt_id();
        self.effects.push(Effect::StopAttempt {
            worker: at.worker,
            attempt,
            dispatch: at.dispatch,
            grace: job.spec.kill_grace,
        });
        let spent = job.tally.infrastructure;
        let may_rerun = loss.blame == Blame::Unstarted { proven: true } || !job.spec.at_most_once;
        let (is_free, pays_nothing) = match loss.blame {
            Blame::Unstarted { .. } => (true, true),
            // A job without infrastructure retries has no other attempt after this loss either.
            Blame::Shared | Blame::Bystander => (loss.interrupted, job.spec.retry.max_infrastructure > 0),
            Blame::Alone => (loss.interrupted, loss.interrupted),
        };
        let (started_at, log_end) = (job.started_at(), loss.log_end);
        let run = Some(Run {
            worker: at.worker,
            started_at,
            finished_at: self.now,
            exit_code: None,
            log_end,
            usage: None,
            artifacts: Vec::new(),
        });
        if at.cancel_requested {
            self.end(Outcome::Cancelled, run);
        } else if !may_rerun {
            let why = match loss.cause {
                FailureCause::Lost(why) => why,
                cause => cause.to_string(),
            };
            let why = format!("{why}, and the job may start at most once");
            self.end(Outcome::Failed(FailureCause::Lost(why)), run);
        } else if (is_free || pays_nothing) && job.tally.uncharged < Tally::MAX_UNCHARGED {
            let (charge, attempt) = (Charge::Nobody, job.attempt);
            let outcome = (!is_free).then(|| Outcome::Failed(loss.into_cause()));
            self.events.push(DomainEvent::AttemptClosed { attempt, outcome, charge });
            self.queue(&job.spec);
        } else if spent >= job.spec.retry.max_infrastructure {
            self.end(Outcome::Failed(loss.into_cause()), run);
        } else {
            let outcome = Some(Outcome::Failed(loss.into_cause()));
            let charge = Charge::Infrastructure;
            self.events.push(DomainEvent::AttemptClosed { attempt: job.attempt, outcome, charge });
            if spent == 0 { self.queue(&job.spec) } else { self.wait(job, spent, jitter) }
        }
    }

    fn on_cancel(&mut self, job: &Job, state: &JobState) -> Result<(), Refused> {
        let (JobState::Assigned(assignment) | JobState::Running { assignment, .. }) = state else {
            self.end(Outcome::Cancelled, None);
            return Ok(());
        };
        if assignment.cancel_requested {
            return Err(Refused::Unchanged);
        }
        let Assignment { worker, dispatch, .. } = *assignment;
        let (attempt, grace) = (job.attempt_id(), job.spec.kill_grace);
        self.events.push(DomainEvent::JobCancelRequested);
        self.effects.push(Effect::StopAttempt { worker, attempt, dispatch, grace });
        Ok(())
    }

    fn queue(&mut self, spec: &JobSpec) {
        self.events.push(DomainEvent::JobQueued { priority: spec.priority });
    }

    fn wait(&mut self, job: &Job, retry: u32, jitter: f64) {
        let delay = job.spec.retry.backoff.delay(retry, jitter);
        if delay.is_zero() {
            return self.queue(&job.spec);
        }
        self.events.push(DomainEvent::JobWaiting { until: self.now + delay, reason: WaitReason::Backoff });
    }

    fn end(&mut self, outcome: Outcome, run: Option<Run>) {
        self.events.push(match (outcome, run) {
            (Outcome::Succeeded, Some(run)) => DomainEvent::JobSucceeded { run },
            (Outcome::Succeeded, None) => unreachable!("only a report says succeeded, and it has a run"),
            (Outcome::Failed(cause), run) => DomainEvent::JobFailed { cause, run },
            (Outcome::Cancelled, run) => DomainEvent::JobCancelled { run },
            (Outcome::TimedOut, run) => DomainEvent::JobTimedOut { run },
        });
    }
}

/// Returns the open assignment, if `attempt` is the current one. This is the fence: an input for another attempt
/// changes nothing.
fn fenced(job: &Job, attempt: u32) -> Result<&Assignment, Refused> {
    match job.assignment() {
        Some(assignment) if attempt == job.attempt || cfg!(hodei_break = "fence") => Ok(assignment),
        _ => Err(Refused::Fenced { attempt, current: job.attempt }),
    }
}

fn illegal(state: &str, input: &JobInput) -> Refused {
    let input = match input {
        JobInput::Submit(_) => "a submit",
        JobInput::Due => "due",
        JobInput::Assign { .. } => "an assignment",
        JobInput::Start { .. } => "a start",
        JobInput::Finish { .. } => "a result",
        JobInput::GiveBack { .. } => "a give-back",
        JobInput::Lose { .. } => "a loss",
        JobInput::Cancel => "a cancel",
        JobInput::Expire => "an expiry",
        JobInput::Reject { .. } => "a rejection",
    };
    Refused::Illegal { state: state.to_owned(), input }
}
