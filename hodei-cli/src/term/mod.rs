//! The terminal: tables and JSON, output of jobs, progress, hidden input, signals.

pub(crate) mod hidden_line;
pub(crate) mod interrupts;
pub(crate) mod job_output;
pub(crate) mod progress;
pub(crate) mod show;
