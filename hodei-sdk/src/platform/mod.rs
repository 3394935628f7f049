//! The public handle and its areas, and the wiring: the one place that names application and adapters at once.

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
/// When the last clone is dropped the platform stops at once and kills what runs; [`shutdown`](Self::shutdown)
/// is the friendly way.
#[derive(Clone)]
pub struct Hodei {
    inner: Arc<Inner>,
    caller: Caller,
}

struct Inner {
    seams: Seams,
    /// What runs in this process; `None` for the client of a daemon.
    here: Option<Here>,
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
    /// Of one that has all of them.
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

struct Here {
    jobs: Arc<JobController>,
    #[cfg(feature = "grpc")]
    access: Arc<AccessService>,
    ports: Arc<Ports>,
    release: Option<wiring::Release>,
    /// How to stop, and the door of the workers, which is open for as long as this is. `None` where nothing runs.
    running: Option<(Shutdown, Arc<WorkerGateway>)>,
    membership: Membership,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.ports.tasks.stop().cancel();
    }
}

impl fmt::Debug for Hodei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Hodei");
        match &self.inner.here {
            Some(here) => shown.field("store", &here.ports.store.id()),
            None => shown.field("jobs", &self.inner.seams.jobs),
        };
        shown.finish_non_exhaustive()
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

    /// The platform of a daemon: `http://HOST:PORT`, or `unix:PATH`. Everything that is said of the others holds, but
    /// for [`shutdown`](Self::shutdown), which leaves the daemon as it is. Calls go on through a restart of it.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is none, or when it wants a token: see [`connect_with`](Self::connect_with).
    #[cfg(feature = "client")]
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_with(crate::ConnectOptions::new(url)).await
    }

    /// The platform of a daemon, with a token.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    #[cfg(feature = "client")]
    pub async fn connect_with(options: crate::ConnectOptions) -> Result<Self, Error> {
        let daemon = DaemonClient::connect(options).await?;
        let inner = Inner { seams: Seams::of(&Arc::new(daemon)), here: None };
        Ok(Self { inner: Arc::new(inner), caller: Caller::default() })
    }

    /// Composes a platform from parts.
    pub fn builder() -> HodeiBuilder {
        HodeiBuilder::default()
    }

    /// The same platform for somebody else: it sees and submits the jobs of its tenant, and may do what its role may. This
    /// handle is the program's own, which may do everything, as the tenant `default`. A daemon goes by the token.
    #[must_use]
    pub fn with_caller(&self, caller: Caller) -> Self {
        Self { inner: self.inner.clone(), caller }
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
        let mut answers = self.submit_many(vec![(None, spec)]).await?;
        answers.pop().unwrap_or(Err(Error::ShuttingDown))
    }

    /// Accepts a job under an id of the caller's (a UUID of version 7): asking again with the same id and spec
    /// finds the first.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); [`Error::AlreadyExists`] also when the id belongs to another spec.
    pub async fn submit_as(&self, id: JobId, spec: JobSpec) -> Result<JobHandle, Error> {
        let mut answers = self.submit_many(vec![(Some(id), spec)]).await?;
        answers.pop().unwrap_or(Err(Error::ShuttingDown))
    }

    /// Accepts many jobs, each for itself: one that is refused harms no other. The answers are in order.
    ///
    /// # Errors
    /// When none could be taken at all; as [`submit`](Self::submit) for each.
    pub async fn submit_batch(&self, specs: Vec<JobSpec>) -> Result<Vec<Result<JobHandle, Error>>, Error> {
        self.submit_many(specs.into_iter().map(|spec| (None, spec)).collect()).await
    }

    /// The same, with ids of the caller's for those that have one: see [`submit_as`](Self::submit_as).
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

    /// Returns the handle of a job. The first call on it finds out whether there is such a job.
    pub fn job(&self, id: JobId) -> JobHandle {
        JobHandle { hodei: self.clone(), id, is_new: false }
    }

    /// Jobs: states, pages, output, completions, cancel and retry.
    pub fn jobs(&self) -> Jobs {
        Jobs::new(self)
    }

    /// Workers: list, get, drain.
    pub fn workers(&self) -> Workers {
        Workers::new(self)
    }

    /// Secrets of the caller's tenant: put, list, delete.
    pub fn secrets(&self) -> Secrets {
        Secrets::new(self)
    }

    /// Tokens for clients of a daemon: create, list, revoke.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self)
    }

    /// Files that jobs left.
    pub fn artifacts(&self) -> Artifacts {
        Artifacts::new(self)
    }

    /// Stored events of all jobs, workers, secrets and tokens that the caller may see.
    pub fn events(&self) -> Events {
        Events::new(self)
    }

    /// The queue, and what its jobs wait for.
    pub fn queue(&self) -> Queue {
        Queue::new(self)
    }

    pub(crate) fn seams(&self) -> &Seams {
        &self.inner.seams
    }

    /// Who has this handle.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Resolves when this platform does nothing more: it was shut down, or a part of it failed, which the log says.
    /// Never for that of a daemon. Cancel safe.
    pub async fn stopped(&self) {
        match self.here() {
            Some(here) => here.ports.tasks.stop().cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// The id of the store, the owner of everything that this platform creates; none where a daemon has it.
    pub fn store_id(&self) -> Option<StoreId> {
        self.here().map(|here| here.ports.store.id())
    }

    /// Takes nothing more and assigns nothing more, waits for running jobs up to [`Settings::drain_timeout`](crate::Settings::drain_timeout), then
    /// kills what is left and ends every task. What was killed runs again at the next start, at no cost to its
    /// retries, unless it may run at most once; jobs that were waiting stay in the store.
    pub async fn shutdown(self) {
        let limit = self.here().map_or(Duration::ZERO, |here| here.ports.settings.drain_timeout);
        self.shutdown_within(limit).await;
    }

    /// The same, with this limit in the place of [`Settings::drain_timeout`](crate::Settings::drain_timeout).
    pub async fn shutdown_within(self, limit: Duration) {
        let Some(here) = self.here() else { return };
        here.jobs.close();
        if let Some((shutdown, _)) = &here.running {
            shutdown.drain(limit).await;
        }
        here.ports.tasks.shutdown().await;
        if here.running.is_some() && here.membership.is_shared() {
            // Until now it may have beaten, and taken a lease again to end its own workers.
            here.membership.leave().await;
        }
        if let Some(release) = &here.release {
            release().await;
        }
    }

    fn here(&self) -> Option<&Here> {
        self.inner.here.as_ref()
    }
}
