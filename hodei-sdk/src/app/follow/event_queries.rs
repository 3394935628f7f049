//! Reading the event feed, filtered to the events that a caller may see.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use hodei_core::access::{Action, Caller};
use hodei_core::decision::AggregateId;
use hodei_core::event::{DomainEvent, Envelope};
use hodei_core::id::JobId;
use hodei_core::port::{FeedCursor, FeedPage};

use crate::Error;
use crate::app::portions::for_each_job;
use crate::app::ports::Ports;
use crate::seam::EventSeam;

/// Reads the feed of events; changes nothing.
#[derive(Debug)]
pub(crate) struct EventQueries {
    pub(crate) ports: Arc<Ports>,
}

/// Pages of the feed that one call reads in search of visible events.
const MAX_PAGES_READ: usize = 16;

#[async_trait]
impl EventSeam for EventQueries {
    /// Returns the events of the feed that a caller may see. An empty page is the last one only if its `next` equals
    /// `after`.
    async fn read(&self, caller: &Caller, after: &FeedCursor, limit: usize) -> Result<FeedPage, Error> {
        let mut after = after.clone();
        for _ in 0..MAX_PAGES_READ {
            let FeedPage { events, next } = self.ports.store.feed(&after, limit).await?;
            if events.is_empty() {
                return Ok(FeedPage { events, next });
            }
            let events = self.visible(caller, events).await?;
            if !events.is_empty() {
                return Ok(FeedPage { events, next });
            }
            after = next;
        }
        Ok(FeedPage { events: Vec::new(), next: after })
    }
}

impl EventQueries {
    /// Keeps the events of jobs and secrets of the caller's tenant, and those of shared resources that its role may
    /// see.
    async fn visible(&self, caller: &Caller, events: Vec<Envelope>) -> Result<Vec<Envelope>, Error> {
        let jobs: BTreeSet<JobId> = events.iter().filter_map(|event| job_of(event.aggregate)).collect();
        let jobs: Vec<JobId> = jobs.into_iter().collect();
        let mut own = BTreeSet::new();
        for_each_job(&*self.ports.store, &jobs, |job| {
            own.extend((*job.tenant() == caller.tenant).then(|| job.id()));
        })
        .await?;
        let is_visible = |envelope: &Envelope| match (&envelope.event, envelope.aggregate) {
            // The tenant of a forgotten job is unknown, so its events are hidden.
            (_, AggregateId::Job(id)) => own.contains(&id),
            (
                DomainEvent::SecretStored { tenant, .. } | DomainEvent::SecretDeleted { tenant, .. },
                AggregateId::Secret(_),
            ) => *tenant == caller.tenant && caller.may(Action::ListSecrets).is_ok(),
            (_, AggregateId::Secret(_)) => false,
            (_, AggregateId::Token(_) | AggregateId::Platform(_)) => caller.may(Action::ManageTokens).is_ok(),
            (_, AggregateId::Worker(_) | AggregateId::Provider(_)) => {
                caller.may(Action::DrainWorkers).is_ok()
            }
        };
        Ok(events.into_iter().filter(is_visible).collect())
    }
}

fn job_of(aggregate: AggregateId) -> Option<JobId> {
    match aggregate {
        AggregateId::Job(id) => Some(id),
        _ => None,
    }
}
