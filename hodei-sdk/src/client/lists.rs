//! Lists of a daemon, page by page.

use hodei_core::access::TokenView;
use hodei_core::port::SecretInfo;
use hodei_core::worker::WorkerView;
use hodei_proto::convert::{ConvertError, parse, time_from_wire, worker_from_wire};
use hodei_proto::v1;

use super::DaemonClient;
use crate::error::Error;

impl DaemonClient {
    pub(crate) async fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        let (mut workers, mut request) = (Vec::new(), v1::ListWorkersRequest::default());
        loop {
            let answer = self.call(|| async { self.scheduler().list_workers(request.clone()).await }).await?;
            let page = answer.workers.into_iter().map(worker_from_wire).collect::<Result<Vec<_>, _>>();
            workers.extend(page.map_err(|error| self.malformed(&error))?);
            if answer.next_page_token.is_empty() {
                return Ok(workers);
            }
            request.page_token = answer.next_page_token;
        }
    }

    pub(crate) async fn list_secrets(&self) -> Result<Vec<SecretInfo>, Error> {
        let read = |info: v1::SecretInfo| {
            let changed_at = info.changed_at.as_ref().map(time_from_wire);
            let changed_at = changed_at.ok_or(ConvertError::Missing("changed_at"))?;
            Ok(SecretInfo { name: parse("name", &info.name)?, changed_at })
        };
        let (mut listed, mut request) = (Vec::new(), v1::ListSecretsRequest::default());
        loop {
            let answer = self.call(|| async { self.secrets().list_secrets(request.clone()).await }).await?;
            let page = answer.secrets.into_iter().map(read).collect::<Result<Vec<_>, _>>();
            listed.extend(page.map_err(|error: ConvertError| self.malformed(&error))?);
            if answer.next_page_token.is_empty() {
                return Ok(listed);
            }
            request.page_token = answer.next_page_token;
        }
    }

    pub(crate) async fn list_tokens(&self) -> Result<Vec<TokenView>, Error> {
        let (mut tokens, mut request) = (Vec::new(), v1::ListTokensRequest::default());
        loop {
            let answer = self.call(|| async { self.access().list_tokens(request.clone()).await }).await?;
            let page = answer.tokens.into_iter().map(|token| self.token(Some(token)));
            tokens.extend(page.collect::<Result<Vec<_>, _>>()?);
            if answer.next_page_token.is_empty() {
                return Ok(tokens);
            }
            request.page_token = answer.next_page_token;
        }
    }
}
