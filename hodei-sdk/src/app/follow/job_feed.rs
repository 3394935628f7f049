use std::collections::BTreeSet;
use std::fmt::Debug;
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

/// All jobs, as they change, from some place in the feed of events on.
#[derive(Debug)]
pub struct JobFeed {
    source: Box<dyn JobFeedSource>,
    ends_only: bool,
}

/// Jobs that changed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobChanges {
    /// Their present states, each once, as [`Job::listing`] shows them; there may be some between this one and the last that was told of.
    pub jobs: Vec<Arc<Job>>,
    /// The place behind them: who goes on from here misses none.
    pub next: FeedCursor,
}

/// Where the changes come from: the store of this platform, or a daemon.
#[async_trait]
pub(crate) trait JobFeedSource: Debug + Send {
    /// The next ones, waiting for them. Cancel safe.
    async fn next(&mut self, ends_only: bool) -> Result<JobChanges, Error>;
}

impl JobFeed {
    pub(crate) fn new(source: Box<dyn JobFeedSource>) -> Self {
        Self { source, ends_only: false }
    }

    /// Whether only jobs that ended are wanted. Say so before the first call of [`next`](Self::next).
    #[must_use]
    pub fn ends_only(mut self, ends_only: bool) -> Self {
        self.ends_only = ends_only;
        self
    }

    /// The next jobs that changed, waiting for them. The first call says without any where the feed begins. Cancel safe.
    ///
    /// # Errors
    /// The store's, which refuses a cursor that it did not give.
    pub async fn next(&mut self) -> Result<JobChanges, Error> {
        self.source.next(self.ends_only).await
    }
}

/// Changes from the store of this platform.
#[derive(Debug)]
pub(crate) struct StoredChanges {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) feed: EventFeed,
    pub(crate) tenant: TenantId,
    /// Where it begins; from now on where none is said.
    pub(crate) from: Option<FeedCursor>,
    pub(crate) begun: bool,
    /// A page of the feed that was read and not told of.
    pub(crate) page: Option<(Vec<JobId>, FeedCursor)>,
}

#[async_trait]
impl JobFeedSource for StoredChanges {
    async fn next(&mut self, ends_only: bool) -> Result<JobChanges, Error> {
        if !self.begun {
            let next = match &self.from {
                Some(next) => {
                    // Whoever asks with a wrong one hears of it at once.
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
            // As a list shows them: every input of all jobs is too much.
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

/// The jobs that some events are about, each once, in the order of their last event.
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
