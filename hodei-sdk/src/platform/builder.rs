//! The builder: it opens the stores that a URL names, fills in defaults, and composes the platform.

use std::fmt;
use std::sync::{Arc, RwLock};

use hodei_core::id::{DaemonId, StoreId};
use hodei_core::port::{
    ArtifactStore, BoxFuture, Clock, EventBus, EventSink, IdGenerator, LogStore, SecretProvider, Store,
    WorkerProvider,
};
use hodei_core::scheduling::{Scheduler, SmartScheduler};
use hodei_core::secret::SecretPolicy;
use uuid::Uuid;

use super::Hodei;
use super::wiring::{Base, MakeProvider, Release};
use crate::app::{
    ArtifactService, Authorizer, JobNotifier, LogNotifier, Membership, PlanSource, Ports, SecretService,
    StreamRegistry,
};
use crate::artifacts::MemoryArtifacts;
#[cfg(feature = "sqlite")]
use crate::artifacts::ObjectArtifacts;
use crate::bus::memory::MemoryEventBus;
#[cfg(all(feature = "nats", feature = "postgres"))]
use crate::bus::nats::NatsEventBus;
#[cfg(feature = "nats")]
use crate::bus::nats::NatsEventStream;
#[cfg(feature = "postgres")]
use crate::bus::postgres::PostgresEventBus;
use crate::clock::SystemClock;
use crate::config::Settings;
use crate::error::{Error, OpenError, without_users};
use crate::ids::SystemIds;
use crate::layer::guard::{GuardedArtifacts, GuardedBus, GuardedSecrets};
use crate::provider::ProviderContext;
use crate::provider::local::{LocalOptions, LocalProvider};
use crate::secrets::{EncryptedSecrets, MemorySecrets, SecretKeys};
use crate::storage::memory::{MemoryLogStore, MemoryStore};
#[cfg(feature = "postgres")]
use crate::storage::postgres::{PostgresInbox, PostgresStore};
#[cfg(feature = "sqlite")]
use crate::storage::{DataDir, log_segments::SegmentLogStore, sqlite::SqliteStore};
use crate::task::Tasks;

/// Builds a platform. Every part has a default.
#[derive(Default)]
pub struct HodeiBuilder {
    url: Option<String>,
    store: Option<Arc<dyn Store>>,
    logs: Option<Arc<dyn LogStore>>,
    bus: Option<Arc<dyn EventBus>>,
    clock: Option<Arc<dyn Clock>>,
    ids: Option<Arc<dyn IdGenerator>>,
    scheduler: Option<Arc<dyn Scheduler>>,
    providers: Vec<MakeProvider>,
    settings: Settings,
    passive: bool,
    advertise: Option<String>,
    hints: Option<String>,
    events: Option<String>,
    sink: Option<Arc<dyn EventSink>>,
    artifacts: Option<Arc<dyn ArtifactStore>>,
    secrets: Option<Arc<dyn SecretProvider>>,
    secret_keys: Option<SecretKeys>,
    secret_policy: SecretPolicy,
    #[cfg(feature = "postgres")]
    inbox: Option<PostgresInbox>,
}

impl fmt::Debug for HodeiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HodeiBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl HodeiBuilder {
    /// Sets where state and output are kept: `memory:`, `sqlite:DIRECTORY`, or the URL of a PostgreSQL database,
    /// `postgres://USER:PASSWORD@HOST/DATABASE`, which then carries hints too. A [`store`](Self::store) or
    /// [`log_store`](Self::log_store) of your own takes precedence.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// Sets the transport of hints between the platforms that share a PostgreSQL store; by default the database of the
    /// store. Another database helps where the store's connection cannot carry hints, as through a pooler in
    /// transaction mode. NATS (feature `nats`) takes the URLs of the servers of one cluster,
    /// `nats://USER:PASSWORD@HOST,nats://HOST`; a job that is enqueued by SQL is then found by polling. `none` sends no
    /// hints: everything works, a little later, by polling.
    #[must_use]
    pub fn hints(mut self, url: impl Into<String>) -> Self {
        self.hints = Some(url.into());
        self
    }

