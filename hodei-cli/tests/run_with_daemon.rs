//! All tests of `hodei run`, unchanged, through a daemon.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "run.rs"]
mod through_daemon;
