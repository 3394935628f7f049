//! Who calls.

use std::task::{Context, Poll};

use hodei_core::access::{Caller, Who};
use hodei_core::worker::SecretHash;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};
use tonic::{Request, Status};

use crate::Hodei;
use crate::app::{NotKnown, hash};

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

/// Knows who calls.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    /// The platform, as its owner has it.
    pub(super) hodei: Hodei,
    /// Whose bearer is the owner; `None` lets everybody in as that.
    pub(super) own: Option<SecretHash>,
}

impl Gate {
    async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let Some(own) = self.own else { return Ok(self.hodei.caller().clone()) };
        let token = bearer(metadata)?;
        // Hashes are compared, so the time it takes tells nothing of the token.
        if hash(token) == own {
            return Ok(Caller { who: Who::TokenFile, ..self.hodei.caller().clone() });
        }
        let access = self.hodei.access().ok_or_else(|| Status::unauthenticated("the token is not known"))?;
        access.authenticate(token).await.map_err(|error| match error {
            NotKnown::Token(refusal) => {
                Status::unauthenticated(format!("{refusal}: see the daemon's token file"))
            }
            NotKnown::Store(error) => Status::unavailable(error.to_string()),
        })
    }
}

/// A service behind a gate: a call that comes to it has its [`Caller`] with it.
#[derive(Debug, Clone)]
pub(super) struct Gated<S> {
    inner: S,
    gate: Gate,
}

impl<S> Gated<S> {
    pub(super) fn new(inner: S, gate: &Gate) -> Self {
        Self { inner, gate: gate.clone() }
    }
}

impl<S: NamedService> NamedService for Gated<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone is not ready; what was asked for readiness is what takes the call.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let gate = self.gate.clone();
        Box::pin(async move {
            let metadata = MetadataMap::from_headers(request.headers().clone());
            match gate.caller(&metadata).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(refused) => Ok(refused.into_http()),
            }
        })
    }
}