    /// Forwards all events to NATS JetStream (feature `nats`): see [`NatsEventStream`](crate::NatsEventStream), and
    /// [`event_sink`](Self::event_sink) for a sink of your own. The URLs are as for [`hints`](Self::hints).
    #[must_use]
    pub fn events(mut self, urls: impl Into<String>) -> Self {
        self.events = Some(urls.into());
        self
    }

    /// Forwards all events to this sink instead of the one that [`events`](Self::events) names: each at least once, in
    /// the order of the store's feed. Of the platforms that share a store, one forwards.
    #[must_use]
    pub fn event_sink(mut self, sink: Arc<dyn EventSink>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Keeps artifacts in this store. By default they are in the directory of `sqlite:`, and in memory if the store is.
    /// With any other store, artifacts need this setting. Daemons that share a store share this one too.
    #[must_use]
    pub fn artifacts(mut self, store: Arc<dyn ArtifactStore>) -> Self {
        self.artifacts = Some(store);
        self
    }

    /// Takes the values of secrets from this provider. By default they are kept in the store, sealed with the keys of
    /// [`secret_keys`](Self::secret_keys), and in memory if the store is.
    #[must_use]
    pub fn secrets(mut self, provider: Arc<dyn SecretProvider>) -> Self {
        self.secrets = Some(provider);
        self
    }

    /// Seals the secrets of the store with the keys of this file, by default `secrets.key` in the directory of
    /// `sqlite:`. With any other durable store, secrets need this setting. Daemons that share a store share the keys.
    #[must_use]
    pub fn secret_keys(mut self, keys: SecretKeys) -> Self {
        self.secret_keys = Some(keys);
        self
    }

    /// Sets which jobs may have which secrets. By default a job may have those of its tenant.
    #[must_use]
    pub fn secret_policy(mut self, policy: SecretPolicy) -> Self {
        self.secret_policy = policy;
        self
    }

    /// Sets the URL at which agents and the other daemons of the store reach this platform: see
    /// [`GrpcServer`](crate::grpc::GrpcServer).
    #[must_use]
    pub fn advertise(mut self, url: impl Into<String>) -> Self {
        self.advertise = Some(url.into());
        self
    }

    /// Keeps state and output in this store, whose pool may be the caller's, sends hints over this bus, and accepts
    /// jobs that are enqueued by SQL. [`url`](Self::url) does the same with a store of its own.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn postgres(mut self, store: PostgresStore, bus: PostgresEventBus) -> Self {
        self = self.postgres_without_hints(store);
        self.inbox.iter_mut().for_each(|inbox| inbox.news = bus.inbox());
        self.bus.get_or_insert(Arc::new(bus));
        self
    }

    #[cfg(feature = "postgres")]
    fn postgres_without_hints(mut self, store: PostgresStore) -> Self {
        self.logs.get_or_insert(Arc::new(store.log_store()));
        self.inbox = Some(PostgresInbox { store: store.clone(), news: Arc::default() });
        self.store = Some(Arc::new(store));
        self
    }

    /// Only reads and writes the store: no scheduling, no workers, no recovery.
    #[must_use]
    pub fn passive(mut self) -> Self {
        self.passive = true;
        self
    }

    /// Keeps state in this store; by default in memory.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Keeps output in this store; by default in memory.
    #[must_use]
    pub fn log_store(mut self, logs: Arc<dyn LogStore>) -> Self {
        self.logs = Some(logs);
        self
    }

    /// Sends hints over this bus; by default within the process.
    #[must_use]
    pub fn event_bus(mut self, bus: Arc<dyn EventBus>) -> Self {
        self.bus = Some(bus);
        self
    }

    /// Uses this clock; by default the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Takes ids from this generator; by default they are random.
    #[must_use]
    pub fn ids(mut self, ids: Arc<dyn IdGenerator>) -> Self {
        self.ids = Some(ids);
        self
    }

    /// Plans with this scheduler; by default a [`SmartScheduler`].
    #[must_use]
    pub fn scheduler(mut self, scheduler: Arc<dyn Scheduler>) -> Self {
        self.scheduler = Some(scheduler);
        self
    }

