//! Event bus within one process, and the inboxes of its subscribers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use hodei_core::event::{Envelope, channel};
use hodei_core::port::{BusError, Delivery, EventBus, Subscription};
use tokio::sync::Notify;

/// An event bus within one process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryEventBus {
    inboxes: Arc<Mutex<Vec<Weak<Inbox>>>>,
}

/// Events that a subscriber may lag behind; beyond that its backlog is dropped and it receives [`Delivery::Lagged`].
const MAX_WAITING_EVENTS: usize = 65_536;

#[derive(Debug)]
struct Inbox {
    channels: Vec<&'static str>,
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Arc<[Envelope]>>,
    events: usize,
    lagged: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, events: &[Envelope]) {
        let mine: Arc<[Envelope]> = events
            .iter()
            .filter(|e| channel::of(&e.event).is_some_and(|c| self.channels.contains(&c)))
            .cloned()
            .collect();
        if mine.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        waiting.events += mine.len();
        if waiting.events > MAX_WAITING_EVENTS {
            *waiting = Waiting { lagged: true, ..Waiting::default() };
        } else {
            waiting.batches.push_back(mine);
        }
        drop(waiting);
        self.news.notify_one();
    }

    /// Records that events were lost on their way to this process.
    #[cfg(any(feature = "nats", feature = "postgres"))]
    fn lose(&self) {
        self.lock().lagged = true;
        self.news.notify_one();
    }

    fn take(&self) -> Option<Delivery> {
        let mut waiting = self.lock();
        if std::mem::take(&mut waiting.lagged) {
            return Some(Delivery::Lagged);
        }
        let batch = waiting.batches.pop_front()?;
        waiting.events -= batch.len();
        Some(Delivery::Events(batch))
    }
}

impl MemoryEventBus {
    /// Tells every subscriber that events were lost.
    #[cfg(any(feature = "nats", feature = "postgres"))]
    pub(super) fn lose(&self) {
        self.each(Inbox::lose);
    }

    fn each(&self, tell: impl Fn(&Inbox)) {
        let mut inboxes = self.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        inboxes.retain(|inbox| match inbox.upgrade() {
            Some(inbox) => {
                tell(&inbox);
                true
            }
            None => false,
        });
    }
}

#[async_trait]
impl EventBus for MemoryEventBus {
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError> {
        self.each(|inbox| inbox.put(events));
        Ok(())
    }

    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription> {
        let inbox =
            Arc::new(Inbox { channels: channels.to_vec(), waiting: Mutex::default(), news: Notify::new() });
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&inbox));
        Box::new(MemorySubscription(inbox))
    }
}

#[derive(Debug)]
struct MemorySubscription(Arc<Inbox>);

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.0.take() {
                return delivery;
            }
            self.0.news.notified().await;
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        self.0.take()
    }
}
