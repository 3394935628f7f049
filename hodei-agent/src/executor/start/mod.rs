//! Starts the process of a job: its environment, its program, its limits. The `process` module supervises it
//! afterwards.

pub(in crate::executor) mod command_line;
pub(in crate::executor) mod environment;
pub(in crate::executor) mod helper;
pub(in crate::executor) mod resolve;
pub(in crate::executor) mod spawn;
pub(in crate::executor) mod start_state;
pub(in crate::executor) mod starter;
