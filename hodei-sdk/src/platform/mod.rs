//! The public handle and its areas, and the wiring: the only place that names both the application and the adapters.

mod areas;
mod builder;
mod handle;
mod machine;
#[cfg(feature = "grpc")]
mod serving;
mod wiring;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::access::Caller;
use hodei_core::id::{JobId, StoreId};
use hodei_core::job::JobSpec;

#[cfg(feature = "grpc")]
use crate::app::AccessService;
use crate::app::{JobController, Membership, Ports, Shutdown, WorkerGateway};
#[cfg(feature = "client")]
use crate::client::DaemonClient;
use crate::error::Error;
use crate::seam::{
    ArtifactSeam, EventSeam, JobSeam, QueueSeam, SecretSeam, Submitted, TokenSeam, WorkerSeam,
};

pub use areas::{Artifacts, Events, Jobs, Queue, Secrets, Tokens, Workers};
pub use builder::HodeiBuilder;
pub use handle::JobHandle;

/// A job platform. Cheap to clone; all clones are the same platform.
///
/// When the last clone is dropped, the platform stops at once and kills running jobs. [`shutdown`](Self::shutdown)
/// stops it gracefully.
#[derive(Clone)]
pub struct Hodei {
    inner: Arc<Inner>,
    caller: Caller,
}

struct Inner {
    seams: Seams,
    /// The platform of this process; `None` for the client of a daemon.
    in_process: Option<InProcess>,
}

/// The implementations behind the areas.
pub(crate) struct Seams {
    pub(crate) jobs: Arc<dyn JobSeam>,
    pub(crate) workers: Arc<dyn WorkerSeam>,
    pub(crate) secrets: Arc<dyn SecretSeam>,
    pub(crate) tokens: Arc<dyn TokenSeam>,
    pub(crate) artifacts: Arc<dyn ArtifactSeam>,
    pub(crate) events: Arc<dyn EventSeam>,
    pub(crate) queue: Arc<dyn QueueSeam>,
}

#[cfg(feature = "client")]
impl Seams {
    /// Uses one client for every area.
    fn of<T>(client: &Arc<T>) -> Self
    where
        T: JobSeam + WorkerSeam + SecretSeam + TokenSeam + ArtifactSeam + EventSeam + QueueSeam + 'static,
    {
        Self {
            jobs: client.clone(),
            workers: client.clone(),
            secrets: client.clone(),
            tokens: client.clone(),
            artifacts: client.clone(),
            events: client.clone(),
            queue: client.clone(),
        }
    }
}

struct InProcess {
    jobs: Arc<JobController>,
    #[cfg(feature = "grpc")]
    access: Arc<AccessService>,
    ports: Arc<Ports>,
    release: Option<wiring::Release>,
    /// The shutdown, and the gateway of the workers, which is dropped with this. `None` for a passive platform.
    running: Option<(Shutdown, Arc<WorkerGateway>)>,
    membership: Membership,
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.ports.tasks.stop().cancel();
    }
}

impl fmt::Debug for Hodei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Hodei");
        match &self.inner.in_process {
            Some(in_process) => shown.field("store", &in_process.ports.store.id()),
            None => shown.field("jobs", &self.inner.seams.jobs),
        };
        shown.finish_non_exhaustive()
    }
}

