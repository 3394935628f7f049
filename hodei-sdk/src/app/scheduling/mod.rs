//! Which daemon leads, and the rounds of its coordinator: load, plan, commit. The rules of a plan are in
//! `hodei_core::scheduling`; messages to workers are sent by `dispatch`.

pub(crate) mod coordinator;
pub(crate) mod leadership;
pub(crate) mod overdue;
pub(crate) mod planning;
pub(crate) mod queue_status;
pub(crate) mod service;
