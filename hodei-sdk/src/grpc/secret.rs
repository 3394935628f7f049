//! The gRPC service of secrets: put, list, delete.

use hodei_core::access::Action;
use hodei_proto::convert::{parse, secret_value, time_to_wire};
use hodei_proto::v1;
use hodei_proto::v1::secret_service_server::SecretService;
use tonic::{Request, Response, Status};

use super::auth::in_private;
use super::{Serving, pages};
use crate::wire::refusal::{malformed, status};

/// Serves the secrets of the caller's tenant.
#[derive(Debug)]
pub(super) struct SecretApi(pub(super) Serving);

#[tonic::async_trait]
impl SecretService for SecretApi {
    async fn put_secret(
        &self,
        request: Request<v1::PutSecretRequest>,
    ) -> Result<Response<v1::PutSecretResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        in_private(&request, &hodei, Action::ChangeSecrets)?;
        let v1::PutSecretRequest { name, value } = request.into_inner();
        let name = parse("name", &name).map_err(malformed)?;
        let value = secret_value(&value).map_err(malformed)?;
        hodei.secrets().put(&name, value).await.map_err(status)?;
        Ok(Response::new(v1::PutSecretResponse {}))
    }

    async fn list_secrets(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let listed = hodei.secrets().list().await.map_err(status)?;
        let secrets = listed.into_iter().map(|info| v1::SecretInfo {
            name: info.name.to_string(),
            changed_at: Some(time_to_wire(info.changed_at)),
        });
        let after = request.into_inner().page_token;
        let (secrets, next_page_token) = pages::page(secrets, &after, |secret| &secret.name);
        Ok(Response::new(v1::ListSecretsResponse { secrets, next_page_token }))
    }

    async fn delete_secret(
        &self,
        request: Request<v1::DeleteSecretRequest>,
    ) -> Result<Response<v1::DeleteSecretResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let name = parse("name", &request.into_inner().name).map_err(malformed)?;
        let existed = hodei.secrets().delete(&name).await.map_err(status)?;
        Ok(Response::new(v1::DeleteSecretResponse { existed }))
    }
}
