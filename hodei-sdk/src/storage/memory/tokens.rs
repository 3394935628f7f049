//! Client tokens of a store in memory.

use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::access::AccessToken;
use hodei_core::id::TokenId;
use hodei_core::port::{AccessRepository, StoreError};

use super::MemoryStore;

#[async_trait]
impl AccessRepository for MemoryStore {
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.tokens.get(id).cloned()).collect())
    }

    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError> {
        Ok(self.lock().tokens.values().cloned().collect())
    }
}
