//! Events of a store for other programs, in a JetStream stream.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use async_nats::{ConnectOptions, HeaderValue};
use async_trait::async_trait;
use hodei_core::decision::AggregateId;
use hodei_core::event::{DomainEvent, Envelope};
use hodei_core::id::StoreId;
use hodei_core::port::{EventSink, FeedCursor, SinkError, SinkPosition};

use super::servers::Servers;
use crate::error::OpenError;

/// The events of a store in the JetStream stream `hodei-STORE`. Each event is a message on the subject
/// `hodei.STORE.events.KIND.ID.NAME`, such as `hodei.….events.job.….JobFailed`. Its payload is the event as JSON, its
/// `Nats-Msg-Id` the event's id.
///
/// An existing stream is used as it is. Otherwise one is created that keeps events in files for seven days. Each
/// message names the message that it follows, so that the stream has no gap even when several daemons write it; no
/// other program may write to it. An event larger than the server accepts, such as one of a job with long labels, is
/// sent with its name alone as its `event`, and with its size in bytes in the header `Hodei-Cut`.
///
/// A deleted stream is created again and receives all events that the store still has. So does a stream that is empty
/// because it was purged or because its events expired, once its duplicate window is over.
#[derive(Debug)]
pub struct NatsEventStream {
    servers: Servers,
    store: StoreId,
    connected: Mutex<Option<Connected>>,
}

/// The connection, while the last message of the stream is known.
#[derive(Debug)]
struct Connected {
    context: Context,
    last: Last,
    /// Maximum size of an event in bytes.
    max_event_bytes: usize,
}

/// The last message of the stream.
#[derive(Debug)]
enum Last {
    Number(u64),
    Id(String),
}

/// Header with a feed position before the event.
const AFTER_HEADER: &str = "Hodei-After";
/// Header of an event that is too large for a message: its size in bytes.
const CUT_HEADER: &str = "Hodei-Cut";
/// Bytes reserved in a message for everything but the event.
const RESERVED_BYTES: usize = 4 << 10;
/// How long a created stream keeps events.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

impl NatsEventStream {
    /// Creates a stream on the servers of a list of URLs, as [`NatsEventBus::connect`](crate::NatsEventBus::connect)
    /// takes it. It connects on first use.
    ///
    /// # Errors
    /// [`OpenError::Events`] when the URLs are malformed.
    pub fn new(urls: &str, store: StoreId) -> Result<Self, OpenError> {
        let servers = Servers::parse(urls).ok_or_else(|| OpenError::events(urls))?;
        Ok(Self { servers, store, connected: Mutex::default() })
    }

    /// Returns the name of the stream.
    pub fn name(&self) -> String {
        format!("hodei-{}", self.store)
    }

    async fn stream(&self, context: &Context) -> Result<stream::Stream, SinkError> {
        match context.get_stream(self.name()).await {
            // The stream does not exist.
            Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(_)) => {
                let config = stream::Config {
                    name: self.name(),
                    subjects: vec![format!("hodei.{}.events.>", self.store)],
                    max_age: RETENTION,
                    ..stream::Config::default()
                };
                context.get_or_create_stream(config).await.map_err(failed)
            }
            found => found.map_err(failed),
        }
    }

    fn message(
        &self,
        event: &Envelope,
        after: &FeedCursor,
        last: &Last,
        max_event_bytes: usize,
    ) -> Result<PublishMessage, SinkError> {
        let mut payload = serde_json::to_vec(event).map_err(failed)?;
        let mut message = PublishMessage::build().expected_stream(self.name());
        if payload.len() > max_event_bytes {
            message = message.header(CUT_HEADER, payload.len().to_string());
            payload = serde_json::to_vec(&without_content(event)?).map_err(failed)?;
        }
        let message = message.payload(payload.into());
        let message = message.message_id(event.id.to_string()).header(AFTER_HEADER, after.as_str());
        Ok(match last {
            Last::Number(number) => message.expected_last_sequence(*number),
            Last::Id(id) => message.expected_last_message_id(id),
        })
    }

    fn subject(&self, event: &Envelope) -> String {
        let (kind, id) = match event.aggregate {
            AggregateId::Job(id) => ("job", id.to_string()),
            AggregateId::Worker(id) => ("worker", id.to_string()),
            AggregateId::Provider(id) => ("provider", id.to_string()),
            AggregateId::Secret(id) => ("secret", id.to_string()),
            AggregateId::Token(id) => ("token", id.to_string()),
            AggregateId::Platform(id) => ("platform", id.to_string()),
        };
        format!("hodei.{}.events.{kind}.{id}.{}", self.store, event.event.name())
    }

    fn connected(&self) -> MutexGuard<'_, Option<Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventSink for NatsEventStream {
    async fn position(&self) -> Result<Option<SinkPosition>, SinkError> {
        // Messages in flight on the previous connection no longer count.
        self.connected().take();
        let client = self.servers.connect(ConnectOptions::new()).await.map_err(failed)?;
        let max_event_bytes = client.server_info().max_payload.saturating_sub(RESERVED_BYTES);
        let context = jetstream::new(client);
        let stream = self.stream(&context).await?;
        let state = &stream.cached_info().state;
        let mut position = None;
        if state.messages > 0 {
            let subjects = format!("hodei.{}.events.>", self.store);
            let message = stream.get_last_raw_message_by_subject(&subjects).await.map_err(failed)?;
            let header = |name| message.headers.get(name).map(HeaderValue::as_str);
            let last = header(NATS_MESSAGE_ID.as_ref()).and_then(|id| id.parse().ok());
            let (Some(last), Some(after)) = (last, header(AFTER_HEADER)) else {
                let why = format!(
                    "the last message of the stream {} was not written by Hodei: let no other program write to it",
                    self.name()
                );
                return Err(SinkError(why.into()));
            };
            position = Some(SinkPosition { last, after: FeedCursor::new(after) });
        }
        let last = Last::Number(state.last_sequence);
        *self.connected() = Some(Connected { context, last, max_event_bytes });
        Ok(position)
    }

    async fn append(&self, events: &[Envelope], after: &FeedCursor) -> Result<(), SinkError> {
        let Some(mut connected) = self.connected().take() else {
            return Err(SinkError(
                "the last message of the stream is unknown: ask for the position first".into(),
            ));
        };
        let mut acknowledged = Vec::with_capacity(events.len());
        for event in events {
            let message = self.message(event, after, &connected.last, connected.max_event_bytes)?;
            let sent = connected.context.send_publish(self.subject(event), message).await;
            acknowledged.push(sent.map_err(failed)?);
            connected.last = Last::Id(event.id.to_string());
        }
        for taken in acknowledged {
            taken.await.map_err(failed)?;
        }
        *self.connected() = Some(connected);
        Ok(())
    }
}

/// Returns the event as JSON with its name instead of its content.
fn without_content(event: &Envelope) -> Result<serde_json::Value, SinkError> {
    // Serialize a short event in its place: the original may be large.
    let short = Envelope { event: DomainEvent::WorkerReadyForJob { closed: Vec::new() }, ..event.clone() };
    let mut shown = serde_json::to_value(&short).map_err(failed)?;
    shown["event"] = event.event.name().into();
    Ok(shown)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> SinkError {
    SinkError(Box::new(error))
}
