//! Authentication: resolves a client's token to its caller.

use std::time::Duration;

use hodei_core::access::{Caller, TokenRefusal, Who, token_id};
use hodei_core::id::TokenId;
use hodei_core::port::{ClockExt, StoreError};

use crate::app::access::tokens::{AccessService, RecentToken, hash};

/// Time for which a token that was read is not read again. A token revoked by another daemon stays valid for this long.
const TOKEN_MAX_AGE: Duration = Duration::from_secs(1);
/// Tokens that are cached; when the cache is full it is cleared.
const MAX_CACHED_TOKENS: usize = 1024;
/// Reason for which a caller is not authenticated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKnown {
    #[error("{0}")]
    Token(#[from] TokenRefusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AccessService {
    /// Returns the caller behind the text of a token.
    pub(crate) async fn authenticate(&self, text: &str) -> Result<Caller, NotKnown> {
        let id = token_id(text).ok_or(TokenRefusal::Unknown)?;
        let known = self.token(id).await?;
        let caller = known.token.admits(hash(text), self.ports.clock.now())?;
        self.check_lifetime(&known)?;
        Ok(caller)
    }

    /// Checks that a caller who was authenticated earlier would still be authenticated now.
    pub(crate) async fn check(&self, who: Who) -> Result<(), NotKnown> {
        match who {
            Who::Program | Who::TokenFile => Ok(()),
            Who::Token(id) => {
                let known = self.token(id).await?;
                known.token.check(self.ports.clock.now())?;
                self.check_lifetime(&known)
            }
        }
    }

    /// Checks the lifetime of a token on the monotonic clock, so that setting the wall clock back does not extend it.
    fn check_lifetime(&self, known: &RecentToken) -> Result<(), NotKnown> {
        match known.expiry {
            Some(expiry) if expiry.is_over(self.ports.clock.moment()) => Err(TokenRefusal::Expired.into()),
            _ => Ok(()),
        }
    }

    /// Returns a token as it was stored at most [`TOKEN_MAX_AGE`] ago.
    async fn token(&self, id: TokenId) -> Result<RecentToken, NotKnown> {
        let now = self.ports.clock.moment();
        let is_fresh = |known: &&RecentToken| now.monotonic.saturating_sub(known.read) < TOKEN_MAX_AGE;
        let known = self.recent().get(&id).filter(is_fresh).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.ports.store.tokens(&[id]).await?.pop().flatten();
        let token = found.ok_or(TokenRefusal::Unknown)?;
        let mut recent = self.recent();
        if recent.len() >= MAX_CACHED_TOKENS {
            recent.clear();
        }
        let fresh = RecentToken { token: token.clone(), read: now.monotonic, expiry: token.expiry(now) };
        // An older read must not replace a revocation that was stored meanwhile.
        let kept = recent
            .entry(id)
            .and_modify(|kept| {
                if kept.token.version() <= token.version() {
                    (kept.token, kept.read) = (token, now.monotonic);
                }
            })
            .or_insert(fresh);
        Ok(kept.clone())
    }
}
