//! The configuration of a daemon, and jobs as people write them: read, or refused with a word why.
#![no_main]
#![allow(dead_code, reason = "only what reads is used here")]

#[path = "../../hodei-daemon/src/certs.rs"]
mod certs;
#[path = "../../hodei-daemon/src/config/mod.rs"]
mod config;
#[path = "../../hodei-daemon/src/listen.rs"]
mod listen;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = config::read(text) {
        assert!(!error.is_empty());
    }
});
