//! Who comes in with which token.

use std::time::Duration;

use hodei_core::access::{Caller, TokenRefusal, Who, token_id};
use hodei_core::id::TokenId;
use hodei_core::port::{ClockExt, StoreError};

use crate::app::access::tokens::{AccessService, RecentToken, hash};

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
        let known = self.token(id).await?;
        let caller = known.token.admits(hash(text), self.ports.clock.now())?;
        self.check_length(&known)?;
        Ok(caller)
    }

    /// Whether somebody who came in a while ago would be let in now.
    pub(crate) async fn check(&self, who: Who) -> Result<(), NotKnown> {
        match who {
            Who::Program | Who::TokenFile => Ok(()),
            Who::Token(id) => {
                let known = self.token(id).await?;
                known.token.check(self.ports.clock.now())?;
                self.check_length(&known)
            }
        }
    }

    /// A clock that is set back makes no token good for longer than it was made for.
    fn check_length(&self, known: &RecentToken) -> Result<(), NotKnown> {
        match known.expiry {
            Some(expiry) if expiry.is_over(self.ports.clock.moment()) => Err(TokenRefusal::Expired.into()),
            _ => Ok(()),
        }
    }

    /// A token, as it was a moment ago at most.
    async fn token(&self, id: TokenId) -> Result<RecentToken, NotKnown> {
        let now = self.ports.clock.moment();
        let is_fresh = |known: &&RecentToken| now.monotonic.saturating_sub(known.read) < FRESH;
        let known = self.recent().get(&id).filter(is_fresh).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.ports.store.tokens(&[id]).await?.pop().flatten();
        let token = found.ok_or(TokenRefusal::Unknown)?;
        let mut recent = self.recent();
        if recent.len() >= MOST {
            recent.clear();
        }
        let fresh = RecentToken { token: token.clone(), read: now.monotonic, expiry: token.expiry(now) };
        // One that was taken back meanwhile stays so.
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
