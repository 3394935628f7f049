//! A constraint that is read is written as it was meant: read again, it is the same.
#![no_main]

use hodei_core::job::{Constraint, Labels};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(read) = text.parse::<Constraint>() else { return };
    let written = read.to_string();
    assert_eq!(written.parse::<Constraint>().as_ref(), Ok(&read), "{written:?}");
    let _ = read.is_met_by(&Labels::from([("os".to_owned(), "linux".to_owned())]));
});
