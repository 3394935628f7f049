use std::collections::BTreeMap;
use std::sync::Arc;

use hodei_core::decision::Aggregate;
use hodei_core::event::Actor;
use hodei_core::id::ProviderId;
use hodei_core::port::{Clock, IdGenerator, Store, WorkerProvider};
use hodei_core::provider::{ProviderHealth, ProviderInput, step};

use super::Committer;
use super::lifecycle::Providers;
use crate::Error;

/// Keeps the providers' configuration, and their health, in the store.
#[derive(Debug, Clone)]
pub(crate) struct ProviderManagementService {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) committer: Committer,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
}

impl ProviderManagementService {
    /// Brings the stored configuration to what the platform is built with; a provider keeps its id by its name.
    pub(crate) async fn bootstrap(
        &self,
        providers: Vec<Arc<dyn WorkerProvider>>,
    ) -> Result<Providers, Error> {
        let stored = self.store.providers().await?;
        let mut configured: BTreeMap<ProviderId, Arc<dyn WorkerProvider>> = BTreeMap::new();
        for provider in providers {
            let profile = provider.profile();
            let current = stored.iter().find(|stored| stored.profile().name == profile.name);
            let now = self.clock.now();
            let new = || ProviderId::from_uuid(self.ids.uuid(now));
            let id = current.map_or_else(new, |provider| provider.id());
            if let Some(decision) = step(current.map(|p| &**p), ProviderInput::Configure { id, profile }, now)
            {
                self.committer.commit_one(Actor::Platform, decision).await?.map_err(|_| Error::Contended)?;
            }
            configured.insert(id, provider);
        }
        Ok(Arc::new(configured))
    }

    /// Notes how a provider does.
    pub(crate) async fn observe(&self, id: ProviderId, health: ProviderHealth) {
        for _ in 0..4 {
            let Ok(providers) = self.store.providers().await else { return };
            let current = providers.iter().find(|provider| provider.id() == id);
            let input = ProviderInput::Observe(health);
            let Some(decision) = step(current.map(|p| &**p), input, self.clock.now()) else { return };
            if let Ok(Ok(Aggregate::Provider(_))) = self.committer.commit_one(Actor::Platform, decision).await
            {
                return;
            }
        }
    }
}
