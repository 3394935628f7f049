//! Tokens for clients: their text, their state machine, and the check of a token.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Caller, Role, Who};
use crate::decision::{Aggregate, Decision, Expect};
use crate::event::DomainEvent;
use crate::id::TokenId;
use crate::job::TenantId;
use crate::time::{Deadline, Moment, Timestamp};
use crate::worker::SecretHash;

/// A token for clients. Only the hash of its text is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    id: TokenId,
    version: u64,
    terms: TokenTerms,
    hash: SecretHash,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

/// The name, tenant and role of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTerms {
    /// Name for display.
    pub name: String,
    /// Tenant of its bearer.
    pub tenant: TenantId,
    /// Role of its bearer.
    pub role: Role,
}

impl TokenTerms {
    /// Maximum length of a name, in bytes.
    pub const NAME: usize = 128;
    /// Maximum life of a token that expires: ten years.
    pub const LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
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

/// The inputs of the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenInput {
    /// The token is created.
    Create {
        /// Its id.
        id: TokenId,
        /// Its name, tenant and role.
        terms: TokenTerms,
        /// Hash of its text.
        hash: SecretHash,
        /// How long it is valid; `None` means until it is revoked.
        life: Option<Duration>,
    },
    /// The token is revoked.
    Revoke,
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

/// Computes the next state of a token; `None` when nothing changes.
pub fn step(current: Option<&AccessToken>, input: TokenInput, now: Timestamp) -> Option<Decision> {
    let (expect, next, event) = match (current, input) {
        (None, TokenInput::Create { id, terms, hash, life }) => {
            let expires_at = life.map(|life| now + life);
            let event = DomainEvent::TokenCreated { terms: terms.clone(), expires_at };
            let next =
                AccessToken { id, version: 1, terms, hash, created_at: now, expires_at, revoked_at: None };
            (Expect::Absent, next, event)
        }
        (Some(token), TokenInput::Revoke) if token.revoked_at.is_none() => {
            let next = AccessToken { version: token.version + 1, revoked_at: Some(now), ..token.clone() };
            (Expect::Version(token.version), next, DomainEvent::TokenRevoked)
        }
        _ => return None,
    };
    let next = Aggregate::Token(Arc::new(next));
    Some(Decision { expect, next, at: now, events: vec![event], effects: Vec::new() })
}

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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn hash(byte: u8) -> SecretHash {
        SecretHash::from_bytes([byte; 32])
    }

    fn token(decision: &Decision) -> AccessToken {
        let Aggregate::Token(token) = &decision.next else { panic!("not a token") };
        AccessToken::clone(token)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_valid_until_it_expires_or_is_revoked() {
        let id = TokenId::from_uuid(Uuid::from_u128(9));
        let terms = TokenTerms { name: "ci".into(), tenant: TenantId::new("team"), role: Role::Submitter };
        let life = Some(Duration::from_secs(10));
        let create = TokenInput::Create { id, terms, hash: hash(1), life };
        let created = step(None, create.clone(), at(0)).unwrap();
        let first = token(&created);
        let caller = first.admits(hash(1), at(9)).unwrap();
        assert_eq!(
            (caller.tenant.as_str(), caller.role, caller.who),
            ("team", Role::Submitter, Who::Token(id))
        );
        assert_eq!(first.admits(hash(2), at(9)), Err(TokenRefusal::Unknown));
        assert_eq!(first.admits(hash(1), at(10)), Err(TokenRefusal::Expired));
        assert!(step(Some(&first), create, at(1)).is_none(), "a token of this id exists");
        let revoked = token(&step(Some(&first), TokenInput::Revoke, at(2)).unwrap());
        assert_eq!(revoked.admits(hash(1), at(3)), Err(TokenRefusal::Revoked));
        assert!(step(Some(&revoked), TokenInput::Revoke, at(4)).is_none());
        let told = serde_json::to_string(&created.events).unwrap();
        assert!(!told.contains("0101"), "no event has its hash: {told}");
    }

    #[test]
    fn only_the_exact_text_of_a_token_yields_its_id() {
        let id = TokenId::from_uuid(Uuid::from_u128(0x0198_abcd));
        let text = token_text(id, hash(0xa5));
        assert_eq!(token_id(&text), Some(id));
        for other in ["", "hodei_", &text[1..], &text[..text.len() - 1], &text.to_uppercase()] {
            assert_eq!(token_id(other), None, "{other}");
        }
    }
}
