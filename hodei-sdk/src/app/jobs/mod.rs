//! What a client does with jobs: create, cancel, retry, read and explain. Where and when a job runs is decided in
//! `scheduling`.

pub(crate) mod cancel_job;
pub(crate) mod controller;
pub(crate) mod create_job;
pub(crate) mod queries;
