//! Folds stored events back into states: what the history says must be what the store holds.

use crate::event::Envelope;
use crate::job::{self, Job};
use crate::worker::{self, Worker};

/// The state of a job by its history; `None` when the history does not begin with its creation.
pub fn fold_job(history: &[Envelope]) -> Option<Job> {
    history.iter().fold(None, |state, e| job::replay(state, &e.event, e.version, e.at))
}

/// The state of a worker by its history; `None` when the history does not begin with its order.
pub fn fold_worker(history: &[Envelope]) -> Option<Worker> {
    history.iter().fold(None, |state, e| worker::replay(state, &e.event, e.version, e.at))
}
