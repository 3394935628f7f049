//! The area of tokens.

use std::time::Duration;

use hodei_core::access::{TokenTerms, TokenView};
use hodei_core::id::TokenId;

use crate::Hodei;
use crate::error::Error;
use crate::seam::TokenSeam;

/// The tokens that clients of a daemon show: see [`Hodei::tokens`].
#[derive(Debug, Clone)]
pub struct Tokens {
    hodei: Hodei,
}

impl Tokens {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Makes a token and returns its text, this once. It is valid for `life`, or until it is revoked.
    ///
    /// # Errors
    /// [`Error::Denied`] for a caller that is not an admin, [`Error::Token`] names the term that is not valid; the store's.
    pub async fn create(
        &self,
        terms: TokenTerms,
        life: Option<Duration>,
    ) -> Result<(TokenView, String), Error> {
        self.seam().create(self.hodei.caller(), terms, life).await
    }

    /// Returns every token, also expired and revoked ones.
    ///
    /// # Errors
    /// [`Error::Denied`] for a caller that is not an admin; the store's.
    pub async fn list(&self) -> Result<Vec<TokenView>, Error> {
        self.seam().list(self.hodei.caller()).await
    }

    /// Revokes a token. Other daemons of the store accept it for a second more at most.
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
