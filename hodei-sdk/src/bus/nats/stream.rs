//! The events of a store, for others to follow, in a JetStream stream.

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

/// The events of a store in the JetStream stream `hodei-STORE`, each a message on the subject
/// `hodei.STORE.events.KIND.ID.NAME`, such as `hodei.….events.job.….JobFailed`. Its payload is the event as JSON, its
/// `Nats-Msg-Id` the event's id.
///
/// A stream that is there is used as it is; otherwise it is made, and keeps events in files for seven days. Each message
/// says which one it follows, so that the stream has no gap, whoever else writes the same; nobody may write other things
/// to it. An event that is longer than the server takes, as that of a job with long labels, comes with its name
/// alone as its `event`, and with its bytes in the header `Hodei-Cut`.
///
/// A stream that was deleted is made again and gets all that the store still has; one that is empty because it was
/// purged, or because nothing happened for as long as it keeps events, gets that too, once its duplicate window is over.
#[derive(Debug)]
pub struct NatsEventStream {
    servers: Servers,
    store: StoreId,
    connected: Mutex<Option<Connected>>,
}

/// Where messages go, while it is known what comes next.
#[derive(Debug)]
struct Connected {
    context: Context,
    last: Last,
    /// Bytes that an event may have.
    most: usize,
}

/// The last message of the stream.
#[derive(Debug)]
enum Last {
    Number(u64),
    Id(String),
}

/// The header with a place in the feed before the event.
const AFTER: &str = "Hodei-After";
/// The header of an event that is longer than a message may be: how many bytes it has.
const CUT: &str = "Hodei-Cut";
/// Bytes of a message beside the event.
const HEADERS: usize = 4 << 10;
/// How long a stream that this makes keeps events.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

impl NatsEventStream {
    /// A stream on the servers of a list of URLs, such as [`NatsEventBus::connect`](crate::NatsEventBus::connect) takes.
    /// It connects when it is used.
    ///
    /// # Errors
    /// [`OpenError::Events`] when the URLs are malformed.
    pub fn new(urls: &str, store: StoreId) -> Result<Self, OpenError> {
        let servers = Servers::parse(urls).ok_or_else(|| OpenError::events(urls))?;
        Ok(Self { servers, store, connected: Mutex::default() })
    }

    /// The name of the stream.
    pub fn name(&self) -> String {
        format!("hodei-{}", self.store)
    }

    async fn stream(&self, context: &Context) -> Result<stream::Stream, SinkError> {
        match context.get_stream(self.name()).await {
            // It is not there.
            Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(_)) => {
                let config = stream::Config {
                    name: self.name(),
                    subjects: vec![format!("hodei.{}.events.>", self.store)],
                    max_age: KEPT,
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
        most: usize,
    ) -> Result<PublishMessage, SinkError> {
        let mut payload = serde_json::to_vec(event).map_err(failed)?;
        let mut message = PublishMessage::build().expected_stream(self.name());
        if payload.len() > most {
            message = message.header(CUT, payload.len().to_string());
            payload = serde_json::to_vec(&without_content(event)?).map_err(failed)?;
        }
        let message = message.payload(payload.into());
        let message = message.message_id(event.id.to_string()).header(AFTER, after.as_str());
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
        // What is still under way on the connection of before is of no use.
        self.connected().take();
        let client = self.servers.connect(ConnectOptions::new()).await.map_err(failed)?;
        let most = client.server_info().max_payload.saturating_sub(HEADERS);
        let context = jetstream::new(client);
        let stream = self.stream(&context).await?;
        let state = &stream.cached_info().state;
        let mut position = None;
        if state.messages > 0 {
            let subjects = format!("hodei.{}.events.>", self.store);
            let message = stream.get_last_raw_message_by_subject(&subjects).await.map_err(failed)?;
            let header = |name| message.headers.get(name).map(HeaderValue::as_str);
            let last = header(NATS_MESSAGE_ID.as_ref()).and_then(|id| id.parse().ok());
            let (Some(last), Some(after)) = (last, header(AFTER)) else {
                let why = format!("the last message of the stream {} is of somebody else", self.name());
                return Err(SinkError(why.into()));
            };
            position = Some(SinkPosition { last, after: FeedCursor::new(after) });
        }
        let last = Last::Number(state.last_sequence);
        *self.connected() = Some(Connected { context, last, most });
        Ok(position)
    }

    async fn append(&self, events: &[Envelope], after: &FeedCursor) -> Result<(), SinkError> {
        let Some(mut connected) = self.connected().take() else {
            return Err(SinkError("what the stream has is not known".into()));
        };
        let mut acknowledged = Vec::with_capacity(events.len());
        for event in events {
            let message = self.message(event, after, &connected.last, connected.most)?;
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

/// The event with its name in the place of what is in it.
fn without_content(event: &Envelope) -> Result<serde_json::Value, SinkError> {
    // As if it were a short one: it may be long.
    let short = Envelope { event: DomainEvent::WorkerReadyForJob { closed: Vec::new() }, ..event.clone() };
    let mut shown = serde_json::to_value(&short).map_err(failed)?;
    shown["event"] = event.event.name().into();
    Ok(shown)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> SinkError {
    SinkError(Box::new(error))
}
