//! Wires everything together: the one place that names application and adapters at once.

mod builder;
mod wiring;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hodei_core::event::Envelope;
use hodei_core::id::{JobId, StoreId, WorkerId};
use hodei_core::job::{Job, JobSpec, TenantId};
use hodei_core::port::{JobFilter, JobPage, Store};
use hodei_core::worker::Worker;

use crate::app::{JobController, JobLogs, JobWatch, QueueStatus, Shutdown, WorkerGateway};
use crate::error::Error;
use crate::task::Tasks;

pub use builder::HodeiBuilder;

/// A job platform. Cheap to clone; all clones are the same platform.
///
/// When the last clone is dropped the platform stops at once and kills what runs; [`shutdown`](Self::shutdown)
/// is the friendly way.
#[derive(Clone)]
pub struct Hodei {
    inner: Arc<Inner>,
}

struct Inner {
    controller: JobController,
    tasks: Tasks,
    store: Arc<dyn Store>,
    release: Option<wiring::Release>,
    /// How to stop, and the door of the workers, which is open for as long as this is. None where nothing runs.
    running: Option<(Shutdown, Arc<WorkerGateway>)>,
    status: Arc<Mutex<QueueStatus>>,
    tenant: TenantId,
    drain_timeout: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl fmt::Debug for Hodei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hodei").field("store", &self.inner.store.id()).finish_non_exhaustive()
    }
}

