//! Who calls.

use hodei_core::worker::SecretHash;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};
use tonic::{Request, Status};

use crate::app::hash;

/// The bearer token of a call.
pub(super) fn bearer(metadata: &MetadataMap) -> Result<&str, Status> {
    let value = metadata.get("authorization").ok_or_else(|| {
        Status::unauthenticated(
            "no token: send `authorization: Bearer TOKEN`; a daemon keeps it in its token file",
        )
    })?;
    value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
        .ok_or_else(|| Status::unauthenticated("`authorization` is malformed: it is `Bearer` and the token"))
}

/// Whether nobody else can read what goes over the connection of a call: it does not leave this machine.
pub(super) fn is_private<T>(request: &Request<T>) -> bool {
    if request.extensions().get::<UdsConnectInfo>().is_some() {
        return true;
    }
    let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// Lets in who has the token.
#[derive(Debug, Clone)]
pub(super) struct TokenAuth {
    /// `None` lets everybody in.
    pub(super) token: Option<SecretHash>,
}

impl Interceptor for TokenAuth {
    /// Hashes are compared, so the time it takes tells nothing of the token.
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = self.token
            && hash(bearer(request.metadata())?) != token
        {
            return Err(Status::unauthenticated("the token is not the daemon's: see its token file"));
        }
        Ok(request)
    }
}
