//! Leadership among daemons, and the rounds of the coordinator: load, plan, commit. The rules of a plan are in
//! `hodei_core::scheduling`; `dispatch` sends the messages to workers.

pub(crate) mod coordinator;
pub(crate) mod leadership;
pub(crate) mod overdue;
pub(crate) mod planning;
pub(crate) mod queue_status;
pub(crate) mod service;
