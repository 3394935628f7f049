//! From a stored assignment to the message that a worker receives. `workers` and `logs` process the answers.

pub(crate) mod dispatcher;
pub(crate) mod messages;
pub(crate) mod preparation;
pub(crate) mod remote;
