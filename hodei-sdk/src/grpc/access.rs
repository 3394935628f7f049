use hodei_proto::convert::{parse, terms_from_wire, token_to_wire};
use hodei_proto::v1;
use hodei_proto::v1::access_service_server::AccessService;
use tonic::{Request, Response, Status};

use super::Serving;
use super::auth::is_private;
use crate::wire::refusal::{malformed, status};

/// The tokens of clients.
#[derive(Debug)]
pub(super) struct AccessApi(pub(super) Serving);

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        if !is_private(&request) {
            let why =
                "others can read this connection: make tokens over TLS, or from the daemon's own machine";
            return Err(Status::failed_precondition(why));
        }
        let hodei = self.0.hodei(&request)?;
        let (terms, life) =
            terms_from_wire(request.into_inner(), &hodei.caller().tenant).map_err(malformed)?;
        let (token, text) = hodei.create_token(terms, life).await.map_err(status)?;
        Ok(Response::new(v1::CreateTokenResponse { token: Some(token_to_wire(&token)), text }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let tokens = self.0.hodei(&request)?.list_tokens().await.map_err(status)?;
        Ok(Response::new(v1::ListTokensResponse { tokens: tokens.iter().map(token_to_wire).collect() }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let id = parse("id", &request.into_inner().id).map_err(malformed)?;
        let token = hodei.revoke_token(id).await.map_err(status)?;
        Ok(Response::new(v1::RevokeTokenResponse { token: Some(token_to_wire(&token)) }))
    }
}
