//! Several daemons of one store: which of them live, what each leads, and the events that go to other systems. What a
//! beat means is decided in `hodei_core::cluster`.

pub(crate) mod event_forwarding;
pub(crate) mod membership;
