//! Tables of a store in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hodei_core::access::AccessToken;
use hodei_core::decision::{Aggregate, AggregateId, Expect};
use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, JobId, ProviderId, SecretId, TokenId, WorkerId};
use hodei_core::job::{Job, TenantId};
use hodei_core::port::{CommitError, Fence, JobFilter, JobPage, KEY_OUTLIVES, StoreError, Write};
use hodei_core::provider::Provider;
use hodei_core::secret::Secret;
use hodei_core::time::Timestamp;
use hodei_core::worker::{Worker, WorkerState};

use crate::storage::shared::presence::Presence;

/// The tables and their indexes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) jobs: BTreeMap<JobId, Arc<Job>>,
    pub(super) workers: BTreeMap<WorkerId, Arc<Worker>>,
    pub(super) providers: BTreeMap<ProviderId, Arc<Provider>>,
    pub(super) secrets: BTreeMap<SecretId, Arc<Secret>>,
    pub(super) tokens: BTreeMap<TokenId, Arc<AccessToken>>,
    pub(super) keys: BTreeMap<(TenantId, String), Key>,
    pub(super) open: BTreeSet<JobId>,
    pub(super) assigned: BTreeMap<WorkerId, BTreeSet<JobId>>,
    pub(super) events: BTreeMap<u64, Envelope>,
    history: BTreeMap<AggregateId, Vec<u64>>,
    /// Ended aggregates, oldest first; the oldest beyond `keep` are forgotten.
    ended: VecDeque<AggregateId>,
    pub(super) presence: Presence,
    sequence: u64,
    keep: usize,
    queue: usize,
}

/// An idempotency key in use.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) job: JobId,
    /// End of the job; set once the job is forgotten.
    ended_at: Option<Timestamp>,
}

impl State {
    pub(super) fn new(keep: usize, queue: usize) -> Self {
        Self {
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            providers: BTreeMap::new(),
            secrets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            keys: BTreeMap::new(),
            open: BTreeSet::new(),
            assigned: BTreeMap::new(),
            events: BTreeMap::new(),
            history: BTreeMap::new(),
            ended: VecDeque::new(),
            presence: Presence::default(),
            sequence: 0,
            keep,
            queue,
        }
    }

    pub(super) fn check_fence(&self, fence: Fence) -> Result<(), StoreError> {
        let current = self.presence.plan_epoch();
        match fence {
            Fence::Plan(epoch) if epoch != current && !cfg!(hodei_break = "epoch") => {
                Err(StoreError::StaleEpoch { current })
            }
            Fence::Plan(_) | Fence::None => Ok(()),
        }
    }

    /// Stores one item, or rejects it and changes nothing.
    pub(super) fn write(&mut self, write: &Write) -> Result<(), CommitError> {
        let id = write.next.id();
        self.check_version(id, write.expect)?;
        match &write.next {
            Aggregate::Job(job) => self.put_job(job)?,
            Aggregate::Worker(worker) => {
                if worker.is_terminated() {
                    self.ended.push_back(id);
                }
                self.workers.insert(worker.id(), worker.clone());
            }
            Aggregate::Provider(provider) => {
                self.providers.insert(provider.id(), provider.clone());
            }
            Aggregate::Secret(secret) => {
                self.secrets.insert(secret.id(), secret.clone());
            }
            Aggregate::Token(token) => {
                self.tokens.insert(token.id(), token.clone());
            }
        }
        if !cfg!(hodei_break = "outbox") {
            write.events.iter().for_each(|event| self.append(event));
        }
        self.forget_oldest();
        Ok(())
    }

    fn append(&mut self, event: &Envelope) {
        self.sequence += 1;
        let event = Envelope { sequence: self.sequence, ..event.clone() };
        self.history.entry(event.aggregate).or_default().push(self.sequence);
        self.events.insert(self.sequence, event);
    }

    /// Stores events that belong to no transition; keeps at most `keep` per aggregate.
    pub(super) fn record(&mut self, events: &[Envelope]) {
        events.iter().for_each(|event| self.append(event));
        for aggregate in events.iter().map(|event| event.aggregate) {
            let Some(kept) = self.history.get_mut(&aggregate) else { continue };
            let old = kept.drain(..kept.len().saturating_sub(self.keep));
            old.for_each(|sequence| drop(self.events.remove(&sequence)));
        }
    }

    /// Returns the conflict of an item that was decided over a state that was never stored.
    pub(super) fn conflict(&self, id: AggregateId) -> Result<(), CommitError> {
        Err(CommitError::Conflict { actual: self.version(id) })
    }

    fn version(&self, id: AggregateId) -> Option<u64> {
        match id {
            AggregateId::Job(id) => self.jobs.get(&id).map(|job| job.version()),
            AggregateId::Worker(id) => self.workers.get(&id).map(|worker| worker.version()),
            AggregateId::Provider(id) => self.providers.get(&id).map(|provider| provider.version()),
            AggregateId::Secret(id) => self.secrets.get(&id).map(|secret| secret.version()),
            AggregateId::Token(id) => self.tokens.get(&id).map(|token| token.version()),
            AggregateId::Platform(_) => None,
        }
    }

    fn check_version(&self, id: AggregateId, expect: Expect) -> Result<(), CommitError> {
        let actual = self.version(id);
        if actual == expect.version() || cfg!(hodei_break = "cas") {
            Ok(())
        } else {
            Err(CommitError::Conflict { actual })
        }
    }

