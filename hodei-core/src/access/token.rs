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

/// A token for clients. Only its hash is kept.
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

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTerms {
    /// What people call it.
    pub name: String,
    /// Whose jobs its bearer sees and submits.
    pub tenant: TenantId,
    /// What its bearer may do.
    pub role: Role,
}

impl TokenTerms {
    /// The longest name, in bytes.
    pub const NAME: usize = 128;
    /// The longest life of a token that has an end: ten years.
    pub const LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
}

/// What is known of a token by everybody who may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenView {
    /// Its id.
    pub id: TokenId,
    /// What it is for.
    pub terms: TokenTerms,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; `None` when it does not by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

/// What can happen to a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenInput {
    /// It is made.
    Create {
        /// Its id.
        id: TokenId,
        /// What it is for.
        terms: TokenTerms,
        /// Its hash.
        hash: SecretHash,
        /// How long it is good; for ever without.
        life: Option<Duration>,
    },
    /// It is good no more.
    Revoke,
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// There is none such.
    #[error("the token is not known")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was taken back.
    #[error("the token was revoked")]
    Revoked,
}

/// The text of a token: what its bearer has. It begins with a word by which scanners for secrets know it, and names its
/// id, so that it is found without a search.
pub fn token_text(id: TokenId, secret: SecretHash) -> String {
    format!("{WORD}{}_{secret}", id.as_uuid().simple())
}

/// The id in the text of a token; `None` for any other text.
pub fn token_id(text: &str) -> Option<TokenId> {
    let (id, secret) = text.strip_prefix(WORD)?.split_once('_')?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_plain = id.len() == 32 && secret.len() == 64 && id.bytes().chain(secret.bytes()).all(is_hex);
    is_plain.then(|| id.parse().ok()).flatten()
}

/// Begins every token.
const WORD: &str = "hodei_";

/// The next state of a token; `None` when nothing changes.
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
    /// Its id.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Rises by one with each transition, from 1.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All of it but for its hash.
    pub fn view(&self) -> TokenView {
        TokenView {
            id: self.id,
            terms: self.terms.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        }
    }

    /// When it lets nobody in any more; `None` when it does until it is revoked.
    pub fn ends_at(&self) -> Option<Timestamp> {
        self.revoked_at.into_iter().chain(self.expires_at).min()
    }

    /// Its end, kept on the monotonic clock from `now` on: one that is read again after a restart is good for no longer
    /// than it was made for.
    pub fn expiry(&self, now: Moment) -> Option<Deadline> {
        let at = self.expires_at?;
        Some(Deadline::new(at, at.since(self.created_at), now))
    }

    /// Whether it is good at `now`.
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

    /// Who comes with a text of this hash.
    ///
    /// # Errors
    /// [`TokenRefusal`] when it is another token's, or is not good any more.
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
    fn a_token_is_good_until_it_ends_or_is_taken_back() {
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
        assert!(step(Some(&first), create, at(1)).is_none(), "there is one of its id");
        let revoked = token(&step(Some(&first), TokenInput::Revoke, at(2)).unwrap());
        assert_eq!(revoked.admits(hash(1), at(3)), Err(TokenRefusal::Revoked));
        assert!(step(Some(&revoked), TokenInput::Revoke, at(4)).is_none());
        let told = serde_json::to_string(&created.events).unwrap();
        assert!(!told.contains("0101"), "no event has its hash: {told}");
    }

    #[test]
    fn the_text_of_a_token_names_its_id_and_nothing_else_is_one() {
        let id = TokenId::from_uuid(Uuid::from_u128(0x0198_abcd));
        let text = token_text(id, hash(0xa5));
        assert_eq!(token_id(&text), Some(id));
        for other in ["", "hodei_", &text[1..], &text[..text.len() - 1], &text.to_uppercase()] {
            assert_eq!(token_id(other), None, "{other}");
        }
    }
}