impl Hodei {
    /// A platform in memory that runs jobs as child processes of this one.
    ///
    /// # Errors
    /// None at present.
    pub async fn local() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// A platform on a store: `memory:`, or `sqlite:DIRECTORY` for one that survives this process. Jobs that an
    /// earlier process left are taken up again.
    ///
    /// # Errors
    /// [`Error::Open`] says what is wrong with the store.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).start().await
    }

    /// Composes a platform from parts.
    pub fn builder() -> HodeiBuilder {
        HodeiBuilder::default()
    }

    /// Accepts a job. When this returns, the job is stored.
    ///
    /// Not cancel safe: when dropped, the job may have been accepted; use [`submit_as`](Self::submit_as) to be
    /// able to ask again.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the field that no provider here honours; [`Error::AlreadyExists`] the job that
    /// has the idempotency key; [`Error::QueueFull`], [`Error::ShuttingDown`], or the store's.
    pub async fn submit(&self, spec: JobSpec) -> Result<JobHandle, Error> {
        let mut answers = self.inner.controller.submit(&self.inner.tenant, vec![spec]).await?;
        let job = answers.pop().unwrap_or(Err(Error::ShuttingDown))?;
        Ok(self.job(job.id()))
    }

    /// Accepts a job under an id of the caller's (a UUID of version 7): asking again with the same id and spec
    /// finds the first.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); [`Error::AlreadyExists`] also when the id belongs to another spec.
    pub async fn submit_as(&self, id: JobId, spec: JobSpec) -> Result<JobHandle, Error> {
        let job = self.inner.controller.submit_as(&self.inner.tenant, id, spec).await?;
        Ok(self.job(job.id()))
    }

    /// Accepts many jobs, each for itself: one that is refused harms no other. The answers are in order.
    ///
    /// # Errors
    /// When none could be taken at all; as [`submit`](Self::submit) for each.
    pub async fn submit_batch(&self, specs: Vec<JobSpec>) -> Result<Vec<Result<JobHandle, Error>>, Error> {
        let answers = self.inner.controller.submit(&self.inner.tenant, specs).await?;
        Ok(answers.into_iter().map(|answer| answer.map(|job| self.job(job.id()))).collect())
    }

    /// Accepts a job that repeats one that ended; the new one has `retry_of`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or as [`submit`](Self::submit).
    pub async fn retry(&self, id: JobId) -> Result<JobHandle, Error> {
        let job = self.inner.controller.retry(&self.inner.tenant, id).await?;
        Ok(self.job(job.id()))
    }

    /// The handle of a job; whether there is one is found out when it is used.
    pub fn job(&self, id: JobId) -> JobHandle {
        JobHandle { platform: self.clone(), id }
    }

    /// The present state of a job.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn get(&self, id: JobId) -> Result<Arc<Job>, Error> {
        self.inner.controller.queries.get(&self.inner.tenant, id).await
    }

    /// One page of jobs, the newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, filter: JobFilter) -> Result<JobPage, Error> {
        let filter = JobFilter { tenant: self.inner.tenant.clone(), ..filter };
        self.inner.controller.queries.list(&filter).await
    }

    /// Cancels a job that waits; asks one that runs to stop, with TERM, then KILL after its grace.
    ///
    /// # Errors
    /// [`Error::Ended`] when it is over, [`Error::NotFound`], or the store's.
    pub async fn cancel(&self, id: JobId) -> Result<Arc<Job>, Error> {
        self.inner.controller.cancel.cancel(&self.inner.tenant, id).await
    }

    /// The states of a job as they come, beginning with the present one.
    pub fn watch(&self, id: JobId) -> JobWatch {
        self.inner.controller.queries.watch(&self.inner.tenant, id)
    }

    /// The output of a job as it comes, from its beginning.
    pub fn logs(&self, id: JobId) -> JobLogs {
        self.inner.controller.logs(&self.inner.tenant, id)
    }

    /// Everything that happened to a job, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn history(&self, id: JobId) -> Result<Vec<Envelope>, Error> {
        self.inner.controller.queries.history(&self.inner.tenant, id).await
    }

    /// Up to `limit` stored events of all that happened after the sequence number `after`, in order.
    ///
    /// # Errors
    /// The store's.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<Envelope>, Error> {
        self.inner.controller.queries.feed(after, limit).await
    }

    /// The workers that are not terminated.
    ///
    /// # Errors
    /// The store's.
    pub async fn workers(&self) -> Result<Vec<Arc<Worker>>, Error> {
        self.inner.controller.queries.workers().await
    }

    /// One worker; also one that is terminated, while it is remembered.
    ///
    /// # Errors
    /// The store's.
    pub async fn worker(&self, id: WorkerId) -> Result<Option<Arc<Worker>>, Error> {
        self.inner.controller.queries.worker(id).await
    }

    /// The queue as the last round of scheduling left it.
    pub fn queue(&self) -> QueueStatus {
        self.inner.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The id of the store: the owner of everything that this platform creates.
    pub fn store_id(&self) -> StoreId {
        self.inner.store.id()
    }

    /// Takes nothing more and assigns nothing more, waits for running jobs up to [`Settings::drain_timeout`](crate::Settings::drain_timeout), then
    /// kills what is left and ends every task. What was killed runs again at the next start, at no cost to its
    /// retries, unless it may run at most once; jobs that were waiting stay in the store.
    pub async fn shutdown(self) {
        let limit = self.inner.drain_timeout;
        self.shutdown_within(limit).await;
    }

    /// The same, with this limit in the place of [`Settings::drain_timeout`](crate::Settings::drain_timeout).
    pub async fn shutdown_within(self, limit: Duration) {
        self.inner.controller.close();
        if let Some((shutdown, _)) = &self.inner.running {
            shutdown.drain(limit).await;
        }
        self.inner.tasks.shutdown().await;
        if let Some(release) = &self.inner.release {
            release().await;
        }
    }
}

/// One job of a platform.
#[derive(Debug, Clone)]
pub struct JobHandle {
    platform: Hodei,
    id: JobId,
}

impl JobHandle {
    /// Its id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Its output as it comes, from its beginning.
    pub fn logs(&self) -> JobLogs {
        self.platform.logs(self.id)
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn wait(&self) -> Result<Arc<Job>, Error> {
        self.platform.watch(self.id).ended().await
    }

    /// Cancels it: see [`Hodei::cancel`].
    ///
    /// # Errors
    /// As [`Hodei::cancel`].
    pub async fn cancel(&self) -> Result<Arc<Job>, Error> {
        self.platform.cancel(self.id).await
    }

    /// Its present state.
    ///
    /// # Errors
    /// As [`Hodei::get`].
    pub async fn get(&self) -> Result<Arc<Job>, Error> {
        self.platform.get(self.id).await
    }
}
