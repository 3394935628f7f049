//! Tracing of calls: a correlation id that the caller, the answer and the log share, and a span.

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

/// The header of the correlation id: taken from the request or generated, and returned with the answer.
const CORRELATION_HEADER: &str = "x-correlation-id";
/// Maximum number of characters of a correlation id.
const MAX_CORRELATION_LEN: usize = 128;

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
            let why = format!(
                "{CORRELATION_HEADER}: it must have 1 to {MAX_CORRELATION_LEN} visible ASCII characters"
            );
            Status::invalid_argument(why)
        };
        match headers.get(CORRELATION_HEADER) {
            Some(given)
                if given.is_empty() || given.len() > MAX_CORRELATION_LEN || given.to_str().is_err() =>
            {
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
        // The clone has not been polled for readiness, so the polled instance must take the call.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let clock = self.clock.clone();
        let answered = async move {
            let begun = clock.monotonic();
            let mut response = inner.call(request).await?;
            let took = clock.monotonic().saturating_sub(begun);
            tracing::debug!(?took, refused = response.headers().contains_key("grpc-status"), "answered");
            response.headers_mut().insert(CORRELATION_HEADER, correlation);
            Ok(response)
        };
        Box::pin(answered.instrument(span))
    }
}
