//! Hints between the daemons of one PostgreSQL database, over LISTEN and NOTIFY.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine};
use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::event::{Actor, DomainEvent};
use hodei_core::id::{EventId, JobId};
use hodei_core::job::Priority;
use hodei_core::port::{BusError, Clock, ClockExt, EventBus, Subscription};
use hodei_core::time::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;

use super::outbox::SharedBus;
use crate::clock::SystemClock;
use crate::error::OpenError;
use crate::task::Tasks;

/// An event bus between the processes that use one database. Within a process it is a
/// [`MemoryEventBus`](crate::MemoryEventBus); one task sends waiting events to the other processes, outside of any
/// transaction of the store, and another task listens.
///
/// The bus reconnects a broken connection and reports the loss as
/// [`Delivery::Lagged`](hodei_core::port::Delivery::Lagged). Clones share the bus; when the last one is dropped, its
/// tasks end.
#[derive(Debug, Clone)]
pub struct PostgresEventBus {
    shared: SharedBus,
    inbox: Arc<Notify>,
    _tasks: Arc<DropGuard>,
}

/// Name of the NOTIFY channel.
const CHANNEL: &str = "hodei";
/// Maximum size of a message before base64, which adds a third: PostgreSQL takes 8,000 bytes.
const MAX_MESSAGE_BYTES: usize = 4_500;
/// Maximum number of messages in one transaction.
const MAX_TRANSACTION_MESSAGES: usize = 64;
/// Timeout for sending messages and for opening a connection.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest interval between two transactions of messages; events that arrive meanwhile share the next one.
const SEND_INTERVAL: Duration = Duration::from_millis(10);
/// Silence after which the listening connection is probed. A half-open connection, such as one that a firewall forgot,
/// fails by itself only after a quarter of an hour.
const PROBE_AFTER: Duration = Duration::from_secs(15);
/// Timeout of that probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Delay before a retry after a failed connection or send.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

impl PostgresEventBus {
    /// Connects to the database at a URL. It must be the database itself and not a pooler, which provides no connection
    /// to listen on.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        let failed = |error: &dyn std::fmt::Display| OpenError::Database {
            what: "the database's notifications".into(),
            why: error.to_string(),
        };
        let options = PgConnectOptions::from_str(url).map_err(|error| failed(&error))?;
        let options = options.application_name("hodei-bus").disable_statement_logging();
        let shared = SharedBus::new().map_err(|error| failed(&error))?;
        let pool = PgPoolOptions::new()
            // One to send, and one to replace it while it closes.
            .max_connections(2)
            .acquire_timeout(DATABASE_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|error| failed(&error))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let inbox: Arc<Notify> = Arc::default();
        let endpoint = BusEndpoint { shared: shared.clone(), pool, inbox: inbox.clone(), clock };
        // Listen before the first subscription, so that subscribers miss nothing.
        let listener = endpoint.listen().await.map_err(|error| failed(&error))?;
        let tasks = Tasks::new();
        tasks.spawn("bus listener", endpoint.clone().hear(listener));
        tasks.spawn("bus sender", endpoint.send());
        Ok(Self { shared, inbox, _tasks: Arc::new(tasks.stop().clone().drop_guard()) })
    }

    /// Returns the notifier of jobs that were inserted by SQL.
    pub(crate) fn inbox(&self) -> Arc<Notify> {
        self.inbox.clone()
    }
}

#[async_trait]
impl EventBus for PostgresEventBus {
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError> {
        self.shared.publish(events).await
    }

    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription> {
        self.shared.subscribe(channels)
    }
}

/// The sender and the listener of the bus in this process.
#[derive(Debug, Clone)]
struct BusEndpoint {
    shared: SharedBus,
    pool: PgPool,
    inbox: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

impl BusEndpoint {
    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        // A pool of its own, so that a hanging listener does not block the sender.
        let options = (*self.pool.connect_options()).clone();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(DATABASE_TIMEOUT)
            .connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    async fn hear(self, mut listener: PgListener) {
        loop {
            while let Some(notification) = self.next(&mut listener).await {
                if let Some(event) = self.events_from_sql(notification.payload()) {
                    let _ = self.shared.local.publish(&event).await;
                    continue;
                }
                let message = BASE64_STANDARD.decode(notification.payload());
                self.shared.hear(&message.unwrap_or_default()).await;
            }
            drop(listener);
            tracing::warn!("the connection that listens to the database broke; reconnecting");
            listener = loop {
                self.clock.sleep(RETRY_INTERVAL).await;
                match self.clock.timeout(DATABASE_TIMEOUT, self.listen()).await {
                    Ok(Ok(listener)) => break listener,
                    Ok(Err(error)) => tracing::debug!(%error, "cannot listen to the database; retrying"),
                    Err(error) => tracing::debug!(%error, "cannot listen to the database; retrying"),
                }
            };
            self.shared.local.lose();
            self.inbox.notify_one();
        }
    }

    /// Returns the next notification; `None` when the connection is broken or does not answer the probe.
    async fn next(&self, listener: &mut PgListener) -> Option<PgNotification> {
        loop {
            if let Ok(heard) = self.clock.timeout(PROBE_AFTER, listener.try_recv()).await {
                return heard.ok().flatten();
            }
            let asked = listener.execute("SELECT 1");
            let is_there = matches!(self.clock.timeout(PROBE_TIMEOUT, asked).await, Ok(Ok(_)));
            if !is_there {
                return None;
            }
        }
    }

    /// Returns the events of a notification that SQL sent: `job ID` for a queued job, or `inbox` for an inserted one.
    /// Neither is valid base64, so no message of a daemon looks like them.
    fn events_from_sql(&self, payload: &str) -> Option<Vec<Envelope>> {
        if payload == "inbox" {
            self.inbox.notify_one();
            return Some(Vec::new());
        }
        let job = payload.strip_prefix("job ")?.parse().ok()?;
        Some(vec![queued(job, self.clock.now())])
    }

    async fn notify(&self, text: String) -> Result<(), String> {
        let connection = self.pool.acquire().await;
        let mut connection = connection.map_err(|error| error.to_string())?;
        let sent = connection.execute(sqlx::raw_sql(AssertSqlSafe(text)));
        let failed = match self.clock.timeout(DATABASE_TIMEOUT, sent).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        // The connection may be half-open, or still inside the transaction.
        connection.close_on_drop();
        Err(failed)
    }

    async fn send(self) {
        loop {
            let messages = self.shared.take(MAX_MESSAGE_BYTES).await;
            let next = self.clock.monotonic() + SEND_INTERVAL;
            for some in messages.chunks(MAX_TRANSACTION_MESSAGES) {
                // A crash may lose hints anyway, so do not wait for the disk.
                let mut text = String::from("BEGIN; SET LOCAL synchronous_commit TO off;");
                for message in some {
                    text += &format!("NOTIFY {CHANNEL}, '{}';", BASE64_STANDARD.encode(message));
                }
                text += "COMMIT";
                let Err(error) = self.notify(text).await else { continue };
                tracing::debug!(error, "hints could not be sent; receivers will read the store");
                self.clock.sleep(RETRY_INTERVAL).await;
                self.shared.outbox.lose();
                break;
            }
            self.clock.sleep(next.saturating_sub(self.clock.monotonic())).await;
        }
    }
}

/// Builds the hint for a queued job; a hint only says where to look.
fn queued(job: JobId, at: Timestamp) -> Envelope {
    let (id, event) =
        (EventId::from_uuid(job.as_uuid()), DomainEvent::JobQueued { priority: Priority::NORMAL });
    Envelope::hint(id, at, AggregateId::Job(job), Actor::Client, event)
}
