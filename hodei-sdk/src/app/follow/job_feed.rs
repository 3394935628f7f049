//! Stream of changed jobs, read from the feed of events.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::decision::AggregateId;
use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{FeedCursor, Store};

use crate::Error;
use crate::app::follow::event_feed::EventFeed;
use crate::app::portions::for_each_job;
use crate::seam::{JobChanges, JobFeedSource};

/// Streams the changed jobs of one tenant from the store of this platform.
#[derive(Debug)]
pub(crate) struct StoredChanges {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) feed: EventFeed,
    pub(crate) tenant: TenantId,
    /// Cursor from which it begins; `None` begins at the end of the feed.
    pub(crate) from: Option<FeedCursor>,
    pub(crate) begun: bool,
    /// A page of the feed that was read and not returned yet.
    pub(crate) page: Option<(Vec<JobId>, FeedCursor)>,
}

#[async_trait]
impl JobFeedSource for StoredChanges {
    async fn next(&mut self, ends_only: bool) -> Result<JobChanges, Error> {
        if !self.begun {
            let next = match &self.from {
                Some(next) => {
                    // Read once, so that a caller with an invalid cursor gets the error at once.
                    self.store.feed(next, 1).await?;
                    next.clone()
                }
                None => self.store.feed_end().await?,
            };
            self.begun = true;
            self.feed.seek(next.clone());
            return Ok(JobChanges { jobs: Vec::new(), next });
        }
        loop {
            if self.page.is_none() {
                let (_, page) = self.feed.next().await?;
                self.page = Some((jobs_of(&page.events), page.next));
            }
            let Some((ids, next)) = &self.page else { continue };
            let wanted = |job: &Arc<Job>| *job.tenant() == self.tenant && (!ends_only || job.is_terminal());
            let mut jobs = Vec::new();
            // The listing form of each job, since its long fields would take too much memory.
            let show = |job| jobs.extend(Some(job).filter(&wanted).map(|job| Arc::new(job.listing())));
            for_each_job(&*self.store, ids, show).await?;
            let changes = JobChanges { jobs, next: next.clone() };
            self.page = None;
            if !changes.jobs.is_empty() {
                return Ok(changes);
            }
        }
    }
}

/// Returns the jobs that the events are about, each once, in the order of their last event.
fn jobs_of(events: &[Envelope]) -> Vec<JobId> {
    let (mut seen, mut jobs) = (BTreeSet::new(), Vec::new());
    for event in events.iter().rev() {
        if let AggregateId::Job(id) = event.aggregate
            && seen.insert(id)
        {
            jobs.push(id);
        }
    }
    jobs.reverse();
    jobs
}
