//! Who comes in with which token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hodei_core::access::{
    AccessToken, Action, Caller, TokenInput, TokenRefusal, TokenTerms, TokenView, Who, step, token_id,
    token_text,
};
use hodei_core::decision::Aggregate;
use hodei_core::event::Actor;
use hodei_core::id::TokenId;
use hodei_core::job::{SpecError, TenantId};
use hodei_core::port::{Clock, IdGenerator, Store, StoreError};
use hodei_core::worker::SecretHash;
use sha2::{Digest, Sha256};

use super::{AuditService, Committer};
use crate::Error;

/// Makes tokens for clients, takes them back, and knows who comes with one.
#[derive(Debug, Clone)]
pub(crate) struct AccessService {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) committer: Committer,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    pub(crate) recent: RecentCallers,
    pub(crate) audit: AuditService,
}

/// Callers that came a moment ago, and when.
pub(crate) type RecentCallers = Arc<Mutex<BTreeMap<TokenId, (Arc<AccessToken>, Duration)>>>;

/// A token that was looked at is not looked at again for this long: what another daemon revokes is good for this long.
const FRESH: Duration = Duration::from_secs(1);
/// Tokens that are remembered.
const MOST: usize = 1024;
/// Others may change the same token: tries before it is given up.
const TRIES: u32 = 8;

/// What is kept of a secret.
pub(crate) fn hash(secret: &str) -> SecretHash {
    SecretHash::from_bytes(Sha256::digest(secret).into())
}

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

    fn recent(&self) -> MutexGuard<'_, BTreeMap<TokenId, (Arc<AccessToken>, Duration)>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a token; the text is told this once and kept by nobody here.
    pub(crate) async fn create(
        &self,
        caller: &Caller,
        terms: TokenTerms,
        life: Option<Duration>,
    ) -> Result<(TokenView, String), Error> {
        self.audit.allow(caller, Action::ManageTokens)?;
        check_terms(&terms, life).map_err(Error::Token)?;
        let now = self.clock.now();
        let id = TokenId::from_uuid(self.ids.uuid(now));
        let text = token_text(id, SecretHash::from_bytes(self.ids.secret()));
        let input = TokenInput::Create { id, terms, hash: hash(&text), life };
        let decision = step(None, input, now).ok_or(Error::Contended)?;
        match self.committer.commit_one(Actor::Client, decision).await? {
            Ok(Aggregate::Token(token)) => Ok((token.view(), text)),
            _ => Err(Error::Contended),
        }
    }

    pub(crate) async fn list(&self, caller: &Caller) -> Result<Vec<TokenView>, Error> {
        self.audit.allow(caller, Action::ManageTokens)?;
        let mut views: Vec<_> = self.store.list_tokens().await?.iter().map(|token| token.view()).collect();
        views.sort_by_key(|view| view.created_at);
        Ok(views)
    }

    /// Takes a token back; one that was taken back already stays so.
    pub(crate) async fn revoke(&self, caller: &Caller, id: TokenId) -> Result<TokenView, Error> {
        self.audit.allow(caller, Action::ManageTokens)?;
        for _ in 0..TRIES {
            let found = self.store.tokens(&[id]).await?.pop().flatten().ok_or(Error::NoToken(id))?;
            let Some(decision) = step(Some(&found), TokenInput::Revoke, self.clock.now()) else {
                return Ok(found.view());
            };
            if let Ok(Aggregate::Token(token)) = self.committer.commit_one(Actor::Client, decision).await? {
                let now = self.clock.monotonic();
                self.recent().insert(id, (token.clone(), now));
                return Ok(token.view());
            }
        }
        Err(Error::Contended)
    }
}

fn check_terms(terms: &TokenTerms, life: Option<Duration>) -> Result<(), SpecError> {
    let refuse = |field, problem| Err(SpecError::Invalid { field, problem });
    let name = terms.name.trim();
    if name.is_empty() || terms.name.len() > TokenTerms::NAME || name.chars().any(char::is_control) {
        return refuse("name", "is empty, over 128 bytes, or has control characters");
    }
    if terms.tenant.as_str().parse::<TenantId>().is_err() {
        return refuse("tenant", "has 1 to 64 letters, digits, `_`, `-` or `.`, and begins with no dot");
    }
    if life.is_some_and(|life| life < Duration::from_secs(1) || life > TokenTerms::LIFE) {
        return refuse("life", "must be between 1 s and 10 years");
    }
    Ok(())
}