impl Hodei {
    /// Starts a platform in memory that runs jobs as child processes of this process.
    ///
    /// # Errors
    /// None at present.
    pub async fn local() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Starts a platform on a store: `memory:`, or `sqlite:DIRECTORY` for one that outlives this process. It takes over
    /// the open jobs of the store.
    ///
    /// # Errors
    /// [`Error::Open`] names the problem of the store.
    pub async fn open(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).start().await
    }

    /// Connects to a daemon: `http://HOST:PORT`, or `unix:PATH`. The handle behaves like that of a local platform,
    /// except that [`shutdown`](Self::shutdown) does not stop the daemon. Calls continue across a restart of the
    /// daemon.
    ///
    /// # Errors
    /// [`Error::Refused`] if no daemon answers, or if it requires a token: see [`connect_with`](Self::connect_with).
    #[cfg(feature = "client")]
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_with(crate::ConnectOptions::new(url)).await
    }

    /// Connects to a daemon with options, such as a token.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    #[cfg(feature = "client")]
    pub async fn connect_with(options: crate::ConnectOptions) -> Result<Self, Error> {
        let daemon = DaemonClient::connect(options).await?;
        let inner = Inner { seams: Seams::of(&Arc::new(daemon)), in_process: None };
        Ok(Self { inner: Arc::new(inner), caller: Caller::default() })
    }

    /// Returns a builder, to compose a platform from parts.
    pub fn builder() -> HodeiBuilder {
        HodeiBuilder::default()
    }

    /// Returns a handle of the same platform for another caller. It sees and submits the jobs of the caller's tenant
    /// and is restricted to the caller's role. A new handle is the program's own: it may do everything, as the tenant
    /// `default`. A daemon ignores this and uses the token.
    #[must_use]
    pub fn with_caller(&self, caller: Caller) -> Self {
        Self { inner: self.inner.clone(), caller }
    }

    /// Accepts a job. When this returns, the job is stored.
    ///
    /// Not cancel safe: if the future is dropped, the job may have been accepted. Use [`submit_as`](Self::submit_as) to
    /// be able to repeat the call.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the field that no provider of this platform supports; [`Error::AlreadyExists`]
    /// names the job that has the idempotency key; [`Error::QueueFull`], [`Error::ShuttingDown`], or the store's.
    pub async fn submit(&self, spec: JobSpec) -> Result<JobHandle, Error> {
        let mut answers = self.submit_many(vec![(None, spec)]).await?;
        answers.pop().unwrap_or(Err(Error::ShuttingDown))
    }

    /// Accepts a job under an id that the caller chooses (a UUID of version 7). A repeated call with the same id and
    /// spec returns the first job.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); [`Error::AlreadyExists`] also if the id belongs to another spec.
    pub async fn submit_as(&self, id: JobId, spec: JobSpec) -> Result<JobHandle, Error> {
        let mut answers = self.submit_many(vec![(Some(id), spec)]).await?;
        answers.pop().unwrap_or(Err(Error::ShuttingDown))
    }

    /// Accepts many jobs independently: a refused job does not affect the others. The answers are in the order of the
    /// specs.
    ///
    /// # Errors
    /// If the call as a whole failed; each answer has the errors of [`submit`](Self::submit).
    pub async fn submit_batch(&self, specs: Vec<JobSpec>) -> Result<Vec<Result<JobHandle, Error>>, Error> {
        self.submit_many(specs.into_iter().map(|spec| (None, spec)).collect()).await
    }

    /// Like [`submit_batch`](Self::submit_batch), with an optional id for each job: see [`submit_as`](Self::submit_as).
    ///
    /// # Errors
    /// As [`submit_batch`](Self::submit_batch); [`Error::AlreadyExists`] for an id that belongs to another spec.
    pub async fn submit_many(
        &self,
        jobs: Vec<(Option<JobId>, JobSpec)>,
    ) -> Result<Vec<Result<JobHandle, Error>>, Error> {
        let answers = self.seams().jobs.submit(&self.caller, jobs).await?;
        let handle = |submitted: Submitted| JobHandle { is_new: submitted.is_new, ..self.job(submitted.id) };
        Ok(answers.into_iter().map(|answer| answer.map(handle)).collect())
    }

    /// Returns the handle of a job. It is not checked whether the job exists; the first call on the handle does that.
    pub fn job(&self, id: JobId) -> JobHandle {
        JobHandle { hodei: self.clone(), id, is_new: false }
    }

    /// Returns the area of jobs: states, pages, output, completions, cancel and retry.
    pub fn jobs(&self) -> Jobs {
        Jobs::new(self)
    }

    /// Returns the area of workers: list, get, drain.
    pub fn workers(&self) -> Workers {
        Workers::new(self)
    }

    /// Returns the area of secrets of the caller's tenant: put, list, delete.
    pub fn secrets(&self) -> Secrets {
        Secrets::new(self)
    }

    /// Returns the area of tokens for clients of a daemon: create, list, revoke.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self)
    }

    /// Returns the area of artifacts: the output files of jobs.
    pub fn artifacts(&self) -> Artifacts {
        Artifacts::new(self)
    }

    /// Returns the area of stored events: those of all jobs, workers, secrets and tokens that the caller may see.
    pub fn events(&self) -> Events {
        Events::new(self)
    }

    /// Returns the area of the queue and of the reasons for which its jobs wait.
    pub fn queue(&self) -> Queue {
        Queue::new(self)
    }

    pub(crate) fn seams(&self) -> &Seams {
        &self.inner.seams
    }

    /// Returns the caller of this handle.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Resolves when this platform has stopped: after a shutdown, or after the failure of a component, which is logged.
    /// Never resolves for the client of a daemon. Cancel safe.
    pub async fn stopped(&self) {
        match self.in_process() {
            Some(in_process) => in_process.ports.tasks.stop().cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Returns the id of the store, the owner of everything that this platform creates; `None` for the client of a
    /// daemon.
    pub fn store_id(&self) -> Option<StoreId> {
        self.in_process().map(|in_process| in_process.ports.store.id())
    }

    /// Shuts the platform down: it accepts and assigns no more jobs, waits for running jobs up to
    /// [`Settings::drain_timeout`](crate::Settings::drain_timeout), then kills the remaining ones and ends every task.
    /// A killed job runs again at the next start, without using up a retry, unless it may run at most once. Queued jobs
    /// stay in the store.
    pub async fn shutdown(self) {
        let limit =
            self.in_process().map_or(Duration::ZERO, |in_process| in_process.ports.settings.drain_timeout);
        self.shutdown_within(limit).await;
    }

    /// Like [`shutdown`](Self::shutdown), with `limit` instead of
    /// [`Settings::drain_timeout`](crate::Settings::drain_timeout).
    pub async fn shutdown_within(self, limit: Duration) {
        let Some(in_process) = self.in_process() else { return };
        in_process.jobs.close();
        if let Some((shutdown, _)) = &in_process.running {
            shutdown.drain(limit).await;
        }
        in_process.ports.tasks.shutdown().await;
        if in_process.running.is_some() && in_process.membership.is_shared() {
            // Last: until its tasks have ended, this daemon may renew its leases to end its own workers.
            in_process.membership.leave().await;
        }
        if let Some(release) = &in_process.release {
            release().await;
        }
    }

    fn in_process(&self) -> Option<&InProcess> {
        self.inner.in_process.as_ref()
    }
}
