//! Event sink in memory, for embedding programs and for tests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use hodei_core::event::Envelope;
use hodei_core::port::{EventSink, FeedCursor, SinkError, SinkPosition};

/// The latest events of a store, in memory. Clones share them.
#[derive(Debug, Clone)]
pub struct MemoryEventSink {
    kept: Arc<Mutex<Vec<(FeedCursor, Envelope)>>>,
    limit: usize,
}

impl MemoryEventSink {
    /// Creates a sink that keeps the last `limit` events, at least one.
    pub fn new(limit: usize) -> Self {
        Self { kept: Arc::default(), limit: limit.max(1) }
    }

    /// Returns the kept events, in order.
    pub fn events(&self) -> Vec<Envelope> {
        self.kept().iter().map(|(_, event)| event.clone()).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(FeedCursor, Envelope)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventSink for MemoryEventSink {
    async fn position(&self) -> Result<Option<SinkPosition>, SinkError> {
        let kept = self.kept();
        Ok(kept.last().map(|(after, event)| SinkPosition { last: event.id, after: after.clone() }))
    }

    async fn append(&self, events: &[Envelope], after: &FeedCursor) -> Result<(), SinkError> {
        let mut kept = self.kept();
        for event in events {
            if !kept.iter().rev().any(|(_, known)| known.id == event.id) {
                kept.push((after.clone(), event.clone()));
            }
        }
        let over = kept.len().saturating_sub(self.limit);
        kept.drain(..over);
        Ok(())
    }
}
