//! From a stored assignment to the message that a worker gets. What a worker answers is taken in by `workers` and `logs`.

pub(crate) mod dispatcher;
pub(crate) mod messages;
pub(crate) mod preparation;
pub(crate) mod remote;
