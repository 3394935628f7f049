//! A duration is read or refused by name, whatever the text.
#![no_main]

use hodei_core::time::parse_duration;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse_duration(text) {
        Ok(duration) => assert!(!text.starts_with('-'), "{duration:?}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
