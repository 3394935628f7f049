//! Queue of events to other processes, and the wire form of hints.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hodei_core::event::{Envelope, channel};
use hodei_core::port::{BusError, EventBus, Subscription};
use hodei_proto::v1;
use prost::Message;
use tokio::sync::Notify;
use uuid::Uuid;

use super::memory::MemoryEventBus;
use crate::wire::event::{event_from_wire, event_to_wire};

/// An in-process bus that exchanges its events with other processes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct SharedBus {
    /// Id of this process.
    own: Uuid,
    pub(super) local: MemoryEventBus,
    pub(super) outbox: Arc<Outbox>,
}

impl SharedBus {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let own = Uuid::from_u128(getrandom::u64()?.into());
        Ok(Self { own, local: MemoryEventBus::default(), outbox: Arc::default() })
    }

    /// Takes the events that wait for other processes: see [`Outbox::take`].
    pub(super) async fn take(&self, bytes: usize) -> Vec<Vec<u8>> {
        self.outbox.take(self.own, bytes).await
    }

    /// Returns a message without events.
    #[cfg(feature = "nats")]
    pub(super) fn empty_message(&self) -> Vec<u8> {
        messages(self.own, &[], false, 0).concat()
    }

    /// Publishes the events of a received message to the local subscribers.
    pub(super) async fn hear(&self, message: &[u8]) {
        let heard = read(self.own, message);
        if heard.lost {
            self.local.lose();
        }
        // A memory bus never refuses events.
        let _ = self.local.publish(&heard.events).await;
    }
}

#[async_trait]
impl EventBus for SharedBus {
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError> {
        self.outbox.put(events);
        self.local.publish(events).await
    }

    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription> {
        self.local.subscribe(channels)
    }
}

/// The events that wait to be sent. Events that arrive while a message is in flight go into the next message.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Envelope>,
    lost: bool,
}

/// Events that may wait; beyond that they are dropped and the other processes are told that events were lost.
const MAX_WAITING_EVENTS: usize = 16_384;

impl Outbox {
    /// Adds the events that have a channel.
    fn put(&self, events: &[Envelope]) {
        let mut waiting = self.lock();
        let before = waiting.events.len();
        waiting.events.extend(events.iter().filter(|event| channel::of(&event.event).is_some()).cloned());
        if waiting.events.len() > MAX_WAITING_EVENTS {
            *waiting = Waiting { events: Vec::new(), lost: true };
        }
        if waiting.lost || waiting.events.len() > before {
            self.news.notify_one();
        }
    }

    /// Records that a message could not be sent. Waiting events are dropped too: a process that hears of a loss reads
    /// everything from the store.
    pub(super) fn lose(&self) {
        *self.lock() = Waiting { events: Vec::new(), lost: true };
        self.news.notify_one();
    }

    /// Waits until there is something to send and takes all of it, as messages of about `bytes` bytes at most. Cancel
    /// safe.
    async fn take(&self, from: Uuid, bytes: usize) -> Vec<Vec<u8>> {
        loop {
            let Waiting { events, lost } = std::mem::take(&mut *self.lock());
            if lost || !events.is_empty() {
                return messages(from, &events, lost, bytes);
            }
            self.news.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message from one process to the others. Programs of one release and of the previous release exchange hints.
#[derive(Clone, PartialEq, Message)]
struct Hints {
    /// The sender, which has already delivered these events to itself.
    #[prost(bytes = "vec", tag = "1")]
    from: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    events: Vec<v1::Event>,
    /// Events were lost before these.
    #[prost(bool, tag = "3")]
    lost: bool,
}

fn messages(from: Uuid, events: &[Envelope], lost: bool, bytes: usize) -> Vec<Vec<u8>> {
    let empty = || Hints { from: from.as_bytes().to_vec(), events: Vec::new(), lost: false };
    let (mut messages, mut hints, mut size) = (Vec::new(), Hints { lost, ..empty() }, 0);
    for event in events {
        let event = event_to_wire(event);
        let length = event.encoded_len() + 4;
        if size + length > bytes && size > 0 {
            messages.push(std::mem::replace(&mut hints, empty()).encode_to_vec());
            size = 0;
        }
        size += length;
        hints.events.push(event);
    }
    messages.push(hints.encode_to_vec());
    messages
}

/// Content of a received message.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    /// Events of another process; the process's own events were delivered before.
    events: Vec<Envelope>,
    /// Events were lost.
    lost: bool,
}

/// Reads a message of any process. An unreadable message counts as lost.
fn read(own: Uuid, message: &[u8]) -> Heard {
    let Ok(mut hints) = Hints::decode(message) else { return Heard { lost: true, ..Heard::default() } };
    if hints.from == own.as_bytes() {
        hints.events.clear();
    }
    let count = hints.events.len();
    let events: Vec<Envelope> =
        hints.events.into_iter().filter_map(|event| event_from_wire(event).ok()).collect();
    let lost = hints.lost || events.len() < count;
    Heard { events, lost }
}

#[cfg(test)]
mod tests {
    use hodei_core::decision::AggregateId;
    use hodei_core::event::{Actor, DomainEvent};
    use hodei_core::id::{EventId, JobId};
    use hodei_core::job::Priority;
    use hodei_core::time::Timestamp;

    use super::*;

    fn queued(number: u128) -> Envelope {
        let (id, at) = (EventId::from_uuid(Uuid::from_u128(number)), Timestamp::from_micros(5));
        let job = AggregateId::Job(JobId::from_uuid(Uuid::from_u128(number)));
        let event = DomainEvent::JobQueued { priority: Priority::NORMAL };
        Envelope { version: 2, ..Envelope::hint(id, at, job, Actor::Client, event) }
    }

    #[tokio::test]
    async fn waiting_events_are_sent_in_messages_of_bounded_size() {
        let (outbox, own, other) = (Outbox::default(), Uuid::from_u128(1), Uuid::from_u128(2));
        let events: Vec<Envelope> = (0..100).map(queued).collect();
        outbox.put(&events[..60]);
        outbox.put(&events[60..]);
        let messages = outbox.take(own, 5_000).await;
        assert!(messages.len() > 2 && messages.iter().all(|message| message.len() < 5_100));
        assert!(
            messages.iter().all(|message| read(own, message) == Heard::default()),
            "a process ignores its own messages"
        );
        let heard: Vec<_> = messages.iter().map(|message| read(other, message)).collect();
        assert!(heard.iter().all(|heard| !heard.lost));
        assert_eq!(heard.into_iter().flat_map(|heard| heard.events).collect::<Vec<_>>(), events);
    }

    #[tokio::test]
    async fn overflow_and_unreadable_messages_are_reported_as_lost() {
        let (outbox, own, other) = (Outbox::default(), Uuid::from_u128(1), Uuid::from_u128(2));
        outbox.put(&(0..=MAX_WAITING_EVENTS as u128).map(queued).collect::<Vec<_>>());
        let messages = outbox.take(own, 5_000).await;
        let lost = Heard { events: Vec::new(), lost: true };
        assert_eq!(read(other, &messages[0]), lost);
        outbox.lose();
        assert_eq!(read(other, &outbox.take(own, 5_000).await[0]), lost);
        assert_eq!(read(other, b"\xff"), lost);
    }
}
