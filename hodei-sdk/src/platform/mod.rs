//! Wires everything together: the one place that names application and adapters at once.

mod builder;
mod handle;
mod machine;
#[cfg(feature = "grpc")]
mod serving;
mod wiring;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hodei_core::access::{Caller, TokenTerms, TokenView};
use hodei_core::artifact::WorkspacePath;
use hodei_core::event::Envelope;
use hodei_core::id::{JobId, StoreId, TokenId, WorkerId};
use hodei_core::job::{Job, JobSpec};
use hodei_core::port::{FeedCursor, FeedPage, JobFilter, JobPage, SecretInfo, Store};
use hodei_core::provider::Provider;
use hodei_core::scheduling::{QueueStatus, SchedulingDecision};
use hodei_core::secret::{SecretName, SecretPolicy, SecretValue};
use hodei_core::worker::{LimitHold, WorkerView};

use crate::app::{
    Accepted, ArtifactReader, JobController, JobEnds, JobFeed, JobLogs, JobWatch, Membership, Shutdown,
    WorkerGateway,
};
#[cfg(feature = "client")]
use crate::client::DaemonClient;
use crate::error::Error;
use crate::task::Tasks;

pub use builder::HodeiBuilder;
pub use handle::JobHandle;

/// Whether a job with limits finds workers that hold it to those: that of any provider is enough.
fn hold_of(providers: &[Arc<Provider>]) -> Option<LimitHold> {
    let said: Vec<LimitHold> =
        providers.iter().filter_map(|provider| LimitHold::of(&provider.profile().labels)).collect();
    said.iter().find(|hold| **hold == LimitHold::Held).or(said.first()).copied()
}

/// A job platform. Cheap to clone; all clones are the same platform.
///
/// When the last clone is dropped the platform stops at once and kills what runs; [`shutdown`](Self::shutdown)
/// is the friendly way.
#[derive(Clone)]
pub struct Hodei {
    inner: Arc<Inner>,
    caller: Caller,
}

enum Inner {
    /// In this process.
    Here(Box<Here>),
    /// In another one.
    #[cfg(feature = "client")]
    Daemon(DaemonClient),
}

struct Here {
    controller: JobController,
    tasks: Tasks,
    store: Arc<dyn Store>,
    release: Option<wiring::Release>,
    /// How to stop, and the door of the workers, which is open for as long as this is. None where nothing runs.
    running: Option<(Shutdown, Arc<WorkerGateway>)>,
    membership: Membership,
    drain_timeout: Duration,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl fmt::Debug for Hodei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Hodei");
        match &*self.inner {
            Inner::Here(here) => shown.field("store", &here.store.id()),
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => shown.field("daemon", &daemon.url()),
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
        Ok(Self { inner: Arc::new(Inner::Daemon(daemon)), caller: Caller::default() })
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
        let answers: Vec<Result<(JobId, bool), Error>> = match &*self.inner {
            Inner::Here(here) => {
                let answers = here.controller.submit_many(&self.caller, jobs).await?;
                let accepted = |Accepted { job, found }| (job.id(), found);
                answers.into_iter().map(|answer| answer.map(accepted)).collect()
            }
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.submit_many(jobs).await?,
        };
        let handle = |(id, found)| JobHandle { found, ..self.job(id) };
        Ok(answers.into_iter().map(|answer| answer.map(handle)).collect())
    }

    /// Accepts a job that repeats one that ended; the new one has `retry_of`.
    ///
    /// # Errors
    /// [`Error::StillOpen`] when it has not ended; [`Error::NotFound`], or as [`submit`](Self::submit).
    pub async fn retry(&self, id: JobId) -> Result<JobHandle, Error> {
        self.repeat(id, false).await
    }

    /// The same, also of a job that has not ended: two of it may run at once then.
    ///
    /// # Errors
    /// [`Error::NotFound`], or as [`submit`](Self::submit).
    pub async fn retry_open(&self, id: JobId) -> Result<JobHandle, Error> {
        self.repeat(id, true).await
    }

