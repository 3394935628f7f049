//! Configuration and health of providers in the store.

use std::sync::Arc;

use hodei_core::decision::Aggregate;
use hodei_core::event::Actor;
use hodei_core::id::ProviderId;
use hodei_core::port::WorkerProvider;
use hodei_core::provider::{ProviderHealth, ProviderInput, ProviderProfile, step};
use uuid::Uuid;

use crate::Error;
use crate::app::commit::Committer;
use crate::app::ports::Ports;
use crate::config::LimitPolicy;

/// Commits of one change that are tried while other writers cause conflicts.
const MAX_COMMIT_TRIES: usize = 4;

/// Keeps the configuration and the health of providers in the store.
#[derive(Debug, Clone)]
pub(crate) struct ProviderManagementService {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
}

impl ProviderManagementService {
    /// Updates the stored configuration to that of `providers`. A provider keeps its id as long as it keeps its name.
    /// Returns the ids in the order of `providers`.
    pub(crate) async fn bootstrap(
        &self,
        providers: &[Arc<dyn WorkerProvider>],
    ) -> Result<Vec<ProviderId>, Error> {
        let requires_limits = self.ports.settings.limits == LimitPolicy::Require;
        let mut ids = Vec::with_capacity(providers.len());
        for provider in providers {
            let profile = ProviderProfile { requires_limits, ..provider.profile() };
            ids.push(self.configure(profile).await?);
        }
        Ok(ids)
    }

    async fn configure(&self, profile: ProviderProfile) -> Result<ProviderId, Error> {
        for _ in 0..MAX_COMMIT_TRIES {
            let stored = self.ports.store.providers().await?;
            let current = stored.iter().find(|stored| stored.profile().name == profile.name);
            // Derived from store and name, so that two daemons that create the provider at once create the same one.
            let new = || {
                ProviderId::from_uuid(Uuid::new_v5(&self.ports.store.id().as_uuid(), profile.name.as_bytes()))
            };
            let id = current.map_or_else(new, |provider| provider.id());
            let input = ProviderInput::Configure { id, profile: profile.clone() };
            let Some(decision) = step(current.map(|p| &**p), input, self.ports.clock.now()) else {
                return Ok(id);
            };
            if self.committer.commit_one(Actor::Platform, decision).await?.is_ok() {
                return Ok(id);
            }
            // Another daemon with the same provider starts at the same time.
        }
        Err(Error::Contended)
    }

    /// Stores the health of a provider. Failures are ignored.
    pub(crate) async fn observe(&self, id: ProviderId, health: ProviderHealth) {
        for _ in 0..MAX_COMMIT_TRIES {
            let Ok(providers) = self.ports.store.providers().await else { return };
            let current = providers.iter().find(|provider| provider.id() == id);
            let input = ProviderInput::Observe(health.clone());
            let Some(decision) = step(current.map(|p| &**p), input, self.ports.clock.now()) else { return };
            if let Ok(Ok(Aggregate::Provider(_))) = self.committer.commit_one(Actor::Platform, decision).await
            {
                return;
            }
        }
    }
}