    /// Adds a provider, which `make` creates from its context. Without any, the platform has a [`LocalProvider`] with
    /// its defaults.
    #[must_use]
    pub fn provider<P: WorkerProvider>(
        mut self,
        make: impl FnOnce(ProviderContext) -> P + Send + 'static,
    ) -> Self {
        self.providers.push(Box::new(move |context| Arc::new(make(context))));
        self
    }

    /// Sets timeouts, intervals and limits.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Starts the platform on the caller's tokio runtime.
    ///
    /// # Errors
    /// The store's, if it cannot be opened or the providers cannot be stored.
    ///
    /// # Panics
    /// If it is called outside a tokio runtime.
    pub async fn start(self) -> Result<Hodei, Error> {
        #[cfg(feature = "postgres")]
        return self.over_postgres().await?.compose().await;
        #[cfg(not(feature = "postgres"))]
        self.compose().await
    }

    /// Connects to the database if the URL is that of a PostgreSQL database.
    #[cfg(feature = "postgres")]
    async fn over_postgres(mut self) -> Result<Self, Error> {
        let Some(url) = self.url.take_if(|url| is_postgres(url)).filter(|_| self.store.is_none()) else {
            return Ok(self);
        };
        let store = PostgresStore::connect(&url).await?;
        let hints = self.hints.take().unwrap_or(url);
        match hints.as_str() {
            "none" => Ok(self.postgres_without_hints(store)),
            url if is_postgres(url) => Ok(self.postgres(store, PostgresEventBus::connect(url).await?)),
            #[cfg(feature = "nats")]
            urls if is_nats(urls) => {
                let bus = NatsEventBus::connect(urls, store.id()).await?;
                Ok(self.postgres_without_hints(store).event_bus(Arc::new(bus)))
            }
            #[cfg(not(feature = "nats"))]
            urls if is_nats(urls) => {
                // The URL may contain a password.
                Err(OpenError::Feature { url: "nats:".into(), feature: "nats" }.into())
            }
            _ => Err(OpenError::hints(&hints).into()),
        }
    }

    async fn compose(self) -> Result<Hodei, Error> {
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock::default()));
        let ids = self.ids.unwrap_or_else(|| Arc::new(SystemIds::default()));
        let opened = match (&self.store, &self.logs) {
            (Some(_), Some(_)) => Opened::default(),
            _ => open(self.url.as_deref(), ids.uuid(clock.now()), &*clock).await?,
        };
        let memory = || Arc::new(MemoryStore::new(ids.uuid(clock.now()))) as Arc<dyn Store>;
        let in_memory = self.store.is_none() && opened.store.is_none();
        let store = self.store.or(opened.store).unwrap_or_else(memory);
        let keys = self.secret_keys.or(opened.secret_keys);
        let provider = secret_provider(self.secrets, keys, in_memory, &store, &clock, &ids)?;
        let release = opened.release;
        let kept = artifact_store(self.artifacts, opened.artifacts, in_memory);
        let logs = self.logs.or(opened.logs).unwrap_or_else(|| Arc::new(MemoryLogStore::default()));
        let (streams, own) = (StreamRegistry::default(), DaemonId::from_uuid(ids.uuid(clock.now())));
        let lease = self.settings.daemon_lease;
        let membership =
            Membership::new(own, self.advertise, store.clone(), clock.clone(), streams.clone(), lease);
        let tasks = Tasks::new();
        let bus = event_bus(self.bus, &clock);
        let ports = Arc::new(Ports { store, logs, bus, clock, ids, tasks, settings: self.settings });
        let authorizer = Authorizer::start(&ports);
        let policy = Arc::new(RwLock::new(self.secret_policy));
        let base = Base {
            release,
            is_durable: !in_memory,
            secrets: SecretService {
                provider,
                policy,
                clock: ports.clock.clone(),
                authorizer: authorizer.clone(),
            },
            artifacts: ArtifactService {
                artifacts: kept,
                ports: ports.clone(),
                authorizer: authorizer.clone(),
            },
            authorizer,
            streams,
            job_notifier: JobNotifier::default(),
            log_notifier: LogNotifier::new(membership.is_shared()),
            membership,
            ports,
        };
        if let Some(lost) = opened.lost {
            stop_when_lost(&base.ports, lost);
        }
        if self.passive {
            return Ok(base.start_passive());
        }
        #[cfg(feature = "postgres")]
        if let Some(inbox) = self.inbox {
            let Ports { bus, clock, settings, tasks, .. } = &*base.ports;
            let (bus, clock, sweep) = (bus.clone(), clock.clone(), settings.sweep);
            tasks.spawn("inbox", inbox.run(bus, clock, sweep));
        }
        let stream = self.events.map(|urls| event_stream(&urls, base.ports.store.id())).transpose()?;
        if let Some(sink) = self.sink.or(stream) {
            base.forward_events(sink);
        }
        let mut providers = self.providers;
        if providers.is_empty() {
            providers
                .push(Box::new(|context| Arc::new(LocalProvider::new(context, LocalOptions::default()))));
        }
        let built_in = || PlanSource::BuiltIn(Arc::new(SmartScheduler::default()));
        let scheduler = self.scheduler.map_or_else(built_in, PlanSource::Custom);
        base.start(providers, scheduler).await
    }
}

