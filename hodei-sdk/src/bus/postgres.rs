//! Hints between the daemons of one database, by LISTEN and NOTIFY.

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

/// A bus between the processes that use one database. Within a process it is a
/// [`MemoryEventBus`](crate::MemoryEventBus); a task sends what waits to the others, outside of any transaction of the
/// store, and another listens.
///
/// A connection that broke is made again; what was lost meanwhile is told as
/// [`Delivery::Lagged`](hodei_core::port::Delivery::Lagged). Clones share it; when the last is dropped, its tasks end.
#[derive(Debug, Clone)]
pub struct PostgresEventBus {
    shared: SharedBus,
    inbox: Arc<Notify>,
    _tasks: Arc<DropGuard>,
}

/// The channel in the database.
const CHANNEL: &str = "hodei";
/// Bytes of one message before base64 makes a third more of them: the database takes 8,000.
const MESSAGE: usize = 4_500;
/// Messages of one transaction.
const MESSAGES: usize = 64;
/// How long the database has to take a message, or a connection.
const LIMIT: Duration = Duration::from_secs(10);
/// From one transaction of messages to the next: what comes meanwhile goes with it.
const GATHER: Duration = Duration::from_millis(10);
/// After so long without a word the connection that listens is asked whether it is there: one that leads nowhere, as
/// after a firewall forgot it, breaks by itself only after a quarter of an hour.
const QUIET: Duration = Duration::from_secs(15);
/// How long the answer to that may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Before a connection that broke is made again.
const AGAIN: Duration = Duration::from_millis(200);

impl PostgresEventBus {
    /// Connects to the database of a URL: to itself, not to a pooler, which gives nobody a connection to listen on.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be reached.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        let failed = |error: &dyn std::fmt::Display| OpenError::Database {
            what: "the database to listen at".into(),
            why: error.to_string(),
        };
        let options = PgConnectOptions::from_str(url).map_err(|error| failed(&error))?;
        let options = options.application_name("hodei-bus").disable_statement_logging();
        let shared = SharedBus::new().map_err(|error| failed(&error))?;
        let pool = PgPoolOptions::new()
            // One to send, and one in its place while it is closed.
            .max_connections(2)
            .acquire_timeout(LIMIT)
            .connect_with(options)
            .await
            .map_err(|error| failed(&error))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let inbox: Arc<Notify> = Arc::default();
        let ends = Ends { shared: shared.clone(), pool, inbox: inbox.clone(), clock };
        // Before anybody subscribes: what is sent from now on is heard.
        let listener = ends.listen().await.map_err(|error| failed(&error))?;
        let tasks = Tasks::new();
        tasks.spawn("bus listener", ends.clone().hear(listener));
        tasks.spawn("bus sender", ends.send());
        Ok(Self { shared, inbox, _tasks: Arc::new(tasks.stop().clone().drop_guard()) })
    }

    /// Told when somebody put a job in by SQL.
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

/// The two ends of the bus in this process.
#[derive(Debug, Clone)]
struct Ends {
    shared: SharedBus,
    pool: PgPool,
    inbox: Arc<Notify>,
    clock: Arc<dyn Clock>,
}

impl Ends {
    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        // A pool of its own: an end that hangs holds up no other.
        let options = (*self.pool.connect_options()).clone();
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(LIMIT).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    async fn hear(self, mut listener: PgListener) {
        loop {
            while let Some(notification) = self.next(&mut listener).await {
                if let Some(event) = self.said_by_sql(notification.payload()) {
                    let _ = self.shared.local.publish(&event).await;
                    continue;
                }
                let message = BASE64_STANDARD.decode(notification.payload());
                self.shared.hear(&message.unwrap_or_default()).await;
            }
            drop(listener);
            tracing::warn!("the connection that listens to the database broke: it is made again");
            listener = loop {
                self.clock.sleep(AGAIN).await;
                match self.clock.timeout(LIMIT, self.listen()).await {
                    Ok(Ok(listener)) => break listener,
                    Ok(Err(error)) => tracing::debug!(%error, "the database cannot be listened to"),
                    Err(error) => tracing::debug!(%error, "the database cannot be listened to"),
                }
            };
            self.shared.local.lose();
            self.inbox.notify_one();
        }
    }

    /// The next notification; `None` when the connection broke, or leads nowhere.
    async fn next(&self, listener: &mut PgListener) -> Option<PgNotification> {
        loop {
            if let Ok(heard) = self.clock.timeout(QUIET, listener.try_recv()).await {
                return heard.ok().flatten();
            }
            let asked = listener.execute("SELECT 1");
            let is_there = matches!(self.clock.timeout(ANSWER, asked).await, Ok(Ok(_)));
            if !is_there {
                return None;
            }
        }
    }

    /// What transactions of others tell, which no base64 looks like: that a job is there, or that one was put in.
    fn said_by_sql(&self, payload: &str) -> Option<Vec<Envelope>> {
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
        let failed = match self.clock.timeout(LIMIT, sent).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        // It may lead nowhere, or stand within the transaction.
        connection.close_on_drop();
        Err(failed)
    }

    async fn send(self) {
        loop {
            let messages = self.shared.take(MESSAGE).await;
            let next = self.clock.monotonic() + GATHER;
            for some in messages.chunks(MESSAGES) {
                // What is lost by a crash is lost as any hint: nobody waits for the disk.
                let mut text = String::from("BEGIN; SET LOCAL synchronous_commit TO off;");
                for message in some {
                    text += &format!("NOTIFY {CHANNEL}, '{}';", BASE64_STANDARD.encode(message));
                }
                text += "COMMIT";
                let Err(error) = self.notify(text).await else { continue };
                tracing::debug!(error, "hints were not sent");
                self.clock.sleep(AGAIN).await;
                self.shared.outbox.lose();
                break;
            }
            self.clock.sleep(next.saturating_sub(self.clock.monotonic())).await;
        }
    }
}

/// A hint only says where to look.
fn queued(job: JobId, at: Timestamp) -> Envelope {
    let (id, event) =
        (EventId::from_uuid(job.as_uuid()), DomainEvent::JobQueued { priority: Priority::NORMAL });
    Envelope::hint(id, at, AggregateId::Job(job), Actor::Client, event)
}
