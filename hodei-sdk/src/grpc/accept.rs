use std::time::Duration;

use hodei_core::port::Clock;
use tokio::net::{TcpListener, TcpStream};

use crate::clock::SystemClock;

/// Connections as they come.
#[derive(Debug)]
pub(super) struct Accepting {
    listener: TcpListener,
    clock: SystemClock,
    /// That none can be accepted was said, and none was since.
    said: bool,
}

/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

impl Accepting {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, clock: SystemClock::default(), said: false }
    }

    /// The next one. What cannot be accepted waits: others may end, or go. Cancel safe.
    pub(super) async fn next(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.said = false;
                    let _ = stream.set_nodelay(true);
                    return stream;
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
}
