//! Hints between the daemons of one store, and its events for others, over NATS.

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

use self::servers::Servers;
pub use self::stream::NatsEventStream;
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
/// Messages on their way, each way, before they are told as lost.
const MESSAGES: usize = 256;
/// How long a server has to answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Between two signs of life: a server that gives none twice is gone.
const ALIVE: Duration = Duration::from_secs(5);
/// Before a connection that broke is made again; twice as long each time.
const AGAIN: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(3);

impl NatsEventBus {
    /// Connects to the first server that answers, each `nats://[USER:PASSWORD@]HOST[:PORT]`, `nats://TOKEN@HOST` or
    /// `tls://…`, with commas between: they must be of one cluster. Those of one store hear each other, and no others. A
    /// server that is not there yet is waited for in the background: hints are lost until it comes, and nothing else is.
    ///
    /// # Errors
    /// [`OpenError::Hints`] when the URLs are malformed, [`OpenError::Nats`] when a server refuses who signs in.
    pub async fn connect(urls: &str, store: StoreId) -> Result<Self, OpenError> {
        let servers = Servers::parse(urls).ok_or_else(|| OpenError::hints(urls))?;
        let shared = SharedBus::new().map_err(|_| OpenError::hints(urls))?;
        let (subject, clock) = (format!("hodei.{store}.hints"), Arc::new(SystemClock::default()));
        let ends = Ends { shared: shared.clone(), servers, subject, clock };
        // When this returns, all that others say is heard.
        let connected = match ends.connect().await {
            Ok(connection) => Some(connection),
            Err(Failed(Some(refused), _)) => return Err(refused),
            Err(Failed(None, error)) => {
                tracing::warn!(
                    error,
                    "NATS does not answer: until it does, what other daemons do is found by looking"
                );
                None
            }
        };
        let tasks = Tasks::new();
        tasks.spawn("bus", ends.run(connected));
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

/// The end of the bus in this process.
#[derive(Debug)]
struct Ends {
    shared: SharedBus,
    servers: Servers,
    subject: String,
    clock: Arc<dyn Clock>,
}

/// What is sent and heard by, until it breaks.
struct Connection {
    client: Client,
    messages: Subscriber,
    broke: Arc<Notify>,
}

/// Why there is no connection, and the error of one that there will never be.
struct Failed(Option<OpenError>, String);

impl Ends {
    async fn connect(&self) -> Result<Connection, Failed> {
        let (broke, local) = (Arc::new(Notify::new()), self.shared.local.clone());
        let told = broke.clone();
        let options = ConnectOptions::new().event_callback(move |event| {
            match event {
                Event::Disconnected | Event::Closed => told.notify_one(),
                Event::SlowConsumer(_) => local.lose(),
                Event::ServerError(error) => tracing::warn!(%error, "hints over NATS"),
                event => tracing::debug!(%event, "hints over NATS"),
            }
            ready(())
        });
        let options = options.ping_interval(ALIVE).subscription_capacity(MESSAGES).client_capacity(MESSAGES);
        let client = self.servers.connect(options).await;
        let client = client.map_err(|error| Failed(self.servers.refused(&error), error.to_string()))?;
        let ready = async {
            let mut messages = client.subscribe(self.subject.clone()).await.ok()?;
            // When this is heard, so is all that others say.
            client.publish(self.subject.clone(), self.shared.nothing().into()).await.ok()?;
            messages.next().await.map(|_| messages)
        };
        let ready = self.clock.timeout(LIMIT, ready).await.ok().flatten();
        let messages = ready.ok_or_else(|| Failed(None, "it does not give back what it took".into()))?;
        Ok(Connection { client, messages, broke })
    }

    async fn run(self, mut connected: Option<Connection>) {
        let mut wait = AGAIN;
        loop {
            if let Some(connection) = connected {
                let why = self.serve(connection).await;
                tracing::warn!(why, "the connection to NATS broke: it is made again");
            }
            self.clock.sleep(wait).await;
            connected = match self.connect().await {
                Ok(connection) => {
                    wait = AGAIN;
                    Some(connection)
                }
                Err(Failed(refused, error)) => {
                    match refused {
                        Some(refused) if wait == AGAIN => tracing::warn!(error = %refused, "hints over NATS"),
                        _ => tracing::debug!(error, "NATS does not answer"),
                    }
                    wait = (wait * 2).min(LONGEST);
                    None
                }
            };
            // Told to all, this process among them. What waited is lost: late, it would be no hint.
            self.shared.outbox.lose();
        }
    }

    /// Sends and hears until the connection breaks; why it did.
    async fn serve(&self, Connection { client, mut messages, broke }: Connection) -> String {
        let hear = async {
            while let Some(message) = messages.next().await {
                self.shared.hear(&message.payload).await;
            }
        };
        tokio::select! {
            biased;
            () = broke.notified() => "the server is gone".to_owned(),
            () = hear => "nothing more is heard".to_owned(),
            why = self.send(&client) => why,
        }
    }

    /// Sends until it cannot; why it could not.
    async fn send(&self, client: &Client) -> String {
        loop {
            let messages = self.shared.take(MESSAGE).await;
            let sent = async {
                for message in messages {
                    let sent = client.publish(self.subject.clone(), message.into()).await;
                    sent.map_err(|error| error.to_string())?;
                }
                client.flush().await.map_err(|error| error.to_string())
            };
            match self.clock.timeout(LIMIT, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(error) => return error.to_string(),
            }
        }
    }
}
