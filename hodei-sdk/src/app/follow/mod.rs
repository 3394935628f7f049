//! Following changes: notifiers wake waiters, and streams of states, ends and events read the store. Nothing here
//! changes state.

pub(crate) mod completions;
pub(crate) mod event_feed;
pub(crate) mod event_queries;
pub(crate) mod job_feed;
pub(crate) mod job_notifier;
pub(crate) mod job_states;
pub(crate) mod job_watch;
pub(crate) mod log_notifier;
pub(crate) mod watchers;
