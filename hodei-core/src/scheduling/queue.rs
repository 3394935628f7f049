use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::id::JobId;
use crate::job::{Concurrency, Constraint, Job, JobResources, JobState, Priority};
use crate::secret::SecretName;
use crate::time::Timestamp;

/// What decides where a job can run: jobs of one class can stand in for each other, so the planner looks at
/// the head of each class, never at each job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlacementClass {
    /// Conditions on the worker's labels.
    pub constraints: Vec<Constraint>,
    /// What each takes beside a slot.
    pub resources: JobResources,
    /// Whether it needs a provider that runs images.
    pub image: bool,
    /// What a provider must be allowed to have.
    pub secrets: Vec<SecretName>,
    /// The limit they share. A key means another to each tenant: it begins with the tenant and a slash.
    pub concurrency: Option<Concurrency>,
    /// Whether each may have ended a worker: an attempt of it is on trial at first.
    pub suspect: bool,
    /// Whether each begins on an empty worker alone, and nothing begins beside it.
    pub alone: bool,
}

impl PlacementClass {
    /// The class of a job.
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

    /// Whether a job may begin on a worker with so many attempts, of which all are `trusted` or not.
    pub(super) fn may_begin_beside(&self, active: u32, trusted: bool) -> bool {
        !self.suspect || if self.alone { active == 0 } else { trusted }
    }
}

/// What limits a job together with others of its tenant.
fn concurrency_of(job: &Job) -> Option<Concurrency> {
    let Concurrency { key, limit } = job.spec().concurrency()?;
    Some(Concurrency { key: format!("{}/{key}", job.tenant()), limit: *limit })
}

/// The place of a job in its class: priority, then age, then id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    /// The higher first.
    pub priority: Reverse<Priority>,
    /// The older first: since when it is runnable, or its submission when a worker gave it back, so that it keeps its
    /// place.
    pub since: Timestamp,
    /// For a total order.
    pub job: JobId,
}

impl QueueKey {
    /// The place of a job that is runnable.
    pub(super) fn of(job: &Job) -> Self {
        match job.state() {
            JobState::Pending { since } if job.tally().uncharged == 0 => Self::since(job, *since),
            _ => Self::returned(job),
        }
    }

    /// The place of a job that a worker gives back.
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
    /// Its place.
    pub key: QueueKey,
    /// What it needs.
    pub class: &'a PlacementClass,
}

/// Runnable jobs by class.
#[derive(Debug, Default)]
pub(super) struct Queue {
    classes: BTreeMap<Arc<PlacementClass>, BTreeSet<QueueKey>>,
    len: usize,
}

impl Queue {
    /// Adds a job and returns its class, shared by all of it.
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
