//! Explains where a job waits and where its attempts ran.

use std::sync::Arc;

use crate::decision::Score;
use crate::event::{Charge, DomainEvent, Envelope};
use crate::id::{JobId, WorkerId};
use crate::job::{Job, JobState, Outcome};
use crate::queue::WaitingClass;
use crate::time::Timestamp;

/// Explains the place of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulingDecision {
    /// The job; its state says the time that it waits for, if any.
    pub job: Arc<Job>,
    /// Why it waits when it is runnable, as of the last round.
    pub waiting: Option<WaitingClass>,
    /// Its place in its worker, when that has no slot for it yet.
    pub behind: Option<Behind>,
    /// Its attempts, in order.
    pub placements: Vec<Placement>,
}

/// The place of a job that waits in its worker for a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The worker.
    pub worker: WorkerId,
    /// Whether the job gets the next free slot.
    pub is_next: bool,
    /// The job directly before it; `None` when that belongs to another tenant.
    pub job: Option<JobId>,
    /// Number of further jobs that run in the worker or wait before it.
    pub others: usize,
}

/// Returns the place of a job behind `others`, the jobs of its worker, as its tenant may see it; `None` when the job
/// has a slot.
pub fn behind(job: &Job, others: &[Arc<Job>], slots: u32) -> Option<Behind> {
    let JobState::Assigned(own) = job.state() else { return None };
    let is_ahead = |other: &&Arc<Job>| {
        other.id() != job.id()
            && other.assignment().is_some_and(|at| {
                let runs = matches!(other.state(), JobState::Running { .. });
                at.worker == own.worker && (runs || at.dispatch < own.dispatch)
            })
    };
    let mut ahead: Vec<&Arc<Job>> = others.iter().filter(is_ahead).collect();
    let waiting = ahead.len().checked_sub(slots as usize)?;
    ahead.sort_by_key(|other| other.assignment().map(|at| at.dispatch));
    // The job that waits directly before it or, when none does, the one that has run longest.
    let before = if waiting == 0 { ahead.first() } else { ahead.last() };
    let before = before?;
    Some(Behind {
        worker: own.worker,
        is_next: waiting == 0,
        job: (before.tenant() == job.tenant()).then(|| before.id()),
        others: ahead.len() - 1,
    })
}

/// One attempt of a job as scheduling sees it: its worker with the score, and its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Worker of the attempt.
    pub worker: WorkerId,
    /// Score of the worker for the job at the assignment.
    pub score: Score,
    /// Time of the assignment.
    pub assigned_at: Timestamp,
    /// Start of its process; `None` when no start was reported.
    pub started_at: Option<Timestamp>,
    /// Its end; `None` while it is open.
    pub end: Option<PlacementEnd>,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacementEnd {
    /// Time of the end.
    pub at: Timestamp,
    /// Its outcome; `None` when it was given back, or interrupted.
    pub outcome: Option<Outcome>,
    /// The budget that it was charged to, when another attempt may follow; `None` for the attempt that ended the job.
    pub charge: Option<Charge>,
}

