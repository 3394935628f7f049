//! Guards around user-supplied parts: a panic becomes an error for the caller, and calls to a hanging bus are
//! suspended.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use hodei_core::artifact::ArtifactKey;
use hodei_core::event::Envelope;
use hodei_core::id::{AttemptId, JobId, StoreId, WorkerId};
use hodei_core::job::TenantId;
use hodei_core::port::{
    ArtifactContent, ArtifactError, ArtifactStore, BoxFuture, BusError, Clock, ClockExt, Delivery, EventBus,
    EventSink, FeedCursor, ProvidedWorker, ProviderError, SecretError, SecretInfo, SecretProvider, SinkError,
    SinkPosition, Subscription, WorkerProvider,
};
use hodei_core::provider::ProviderProfile;
use hodei_core::secret::{SecretName, SecretValue};
use hodei_core::worker::WorkerOrder;

use crate::task::message_of;

/// A panic of a call, with its message.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{part} panicked: {why}")]
pub(crate) struct Panicked {
    part: &'static str,
    why: String,
}

/// Awaits a call of a part and returns its panic as an error, also when `call` itself panics.
pub(crate) async fn caught<'a, T>(
    part: &'static str,
    call: impl FnOnce() -> BoxFuture<'a, T>,
) -> Result<T, Panicked> {
    let panicked = |payload| {
        let panicked = Panicked { part, why: message_of(payload) };
        tracing::error!(%panicked, "user code panicked; the platform continues");
        panicked
    };
    // The future is dropped after a panic and not polled again; the part is responsible for its own state.
    let mut future = catch_unwind(AssertUnwindSafe(call)).map_err(panicked)?;
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(payload) => Poll::Ready(Err(panicked(payload))),
    })
    .await
}

/// A provider whose panics become [`ProviderError::Unknown`]: the outcome of the call is unknown. Its callers limit how
/// long it may take.
#[derive(Debug)]
pub(crate) struct GuardedProvider(pub(crate) Arc<dyn WorkerProvider>);

impl GuardedProvider {
    async fn call<'a, T>(
        &'a self,
        call: impl FnOnce(&'a dyn WorkerProvider) -> BoxFuture<'a, Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let answer = caught("a provider", || call(&*self.0)).await;
        answer.unwrap_or_else(|panicked| Err(ProviderError::Unknown(panicked.to_string())))
    }
}

#[async_trait]
impl WorkerProvider for GuardedProvider {
    fn profile(&self) -> ProviderProfile {
        self.0.profile()
    }

    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        self.call(|provider| provider.create(order)).await
    }

    async fn recover(&self, owner: StoreId) -> Result<(), ProviderError> {
        self.call(|provider| provider.recover(owner)).await
    }

    async fn destroy(&self, worker: WorkerId, grace: Duration) -> Result<(), ProviderError> {
        self.call(|provider| provider.destroy(worker, grace)).await
    }

    async fn evict(&self, worker: WorkerId) -> Result<(), ProviderError> {
        self.call(|provider| provider.evict(worker)).await
    }

    async fn begun(&self, worker: WorkerId) -> Result<Option<BTreeSet<AttemptId>>, ProviderError> {
        self.call(|provider| provider.begun(worker)).await
    }

    async fn trouble(&self, worker: WorkerId) -> Option<String> {
        caught("a provider", || self.0.trouble(worker)).await.ok().flatten()
    }

    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        self.call(|provider| provider.list(owner)).await
    }
}

/// A sink whose panics become errors. Its caller limits how long it may take.
#[derive(Debug)]
pub(crate) struct GuardedSink(pub(crate) Arc<dyn EventSink>);

#[async_trait]
impl EventSink for GuardedSink {
    async fn position(&self) -> Result<Option<SinkPosition>, SinkError> {
        caught("a sink", || self.0.position())
            .await
            .unwrap_or_else(|panicked| Err(SinkError(panicked.into())))
    }

    async fn append(&self, events: &[Envelope], after: &FeedCursor) -> Result<(), SinkError> {
        let answer = caught("a sink", || self.0.append(events, after)).await;
        answer.unwrap_or_else(|panicked| Err(SinkError(panicked.into())))
    }
}

/// A secret provider whose panics and timeouts become temporary errors.
#[derive(Debug)]
pub(crate) struct GuardedSecrets {
    pub(crate) inner: Arc<dyn SecretProvider>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Timeout for a secret provider.
const SECRETS_TIMEOUT: Duration = Duration::from_secs(10);

impl GuardedSecrets {
    async fn call<'a, T: Send>(
        &'a self,
        call: impl FnOnce(&'a dyn SecretProvider) -> BoxFuture<'a, Result<T, SecretError>> + Send,
    ) -> Result<T, SecretError> {
        let call = caught("a secret provider", || call(&*self.inner));
        match self.clock.timeout(SECRETS_TIMEOUT, call).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panicked)) => Err(SecretError::Unavailable(panicked.to_string())),
            Err(elapsed) => Err(SecretError::Unavailable(elapsed.to_string())),
        }
    }
}

#[async_trait]
impl SecretProvider for GuardedSecrets {
    async fn secrets(
        &self,
        tenant: &TenantId,
        names: &[SecretName],
    ) -> Result<Vec<Option<SecretValue>>, SecretError> {
        self.call(|secrets| secrets.secrets(tenant, names)).await
    }

