//! The invariants of a whole platform: tests and the simulation check them after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::audit;
use crate::event::{DomainEvent, Envelope};
use crate::id::{AttemptId, JobId};
use crate::job::{Job, JobStatus};
use crate::port::LogState;

/// The state of a platform as a test observes it from outside.
#[derive(Debug, Default)]
pub struct World {
    /// Every job of the store.
    pub jobs: BTreeMap<JobId, Arc<Job>>,
    /// The whole history of each job.
    pub history: BTreeMap<JobId, Vec<Envelope>>,
    /// State of the stored log of each attempt.
    pub logs: BTreeMap<AttemptId, LogState>,
    /// Jobs whose submit was acknowledged.
    pub acknowledged: BTreeSet<JobId>,
    /// Number of starts of a command by attempt, counted where it runs, not where the start is reported.
    pub starts: BTreeMap<AttemptId, u32>,
    /// The first outcome seen of each job that ended.
    pub endings: BTreeMap<JobId, JobStatus>,
}

/// Checks the guarantees P1 to P5, and that the history of each job leads to its state.
///
/// # Errors
/// Names the first broken guarantee and the job.
pub fn check(world: &World) -> Result<(), String> {
    for id in &world.acknowledged {
        if !world.jobs.contains_key(id) {
            return Err(format!("P1: job {id} was acknowledged and is lost"));
        }
    }
    for (id, job) in &world.jobs {
        let history = world.history.get(id).map(Vec::as_slice).unwrap_or_default();
        check_history(job, history)?;
        check_starts(world, job)?;
        check_log(world, job)?;
    }
    for (id, first) in &world.endings {
        match world.jobs.get(id) {
            Some(job) if job.status() == *first => {}
            other => {
                return Err(format!("P2: job {id} was {first} and is {:?}", other.map(|job| job.status())));
            }
        }
    }
    Ok(())
}

fn check_history(job: &Job, history: &[Envelope]) -> Result<(), String> {
    let id = job.id();
    if audit::fold_job(history).as_ref() != Some(job) {
        return Err(format!("the history of job {id} does not lead to its state {:?}", job.state()));
    }
    let ends = history.iter().filter(|envelope| envelope.event.ends_job()).count();
    if ends != usize::from(job.is_terminal()) {
        return Err(format!("P2: job {id} is {} and has {ends} terminal events", job.status()));
    }
    let (mut attempt, mut is_to_stop) = (0, false);
    for envelope in history {
        match envelope.event {
            DomainEvent::JobCancelRequested => is_to_stop = true,
            DomainEvent::JobQueued { .. } | DomainEvent::JobWaiting { .. } if is_to_stop => {
                return Err(format!("P2: job {id} was asked to stop, and continues after attempt {attempt}"));
            }
            DomainEvent::JobAssigned { attempt: next, .. } if next == attempt + 1 => attempt = next,
            DomainEvent::JobAssigned { attempt: next, .. } => {
                return Err(format!("P3: job {id} goes from attempt {attempt} to {next}"));
            }
            DomainEvent::JobStarted { attempt: started, .. } if started != attempt => {
                return Err(format!(
                    "P3: attempt {started} of job {id} wrote while {attempt} was the current one"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_starts(world: &World, job: &Job) -> Result<(), String> {
    let id = job.id();
    let first = AttemptId { job: id, number: 0 };
    let starts: Vec<_> = world.starts.range(first..).take_while(|(attempt, _)| attempt.job == id).collect();
    if let Some((attempt, count)) = starts.iter().find(|(_, count)| **count > 1) {
        return Err(format!("P3: attempt {attempt} was started {count} times"));
    }
    if job.spec().at_most_once() && starts.len() > 1 {
        return Err(format!("P4: job {id} may start at most once and was started {} times", starts.len()));
    }
    if job.status() == JobStatus::Succeeded
        && !starts.iter().any(|(attempt, _)| attempt.number == job.attempt())
    {
        return Err(format!("P4: job {id} succeeded by attempt {}, which was never started", job.attempt()));
    }
    Ok(())
}

fn check_log(world: &World, job: &Job) -> Result<(), String> {
    let Some(run) = job.ending().and_then(|ending| ending.run.as_ref()) else { return Ok(()) };
    let stored = world.logs.get(&job.attempt_id()).map_or(0, |log| log.next);
    if stored < run.log_end {
        return Err(format!("P5: job {} wrote {} log chunks and {stored} are stored", job.id(), run.log_end));
    }
    Ok(())
}
