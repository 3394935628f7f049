//! Tokens for clients: their text, and the check of a token.

use serde::{Deserialize, Serialize};

use super::terms::TokenTerms;
use super::{Caller, Who};
use crate::id::TokenId;
use crate::time::{Deadline, Moment, Timestamp};
use crate::worker::SecretHash;

/// A token for clients. Only the hash of its text is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    pub(super) id: TokenId,
    pub(super) version: u64,
    pub(super) terms: TokenTerms,
    pub(super) hash: SecretHash,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) revoked_at: Option<Timestamp>,
}

/// A token without its hash, as queries return it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenView {
    /// Id of the token.
    pub id: TokenId,
    /// Its name, tenant and role.
    pub terms: TokenTerms,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires; `None` when it does not.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// The token does not exist.
    #[error("the token is not known")]
    Unknown,
    /// The token expired.
    #[error("the token has expired")]
    Expired,
    /// The token was revoked.
    #[error("the token was revoked")]
    Revoked,
}

/// Returns the text of a token, which its bearer sends. It begins with a prefix that secret scanners can recognise, and
/// holds the id, so that no search is needed.
pub fn token_text(id: TokenId, secret: SecretHash) -> String {
    format!("{TOKEN_PREFIX}{}_{secret}", id.as_uuid().simple())
}

/// Returns the id in the text of a token; `None` for any other text.
pub fn token_id(text: &str) -> Option<TokenId> {
    let (id, secret) = text.strip_prefix(TOKEN_PREFIX)?.split_once('_')?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_plain = id.len() == 32 && secret.len() == 64 && id.bytes().chain(secret.bytes()).all(is_hex);
    is_plain.then(|| id.parse().ok()).flatten()
}

/// The prefix of the text of every token.
const TOKEN_PREFIX: &str = "hodei_";

impl AccessToken {
    /// Returns the id.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Returns the version, which rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns the token without its hash.
    pub fn view(&self) -> TokenView {
        TokenView {
            id: self.id,
            terms: self.terms.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }

    /// Returns when the token was revoked or expires, whichever is first; `None` when it is valid until it is revoked.
    pub fn ends_at(&self) -> Option<Timestamp> {
        self.revoked_at.into_iter().chain(self.expires_at).min()
    }

    /// Returns its expiry as a deadline, measured by the monotonic clock from `now` on. After a restart the token is
    /// valid for at most its original life.
    pub fn expiry(&self, now: Moment) -> Option<Deadline> {
        let at = self.expires_at?;
        Some(Deadline::new(at, at.since(self.created_at), now))
    }

    /// Checks whether the token is valid at `now`.
    ///
    /// # Errors
    /// [`TokenRefusal`] says why it is not.
    pub fn check(&self, now: Timestamp) -> Result<(), TokenRefusal> {
        if self.revoked_at.is_some() {
            return Err(TokenRefusal::Revoked);
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(TokenRefusal::Expired);
        }
        Ok(())
    }

    /// Returns the caller that shows a token text with this hash.
    ///
    /// # Errors
    /// [`TokenRefusal`] when the hash is not that of this token, or the token is not valid any more.
    pub fn admits(&self, hash: SecretHash, now: Timestamp) -> Result<Caller, TokenRefusal> {
        if hash != self.hash {
            return Err(TokenRefusal::Unknown);
        }
        self.check(now)?;
        let TokenTerms { tenant, role, .. } = &self.terms;
        Ok(Caller { tenant: tenant.clone(), role: *role, who: Who::Token(self.id) })
    }
}
