//! The state machine of a token.

use std::sync::Arc;
use std::time::Duration;

use super::terms::TokenTerms;
use super::token::AccessToken;
use crate::decision::{Aggregate, Decision, Expect};
use crate::event::DomainEvent;
use crate::id::TokenId;
use crate::time::Timestamp;
use crate::worker::SecretHash;

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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::{Role, TokenRefusal, Who, token_id, token_text};
    use super::*;
    use crate::job::TenantId;

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
