//! The event seam of the client: reads pages of stored events.

use async_trait::async_trait;
use hodei_core::access::Caller;
use hodei_core::id::JobId;
use hodei_core::port::{FeedCursor, FeedPage};
use hodei_proto::v1;

use super::DaemonClient;
use crate::error::Error;
use crate::seam::EventSeam;

#[async_trait]
impl EventSeam for DaemonClient {
    async fn read(&self, _: &Caller, after: &FeedCursor, limit: usize) -> Result<FeedPage, Error> {
        self.events(None, after, limit).await
    }
}

impl DaemonClient {
    /// Returns a page of the events of one job, or of all if `job` is `None`.
    pub(super) async fn events(
        &self,
        job: Option<JobId>,
        after: &FeedCursor,
        limit: usize,
    ) -> Result<FeedPage, Error> {
        let request = v1::ListEventsRequest {
            job_id: job.map(|id| id.to_string()).unwrap_or_default(),
            cursor: after.as_str().to_owned(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let answer = self.call(|| async { self.job_stub().list_events(request.clone()).await }).await?;
        let events = answer.events.into_iter().map(crate::wire::event::event_from_wire);
        let events = events.collect::<Result<_, _>>().map_err(|error| self.malformed(&error))?;
        Ok(FeedPage { events, next: FeedCursor::new(answer.next_cursor) })
    }
}
