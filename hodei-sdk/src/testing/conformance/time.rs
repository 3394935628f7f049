//! Conformance suites for clocks and id generators.

use std::collections::BTreeSet;
use std::time::Duration;

use hodei_core::port::{Clock, IdGenerator};
use hodei_core::time::Timestamp;

/// Checks the contract of a [`Clock`]. `pass` lets a duration pass, at the clock's own pace.
///
/// # Panics
/// When the clock breaks the contract.
pub async fn clock<C: Clock>(clock: &C, pass: impl Fn(Duration)) {
    let (day, start) = (clock.now(), clock.monotonic());
    let short = clock.sleep(Duration::from_millis(5));
    let long = clock.sleep(Duration::from_millis(10));
    drop(clock.sleep(Duration::from_millis(1)));
    pass(Duration::from_millis(10));
    short.await;
    long.await;
    assert!(clock.monotonic() >= start + Duration::from_millis(10), "a sleep lasts");
    assert!(clock.now() > day);
    clock.sleep(Duration::ZERO).await;
}

/// Checks the contract of an [`IdGenerator`].
///
/// # Panics
/// When the generator breaks the contract.
pub fn ids(ids: &dyn IdGenerator) {
    let at = Timestamp::from_micros(1_800_000_000_000_000);
    let made: BTreeSet<_> = (0..10_000).map(|_| ids.uuid(at)).collect();
    assert_eq!(made.len(), 10_000, "ids are unique");
    assert!(made.iter().all(|id| id.get_version_num() == 7));
    let later = ids.uuid(at + Duration::from_secs(1));
    assert!(made.iter().all(|id| *id < later), "a later id is a larger one");
    let fractions: Vec<_> = (0..1000).map(|_| ids.fraction()).collect();
    let secrets: std::collections::BTreeSet<_> = (0..1000).map(|_| ids.secret()).collect();
    assert_eq!(secrets.len(), 1000, "secrets are unique");
    assert!(fractions.iter().all(|f| (0.0..1.0).contains(f)));
    let mean = fractions.iter().sum::<f64>() / 1000.0;
    assert!((0.4..0.6).contains(&mean), "fractions are not uniform: their mean is {mean}");
}
