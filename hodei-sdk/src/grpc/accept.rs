//! Connections of a listener, as they come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::port::Clock;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::admission::{Admission, Guarded, Origin};
use crate::clock::SystemClock;

/// Where connections come.
pub(super) trait Accept {
    type Stream: Origin + Send;

    /// The next one. Cancel safe.
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

/// Connections as they come.
#[derive(Debug)]
pub(super) struct Accepting<L> {
    listener: L,
    admission: Arc<Admission>,
    clock: SystemClock,
    /// That none can be accepted was said, and none was since.
    said: bool,
}

/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

impl<L: Accept> Accepting<L> {
    pub(super) fn new(listener: L, admission: Arc<Admission>) -> Self {
        Self { listener, admission, clock: SystemClock::default(), said: false }
    }

    /// The next one, a stranger. What cannot be accepted waits: others may end, or go. Cancel safe.
    pub(super) async fn next(&mut self) -> Guarded<L::Stream> {
        loop {
            match self.listener.accept().await {
                Ok(stream) => {
                    self.said = false;
                    return self.admission.enter(stream).await;
                }
                Err(error) => {
                    // Out of descriptors, most likely.
                    if !std::mem::replace(&mut self.said, true) {
                        tracing::warn!(%error, "connections cannot be accepted: trying again until they can");
                    }
                    self.clock.sleep(PAUSE).await;
                }
            }
        }
    }

    /// All of them.
    pub(super) fn stream(self) -> impl futures_util::Stream<Item = io::Result<Guarded<L::Stream>>> {
        futures_util::stream::unfold(self, async |mut accepting| {
            Some((Ok(accepting.next().await), accepting))
        })
    }
}
