//! Hints between the daemons of one store, over a NATS server.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber};
use async_trait::async_trait;
use futures_util::StreamExt;
use hodei_core::event::Envelope;
use hodei_core::id::StoreId;
use hodei_core::port::{BusError, Clock, ClockExt, EventBus, Subscription};
use tokio_util::sync::DropGuard;

use super::outbox::SharedBus;
use crate::clock::SystemClock;
use crate::error::OpenError;
use crate::task::Tasks;

/// A bus between the processes that use one store, over core NATS, which keeps nothing: whoever is not there when a
/// hint comes looks at the store when it is back. Within a process it is a [`MemoryEventBus`](crate::MemoryEventBus).
///
/// A connection that broke is made again; what was lost meanwhile is told as
/// [`Delivery::Lagged`](hodei_core::port::Delivery::Lagged). Clones share it; when the last is dropped, its tasks end.
#[derive(Debug, Clone)]
pub struct NatsEventBus {
    shared: SharedBus,
    _tasks: Arc<DropGuard>,
}

/// Bytes of one message: a server takes 1 MiB by default.
const MESSAGE: usize = 64 << 10;
/// How long a server has to take messages.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a start waits for a server.
const START: Duration = Duration::from_secs(2);
/// Before what could not be sent is told as lost.
const AGAIN: Duration = Duration::from_millis(200);

impl NatsEventBus {
    /// Connects to the first of some servers that answers, each `nats://[USER:PASSWORD@]HOST[:PORT]` or `tls://…`, with
    /// commas between. Those of one store hear each other, and no others. A server that is not there yet is waited for
    /// a little, then in the background: hints are lost until it comes, and nothing else is.
    ///
    /// # Errors
    /// [`OpenError::Hints`] when the URLs are malformed.
    pub async fn connect(urls: &str, store: StoreId) -> Result<Self, OpenError> {
        let wrong = || OpenError::hints(urls);
        let servers: Result<Vec<ServerAddr>, _> = urls.split(',').map(|url| url.trim().parse()).collect();
        let servers = servers.map_err(|_| wrong())?;
        if servers.iter().any(|server| server.host().is_empty()) {
            return Err(wrong());
        }
        let shared = SharedBus::new().map_err(|_| wrong())?;
        let (back, started) = (shared.outbox.clone(), Arc::new(AtomicBool::default()));
        let has_started = started.clone();
        let options =
            ConnectOptions::new().name("hodei").retry_on_initial_connect().event_callback(move |event| {
                match &event {
                    Event::Disconnected | Event::ServerError(_) => tracing::warn!(%event, "hints over NATS"),
                    event => tracing::debug!(%event, "hints over NATS"),
                }
                let may_have_lost = matches!(event, Event::Connected | Event::SlowConsumer(_));
                if may_have_lost && has_started.load(Ordering::Relaxed) {
                    // Told to all, this process among them: so it is heard when all is heard again.
                    back.lose();
                }
                ready(())
            });
        let client = options.connect(servers).await.map_err(|_| wrong())?;
        let (subject, clock) = (format!("hodei.{store}.hints"), Arc::new(SystemClock::default()));
        let ends = Ends { shared: shared.clone(), subject, client, clock };
        let unreachable = |_| wrong();
        let mut messages = ends.client.subscribe(ends.subject.clone()).await.map_err(unreachable)?;
        // When this is heard, so is all that others say.
        let first = ends.client.publish(ends.subject.clone(), shared.nothing().into());
        let heard = async {
            first.await.ok()?;
            messages.next().await
        };
        let is_heard = matches!(ends.clock.timeout(START, heard).await, Ok(Some(_)));
        started.store(true, Ordering::Relaxed);
        if !is_heard {
            tracing::warn!("NATS does not answer: until it does, what other daemons do is found by looking");
            shared.outbox.lose();
        }
        let tasks = Tasks::new();
        tasks.spawn("bus sender", ends.clone().send());
        tasks.spawn("bus listener", ends.hear(messages));
        Ok(Self { shared, _tasks: Arc::new(tasks.stop().clone().drop_guard()) })
    }
}

#[async_trait]
impl EventBus for NatsEventBus {
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError> {
        self.shared.publish(events).await
    }

    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription> {
        self.shared.subscribe(channels)
    }
}

/// The two ends of the bus in this process.
#[derive(Debug, Clone)]
struct Ends {
    shared: SharedBus,
    subject: String,
    client: Client,
    clock: Arc<dyn Clock>,
}

impl Ends {
    async fn hear(self, mut messages: Subscriber) {
        while let Some(message) = messages.next().await {
            self.shared.hear(&message.payload).await;
        }
    }

    async fn send(self) {
        loop {
            let messages = self.shared.take(MESSAGE).await;
            let sent = async {
                for message in messages {
                    self.client
                        .publish(self.subject.clone(), message.into())
                        .await
                        .map_err(|error| error.to_string())?;
                }
                self.client.flush().await.map_err(|error| error.to_string())
            };
            let error = match self.clock.timeout(LIMIT, sent).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(error) => error.to_string(),
            };
            tracing::debug!(error, "hints were not sent");
            self.clock.sleep(AGAIN).await;
            self.shared.outbox.lose();
        }
    }
}
