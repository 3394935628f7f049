//! Who comes in with which token.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::access::{AccessToken, Caller, TokenRefusal, Who, token_id};
use hodei_core::id::TokenId;
use hodei_core::port::StoreError;

use super::AccessService;
use super::access::hash;

/// A token that was looked at is not looked at again for this long: what another daemon revokes is good for this long.
const FRESH: Duration = Duration::from_secs(1);
/// Tokens that are remembered.
const MOST: usize = 1024;
/// Why a caller is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKnown {
    #[error("{0}")]
    Token(#[from] TokenRefusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AccessService {
    /// Who comes with a token.
    pub(crate) async fn authenticate(&self, text: &str) -> Result<Caller, NotKnown> {
        let id = token_id(text).ok_or(TokenRefusal::Unknown)?;
        Ok(self.token(id).await?.admits(hash(text), self.clock.now())?)
    }

    /// Whether somebody who came in a while ago would be let in now.
    pub(crate) async fn check(&self, who: Who) -> Result<(), NotKnown> {
        match who {
            Who::Program | Who::TokenFile => Ok(()),
            Who::Token(id) => Ok(self.token(id).await?.check(self.clock.now())?),
        }
    }

    /// A token, as it was a moment ago at most.
    async fn token(&self, id: TokenId) -> Result<Arc<AccessToken>, NotKnown> {
        let now = self.clock.monotonic();
        let known = self.recent().get(&id).filter(|(_, read)| now.saturating_sub(*read) < FRESH).cloned();
        if let Some((token, _)) = known {
            return Ok(token);
        }
        let found = self.store.tokens(&[id]).await?.pop().flatten();
        let token = found.ok_or(TokenRefusal::Unknown)?;
        let mut recent = self.recent();
        if recent.len() >= MOST {
            recent.clear();
        }
        // One that was taken back meanwhile stays so.
        let (kept, _) = recent
            .entry(id)
            .and_modify(|(kept, read)| {
                if kept.version() <= token.version() {
                    (*kept, *read) = (token.clone(), now);
                }
            })
            .or_insert((token, now));
        Ok(kept.clone())
    }
}
