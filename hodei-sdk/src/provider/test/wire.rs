//! Streams that break.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hodei_agent::Connection;
use hodei_core::port::{Clock, IdGenerator};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::task::Tasks;

/// Makes streams that break after some messages and lose the messages in flight.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    ids: Arc<dyn IdGenerator>,
    clock: Arc<dyn Clock>,
    break_after: Arc<AtomicU32>,
}

impl Wire {
    pub(super) fn new(ids: Arc<dyn IdGenerator>, clock: Arc<dyn Clock>) -> Self {
        Self { ids, clock, break_after: Arc::default() }
    }

    pub(super) fn break_after(&self, messages: Option<u32>) {
        self.break_after.store(messages.unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns a breaking stream to the far end.
    pub(super) fn lay(&self, tasks: &Tasks, far: Connection, cut: CancellationToken) -> Connection {
        let (outgoing, mut from_agent) = mpsc::channel(64);
        let (to_agent, incoming) = mpsc::channel(64);
        let wire = self.clone();
        tasks.spawn("wire", async move {
            let Connection { outgoing: to_platform, incoming: mut from_platform } = far;
            let mut left = wire.lifetime();
            loop {
                let carried = tokio::select! {
                    biased;
                    () = cut.cancelled() => return,
                    message = from_agent.recv() => match message {
                        Some(message) => to_platform.send(message).await.is_ok(),
                        None => return,
                    },
                    message = from_platform.recv() => match message {
                        Some(message) => to_agent.send(message).await.is_ok(),
                        None => return,
                    },
                };
                left -= 1;
                if !carried || left == 0 {
                    return;
                }
                // Add some latency from time to time, so that messages cross.
                if wire.ids.fraction() < 0.1 {
                    wire.clock.sleep(std::time::Duration::from_micros(300)).await;
                }
            }
        });
        Connection { outgoing, incoming }
    }

    fn lifetime(&self) -> u32 {
        match self.break_after.load(Ordering::Relaxed) {
            0 => u32::MAX,
            about => 1 + (f64::from(about) * 2.0 * self.ids.fraction()) as u32,
        }
    }
}