/// Returns where secrets are: with the program's own provider, sealed in the store, or in memory beside a store in memory.
fn secret_provider(
    own: Option<Arc<dyn SecretProvider>>,
    keys: Option<SecretKeys>,
    in_memory: bool,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    ids: &Arc<dyn IdGenerator>,
) -> Result<Option<Arc<dyn SecretProvider>>, Error> {
    keys.as_ref().map_or(Ok(()), SecretKeys::check)?;
    if let Some(inner) = own {
        return Ok(Some(Arc::new(GuardedSecrets { inner, clock: clock.clone() })));
    }
    Ok(match keys {
        Some(keys) => Some(Arc::new(EncryptedSecrets::new(store.clone(), clock.clone(), ids.clone(), keys))),
        None if in_memory => Some(Arc::new(MemorySecrets::new(clock.clone()))),
        None => None,
    })
}

/// Returns where artifacts are: in the program's own store, where the URL of the platform says, or in memory beside a store
/// in memory.
fn artifact_store(
    own: Option<Arc<dyn ArtifactStore>>,
    opened: Option<Arc<dyn ArtifactStore>>,
    in_memory: bool,
) -> Option<Arc<dyn ArtifactStore>> {
    let guarded = |artifacts| Arc::new(GuardedArtifacts(artifacts)) as Arc<dyn ArtifactStore>;
    let in_memory = || in_memory.then(|| Arc::new(MemoryArtifacts::default()) as Arc<dyn ArtifactStore>);
    own.map(guarded).or(opened).or_else(in_memory)
}

fn event_bus(own: Option<Arc<dyn EventBus>>, clock: &Arc<dyn Clock>) -> Arc<dyn EventBus> {
    match own {
        Some(bus) => Arc::new(GuardedBus::new(bus, clock.clone())),
        None => Arc::new(MemoryEventBus::default()),
    }
}

/// Stops the platform a moment after its store was lost, so that open calls still answer why.
fn stop_when_lost(ports: &Ports, lost: BoxFuture<'static, ()>) {
    let (clock, stop) = (ports.clock.clone(), ports.tasks.stop().clone());
    ports.tasks.spawn("watch over the store", async move {
        lost.await;
        clock.sleep(LOST_STORE_STOP_DELAY).await;
        stop.cancel();
    });
}

/// Returns the sink that forwards events to these URLs.
fn event_stream(urls: &str, store: StoreId) -> Result<Arc<dyn EventSink>, OpenError> {
    #[cfg(feature = "nats")]
    return if is_nats(urls) {
        Ok(Arc::new(NatsEventStream::new(urls, store)?))
    } else {
        Err(OpenError::events(urls))
    };
    #[cfg(not(feature = "nats"))]
    {
        let _ = (urls, store);
        // The URL may contain a password.
        Err(OpenError::Feature { url: "nats:".into(), feature: "nats" })
    }
}

/// Resolves when a file of the data directory is reported lost.
type Lost = BoxFuture<'static, ()>;

/// Time between the loss of the store and the stop of the platform, so that callers get the error first.
const LOST_STORE_STOP_DELAY: std::time::Duration = std::time::Duration::from_millis(200);

