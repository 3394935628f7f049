//! The terminal: tables and JSON, the output of a job as it comes, progress, hidden input, signals.

pub(crate) mod hidden_line;
pub(crate) mod interrupts;
pub(crate) mod job_output;
pub(crate) mod progress;
pub(crate) mod show;
