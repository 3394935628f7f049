//! The output of a job: batches for the session, and files of the worker.

pub(in crate::executor) mod batcher;
pub(in crate::executor) mod file_logger;
