//! Tokens for clients: creation, listing and revocation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::access::{AccessToken, Action, Caller, TokenInput, TokenTerms, TokenView, step, token_text};
use hodei_core::decision::Aggregate;
use hodei_core::event::Actor;
use hodei_core::id::TokenId;
use hodei_core::job::{SpecError, TenantId};
use hodei_core::port::ClockExt;
use hodei_core::time::Deadline;
use hodei_core::worker::SecretHash;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::app::access::authorizer::Authorizer;
use crate::app::commit::Committer;
use crate::app::ports::Ports;
use crate::seam::TokenSeam;

/// Creates, lists and revokes tokens for clients. `authentication` resolves a token to its caller.
#[derive(Debug, Clone)]
pub(crate) struct AccessService {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
    pub(crate) recent: RecentCallers,
    pub(crate) authorizer: Authorizer,
}

/// Cache of the tokens that were read recently. Clones share it.
pub(crate) type RecentCallers = Arc<Mutex<BTreeMap<TokenId, RecentToken>>>;

/// A cached token.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "grpc"), expect(dead_code, reason = "callers show tokens to a daemon alone"))]
pub(crate) struct RecentToken {
    pub(crate) token: Arc<AccessToken>,
    /// Monotonic time of the read.
    pub(crate) read: Duration,
    /// End of its lifetime, computed when it was first read.
    pub(crate) expiry: Option<Deadline>,
}

/// Commits of one revocation that are tried while other writers cause conflicts.
const MAX_COMMIT_TRIES: u32 = 8;

/// Returns the hash that is stored in place of a secret.
pub(crate) fn hash(secret: &str) -> SecretHash {
    SecretHash::from_bytes(Sha256::digest(secret).into())
}

impl AccessService {
    pub(crate) fn recent(&self) -> MutexGuard<'_, BTreeMap<TokenId, RecentToken>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TokenSeam for AccessService {
    /// Creates a token. The text is returned only here; the platform keeps only its hash.
    async fn create(
        &self,
        caller: &Caller,
        terms: TokenTerms,
        life: Option<Duration>,
    ) -> Result<(TokenView, String), Error> {
        self.authorizer.allow(caller, Action::ManageTokens)?;
        check_terms(&terms, life).map_err(Error::Token)?;
        let now = self.ports.clock.now();
        let id = TokenId::from_uuid(self.ports.ids.uuid(now));
        let text = token_text(id, SecretHash::from_bytes(self.ports.ids.secret()));
        let input = TokenInput::Create { id, terms, hash: hash(&text), life };
        let decision = step(None, input, now).ok_or(Error::Contended)?;
        match self.committer.commit_one(Actor::Client, decision).await? {
            Ok(Aggregate::Token(token)) => Ok((token.view(), text)),
            _ => Err(Error::Contended),
        }
    }

    async fn list(&self, caller: &Caller) -> Result<Vec<TokenView>, Error> {
        self.authorizer.allow(caller, Action::ManageTokens)?;
        let mut views: Vec<_> =
            self.ports.store.list_tokens().await?.iter().map(|token| token.view()).collect();
        views.sort_by_key(|view| view.created_at);
        Ok(views)
    }

    /// Revokes a token. Idempotent.
    async fn revoke(&self, caller: &Caller, id: TokenId) -> Result<TokenView, Error> {
        self.authorizer.allow(caller, Action::ManageTokens)?;
        for _ in 0..MAX_COMMIT_TRIES {
            let found = self.ports.store.tokens(&[id]).await?.pop().flatten().ok_or(Error::NoToken(id))?;
            let Some(decision) = step(Some(&found), TokenInput::Revoke, self.ports.clock.now()) else {
                return Ok(found.view());
            };
            if let Ok(Aggregate::Token(token)) = self.committer.commit_one(Actor::Client, decision).await? {
                let now = self.ports.clock.moment();
                let recent =
                    RecentToken { token: token.clone(), read: now.monotonic, expiry: token.expiry(now) };
                self.recent().insert(id, recent);
                return Ok(token.view());
            }
        }
        Err(Error::Contended)
    }
}

fn check_terms(terms: &TokenTerms, life: Option<Duration>) -> Result<(), SpecError> {
    let refuse = |field: &'static str, problem: &'static str| {
        Err(SpecError::Invalid { field: field.into(), problem: problem.into() })
    };
    let name = terms.name.trim();
    if name.is_empty() || terms.name.len() > TokenTerms::NAME || name.chars().any(char::is_control) {
        return refuse("name", "is empty, over 128 bytes, or has control characters");
    }
    if terms.tenant.as_str().parse::<TenantId>().is_err() {
        return refuse(
            "tenant",
            "must have 1 to 64 letters, digits, `_`, `-` or `.`, and must not begin with a dot",
        );
    }
    if life.is_some_and(|life| life < Duration::from_secs(1) || life > TokenTerms::LIFE) {
        return refuse("life", "must be between 1 s and 10 years");
    }
    Ok(())
}
