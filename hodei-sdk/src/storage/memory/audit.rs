//! Events of a store in memory: the history of one aggregate, and the feed of all.

use async_trait::async_trait;
use hodei_core::decision::AggregateId;
use hodei_core::event::{DomainEvent, Envelope};
use hodei_core::port::{AuditRepository, FeedCursor, FeedPage, StoreError};

use super::MemoryStore;
use crate::batch::fitting;
use crate::storage::shared::pages::FEED_PAGE_BYTES;

#[async_trait]
impl AuditRepository for MemoryStore {
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
        Ok(self.lock().history(aggregate))
    }

    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError> {
        let first = after.sequence()?.saturating_add(1);
        let state = self.lock();
        let found = || state.events.range(first..).take(limit).map(|(_, event)| event);
        let sizes = found().map(|event| match &event.event {
            DomainEvent::JobCreated { spec, .. } => spec.size(),
            _ => 0,
        });
        let fits = fitting(sizes, usize::MAX, FEED_PAGE_BYTES);
        Ok(FeedPage::by_sequence(found().take(fits).cloned().collect(), after))
    }

    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError> {
        self.lock().record(events);
        Ok(())
    }

    async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
        let last = self.lock().events.last_key_value().map_or(0, |(sequence, _)| *sequence);
        Ok(FeedCursor::new(last.to_string()))
    }
}
