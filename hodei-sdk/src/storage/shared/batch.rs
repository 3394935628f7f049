//! A batch of writes, checked against the state of the database; the same for every database.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use hodei_core::decision::{Aggregate, AggregateId, Expect};
use hodei_core::event::Envelope;
use hodei_core::id::JobId;
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{CommitError, Write};

/// The current state of a database, and the changes to it.
#[derive(Debug)]
pub(in crate::storage) struct Batch<'a> {
    versions: BTreeMap<AggregateId, u64>,
    keys: BTreeMap<(TenantId, String), JobId>,
    /// Number of open jobs once the batch is stored.
    pub(in crate::storage) open_jobs: usize,
    queue_limit: usize,
    /// The last new state of each aggregate.
    pub(in crate::storage) next: BTreeMap<AggregateId, Next<'a>>,
    pub(in crate::storage) new_keys: Vec<(&'a TenantId, &'a str, JobId)>,
    pub(in crate::storage) events: Vec<&'a Envelope>,
    /// Aggregates with a rejected item: later items on them were decided over a state that was never stored.
    refused: BTreeSet<AggregateId>,
}

/// A state to store.
#[derive(Debug)]
pub(in crate::storage) struct Next<'a> {
    pub(in crate::storage) state: &'a Aggregate,
    /// The version that the database has; `None` for a new one.
    pub(in crate::storage) replaces: Option<u64>,
}

impl<'a> Batch<'a> {
    /// Creates a batch over these versions and keys; any other aggregate or key is absent from the database.
    pub(in crate::storage) fn new(
        versions: BTreeMap<AggregateId, u64>,
        keys: BTreeMap<(TenantId, String), JobId>,
        open_jobs: usize,
        queue_limit: usize,
    ) -> Self {
        let (next, new_keys, events) = (BTreeMap::new(), Vec::new(), Vec::new());
        let refused = BTreeSet::new();
        Self { versions, keys, open_jobs, queue_limit, next, new_keys, events, refused }
    }

    /// Adds one item, or rejects it and changes nothing.
    pub(in crate::storage) fn take(&mut self, write: &'a Write) -> Result<(), CommitError> {
        let id = write.next.id();
        let actual = self.versions.get(&id).copied();
        let is_expected = actual == write.expect.version() && !self.refused.contains(&id);
        if !is_expected && !cfg!(hodei_break = "cas") {
            self.refused.insert(id);
            return Err(CommitError::Conflict { actual });
        }
        if let Aggregate::Job(job) = &write.next {
            self.take_job(job, actual.is_none())?;
        }
        self.versions.insert(id, write.next.version());
        match self.next.entry(id) {
            Entry::Occupied(mut known) => known.get_mut().state = &write.next,
            Entry::Vacant(new) => {
                new.insert(Next { state: &write.next, replaces: actual });
            }
        }
        if !cfg!(hodei_break = "outbox") {
            self.events.extend(&write.events);
        }
        Ok(())
    }

    fn take_job(&mut self, job: &'a Job, is_new: bool) -> Result<(), CommitError> {
        if is_new {
            if self.open_jobs >= self.queue_limit {
                return Err(CommitError::Full { limit: self.queue_limit });
            }
            if let Some((tenant, key)) = key_of(job) {
                match self.keys.entry((tenant.clone(), key.to_owned())) {
                    Entry::Occupied(known) => {
                        return Err(CommitError::Duplicate { existing: *known.get() });
                    }
                    Entry::Vacant(free) => {
                        free.insert(job.id());
                        self.new_keys.push((tenant, key, job.id()));
                    }
                }
            }
        }
        match (is_new, job.is_terminal()) {
            (true, false) => self.open_jobs += 1,
            // A terminal state is final, so the replaced state was open.
            (false, true) => self.open_jobs = self.open_jobs.saturating_sub(1),
            _ => {}
        }
        Ok(())
    }
}

/// Returns the idempotency keys that these writes claim.
pub(in crate::storage) fn wanted_keys(writes: &[Write]) -> impl Iterator<Item = (&TenantId, &str)> {
    writes.iter().filter_map(|write| match &write.next {
        Aggregate::Job(job) if write.expect == Expect::Absent => key_of(job),
        _ => None,
    })
}

fn key_of(job: &Job) -> Option<(&TenantId, &str)> {
    Some((job.tenant(), job.spec().idempotency_key()?))
}
