//! Providers as the scheduler sees them.

use std::sync::Arc;

use crate::provider::{Provider, ProviderHealth};
use crate::time::{Deadline, Moment};

/// A provider as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct ProviderInfo {
    /// The provider itself.
    pub provider: Arc<Provider>,
    /// Its workers that are not terminated.
    pub workers: u32,
    /// Whether a daemon carries out orders for it.
    pub served: bool,
    /// Until when it is left alone.
    pub(super) rests: Option<Deadline>,
}

impl ProviderInfo {
    /// Whether one more worker may be ordered of it at `now`, when `ordered` were since the context was fed.
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