    fn put_job(&mut self, job: &Arc<Job>) -> Result<(), CommitError> {
        let id = job.id();
        let before = self.jobs.get(&id).cloned();
        if before.is_none() {
            if self.open.len() >= self.queue {
                return Err(CommitError::Full { limit: self.queue });
            }
            if let Some(key) = key_of(job) {
                if let Some(existing) = self.keys.get(&key) {
                    return Err(CommitError::Duplicate { existing: existing.job });
                }
                self.keys.insert(key, Key { job: id, ended_at: None });
            }
        }
        if let Some(worker) =
            before.as_ref().and_then(|job| job.assignment()).map(|assignment| assignment.worker)
        {
            self.unassign(worker, id);
        }
        if let Some(assignment) = job.assignment() {
            self.assigned.entry(assignment.worker).or_default().insert(id);
        }
        if job.is_terminal() {
            if self.open.remove(&id) || before.is_none() {
                self.ended.push_back(AggregateId::Job(id));
            }
        } else {
            self.open.insert(id);
        }
        self.jobs.insert(id, job.clone());
        Ok(())
    }

    fn unassign(&mut self, worker: WorkerId, job: JobId) {
        if let Some(jobs) = self.assigned.get_mut(&worker) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.assigned.remove(&worker);
            }
        }
    }

    fn forget_oldest(&mut self) {
        while self.ended.len() > self.keep {
            let Some(id) = self.ended.pop_front() else { return };
            if let AggregateId::Job(job) = id
                && let Some(key) = self.jobs.get(&job).and_then(|job| key_of(job))
            {
                self.keys.remove(&key);
            }
            self.drop_aggregate(id);
        }
    }

    fn drop_aggregate(&mut self, id: AggregateId) {
        match id {
            AggregateId::Job(id) => drop(self.jobs.remove(&id)),
            AggregateId::Worker(id) => drop(self.workers.remove(&id)),
            AggregateId::Token(id) => drop(self.tokens.remove(&id)),
            AggregateId::Provider(_) | AggregateId::Secret(_) | AggregateId::Platform(_) => {}
        }
        for sequence in self.history.remove(&id).into_iter().flatten() {
            self.events.remove(&sequence);
        }
    }

    pub(super) fn ended_before(&self, before: Timestamp, limit: usize) -> Vec<AttemptId> {
        let ended = self.ended.iter().filter_map(|id| match id {
            AggregateId::Job(id) => self.jobs.get(id),
            _ => None,
        });
        let over = |job: &&Arc<Job>| job.ending().is_some_and(|ending| ending.at < before);
        let mut found: Vec<_> = ended.filter(over).map(|job| job.attempt_id()).collect();
        found.sort_unstable();
        found.truncate(limit);
        found
    }

    pub(super) fn forget(&mut self, jobs: &[JobId], before: Timestamp) {
        for id in jobs {
            let Some(job) = self.jobs.get(id).filter(|job| job.is_terminal()).cloned() else { continue };
            if let Some(key) = key_of(&job).and_then(|key| self.keys.get_mut(&key)) {
                key.ended_at = job.ending().map(|ending| ending.at);
            }
            self.drop_aggregate(AggregateId::Job(*id));
        }
        let over = |worker: &&Arc<Worker>| matches!(worker.state(), WorkerState::Terminated { at, .. } if *at < before);
        let workers: Vec<WorkerId> = self.workers.values().filter(over).map(|worker| worker.id()).collect();
        workers.into_iter().for_each(|id| self.drop_aggregate(AggregateId::Worker(id)));
        let over = |token: &&Arc<AccessToken>| token.ends_at().is_some_and(|end| end < before);
        let tokens: Vec<TokenId> = self.tokens.values().filter(over).map(|token| token.id()).collect();
        tokens.into_iter().for_each(|id| self.drop_aggregate(AggregateId::Token(id)));
        let (jobs, workers) = (&self.jobs, &self.workers);
        self.ended.retain(|id| match id {
            AggregateId::Job(id) => jobs.contains_key(id),
            AggregateId::Worker(id) => workers.contains_key(id),
            AggregateId::Provider(_)
            | AggregateId::Secret(_)
            | AggregateId::Token(_)
            | AggregateId::Platform(_) => true,
        });
        let events = &mut self.events;
        let noted = self.history.iter_mut().filter(|(id, _)| matches!(id, AggregateId::Platform(_)));
        for (_, kept) in noted {
            kept.retain(|sequence| {
                let is_old = events.get(sequence).is_none_or(|event| event.at < before);
                if is_old {
                    events.remove(sequence);
                }
                !is_old
            });
        }
        self.keys.retain(|_, key| key.ended_at.is_none_or(|at| at + KEY_OUTLIVES >= before));
    }

    pub(super) fn history(&self, aggregate: AggregateId) -> Vec<Envelope> {
        let sequences = self.history.get(&aggregate).into_iter().flatten();
        sequences.filter_map(|sequence| self.events.get(sequence).cloned()).collect()
    }

    /// Lists jobs, newest first. Ids are of version 7, so their order is that of submission.
    pub(super) fn list(&self, filter: &JobFilter) -> JobPage {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let before = filter.after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut matching = self
            .jobs
            .range((std::ops::Bound::Unbounded, before))
            .rev()
            .map(|(_, job)| job)
            .filter(|job| filter.matches(job));
        let jobs: Vec<_> = matching.by_ref().take(limit).cloned().collect();
        let next = matching.next().and(jobs.last()).map(|job| job.id());
        JobPage { jobs, next }
    }
}

fn key_of(job: &Job) -> Option<(TenantId, String)> {
    Some((job.tenant().clone(), job.spec().idempotency_key()?.to_owned()))
}
