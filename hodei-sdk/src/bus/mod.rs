//! Buses. Memory is always there.

pub(crate) mod memory;