    async fn repeat(&self, id: JobId, force: bool) -> Result<JobHandle, Error> {
        let id = match &*self.inner {
            Inner::Here(here) => here.controller.retry(&self.caller, id, force).await?.id(),
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.retry(id, force).await?,
        };
        Ok(self.job(id))
    }

    /// The handle of a job; whether there is one is found out when it is used.
    pub fn job(&self, id: JobId) -> JobHandle {
        JobHandle { platform: self.clone(), id, found: false }
    }

    /// The present state of a job.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn get(&self, id: JobId) -> Result<Arc<Job>, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.queries.get(&self.caller.tenant, id).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.get(id).await,
        }
    }

    /// One page of jobs, the newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, filter: JobFilter) -> Result<JobPage, Error> {
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let (mut jobs, mut after) = (Vec::new(), filter.after);
        loop {
            let rest = JobFilter { after, limit: limit - jobs.len(), ..filter.clone() };
            let page = self.list_page(rest).await?;
            jobs.extend(page.jobs);
            if page.next.is_none() || jobs.len() >= limit {
                return Ok(JobPage { jobs, next: page.next });
            }
            after = page.next;
        }
    }

    /// The same, bounded in bytes: a page may end early.
    pub(crate) async fn list_page(&self, filter: JobFilter) -> Result<JobPage, Error> {
        match &*self.inner {
            Inner::Here(here) => {
                here.controller
                    .queries
                    .list(&JobFilter { tenant: self.caller.tenant.clone(), ..filter })
                    .await
            }
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.list(filter).await,
        }
    }

    /// Cancels a job that waits; asks one that runs to stop, with TERM, then KILL after its grace.
    ///
    /// # Errors
    /// [`Error::Ended`] when it is over, [`Error::NotFound`], or the store's.
    pub async fn cancel(&self, id: JobId) -> Result<Arc<Job>, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.cancel.cancel(&self.caller, id).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.cancel(id).await,
        }
    }

    /// The states of a job as they come, beginning with the present one.
    pub fn watch(&self, id: JobId) -> JobWatch {
        match &*self.inner {
            Inner::Here(here) => here.controller.queries.watch(&self.caller.tenant, id),
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.watch(id),
        }
    }

    /// All jobs, as they change: from the [`next`](crate::JobChanges::next) of some changes on, from the beginning of what is
    /// kept with the default cursor, from now on without one.
    pub fn watch_all(&self, from: Option<FeedCursor>) -> JobFeed {
        match &*self.inner {
            Inner::Here(here) => here.controller.watch_all(&self.caller, from),
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.watch_all(from),
        }
    }

    /// States of some jobs above some versions; `None` in a handle of another process's platform.
    #[cfg(feature = "grpc")]
    pub(crate) fn states(
        &self,
        seen: std::collections::BTreeMap<JobId, u64>,
        ends_only: bool,
    ) -> Option<crate::app::JobStates> {
        match &*self.inner {
            Inner::Here(here) => Some(here.controller.queries.states(&self.caller.tenant, seen, ends_only)),
            #[cfg(feature = "client")]
            Inner::Daemon(_) => None,
        }
    }

    /// The ends of many jobs as they come.
    pub fn ends(&self, jobs: Vec<JobId>) -> JobEnds {
        match &*self.inner {
            Inner::Here(here) => here.controller.ends(&self.caller, jobs),
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.ends(jobs),
        }
    }

    /// The output of a job as it comes, from its beginning.
    pub fn logs(&self, id: JobId) -> JobLogs {
        match &*self.inner {
            Inner::Here(here) => here.controller.logs(&self.caller, id),
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.logs(id),
        }
    }

    /// A file that is kept of a job, by its path in the workspace; which there are is in [`Job::artifacts`].
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoArtifact`], [`Error::NoArtifacts`] where there is no place for them,
    /// [`Error::Artifacts`].
    pub async fn artifact(&self, id: JobId, name: &WorkspacePath) -> Result<ArtifactReader, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.artifacts.get(&self.caller.tenant, id, name).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.artifact(id, name).await,
        }
    }

    /// Everything that happened to a job, oldest first.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn history(&self, id: JobId) -> Result<Vec<Envelope>, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.queries.history(&self.caller.tenant, id).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.history(id).await,
        }
    }

    /// Why a job is where it is: what it waits for, where it ran and why there, and what came of each attempt.
    ///
    /// # Errors
    /// [`Error::NotFound`], or the store's.
    pub async fn explain(&self, id: JobId) -> Result<SchedulingDecision, Error> {
        match &*self.inner {
            Inner::Here(here) => {
                let queue = here.membership.queue();
                here.controller.queries.explain(&self.caller.tenant, id, &queue.waiting).await
            }
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.explain(id).await,
        }
    }

    /// Up to `limit` stored events of what happened after a place in their feed, in order: of the jobs and secrets of the
    /// caller's tenant, and of what all share as far as its role goes. Go on from [`FeedPage::next`], also after an empty
    /// page, unless that is the place where it began.
    ///
    /// # Errors
    /// The store's, which refuses a cursor that it did not give.
    pub async fn events(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.queries.feed(&self.caller, after, limit).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.events(None, after, limit).await,
        }
    }

    /// The workers that are not terminated.
    ///
    /// # Errors
    /// The store's.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.queries.workers().await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.workers().await,
        }
    }

    /// One worker; also one that is terminated, while it is remembered.
    ///
    /// # Errors
    /// The store's.
    pub async fn worker(&self, id: WorkerId) -> Result<Option<WorkerView>, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.queries.worker(id).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.worker(id).await,
        }
    }

    /// Has a worker take nothing more, and leave when its jobs have ended. One that does so already, or is
    /// terminated, is left as it is.
    ///
    /// # Errors
    /// [`Error::NoWorker`] when there is none of this id, or where nothing runs; the store's.
    pub async fn drain_worker(&self, id: WorkerId) -> Result<WorkerView, Error> {
        match &*self.inner {
            Inner::Here(here) => {
                let (_, gateway) = here.running.as_ref().ok_or(Error::NoWorker(id))?;
                gateway.lifecycle.drain(&self.caller, id).await?;
            }
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => return daemon.drain_worker(id).await,
        }
        self.worker(id).await?.ok_or(Error::NoWorker(id))
    }

    /// Gives a secret of the caller's tenant a value, in the place of one that it may have. Jobs get it that name it:
    /// see [`JobSpecBuilder::secret`](crate::JobSpecBuilder::secret).
    ///
    /// # Errors
    /// [`Error::NoSecrets`] where there is no place for them, [`Error::Secrets`].
    pub async fn put_secret(&self, name: &SecretName, value: SecretValue) -> Result<(), Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.secrets.put(&self.caller, name, value).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.put_secret(name, value).await,
        }
    }

    /// What is known of the secrets, by name; their values are given to nobody but jobs.
    ///
    /// # Errors
    /// As [`put_secret`](Self::put_secret).
    pub async fn list_secrets(&self) -> Result<Vec<SecretInfo>, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.secrets.list(&self.caller).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.list_secrets().await,
        }
    }

    /// Takes a secret away; false when there was none. Jobs that have it keep it to their end.
    ///
    /// # Errors
    /// As [`put_secret`](Self::put_secret).
    pub async fn delete_secret(&self, name: &SecretName) -> Result<bool, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.secrets.delete(&self.caller, name).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.delete_secret(name).await,
        }
    }

    /// The queue as the last round of scheduling left it.
    ///
    /// # Errors
    /// Those of a daemon.
    pub async fn queue(&self) -> Result<QueueStatus, Error> {
        match &*self.inner {
            Inner::Here(here) => {
                let feed_lag = here.controller.queries.feed_lag().await?;
                let queue = here.membership.queue();
                let waiting = here.controller.queries.classes(&self.caller.tenant, queue.waiting).await?;
                let mut troubles = here.controller.queries.troubles().await?;
                let is_heard = |id| here.membership.hears(id);
                troubles.extend(here.controller.queries.unheard(is_heard).await?);
                let providers = here.controller.queries.providers().await?;
                let limits = if providers.is_empty() {
                    // Whoever opens it next has one of its own kind.
                    Some(LimitHold::from(hodei_agent::holds_limits()))
                } else {
                    hold_of(&providers)
                };
                Ok(QueueStatus { feed_lag, waiting, troubles, limits, ..queue })
            }
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.queue().await,
        }
    }

    /// Makes a token for clients of a daemon; its text is told this once. It is good for `life`, or until it is revoked.
    ///
    /// # Errors
    /// [`Error::Denied`] for a caller that is no admin, [`Error::Spec`] names what is wrong with the terms; the store's.
    pub async fn create_token(
        &self,
        terms: TokenTerms,
        life: Option<Duration>,
    ) -> Result<(TokenView, String), Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.access.create(&self.caller, terms, life).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.create_token(terms, life).await,
        }
    }

    /// Every token, also those that are good no more.
    ///
    /// # Errors
    /// [`Error::Denied`] for a caller that is no admin; the store's.
    pub async fn list_tokens(&self) -> Result<Vec<TokenView>, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.access.list(&self.caller).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.list_tokens().await,
        }
    }

    /// Takes a token back: other daemons of the store let its bearer in for a second more at most.
    ///
    /// # Errors
    /// [`Error::NoToken`], [`Error::Denied`] for a caller that is no admin; the store's.
    pub async fn revoke_token(&self, id: TokenId) -> Result<TokenView, Error> {
        match &*self.inner {
            Inner::Here(here) => here.controller.access.revoke(&self.caller, id).await,
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => daemon.revoke_token(id).await,
        }
    }

    /// Who has this handle.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Resolves when this platform does nothing more: it was shut down, or a part of it failed, which the log says.
    /// Never for that of a daemon. Cancel safe.
    pub async fn stopped(&self) {
        match self.here() {
            Some(here) => here.tasks.stop().cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Replaces the policy of secrets, for the submits and the deliveries from now on. A daemon's client replaces nothing.
    pub fn set_secret_policy(&self, policy: SecretPolicy) {
        if let Some(here) = self.here() {
            here.controller.secrets.set_policy(policy);
        }
    }

    /// The id of the store, the owner of everything that this platform creates; none where a daemon has it.
    pub fn store_id(&self) -> Option<StoreId> {
        match &*self.inner {
            Inner::Here(here) => Some(here.store.id()),
            #[cfg(feature = "client")]
            Inner::Daemon(daemon) => {
                let _ = daemon;
                None
            }
        }
    }

    /// Takes nothing more and assigns nothing more, waits for running jobs up to [`Settings::drain_timeout`](crate::Settings::drain_timeout), then
    /// kills what is left and ends every task. What was killed runs again at the next start, at no cost to its
    /// retries, unless it may run at most once; jobs that were waiting stay in the store.
    pub async fn shutdown(self) {
        let limit = self.here().map_or(Duration::ZERO, |here| here.drain_timeout);
        self.shutdown_within(limit).await;
    }

    /// The same, with this limit in the place of [`Settings::drain_timeout`](crate::Settings::drain_timeout).
    pub async fn shutdown_within(self, limit: Duration) {
        let Some(here) = self.here() else { return };
        here.controller.close();
        if let Some((shutdown, _)) = &here.running {
            shutdown.drain(limit).await;
        }
        here.tasks.shutdown().await;
        if here.running.is_some() && here.membership.is_shared() {
            // Until now it may have beaten, and taken a lease again to end its own workers.
            here.membership.leave().await;
        }
        if let Some(release) = &here.release {
            release().await;
        }
    }

    fn here(&self) -> Option<&Here> {
        match &*self.inner {
            Inner::Here(here) => Some(here),
            #[cfg(feature = "client")]
            Inner::Daemon(_) => None,
        }
    }
}
