//! Accepts the connections of a listener, and retries after errors.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::port::Clock;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::admission::{Admission, Guarded, Origin};
use crate::clock::SystemClock;

/// A listener of connections.
pub(super) trait Accept {
    type Stream: Origin + Send;

    /// Waits for the next connection. Cancel safe.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Accepts connections and hands them to the admission.
#[derive(Debug)]
pub(super) struct Accepting<L> {
    listener: L,
    admission: Arc<Admission>,
    clock: SystemClock,
    /// Whether the present failure to accept connections has been logged.
    is_failure_logged: bool,
}

/// Wait after a connection that could not be accepted.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(50);

impl<L: Accept> Accepting<L> {
    pub(super) fn new(listener: L, admission: Arc<Admission>) -> Self {
        Self { listener, admission, clock: SystemClock::default(), is_failure_logged: false }
    }

    /// Returns the next connection, as a stranger. Retries after an error until a connection can be accepted. Cancel
    /// safe.
    pub(super) async fn next(&mut self) -> Guarded<L::Stream> {
        loop {
            match self.listener.accept().await {
                Ok(stream) => {
                    self.is_failure_logged = false;
                    return self.admission.enter(stream).await;
                }
                Err(error) => {
                    // Most likely no descriptors are left until other connections end.
                    if !std::mem::replace(&mut self.is_failure_logged, true) {
                        tracing::warn!(%error, "connections cannot be accepted: trying again until they can");
                    }
                    self.clock.sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Returns a stream of all connections.
    pub(super) fn stream(self) -> impl futures_util::Stream<Item = io::Result<Guarded<L::Stream>>> {
        futures_util::stream::unfold(self, async |mut accepting| {
            Some((Ok(accepting.next().await), accepting))
        })
    }
}
