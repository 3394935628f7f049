//! Providers as the scheduler sees them.

use std::sync::Arc;

use crate::provider::{Provider, ProviderHealth};
use crate::time::{Deadline, Moment};

/// A provider as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct ProviderInfo {
    /// The provider itself.
    pub provider: Arc<Provider>,
    /// Number of its workers that are not terminated.
    pub workers: u32,
    /// Whether a daemon carries out orders for this provider.
    pub served: bool,
    /// End of the rest after failed creations, during which nothing is ordered.
    pub(super) rests: Option<Deadline>,
}

impl ProviderInfo {
    /// Whether one more worker may be ordered at `now`, when `ordered` workers are ordered beyond those in `workers`.
    pub fn may_order(&self, ordered: u32, now: Moment) -> bool {
        self.served
            && self.rests.is_none_or(|rest| rest.is_over(now))
            && self.workers + ordered < self.provider.profile().max_workers
    }

    pub(super) fn rest(provider: &Provider, now: Moment) -> Option<Deadline> {
        match provider.health() {
            ProviderHealth::Healthy => None,
            ProviderHealth::Unhealthy { retry_at, .. } => Some(Deadline::new(*retry_at, Provider::REST, now)),
        }
    }
}
