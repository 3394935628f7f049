//! Output of jobs: taken in from agents, and read by followers. The bytes are kept by a `LogStore`.

pub(crate) mod persister;
pub(crate) mod reader;
pub(crate) mod tail;
