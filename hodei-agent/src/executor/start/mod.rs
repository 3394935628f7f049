//! The start of a job's process: its environment, its program, its limits. What becomes of it afterwards is in
//! `process`.

pub(in crate::executor) mod environment;
pub(in crate::executor) mod helper;
pub(in crate::executor) mod resolve;
pub(in crate::executor) mod spawn;
pub(in crate::executor) mod start_state;
pub(in crate::executor) mod starter;
