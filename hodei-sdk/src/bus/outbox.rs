//! Events on their way to other processes, and from them.

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

/// A bus within this process, whose events go to others and which hears theirs. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct SharedBus {
    /// Tells this process from the others.
    own: Uuid,
    pub(super) local: MemoryEventBus,
    pub(super) outbox: Arc<Outbox>,
}

impl SharedBus {
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let own = Uuid::from_u128(getrandom::u64()?.into());
        Ok(Self { own, local: MemoryEventBus::default(), outbox: Arc::default() })
    }

    /// What waits for the others: see [`Outbox::take`].
    pub(super) async fn take(&self, bytes: usize) -> Vec<Vec<u8>> {
        self.outbox.take(self.own, bytes).await
    }

    /// A message that tells nothing.
    #[cfg(feature = "nats")]
    pub(super) fn nothing(&self) -> Vec<u8> {
        messages(self.own, &[], false, 0).concat()
    }

    /// Tells what a message of any process says.
    pub(super) async fn hear(&self, message: &[u8]) {
        let heard = read(self.own, message);
        if heard.lost {
            self.local.lose();
        }
        // It takes whatever it is given.
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

/// What waits to be sent. While a message travels, what comes meanwhile gathers, and goes with the next.
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

/// Events that may wait; beyond it, the others are told that some were lost.
const CAPACITY: usize = 16_384;

impl Outbox {
    /// Puts those in that travel on a channel.
    fn put(&self, events: &[Envelope]) {
        let mut waiting = self.lock();
        let before = waiting.events.len();
        waiting.events.extend(events.iter().filter(|event| channel::of(&event.event).is_some()).cloned());
        if waiting.events.len() > CAPACITY {
            *waiting = Waiting { events: Vec::new(), lost: true };
        }
        if waiting.lost || waiting.events.len() > before {
            self.news.notify_one();
        }
    }

    /// Something could not be sent. What waits is lost with it: whoever is told looks at everything.
    pub(super) fn lose(&self) {
        *self.lock() = Waiting { events: Vec::new(), lost: true };
        self.news.notify_one();
    }

    /// Takes all that waits, when there is something, as messages of at most about so many bytes. Cancel safe.
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

/// What one process tells the others. Hints travel between programs of one release and the one before it.
#[derive(Clone, PartialEq, Message)]
struct Hints {
    /// Who sent it: it has heard of it.
    #[prost(bytes = "vec", tag = "1")]
    from: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    events: Vec<v1::Event>,
    /// Some were lost before these.
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

/// What a message says.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    /// Of another process; one's own were heard before.
    events: Vec<Envelope>,
    /// Some were lost.
    lost: bool,
}

/// What a message of any process says. A message that cannot be read is as good as lost.
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
    async fn what_gathered_goes_in_messages_of_a_size() {
        let (outbox, own, other) = (Outbox::default(), Uuid::from_u128(1), Uuid::from_u128(2));
        let events: Vec<Envelope> = (0..100).map(queued).collect();
        outbox.put(&events[..60]);
        outbox.put(&events[60..]);
        let messages = outbox.take(own, 5_000).await;
        assert!(messages.len() > 2 && messages.iter().all(|message| message.len() < 5_100));
        assert!(
            messages.iter().all(|message| read(own, message) == Heard::default()),
            "nobody hears himself"
        );
        let heard: Vec<_> = messages.iter().map(|message| read(other, message)).collect();
        assert!(heard.iter().all(|heard| !heard.lost));
        assert_eq!(heard.into_iter().flat_map(|heard| heard.events).collect::<Vec<_>>(), events);
    }

    #[tokio::test]
    async fn what_is_too_much_or_cannot_be_read_is_told_as_lost() {
        let (outbox, own, other) = (Outbox::default(), Uuid::from_u128(1), Uuid::from_u128(2));
        outbox.put(&(0..=CAPACITY as u128).map(queued).collect::<Vec<_>>());
        let messages = outbox.take(own, 5_000).await;
        let lost = Heard { events: Vec::new(), lost: true };
        assert_eq!(read(other, &messages[0]), lost);
        outbox.lose();
        assert_eq!(read(other, &outbox.take(own, 5_000).await[0]), lost);
        assert_eq!(read(other, b"\xff"), lost);
    }
}
