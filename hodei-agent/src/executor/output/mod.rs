//! The output of a job on its way to the session, and to files of the worker.

pub(in crate::executor) mod batcher;
pub(in crate::executor) mod file_logger;
