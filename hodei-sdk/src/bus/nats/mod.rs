//! Hints between the daemons of one store over core NATS, and its events for other programs over JetStream.

mod servers;
mod stream;

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, Subscriber};
use async_trait::async_trait;
use futures_util::StreamExt;
use hodei_core::event::Envelope;
use hodei_core::id::StoreId;
use hodei_core::port::{BusError, Clock, ClockExt, EventBus, Subscription};
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;

use self::servers::{ANSWER_TIMEOUT, Servers};
pub use self::stream::NatsEventStream;
use super::outbox::SharedBus;
use crate::clock::SystemClock;
use crate::error::OpenError;
use crate::task::Tasks;

/// An event bus between the processes that use one store, over core NATS. Core NATS keeps nothing: a process that was
/// disconnected when a hint came reads the store when it is back. Within a process the bus is a
/// [`MemoryEventBus`](crate::MemoryEventBus).
///
/// The bus reconnects a broken connection and reports the loss as
/// [`Delivery::Lagged`](hodei_core::port::Delivery::Lagged). Clones share the bus; when the last one is dropped, its
/// tasks end.
#[derive(Debug, Clone)]
pub struct NatsEventBus {
    shared: SharedBus,
    _tasks: Arc<DropGuard>,
}

/// Maximum size of a message; a server takes 1 MiB by default.
const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Messages in flight, in each direction, before further ones are reported as lost.
const MAX_IN_FLIGHT_MESSAGES: usize = 256;
/// Interval between two pings; a server that misses two of them is gone.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Delay before the first reconnect; it doubles each time, up to [`MAX_RETRY_INTERVAL`].
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Longest delay between two reconnects.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(3);

impl NatsEventBus {
    /// Connects to the first server that answers. `urls` is a comma-separated list of
    /// `nats://[USER:PASSWORD@]HOST[:PORT]`, `nats://TOKEN@HOST` or `tls://…`; all of them must belong to one cluster.
    /// Only the processes of one store hear each other. If no server answers, this returns anyway and a task keeps
    /// trying; only hints are lost until then.
    ///
    /// # Errors
    /// [`OpenError::Hints`] when the URLs are malformed, [`OpenError::Nats`] when a server rejects the credentials.
    pub async fn connect(urls: &str, store: StoreId) -> Result<Self, OpenError> {
        let servers = Servers::parse(urls).ok_or_else(|| OpenError::hints(urls))?;
        let shared = SharedBus::new().map_err(|_| OpenError::hints(urls))?;
        let (subject, clock) = (format!("hodei.{store}.hints"), Arc::new(SystemClock::default()));
        let endpoint = BusEndpoint { shared: shared.clone(), servers, subject, clock };
        // Once this returns, no message of another process is missed.
        let connected = match endpoint.connect().await {
            Ok(connection) => Some(connection),
            Err(Failed(Some(refused), _)) => return Err(refused),
            Err(Failed(None, error)) => {
                tracing::warn!(
                    error,
                    "NATS does not answer; until it does, changes by other daemons are found by scanning the store"
                );
                None
            }
        };
        let tasks = Tasks::new();
        tasks.spawn("bus", endpoint.run(connected));
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

/// The sender and the listener of the bus in this process.
#[derive(Debug)]
struct BusEndpoint {
    shared: SharedBus,
    servers: Servers,
    subject: String,
    clock: Arc<dyn Clock>,
}

/// One connection to a server, until it breaks.
struct Connection {
    client: Client,
    messages: Subscriber,
    broke: Arc<Notify>,
}

/// Why there is no connection; the first field holds the error that no retry can fix.
struct Failed(Option<OpenError>, String);

impl BusEndpoint {
    async fn connect(&self) -> Result<Connection, Failed> {
        let (broke, local) = (Arc::new(Notify::new()), self.shared.local.clone());
        let told = broke.clone();
        let options = ConnectOptions::new().event_callback(move |event| {
            match event {
                Event::Disconnected | Event::Closed => told.notify_one(),
                Event::SlowConsumer(_) => local.lose(),
                Event::ServerError(error) => tracing::warn!(%error, "event of the NATS connection"),
                event => tracing::debug!(%event, "event of the NATS connection"),
            }
            ready(())
        });
        let options = options
            .ping_interval(PING_INTERVAL)
            .subscription_capacity(MAX_IN_FLIGHT_MESSAGES)
            .client_capacity(MAX_IN_FLIGHT_MESSAGES);
        let client = self.servers.connect(options).await;
        let client = client.map_err(|error| Failed(self.servers.refused(&error), error.to_string()))?;
        let ready = async {
            let mut messages = client.subscribe(self.subject.clone()).await.ok()?;
            // Once this message comes back, the subscription is active.
            client.publish(self.subject.clone(), self.shared.empty_message().into()).await.ok()?;
            messages.next().await.map(|_| messages)
        };
        let ready = self.clock.timeout(ANSWER_TIMEOUT, ready).await.ok().flatten();
        let messages =
            ready.ok_or_else(|| Failed(None, "the server does not return a published message".into()))?;
        Ok(Connection { client, messages, broke })
    }

    async fn run(self, mut connected: Option<Connection>) {
        let mut wait = MIN_RETRY_INTERVAL;
        loop {
            if let Some(connection) = connected {
                let why = self.serve(connection).await;
                tracing::warn!(why, "the connection to NATS broke; reconnecting");
            }
            self.clock.sleep(wait).await;
            connected = match self.connect().await {
                Ok(connection) => {
                    wait = MIN_RETRY_INTERVAL;
                    Some(connection)
                }
                Err(Failed(refused, error)) => {
                    match refused {
                        Some(refused) if wait == MIN_RETRY_INTERVAL => {
                            tracing::warn!(error = %refused, "NATS rejects the credentials; retrying")
                        }
                        _ => tracing::debug!(error, "NATS does not answer"),
                    }
                    wait = (wait * 2).min(MAX_RETRY_INTERVAL);
                    None
                }
            };
            // Report the loss to all processes, this one included. Waiting events are dropped: a late hint is useless.
            self.shared.outbox.lose();
        }
    }

    /// Sends and receives until the connection breaks; returns why it broke.
    async fn serve(&self, Connection { client, mut messages, broke }: Connection) -> String {
        let hear = async {
            while let Some(message) = messages.next().await {
                self.shared.hear(&message.payload).await;
            }
        };
        tokio::select! {
            biased;
            () = broke.notified() => "the server is gone".to_owned(),
            () = hear => "the subscription ended".to_owned(),
            why = self.send(&client) => why,
        }
    }

    /// Sends until it fails; returns why it failed.
    async fn send(&self, client: &Client) -> String {
        loop {
            let messages = self.shared.take(MAX_MESSAGE_BYTES).await;
            let sent = async {
                for message in messages {
                    let sent = client.publish(self.subject.clone(), message.into()).await;
                    sent.map_err(|error| error.to_string())?;
                }
                client.flush().await.map_err(|error| error.to_string())
            };
            match self.clock.timeout(ANSWER_TIMEOUT, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(error) => return error.to_string(),
            }
        }
    }
}
