//! Events in SQLite: the history of one aggregate, and the feed of all.

use async_trait::async_trait;
use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::port::{AuditRepository, FeedCursor, FeedPage, StoreError};

use super::SqliteStore;
use super::{row, transaction};
use crate::batch::fitting;
use crate::storage::shared::column;
use crate::storage::shared::pages::FEED_PAGE_BYTES;

#[async_trait]
impl AuditRepository for SqliteStore {
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
        let (kind, id) = column::aggregate_key(aggregate);
        let query = sqlx::query("SELECT * FROM events WHERE aggregate = ? AND kind = ? ORDER BY sequence");
        self.listed(query.bind(row::blob(id)).bind(kind)).await?.iter().map(row::envelope).collect()
    }

    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError> {
        // Read their lengths first, which does not read the events.
        let after_number = column::int(after.sequence()?);
        let sizes =
            "SELECT sequence, octet_length(event) FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?";
        let sizes =
            self.listed(sqlx::query(sizes).bind(after_number).bind(column::int(limit as u64))).await?;
        let sizes = sizes.iter().map(row::numbers).collect::<Result<Vec<_>, _>>()?;
        let fits = fitting(sizes.iter().map(|(_, bytes)| *bytes), usize::MAX, FEED_PAGE_BYTES);
        let Some((last, _)) = fits.checked_sub(1).and_then(|last| sizes.get(last)) else {
            return Ok(FeedPage::by_sequence(Vec::new(), after));
        };
        let query =
            sqlx::query("SELECT * FROM events WHERE sequence > ? AND sequence <= ? ORDER BY sequence");
        let query = query.bind(after_number).bind(*last);
        let events = self.listed(query).await?.iter().map(row::envelope).collect::<Result<_, _>>()?;
        Ok(FeedPage::by_sequence(events, after))
    }

    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError> {
        transaction::record(self.writer(), events).await
    }

    async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
        let (_, last) = self.recent.counts();
        Ok(FeedCursor::new(last.to_string()))
    }
}
