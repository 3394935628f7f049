//! Retry policies: which failures are retried, how often, and after which backoff.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::CauseKind;

/// Which failed attempts are followed by another, and how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Maximum number of retries after the user's causes; 0 by default.
    pub max: u32,
    /// Maximum number of retries after the platform's causes; 3 by default.
    pub max_infrastructure: u32,
    /// Wait before each retry.
    pub backoff: Backoff,
    /// The user's causes that are retried; empty means those that may pass a second time ([`CauseKind::may_pass`]).
    pub on: Vec<CauseKind>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max: 0, max_infrastructure: 3, backoff: Backoff::default(), on: Vec::new() }
    }
}

impl RetryPolicy {
    /// Whether the policy retries a cause of the user's.
    pub fn covers(&self, cause: CauseKind) -> bool {
        if self.on.is_empty() { cause.may_pass() } else { self.on.contains(&cause) }
    }
}

/// Exponential backoff: `initial`, doubled for each further retry, at most `max`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// The wait before the first retry; zero retries at once.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    /// One second, doubled up to five minutes.
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
}

impl Backoff {
    /// Returns the wait before retry number `retry` (from 1). `jitter` in `0.0..=1.0` reduces it by up to half, so that
    /// jobs that failed together are not retried together.
    pub fn delay(&self, retry: u32, jitter: f64) -> Duration {
        let doublings = retry.saturating_sub(1).min(32);
        let full = self.initial.saturating_mul(1 << doublings.min(31)).min(self.max);
        full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(10) };
        let delays: Vec<_> = (1..=5).map(|retry| backoff.delay(retry, 0.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 10]);
        assert_eq!(backoff.delay(u32::MAX, 0.0).as_secs(), 10);
        assert_eq!(backoff.delay(2, 1.0), Duration::from_secs(1));
    }
}
