//! Folds stored events back into states: the state of the history must equal the stored state.

use crate::event::Envelope;
use crate::job::{self, Job};
use crate::worker::{self, Worker};

/// Returns the state of a job after its history; `None` when the history does not begin with its creation.
pub fn fold_job(history: &[Envelope]) -> Option<Job> {
    history.iter().fold(None, |state, e| job::replay(state, &e.event, e.version, e.at))
}

/// Returns the state of a worker after its history; `None` when the history does not begin with its order.
pub fn fold_worker(history: &[Envelope]) -> Option<Worker> {
    history.iter().fold(None, |state, e| worker::replay(state, &e.event, e.version, e.at))
}
