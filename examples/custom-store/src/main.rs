//! A store that also writes each event as a line of JSON to a file, in the order of the commits, for other programs.
//!
//! It wraps another store, which keeps the state and answers reads. Prints the names of the events of one job.
#![allow(clippy::print_stdout, reason = "an example")]

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_sdk::access::AccessToken;
use hodei_sdk::decision::AggregateId;
use hodei_sdk::event::Envelope;
use hodei_sdk::id::{AttemptId, DaemonId, JobId, SecretId, StoreId, TokenId, WorkerId};
use hodei_sdk::job::TenantId;
use hodei_sdk::port::{
    AccessRepository, AuditRepository, Cluster, CommitError, DaemonBeat, Epoch, FeedCursor, FeedPage, Fence,
    JobFilter, JobPage, JobQueue, JobRepository, LeaseStore, ProviderConfigRepository, SecretInfo,
    SecretRepository, Store, StoreError, WorkerRegistry, Write,
};
use hodei_sdk::providers::Provider;
use hodei_sdk::secret::Secret;
use hodei_sdk::time::Timestamp;
use hodei_sdk::worker::Worker;
use hodei_sdk::{Hodei, Job, JobSpec, MemoryStore};

/// A store that writes each stored event to a file.
#[derive(Debug)]
struct JournalingStore<S> {
    inner: S,
    file: Mutex<File>,
}

impl<S> JournalingStore<S> {
    fn new(inner: S, path: &Path) -> std::io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Self { inner, file: Mutex::new(file) })
    }

    fn append(&self, event: &Envelope) -> Result<(), StoreError> {
        let line = serde_json::to_string(event).map_err(|error| StoreError::Other(error.into()))?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}").map_err(|error| StoreError::Unavailable {
            retry_after: Duration::from_secs(1),
            why: error.to_string(),
        })
    }
}

#[async_trait]
impl<S: Store> Store for JournalingStore<S> {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    /// Commits the writes, and appends the events of those that succeeded: each write has its own outcome.
    async fn commit(
        &self,
        fence: Fence,
        writes: &[Write],
    ) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let outcomes = self.inner.commit(fence, writes).await?;
        for (write, _) in writes.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()) {
            write.events.iter().try_for_each(|event| self.append(event))?;
        }
        Ok(outcomes)
    }

    async fn forget(&self, jobs: &[JobId], before: Timestamp) -> Result<(), StoreError> {
        self.inner.forget(jobs, before).await
    }
}

#[async_trait]
impl<S: Store> JobRepository for JournalingStore<S> {
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
        self.inner.jobs(ids).await
    }

    async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
        self.inner.list_jobs(filter).await
    }

    async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
        self.inner.job_by_key(tenant, key).await
    }

    async fn ended_before(&self, before: Timestamp, limit: usize) -> Result<Vec<AttemptId>, StoreError> {
        self.inner.ended_before(before, limit).await
    }
}

#[async_trait]
impl<S: Store> JobQueue for JournalingStore<S> {
    async fn open_jobs(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Arc<Job>>, StoreError> {
        self.inner.open_jobs(after, limit).await
    }

    async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError> {
        self.inner.jobs_of_workers(workers).await
    }
}

#[async_trait]
impl<S: Store> WorkerRegistry for JournalingStore<S> {
    async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
        self.inner.workers(ids).await
    }

    async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
        self.inner.live_workers().await
    }
}

#[async_trait]
impl<S: Store> SecretRepository for JournalingStore<S> {
    async fn secrets(&self, ids: &[SecretId]) -> Result<Vec<Option<Arc<Secret>>>, StoreError> {
        self.inner.secrets(ids).await
    }

    async fn list_secrets(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, StoreError> {
        self.inner.list_secrets(tenant).await
    }
}

#[async_trait]
impl<S: Store> AccessRepository for JournalingStore<S> {
    async fn tokens(&self, ids: &[TokenId]) -> Result<Vec<Option<Arc<AccessToken>>>, StoreError> {
        self.inner.tokens(ids).await
    }

    async fn list_tokens(&self) -> Result<Vec<Arc<AccessToken>>, StoreError> {
        self.inner.list_tokens().await
    }
}

#[async_trait]
impl<S: Store> ProviderConfigRepository for JournalingStore<S> {
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
        self.inner.providers().await
    }
}

#[async_trait]
impl<S: Store> AuditRepository for JournalingStore<S> {
    async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
        self.inner.history(aggregate).await
    }

    async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError> {
        self.inner.feed(after, limit).await
    }

    async fn record(&self, events: &[Envelope]) -> Result<(), StoreError> {
        self.inner.record(events).await
    }

    async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
        self.inner.feed_end().await
    }
}

#[async_trait]
impl<S: Store> LeaseStore for JournalingStore<S> {
    fn is_exclusive(&self) -> bool {
        self.inner.is_exclusive()
    }

    async fn beat(&self, beat: &DaemonBeat) -> Result<Cluster, StoreError> {
        self.inner.beat(beat).await
    }

    async fn take_lease(
        &self,
        name: &str,
        seen: Epoch,
        holder: DaemonId,
    ) -> Result<Option<Epoch>, StoreError> {
        self.inner.take_lease(name, seen, holder).await
    }

    async fn leave(&self, daemon: DaemonId) -> Result<(), StoreError> {
        self.inner.leave(daemon).await
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let journal = tempfile::NamedTempFile::new()?;
    let id = hodei_sdk::port::IdGenerator::uuid(&hodei_sdk::SystemIds::default(), Timestamp::EPOCH);
    let store = JournalingStore::new(MemoryStore::new(id), journal.path())?;
    let hodei = Hodei::builder().store(Arc::new(store)).start().await?;
    let job = hodei.submit(JobSpec::command(["true"]).build()?).await?.wait().await?;
    hodei.shutdown().await;
    for line in BufReader::new(journal.reopen()?).lines() {
        let event: Envelope = serde_json::from_str(&line?)?;
        if event.aggregate == AggregateId::Job(job.id()) {
            println!("{}", event.event.name());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_store_passes_the_conformance_suite() {
        let journal = tempfile::NamedTempFile::new().expect("a file");
        let make =
            async |id| Arc::new(JournalingStore::new(MemoryStore::new(id), journal.path()).expect("a store"));
        hodei_sdk::testing::conformance::store(make).await;
    }
}
