//! The area of tokens: create, list, revoke.

use std::time::Duration;

use hodei_core::access::{TokenTerms, TokenView};
use hodei_core::id::TokenId;

use crate::Hodei;
use crate::error::Error;
use crate::seam::TokenSeam;

/// The tokens of the clients of a daemon: see [`Hodei::tokens`].
#[derive(Debug, Clone)]
pub struct Tokens {
    hodei: Hodei,
}

impl Tokens {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Creates a token and returns its text, which cannot be read later. It is valid for `life`, or until it is
    /// revoked.
    ///
    /// # Errors
    /// [`Error::Denied`] for a caller that is not an admin; [`Error::Token`] names the invalid term; the store's.
    pub async fn create(
        &self,
        terms: TokenTerms,
        life: Option<Duration>,
    ) -> Result<(TokenView, String), Error> {
        self.seam().create(self.hodei.caller(), terms, life).await
    }

    /// Returns every token, including expired and revoked ones.
    ///
    /// # Errors
    /// [`Error::Denied`] for a caller that is not an admin; the store's.
    pub async fn list(&self) -> Result<Vec<TokenView>, Error> {
        self.seam().list(self.hodei.caller()).await
    }

    /// Revokes a token. Other daemons of the store accept it for at most one more second.
    ///
    /// # Errors
    /// [`Error::NoToken`], [`Error::Denied`] for a caller that is not an admin; the store's.
    pub async fn revoke(&self, id: TokenId) -> Result<TokenView, Error> {
        self.seam().revoke(self.hodei.caller(), id).await
    }

    fn seam(&self) -> &dyn TokenSeam {
        &*self.hodei.seams().tokens
    }
}