    async fn list(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, SecretError> {
        self.call(|secrets| secrets.list(tenant)).await
    }

    async fn known(&self, tenant: &TenantId, names: &[SecretName]) -> Result<Vec<bool>, SecretError> {
        self.call(|secrets| secrets.known(tenant, names)).await
    }

    async fn put(&self, tenant: &TenantId, name: &SecretName, value: SecretValue) -> Result<(), SecretError> {
        self.call(|secrets| secrets.put(tenant, name, value)).await
    }

    async fn delete(&self, tenant: &TenantId, name: &SecretName) -> Result<bool, SecretError> {
        self.call(|secrets| secrets.delete(tenant, name)).await
    }
}

/// An artifact store whose panics become temporary errors. A transfer has timeouts of its own.
#[derive(Debug)]
pub(crate) struct GuardedArtifacts(pub(crate) Arc<dyn ArtifactStore>);

impl GuardedArtifacts {
    async fn call<'a, T>(
        &'a self,
        call: impl FnOnce(&'a dyn ArtifactStore) -> BoxFuture<'a, Result<T, ArtifactError>>,
    ) -> Result<T, ArtifactError> {
        let answer = caught("an artifact store", || call(&*self.0)).await;
        answer.unwrap_or_else(|panicked| Err(ArtifactError::Unavailable(panicked.to_string())))
    }
}

#[async_trait]
impl ArtifactStore for GuardedArtifacts {
    async fn put(&self, key: &ArtifactKey, content: ArtifactContent) -> Result<(), ArtifactError> {
        self.call(|artifacts| artifacts.put(key, content)).await
    }

    async fn get(&self, key: &ArtifactKey) -> Result<Option<ArtifactContent>, ArtifactError> {
        self.call(|artifacts| artifacts.get(key)).await
    }

    async fn remove(&self, tenant: &TenantId, jobs: &[JobId]) -> Result<(), ArtifactError> {
        self.call(|artifacts| artifacts.remove(tenant, jobs)).await
    }
}

/// A bus whose panics become errors. After repeated timeouts it is not called for a while, because every commit sends
/// hints and each would wait.
#[derive(Debug)]
pub(crate) struct GuardedBus {
    inner: Arc<dyn EventBus>,
    clock: Arc<dyn Clock>,
    /// Time until which calls are suspended, in microseconds of the monotonic clock.
    suspended_until: AtomicU64,
    /// Number of consecutive timeouts.
    timeouts: AtomicU32,
}

/// Timeout for publishing hints.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);
/// Number of consecutive timeouts after which calls are suspended.
const MAX_TIMEOUTS: u32 = 3;
/// Time that calls are suspended; sweeps find the changes meanwhile.
const SUSPEND_FOR: Duration = Duration::from_secs(10);

impl GuardedBus {
    pub(crate) fn new(inner: Arc<dyn EventBus>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, clock, suspended_until: AtomicU64::new(0), timeouts: AtomicU32::new(0) }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_micros()).unwrap_or(u64::MAX)
    }
}

#[async_trait]
impl EventBus for GuardedBus {
    async fn publish(&self, events: &[Envelope]) -> Result<(), BusError> {
        if self.now() < self.suspended_until.load(Ordering::Relaxed) {
            return Err(BusError(
                "the bus did not answer repeatedly; calls to it are suspended for some seconds".into(),
            ));
        }
        let call = caught("an event bus", || self.inner.publish(events));
        match self.clock.timeout(PUBLISH_TIMEOUT, call).await {
            Ok(Ok(answer)) => {
                self.timeouts.store(0, Ordering::Relaxed);
                answer
            }
            Ok(Err(panicked)) => Err(BusError(panicked.into())),
            Err(elapsed) if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 < MAX_TIMEOUTS => {
                Err(BusError(elapsed.into()))
            }
            Err(elapsed) => {
                let rest = u64::try_from(SUSPEND_FOR.as_micros()).unwrap_or(u64::MAX);
                self.suspended_until.store(self.now().saturating_add(rest), Ordering::Relaxed);
                Err(BusError(elapsed.into()))
            }
        }
    }

    fn subscribe(&self, channels: &[&'static str]) -> Box<dyn Subscription> {
        match catch_unwind(AssertUnwindSafe(|| self.inner.subscribe(channels))) {
            Ok(inner) => Box::new(GuardedSubscription { inner: Some(inner), is_told: true }),
            Err(payload) => {
                let why = message_of(payload);
                tracing::error!(%why, "an event bus panicked at a subscription; sweeps find changes without it");
                Box::new(GuardedSubscription { inner: None, is_told: false })
            }
        }
    }
}

/// A subscription that ends at a panic: it reports one lag, so that its owner reads the store, and from then on sweeps
/// find the changes.
#[derive(Debug)]
struct GuardedSubscription {
    inner: Option<Box<dyn Subscription>>,
    is_told: bool,
}

impl GuardedSubscription {
    fn end(&mut self) -> Delivery {
        (self.inner, self.is_told) = (None, true);
        Delivery::Lagged
    }
}

#[async_trait]
impl Subscription for GuardedSubscription {
    async fn next(&mut self) -> Delivery {
        let Some(inner) = &mut self.inner else {
            if self.is_told {
                std::future::pending::<()>().await;
            }
            return self.end();
        };
        match caught("a subscription of an event bus", || inner.next()).await {
            Ok(delivery) => delivery,
            Err(_) => self.end(),
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        let inner = self.inner.as_mut()?;
        match catch_unwind(AssertUnwindSafe(|| inner.try_next())) {
            Ok(delivery) => delivery,
            Err(payload) => {
                let why = message_of(payload);
                tracing::error!(%why, "a subscription of an event bus panicked; sweeps find changes without it");
                Some(self.end())
            }
        }
    }
}
