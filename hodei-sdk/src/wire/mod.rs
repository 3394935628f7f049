//! What both ends of a call agree on beside the messages.

pub(crate) mod event;
pub(crate) mod item;
pub(crate) mod refusal;
pub(crate) mod scheduling;
