//! What every call has in common: an id that its caller, its answer and the log share, and a span.

use std::sync::Arc;
use std::task::{Context, Poll};

use hodei_core::port::{Clock, IdGenerator};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tracing::Instrument;

use super::admission::Peer;
use crate::clock::SystemClock;
use crate::ids::SystemIds;

/// The header with the id: taken from the request, made where it has none, and sent back.
const CORRELATION: &str = "x-correlation-id";
/// Characters of an id.
const LONGEST: usize = 128;

/// Traces the calls of a server.
#[derive(Debug, Clone)]
pub(super) struct Traced<S> {
    inner: S,
    clock: Arc<SystemClock>,
    ids: Arc<SystemIds>,
}

impl<S> Traced<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, clock: Arc::default(), ids: Arc::default() }
    }

    fn correlation(&self, headers: &http::HeaderMap) -> Result<http::HeaderValue, Status> {
        let malformed = || {
            let why = format!("{CORRELATION}: it has up to {LONGEST} visible ASCII characters");
            Status::invalid_argument(why)
        };
        match headers.get(CORRELATION) {
            Some(given) if given.is_empty() || given.len() > LONGEST || given.to_str().is_err() => {
                Err(malformed())
            }
            Some(given) => Ok(given.clone()),
            None => http::HeaderValue::from_str(&self.ids.uuid(self.clock.now()).to_string())
                .map_err(|_| malformed()),
        }
    }
}

impl<S, B> Service<http::Request<B>> for Traced<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if let Some(peer) = Peer::of(request.extensions()) {
            peer.called();
        }
        let correlation = match self.correlation(request.headers()) {
            Ok(correlation) => correlation,
            Err(refused) => return Box::pin(async move { Ok(refused.into_http()) }),
        };
        let shown = correlation.to_str().unwrap_or_default();
        let span = tracing::debug_span!("call", method = request.uri().path(), correlation = shown);
        // The clone is not ready; what was asked for readiness is what takes the call.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let clock = self.clock.clone();
        let answered = async move {
            let begun = clock.monotonic();
            let mut response = inner.call(request).await?;
            let took = clock.monotonic().saturating_sub(begun);
            tracing::debug!(?took, refused = response.headers().contains_key("grpc-status"), "answered");
            response.headers_mut().insert(CORRELATION, correlation);
            Ok(response)
        };
        Box::pin(answered.instrument(span))
    }
}
