//! Events in PostgreSQL: the history of one aggregate, and the feed of all.

use std::time::Duration;

use async_trait::async_trait;
use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::port::{AuditRepository, FeedCursor, FeedPage, StoreError};
use hodei_core::time::Timestamp;

use super::PostgresStore;
use super::columns::select_events;
use super::{feed, row, transaction};
use crate::storage::shared::column;

#[async_trait]
impl AuditRepository for PostgresStore {
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
        let (kind, id) = column::aggregate_key(aggregate);
        let query = || {
            let sql = select_events!(
                "FROM hodei.events WHERE aggregate = $1 AND kind = $2 ORDER BY version, sequence"
            );
            sqlx::query(sql).bind(id).bind(kind)
        };
        self.database.read(query).await?.iter().map(row::envelope).collect()
    }

    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError> {
        feed::page(&self.database, &self.last_logged, after, limit).await
    }

    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError> {
        transaction::record(&self.database, events).await
    }

    async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
        feed::end(&self.database).await
    }

    async fn feed_lag(&self, now: Timestamp) -> Result<Duration, StoreError> {
        feed::lag(&self.database, now).await
    }
}
