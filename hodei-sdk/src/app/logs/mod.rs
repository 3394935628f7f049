//! Output of jobs: its intake from agents, and its reading by followers. A `LogStore` keeps the bytes.

pub(crate) mod persister;
pub(crate) mod reader;
pub(crate) mod tail;
