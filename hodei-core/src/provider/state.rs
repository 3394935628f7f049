//! The provider aggregate and its health.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::profile::ProviderProfile;
use crate::id::ProviderId;
use crate::time::Timestamp;

/// The provider aggregate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    pub(super) id: ProviderId,
    pub(super) version: u64,
    pub(super) profile: ProviderProfile,
    pub(super) health: ProviderHealth,
    pub(super) registered_at: Timestamp,
}

/// Whether the last workers of a provider were created and connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderHealth {
    /// They were, or none was ordered yet.
    Healthy,
    /// Its workers cannot be created, or do not connect; no worker is ordered before `retry_at`.
    Unhealthy {
        /// When the next worker may be ordered.
        retry_at: Timestamp,
        /// The problem, and the remedy where one is known; empty when an older version stored it.
        #[serde(default)]
        why: String,
    },
}

impl Provider {
    /// How long nothing is ordered from a provider whose workers fail to start.
    pub const REST: Duration = Duration::from_secs(5);

    /// Returns the id.
    pub fn id(&self) -> ProviderId {
        self.id
    }

    /// Returns the version, which rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the profile.
    pub fn profile(&self) -> &ProviderProfile {
        &self.profile
    }

    /// Returns the health.
    pub fn health(&self) -> &ProviderHealth {
        &self.health
    }

    /// Returns the problem, when the provider is unhealthy and the problem is known.
    pub fn trouble(&self) -> Option<&str> {
        match &self.health {
            ProviderHealth::Unhealthy { why, .. } if !why.is_empty() => Some(why),
            _ => None,
        }
    }

    /// Returns when the provider was first configured.
    pub fn registered_at(&self) -> Timestamp {
        self.registered_at
    }
}