/// Reads the attempts of a job from its history, in order.
pub fn placements(history: &[Envelope]) -> Vec<Placement> {
    let mut placements: Vec<Placement> = Vec::new();
    for Envelope { at, event, .. } in history {
        let (outcome, charge, started_at) = match event {
            DomainEvent::JobAssigned { worker, attempt, score, .. } => {
                placements.push(Placement {
                    attempt: *attempt,
                    worker: *worker,
                    score: score.clone(),
                    assigned_at: *at,
                    started_at: None,
                    end: None,
                });
                continue;
            }
            DomainEvent::JobStarted { attempt, started_at } => {
                let started = placements.iter_mut().rfind(|placement| placement.attempt == *attempt);
                started.into_iter().for_each(|placement| placement.started_at = Some(*started_at));
                continue;
            }
            DomainEvent::AttemptClosed { outcome, charge, .. } => (outcome.clone(), Some(*charge), None),
            DomainEvent::JobSucceeded { run } => (Some(Outcome::Succeeded), None, run.started_at),
            DomainEvent::JobFailed { cause, run } => {
                let started_at = run.as_ref().and_then(|run| run.started_at);
                (Some(Outcome::Failed(cause.clone())), None, started_at)
            }
            DomainEvent::JobCancelled { run } => {
                (Some(Outcome::Cancelled), None, run.as_ref().and_then(|run| run.started_at))
            }
            DomainEvent::JobTimedOut { run } => {
                (Some(Outcome::TimedOut), None, run.as_ref().and_then(|run| run.started_at))
            }
            _ => continue,
        };
        // A job may also end while no worker has it.
        if let Some(open) = placements.last_mut().filter(|placement| placement.end.is_none()) {
            open.started_at = open.started_at.or(started_at);
            open.end = Some(PlacementEnd { at: *at, outcome, charge });
        }
    }
    placements
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::decision::{Aggregate, AggregateId};
    use crate::event::Actor;
    use crate::id::EventId;
    use crate::job::{AttemptReport, FailureCause, JobInput, JobSpec, Loss, Submission, TenantId, step};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    /// Returns the history that these inputs write, one a second.
    fn history(inputs: impl IntoIterator<Item = JobInput>) -> Vec<Envelope> {
        let id = JobId::from_uuid(Uuid::from_u128(7));
        let spec = Arc::new(JobSpec::command(["true"]).build().unwrap());
        let submit = JobInput::Submit(Submission { id, tenant: TenantId::default(), spec, retry_of: None });
        let (mut job, mut history): (Option<Job>, Vec<Envelope>) = (None, Vec::new());
        for (second, input) in std::iter::once(submit).chain(inputs).enumerate() {
            let now = at(i64::try_from(second).unwrap());
            let decision = step(job.as_ref(), input, now).unwrap();
            let Aggregate::Job(next) = decision.next else { panic!() };
            history.extend(decision.events.into_iter().map(|event| Envelope {
                id: EventId::from_uuid(Uuid::nil()),
                sequence: 0,
                aggregate: AggregateId::Job(id),
                version: next.version(),
                correlation: EventId::from_uuid(Uuid::nil()),
                causation: None,
                actor: Actor::Coordinator,
                at: now,
                schema: 1,
                event,
            }));
            job = Some(Job::clone(&next));
        }
        history
    }

    fn assign(worker: u128, part: f64) -> JobInput {
        let score = Score { parts: vec![("least_loaded".into(), part)] };
        JobInput::Assign { worker: WorkerId::from_uuid(Uuid::from_u128(worker)), dispatch: 1, score }
    }

    #[test]
    fn placements_name_the_worker_the_start_and_the_end_of_each_attempt() {
        let loss = Loss {
            cause: FailureCause::Lost("gone".into()),
            blame: crate::job::Blame::Alone,
            interrupted: false,
            log_end: 0,
        };
        let report = AttemptReport {
            outcome: Outcome::Succeeded,
            exit_code: Some(0),
            started_at: Some(at(7)),
            finished_at: at(8),
            log_end: 0,
            usage: None,
            artifacts: Vec::new(),
            interrupted: false,
        };
        let placements = placements(&history([
            assign(1, 0.5),
            JobInput::GiveBack { attempt: 1 },
            assign(2, 1.0),
            JobInput::Start { attempt: 2, started_at: at(4) },
            JobInput::Lose { attempt: 2, loss, jitter: 0.0 },
            assign(3, 0.25),
            JobInput::Finish { attempt: 3, report, gap: None, jitter: 0.0 },
        ]));
        let brief: Vec<_> = placements
            .iter()
            .map(|p| (p.attempt, p.score.total(), p.assigned_at, p.started_at, p.end.clone().unwrap()))
            .collect();
        let end = |second, outcome, charge| PlacementEnd { at: at(second), outcome, charge };
        let lost = Outcome::Failed(FailureCause::Lost("gone".into()));
        assert_eq!(brief[0], (1, 0.5, at(1), None, end(2, None, Some(Charge::Nobody))));
        assert_eq!(brief[1], (2, 1.0, at(3), Some(at(4)), end(5, Some(lost), Some(Charge::Infrastructure))));
        assert_eq!(brief[2], (3, 0.25, at(6), Some(at(7)), end(7, Some(Outcome::Succeeded), None)));
    }

    fn held(number: u128, tenant: &str, dispatch: u64, runs: bool) -> Arc<Job> {
        let spec = Arc::new(JobSpec::command(["true"]).build().unwrap());
        let (id, tenant) = (JobId::from_uuid(Uuid::from_u128(number)), TenantId::new(tenant));
        let submit = JobInput::Submit(Submission { id, tenant, spec, retry_of: None });
        let worker = WorkerId::from_uuid(Uuid::from_u128(1));
        let assign = JobInput::Assign { worker, dispatch, score: Score::default() };
        let start = JobInput::Start { attempt: 1, started_at: at(2) };
        let inputs = [submit, assign, start].into_iter().take(if runs { 3 } else { 2 });
        let job = inputs.fold(None, |job: Option<Arc<Job>>, input| {
            let Aggregate::Job(next) = step(job.as_deref(), input, at(1)).unwrap().next else { panic!() };
            Some(next)
        });
        job.unwrap()
    }

    #[test]
    fn a_job_without_a_slot_names_the_job_before_it() {
        let own = |number, dispatch, runs| held(number, "a", dispatch, runs);
        let line = [
            own(10, 1, true),
            own(11, 2, false),
            own(12, 3, false),
            held(13, "b", 4, false),
            own(14, 5, false),
        ];
        let place = |job: usize, slots| {
            behind(&line[job], &line, slots)
                .map(|behind| (behind.is_next, behind.job.map(|id| id.as_uuid().as_u128()), behind.others))
        };
        assert_eq!(place(0, 1), None, "it runs");
        assert_eq!(place(1, 2), None, "it has a slot");
        assert_eq!(place(1, 1), Some((true, Some(10), 0)));
        assert_eq!(place(2, 1), Some((false, Some(11), 1)));
        assert_eq!(place(2, 2), Some((true, Some(10), 1)));
        assert_eq!(place(4, 1), Some((false, None, 3)), "the one before it is another tenant's");
    }

    #[test]
    fn a_job_that_was_never_assigned_has_no_placements() {
        assert_eq!(placements(&history([JobInput::Cancel])), []);
    }
}
