//! The queue of runnable jobs, by placement class.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::JobId;
use crate::job::{Concurrency, Constraint, Job, JobResources, JobState, Priority};
use crate::secret::SecretName;
use crate::time::Timestamp;

/// Everything that decides where a job can run. Jobs of one class are interchangeable, so the planner looks at the head
/// of each class, not at each job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacementClass {
    /// Conditions on the worker's labels.
    pub constraints: Vec<Constraint>,
    /// Resources that each job takes beside a slot.
    pub resources: JobResources,
    /// Whether it needs a provider that runs images.
    pub image: bool,
    /// Secrets that the provider must be allowed to have.
    pub secrets: Vec<SecretName>,
    /// The concurrency limit that the jobs share. The key begins with the tenant and a slash, so that tenants do
    /// not share keys.
    pub concurrency: Option<Concurrency>,
    /// Whether each job may have ended a worker: its next attempt begins on trial.
    pub suspect: bool,
    /// Whether each job begins only on an empty worker, and no job begins beside it.
    pub alone: bool,
}

impl PlacementClass {
    /// Returns the class of a job.
    pub fn of(job: &Job) -> Self {
        let spec = job.spec();
        Self {
            constraints: spec.constraints().to_vec(),
            resources: *spec.resources(),
            image: spec.image().is_some(),
            secrets: spec.secrets().iter().map(|secret| secret.name.clone()).collect(),
            concurrency: concurrency_of(job),
            suspect: job.is_suspect(),
            alone: job.runs_alone(),
        }
    }

    /// Whether a job may begin on a worker with `active` attempts; `trusted` says whether all of them are trusted.
    pub(super) fn may_begin_beside(&self, active: u32, trusted: bool) -> bool {
        !self.suspect || if self.alone { active == 0 } else { trusted }
    }
}

/// Returns the concurrency limit of a job, with its tenant in the key.
fn concurrency_of(job: &Job) -> Option<Concurrency> {
    let Concurrency { key, limit } = job.spec().concurrency()?;
    Some(Concurrency { key: format!("{}/{key}", job.tenant()), limit: *limit })
}

/// The position of a job in its class: by priority, then age, then id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    /// The higher priority goes first.
    pub priority: Reverse<Priority>,
    /// The older job goes first, by the time since which it is runnable; for a job that a worker gave back, by its
    /// submit, so that it keeps its place.
    pub since: Timestamp,
    /// Makes the order total.
    pub job: JobId,
}

impl QueueKey {
    /// Returns the key of a runnable job.
    pub(super) fn of(job: &Job) -> Self {
        match job.state() {
            JobState::Pending { since } if job.tally().uncharged == 0 => Self::since(job, *since),
            _ => Self::returned(job),
        }
    }

    /// Returns the key of a job that a worker gives back.
    pub(super) fn returned(job: &Job) -> Self {
        Self::since(job, job.created_at())
    }

    fn since(job: &Job, since: Timestamp) -> Self {
        Self { priority: Reverse(job.spec().priority()), since, job: job.id() }
    }
}

/// A job at the head of its class, as a strategy sees it.
#[derive(Debug, Clone, Copy)]
pub struct QueuedJob<'a> {
    /// Its position in the class.
    pub key: QueueKey,
    /// Its class.
    pub class: &'a PlacementClass,
}

/// Runnable jobs by class.
#[derive(Debug, Default)]
pub(super) struct Queue {
    classes: BTreeMap<Arc<PlacementClass>, BTreeSet<QueueKey>>,
    len: usize,
}

impl Queue {
    /// Adds a job and returns its class, shared by all jobs of that class.
    pub(super) fn insert(&mut self, class: PlacementClass, key: QueueKey) -> Arc<PlacementClass> {
        let class = match self.classes.get_key_value(&class) {
            Some((shared, _)) => shared.clone(),
            None => Arc::new(class),
        };
        self.len += usize::from(self.classes.entry(class.clone()).or_default().insert(key));
        class
    }

    pub(super) fn remove(&mut self, class: &Arc<PlacementClass>, key: &QueueKey) {
        if let Some(keys) = self.classes.get_mut(class) {
            self.len -= usize::from(keys.remove(key));
            if keys.is_empty() {
                self.classes.remove(class);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn classes(&self) -> impl Iterator<Item = (&PlacementClass, &BTreeSet<QueueKey>)> {
        self.classes.iter().map(|(class, keys)| (&**class, keys))
    }
}
