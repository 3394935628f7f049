//! The secret seam of the client: puts, lists and deletes secrets of a daemon.

use async_trait::async_trait;
use hodei_core::access::Caller;
use hodei_core::port::SecretInfo;
use hodei_core::secret::{SecretName, SecretPolicy, SecretValue};
use hodei_proto::convert::{ConvertError, parse, secret_to_wire, time_from_wire};
use hodei_proto::tls::is_near;
use hodei_proto::v1;

use super::{DaemonClient, Service, refuse};
use crate::error::{Error, RefusalKind};
use crate::seam::SecretSeam;

#[async_trait]
impl SecretSeam for DaemonClient {
    async fn put(&self, _: &Caller, name: &SecretName, value: SecretValue) -> Result<(), Error> {
        let is_private = |(url, _): &(String, Service)| !url.starts_with("http:") || is_near(url);
        // The value may go to any of the daemons.
        if !self.servers.services.iter().all(is_private) {
            let why = "an http: connection is not encrypted: put secrets over https:, or from the daemon's own machine";
            return Err(refuse(RefusalKind::Precondition, why.into()));
        }
        let request = v1::PutSecretRequest { name: name.to_string(), value: secret_to_wire(&value) };
        self.call(|| async { self.secret_stub().put_secret(request.clone()).await }).await.map(drop)
    }

    async fn list(&self, _: &Caller) -> Result<Vec<SecretInfo>, Error> {
        let read = |info: v1::SecretInfo| {
            let changed_at = info.changed_at.as_ref().map(time_from_wire);
            let changed_at = changed_at.ok_or(ConvertError::Missing("changed_at"))?;
            Ok(SecretInfo { name: parse("name", &info.name)?, changed_at })
        };
        let (mut listed, mut request) = (Vec::new(), v1::ListSecretsRequest::default());
        loop {
            let answer =
                self.call(|| async { self.secret_stub().list_secrets(request.clone()).await }).await?;
            let page = answer.secrets.into_iter().map(read).collect::<Result<Vec<_>, _>>();
            listed.extend(page.map_err(|error: ConvertError| self.malformed(&error))?);
            if answer.next_page_token.is_empty() {
                return Ok(listed);
            }
            request.page_token = answer.next_page_token;
        }
    }

    /// Returns false if the answer to an earlier try was lost, although that try deleted the secret.
    async fn delete(&self, _: &Caller, name: &SecretName) -> Result<bool, Error> {
        let request = v1::DeleteSecretRequest { name: name.to_string() };
        Ok(self.call(|| async { self.secret_stub().delete_secret(request.clone()).await }).await?.existed)
    }

    fn set_policy(&self, _: SecretPolicy) {}
}
