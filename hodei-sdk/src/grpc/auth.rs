//! Authentication of calls: bearer tokens, the gate in front of the services, and private connections.

use std::task::{Context, Poll};

use hodei_core::access::{Action, Caller, RefusalReason, RefusedParty, TokenRefusal, Who};
use hodei_core::worker::SecretHash;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::server::TlsConnectInfo;
use tonic::{Code, Request, Status};

use super::admission::{Holder, Peer};
use crate::Hodei;
use crate::app::{NotKnown, hash};
use crate::wire::refusal::status;

/// Returns the bearer token of a call.
pub(super) fn bearer(headers: &http::HeaderMap) -> Result<&str, Status> {
    let value = headers.get("authorization").ok_or_else(|| {
        Status::unauthenticated(
            "no token: send `authorization: Bearer TOKEN`; a daemon keeps its own in its token file",
        )
    })?;
    value
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
        .ok_or_else(|| Status::unauthenticated("`authorization` is malformed: send `Bearer TOKEN`"))
}

/// Whether the connection of a call is private: it is encrypted, or does not leave this machine.
pub(super) fn is_private<T>(request: &Request<T>) -> bool {
    let is_encrypted = request.extensions().get::<TlsConnectInfo<Peer>>().is_some();
    is_encrypted || Peer::of(request.extensions()).is_some_and(Peer::is_local)
}

/// Admits the connection of an authorised call.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` if there are too many connections.
pub(super) fn admit(extensions: &http::Extensions, holder: Holder) -> Result<(), Status> {
    Peer::of(extensions).map_or(Ok(()), |peer| peer.admit(holder))
}

/// Refuses an action over a connection that is not private. A caller without permission for the action gets that error
/// instead, which is audited.
///
/// # Errors
/// `FAILED_PRECONDITION`, or `PERMISSION_DENIED`.
pub(super) fn in_private<T>(request: &Request<T>, hodei: &Hodei, action: Action) -> Result<(), Status> {
    if is_private(request) {
        return Ok(());
    }
    if let Some(authorizer) = hodei.authorizer() {
        authorizer.allow(hodei.caller(), action).map_err(|denied| status(denied.into()))?;
    }
    let action = action.as_str().replace('_', " ");
    Err(Status::failed_precondition(format!(
        "this connection is not encrypted: {action} over TLS, or from the daemon's own machine"
    )))
}

/// Authenticates the callers of client services.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    /// The handle of the platform's owner.
    pub(super) hodei: Hodei,
    /// The hash of the owner's token; `None` accepts every call as the owner's.
    pub(super) own: Option<SecretHash>,
}

impl Gate {
    async fn caller(&self, service: &str, headers: &http::HeaderMap) -> Result<Caller, Status> {
        self.known(headers).await.map_err(|refused| {
            if let Some(reason) = refused.reason {
                self.note(RefusedParty::Stranger { service: service.to_owned() }, reason);
            }
            refused.status
        })
    }

    fn note(&self, party: RefusedParty, reason: RefusalReason) {
        if let Some(authorizer) = self.hodei.authorizer() {
            authorizer.refused(party, reason);
        }
    }

    async fn known(&self, headers: &http::HeaderMap) -> Result<Caller, Unauthenticated> {
        let Some(own) = self.own else { return Ok(self.hodei.caller().clone()) };
        let unknown = |status| Unauthenticated { status, reason: Some(RefusalReason::UnknownToken) };
        let token = bearer(headers).map_err(unknown)?;
        // Compares hashes, so that the duration reveals nothing about the token.
        if hash(token) == own {
            return Ok(Caller { who: Who::TokenFile, ..self.hodei.caller().clone() });
        }
        let access = self.hodei.access();
        let access = access.ok_or_else(|| unknown(Status::unauthenticated("the token is not known")))?;
        access.authenticate(token).await.map_err(|error| match error {
            NotKnown::Token(refusal) => Unauthenticated {
                status: Status::unauthenticated(match refusal {
                    TokenRefusal::Unknown => format!("{refusal}: a daemon keeps its own in its token file"),
                    _ => format!("{refusal}: ask an admin for a new one"),
                }),
                reason: Some(match refusal {
                    TokenRefusal::Unknown => RefusalReason::UnknownToken,
                    TokenRefusal::Expired => RefusalReason::ExpiredToken,
                    TokenRefusal::Revoked => RefusalReason::RevokedToken,
                }),
            },
            NotKnown::Store(error) => {
                Unauthenticated { status: Status::unavailable(error.to_string()), reason: None }
            }
        })
    }
}

/// The refusal of an unauthenticated call: its status, and the reason for the audit if it is to be audited.
struct Unauthenticated {
    status: Status,
    reason: Option<RefusalReason>,
}

/// A service behind a gate: each request that reaches it has its [`Caller`] as an extension.
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
    S: Service<http::Request<Body>, Response = http::Response<Body>> + NamedService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone has not been polled for readiness, so the polled instance must take the call.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let gate = self.gate.clone();
        Box::pin(async move {
            match gate.caller(S::NAME, request.headers()).await {
                Ok(caller) => {
                    if let Err(refused) = admit(request.extensions(), Holder::Client) {
                        return Ok(refused.into_http());
                    }
                    request.extensions_mut().insert(caller.clone());
                    let response = inner.call(request).await?;
                    if Status::from_header_map(response.headers())
                        .is_some_and(|status| status.code() == Code::OutOfRange)
                    {
                        let Caller { who, tenant, .. } = caller;
                        gate.note(RefusedParty::Client { who, tenant }, RefusalReason::TooLarge);
                    }
                    Ok(response)
                }
                Err(refused) => Ok(refused.into_http()),
            }
        })
    }
}
