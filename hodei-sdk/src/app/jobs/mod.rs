//! Operations of clients on jobs: create, cancel, retry, read and explain. `scheduling` decides where and when a job
//! runs.

pub(crate) mod cancel_job;
pub(crate) mod controller;
pub(crate) mod create_job;
pub(crate) mod queries;
