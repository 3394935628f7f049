//! The gRPC service of tokens: create, list, revoke.

use hodei_core::access::Action;
use hodei_proto::convert::{parse, terms_from_wire, token_to_wire};
use hodei_proto::v1;
use hodei_proto::v1::access_service_server::AccessService;
use tonic::{Request, Response, Status};

use super::auth::in_private;
use super::{Serving, pages};
use crate::wire::refusal::{malformed, status};

/// Serves the tokens of clients.
#[derive(Debug)]
pub(super) struct AccessApi(pub(super) Serving);

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        in_private(&request, &hodei, Action::ManageTokens)?;
        let (terms, life) =
            terms_from_wire(request.into_inner(), &hodei.caller().tenant).map_err(malformed)?;
        let (token, text) = hodei.tokens().create(terms, life).await.map_err(status)?;
        Ok(Response::new(v1::CreateTokenResponse { token: Some(token_to_wire(&token)), text }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let tokens = self.0.hodei(&request)?.tokens().list().await.map_err(status)?;
        let after = request.into_inner().page_token;
        let (tokens, next_page_token) =
            pages::page(tokens.iter().map(token_to_wire), &after, |token| &token.id);
        Ok(Response::new(v1::ListTokensResponse { tokens, next_page_token }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let id = parse("id", &request.into_inner().id).map_err(malformed)?;
        let token = hodei.tokens().revoke(id).await.map_err(status)?;
        Ok(Response::new(v1::RevokeTokenResponse { token: Some(token_to_wire(&token)) }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hodei_core::access::{Caller, Role};
    use hodei_core::event::{DomainEvent, Envelope};
    use hodei_core::port::{Clock, ClockExt, FeedCursor};
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;
    use crate::Hodei;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn a_token_is_created_only_over_a_private_connection_and_refusals_are_audited() {
        let platform = Hodei::local().await.unwrap();
        let api = AccessApi(Serving { platform: platform.clone(), stop: CancellationToken::new() });
        let create = async |role| {
            // The request has no connection, so it has no private one.
            let mut request = Request::new(v1::CreateTokenRequest::default());
            request.extensions_mut().insert(Caller { role, ..Caller::default() });
            api.create_token(request).await.unwrap_err().code()
        };
        assert_eq!(create(Role::Admin).await, Code::FailedPrecondition);
        assert_eq!(create(Role::Operator).await, Code::PermissionDenied);
        let clock = SystemClock::default();
        let is_audited = async {
            let is_refusal = |event: &Envelope| matches!(event.event, DomainEvent::AccessRefused { .. });
            while !platform
                .events()
                .read(&FeedCursor::default(), 100)
                .await
                .unwrap()
                .events
                .iter()
                .any(is_refusal)
            {
                clock.sleep(Duration::from_millis(20)).await;
            }
        };
        clock.timeout(Duration::from_secs(10), is_audited).await.unwrap();
        platform.shutdown().await;
    }
}
