//! The token seam of the client: creates, lists and revokes tokens of a daemon.

use std::time::Duration;

use async_trait::async_trait;
use hodei_core::access::{Caller, TokenTerms, TokenView};
use hodei_core::id::TokenId;
use hodei_proto::convert::{terms_to_wire, token_from_wire};
use hodei_proto::v1;

use super::DaemonClient;
use crate::error::Error;
use crate::seam::TokenSeam;
use crate::wire::refusal::error_of;

#[async_trait]
impl TokenSeam for DaemonClient {
    /// Sent only once: a repeat could create a second token.
    async fn create(
        &self,
        _: &Caller,
        terms: TokenTerms,
        life: Option<Duration>,
    ) -> Result<(TokenView, String), Error> {
        let made = self.access_stub().create_token(terms_to_wire(&terms, life)).await;
        let v1::CreateTokenResponse { token, text } = made.map_err(|status| error_of(&status))?.into_inner();
        Ok((self.token(token)?, text))
    }

    async fn list(&self, _: &Caller) -> Result<Vec<TokenView>, Error> {
        let (mut tokens, mut request) = (Vec::new(), v1::ListTokensRequest::default());
        loop {
            let answer =
                self.call(|| async { self.access_stub().list_tokens(request.clone()).await }).await?;
            let page = answer.tokens.into_iter().map(|token| self.token(Some(token)));
            tokens.extend(page.collect::<Result<Vec<_>, _>>()?);
            if answer.next_page_token.is_empty() {
                return Ok(tokens);
            }
            request.page_token = answer.next_page_token;
        }
    }

    async fn revoke(&self, _: &Caller, id: TokenId) -> Result<TokenView, Error> {
        let request = v1::RevokeTokenRequest { id: id.to_string() };
        let answer = self.call(|| async { self.access_stub().revoke_token(request.clone()).await }).await?;
        self.token(answer.token)
    }
}

impl DaemonClient {
    fn token(&self, message: Option<v1::Token>) -> Result<TokenView, Error> {
        let message = message.ok_or_else(|| self.malformed(&"the token is missing"))?;
        token_from_wire(message).map_err(|error| self.malformed(&error))
    }
}