/// The stores of a URL; a part that is `None` is kept in memory.
#[derive(Default)]
struct Opened {
    store: Option<Arc<dyn Store>>,
    logs: Option<Arc<dyn LogStore>>,
    release: Option<Release>,
    lost: Option<Lost>,
    secret_keys: Option<SecretKeys>,
    artifacts: Option<Arc<dyn ArtifactStore>>,
}

async fn open(url: Option<&str>, id: Uuid, clock: &dyn Clock) -> Result<Opened, OpenError> {
    match url.map(|url| url.split_once(':')) {
        None | Some(Some(("memory", ""))) => Ok(Opened::default()),
        Some(Some(("sqlite", path))) if !path.is_empty() => open_sqlite(path, id, clock).await,
        // The URL may contain a password.
        #[cfg(not(feature = "postgres"))]
        Some(Some((scheme @ ("postgres" | "postgresql"), _))) => {
            Err(OpenError::Feature { url: format!("{scheme}:"), feature: "postgres" })
        }
        Some(_) => Err(OpenError::Url { url: without_users(url.unwrap_or_default()) }),
    }
}

#[cfg(feature = "sqlite")]
async fn open_sqlite(path: &str, id: Uuid, clock: &dyn Clock) -> Result<Opened, OpenError> {
    let dir = Arc::new(lock(path, clock).await?);
    let store = SqliteStore::open(dir.clone(), id).await?;
    let logs = SegmentLogStore::open(dir.clone()).await?;
    let (kept, held) = ((store.clone(), logs.clone()), dir.clone());
    let release: Release = Box::new(move || {
        let ((store, logs), dir) = (kept.clone(), held.clone());
        Box::pin(async move {
            logs.close().await;
            store.close().await;
            dir.release();
        })
    });
    let lost: Lost = Box::pin(async move { dir.lost().await });
    let store = Some(Arc::new(store) as Arc<dyn Store>);
    let (logs, release) = (Some(Arc::new(logs) as Arc<dyn LogStore>), Some(release));
    let secret_keys = Some(SecretKeys::new(std::path::Path::new(path).join("secrets.key")));
    let place = std::path::Path::new(path).join("artifacts");
    let artifacts = ObjectArtifacts::local(&place)?;
    // A directory that was created with wider permissions is made private.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&place, private).map_err(|source| OpenError::File { path: place, source })?;
    let artifacts = Some(Arc::new(artifacts) as Arc<dyn ArtifactStore>);
    Ok(Opened { store, logs, release, lost: Some(lost), secret_keys, artifacts })
}

#[cfg(feature = "postgres")]
fn is_postgres(url: &str) -> bool {
    url.split_once(':').is_some_and(|(scheme, _)| matches!(scheme, "postgres" | "postgresql"))
}

#[cfg(any(feature = "nats", feature = "postgres"))]
fn is_nats(urls: &str) -> bool {
    urls.split_once("://").is_some_and(|(scheme, _)| matches!(scheme, "nats" | "tls"))
}

/// Number of retries of the lock of a data directory.
#[cfg(feature = "sqlite")]
const LOCK_RETRIES: usize = 20;
/// Time between two tries to lock a data directory.
#[cfg(feature = "sqlite")]
const LOCK_RETRY_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);

/// Locks a data directory. Retries for a second, since another process may hold the lock for a moment: an inspection,
/// or a child that a killed daemon had just forked and that has not yet executed its program.
#[cfg(feature = "sqlite")]
async fn lock(path: &str, clock: &dyn Clock) -> Result<DataDir, OpenError> {
    for _ in 0..LOCK_RETRIES {
        match DataDir::lock(path) {
            Err(OpenError::InUse { .. }) => clock.sleep(LOCK_RETRY_INTERVAL).await,
            locked => return locked,
        }
    }
    DataDir::lock(path)
}

#[cfg(not(feature = "sqlite"))]
async fn open_sqlite(path: &str, _: Uuid, _: &dyn Clock) -> Result<Opened, OpenError> {
    Err(OpenError::Feature { url: format!("sqlite:{path}"), feature: "sqlite" })
}
