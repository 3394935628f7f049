//! Provisioning: creates the ordered workers of one provider, and reconciles the provider with the orders.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hodei_core::event::Actor;
use hodei_core::event::DomainEvent;
use hodei_core::event::channel::{WORKER_PROVISION_CHANNEL, WORKER_READY_CHANNEL};
use hodei_core::id::{ProviderId, WorkerId};
use hodei_core::port::{BoxFuture, ClockExt, Delivery, ProviderError, WorkerProvider, timer};
use hodei_core::provider::{Provider, ProviderHealth};
use hodei_core::reconcile::{Difference, compare};
use hodei_core::worker::{Worker, WorkerInput, WorkerOrder, WorkerState};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::app::cluster::membership::Membership;
use crate::app::ports::Ports;
use crate::app::workers::lifecycle::WorkerLifecycleManager;
use crate::app::workers::providers::ProviderManagementService;

/// Creates the ordered workers of one provider, and compares the workers that it has with the orders. Of the daemons
/// that have the provider, one at a time does this: the holder of the provider's lease.
#[derive(Debug, Clone)]
pub(crate) struct WorkerProvisioningService {
    pub(crate) id: ProviderId,
    pub(crate) provider: Arc<dyn WorkerProvider>,
    pub(crate) ports: Arc<Ports>,
    pub(crate) management: ProviderManagementService,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) membership: Membership,
    /// Notified by the provider when a worker is gone.
    pub(crate) exits: Arc<Notify>,
    /// Workers were created and did not connect. Until one connects, a successful creation does not count as healthy.
    pub(crate) unproven: Arc<AtomicBool>,
}

/// Orders that are being carried out while this daemon holds the provider's lease.
struct OrdersInProgress {
    workers: BTreeSet<WorkerId>,
    /// Timer for the next question about workers that have not connected.
    trouble_poll: Option<BoxFuture<'static, ()>>,
    serving: CancellationToken,
    _ends: DropGuard,
}

impl OrdersInProgress {
    fn new() -> Self {
        let serving = CancellationToken::new();
        Self { workers: BTreeSet::new(), trouble_poll: None, _ends: serving.clone().drop_guard(), serving }
    }
}

/// Provider calls for one order, or one recovery, before it counts as failed.
const MAX_PROVIDER_CALLS: u32 = 3;
/// Wait between two provider calls for the same order.
const PROVIDER_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Wait before an order whose outcome could not be stored is carried out again.
const STORE_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Wait between the end of a worker and the reconciliation, so that its stream can end first.
const STREAM_GRACE: Duration = Duration::from_millis(100);
/// Interval at which workers that do not connect are asked for the reason.
const TROUBLE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time that a provider has to say why a worker does not connect.
const TROUBLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which unchanged trouble of workers that do not connect is stored again.
const TROUBLE_REPORT_INTERVAL: Duration = Duration::from_secs(20);

impl WorkerProvisioningService {
    /// Serves the provider whenever this daemon holds its lease, until the platform stops.
    pub(crate) async fn run(self) {
        let lease = lease_of(self.id);
        loop {
            let epoch = self.membership.acquire(&lease).await;
            tokio::select! {
                biased;
                () = self.membership.lost(&lease, epoch) => {
                    if self.membership.with(|cluster, now| cluster.is_held(&lease, now)) {
                        tracing::warn!(provider = %self.id, "another daemon took over the provider");
                    }
                }
                () = self.serve() => {}
            }
            if !self.membership.is_shared() {
                return;
            }
        }
    }

    async fn serve(&self) {
        let mut orders = self.ports.bus.subscribe(&[WORKER_PROVISION_CHANNEL]);
        // Other daemons may end workers that only this provider can destroy.
        let ends: &[&'static str] = if self.membership.is_shared() { &[WORKER_READY_CHANNEL] } else { &[] };
        let mut ends = self.ports.bus.subscribe(ends);
        let mut in_progress = OrdersInProgress::new();
        let mut absent: BTreeSet<WorkerId> = BTreeSet::new();
        self.recover().await;
        // Twice: a worker that both listings lack is gone, and its jobs need not wait for the next sweep.
        self.reconcile(&mut absent, &mut in_progress).await;
        let busy = self.reconcile(&mut absent, &mut in_progress).await;
        let mut sweep = self.next_sweep(busy);
        let (mut exited, mut trouble) = (None, Trouble::default());
        loop {
            tokio::select! {
                biased;
                delivery = orders.next() => match delivery {
                    Delivery::Events(events) => for envelope in events.iter() {
                        if let DomainEvent::WorkerProvisioningRequested { order, .. } = &envelope.event {
                            self.execute(order.clone(), &mut in_progress);
                        }
                    },
                    Delivery::Lagged => {
                        self.reconcile(&mut absent, &mut in_progress).await;
                    }
                },
                delivery = ends.next() => {
                    if exited.is_none() && reports_worker_end(&delivery) {
                        exited = Some(self.ports.clock.sleep(STREAM_GRACE));
                    }
                }
                () = self.exits.notified(), if exited.is_none() => exited = Some(self.ports.clock.sleep(STREAM_GRACE)),
                () = timer(&mut exited) => {
                    self.reconcile(&mut absent, &mut in_progress).await;
                }
                () = timer(&mut in_progress.trouble_poll) => {
                    if self.poll_trouble(&mut trouble).await {
                        in_progress.trouble_poll = Some(self.ports.clock.sleep(TROUBLE_POLL_INTERVAL));
                    }
                }
                () = &mut sweep => {
                    let busy = self.reconcile(&mut absent, &mut in_progress).await;
                    sweep = self.next_sweep(busy);
                }
            }
        }
    }

    /// Lets the provider remove leftovers of an earlier start.
    async fn recover(&self) {
        for _ in 0..MAX_PROVIDER_CALLS {
            let limit = self.ports.settings.provision_timeout;
            match self.ports.clock.timeout(limit, self.provider.recover(self.ports.store.owner())).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => tracing::warn!(%error, "leftovers of an earlier start are not removed yet"),
                Err(error) => tracing::warn!(%error, "leftovers of an earlier start are not removed yet"),
            }
            self.ports.clock.sleep(PROVIDER_RETRY_INTERVAL).await;
        }
    }

    fn next_sweep(&self, busy: bool) -> BoxFuture<'static, ()> {
        match self.ports.settings.sweep {
            // Listing may call another machine, so it happens at a tenth of the sweep rate.
            Some(period) if busy => self.ports.clock.sleep((period * 10).min(self.membership.idle_sweep())),
            Some(period) => self.ports.clock.sleep((period * 10).max(self.membership.idle_sweep())),
            None => Box::pin(std::future::pending()),
        }
    }

    /// Starts to carry out an order of this provider, unless that is in progress.
    fn execute(&self, order: WorkerOrder, in_progress: &mut OrdersInProgress) {
        if order.provider == self.id && in_progress.workers.insert(order.worker) {
            in_progress.trouble_poll.get_or_insert_with(|| self.ports.clock.sleep(TROUBLE_POLL_INTERVAL));
            let (service, serving) = (self.clone(), in_progress.serving.clone());
            self.ports.tasks.spawn("provisioning", async move {
                // When cancelled, the next holder of the provider's lease carries the order out again.
                serving.run_until_cancelled(service.carry_out(order)).await;
            });
        }
    }

    /// Carries out an order until its outcome is stored or the worker is no longer wanted, which it is at the latest
    /// when its provisioning times out.
    async fn carry_out(&self, order: WorkerOrder) {
        loop {
            match self.ports.store.workers(&[order.worker]).await {
                // A late hint: the order was carried out before.
                Ok(found) if !found.iter().flatten().any(|worker| needs_creation(worker)) => return,
                Ok(_) if self.create(&order).await => return,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "cannot read the state of a worker: trying again"),
            }
            self.ports.clock.sleep(STORE_RETRY_INTERVAL).await;
        }
    }

    /// Creates the worker of an order; returns whether the outcome is stored.
    async fn create(&self, order: &WorkerOrder) -> bool {
        let worker = order.worker;
        let mut failure = String::new();
        for _ in 0..MAX_PROVIDER_CALLS {
            let created = self.provider.create(order);
            let created = self.ports.clock.timeout(self.ports.settings.provision_timeout, created).await;
            let error = match created {
                Ok(Ok(reference)) => {
                    let created = WorkerInput::Created(reference);
                    let stored = self.lifecycle.change(worker, Actor::Platform, created).await;
                    if let Err(error) = &stored {
                        tracing::warn!(%worker, %error, "the provider's reference to a worker was not stored");
                    }
                    if !self.unproven.load(Ordering::Relaxed) {
                        self.management.observe(order.provider, ProviderHealth::Healthy).await;
                    }
                    return stored.is_ok();
                }
                Ok(Err(error)) => error,
                Err(elapsed) => ProviderError::Unknown(elapsed.to_string()),
            };
            failure = error.to_string();
            tracing::warn!(%worker, error = %failure, "could not create a worker");
            if !error.is_retryable() {
                break;
            }
            self.ports.clock.sleep(PROVIDER_RETRY_INTERVAL).await;
        }
        self.mark_unhealthy(failure.clone()).await;
        self.lifecycle.fail(worker, failure).await
    }

    /// Stores that the provider is unhealthy until its retry time.
    async fn mark_unhealthy(&self, why: String) {
        let retry_at = self.ports.clock.now() + Provider::REST;
        self.management.observe(self.id, ProviderHealth::Unhealthy { retry_at, why }).await;
    }

    /// Asks the provider why workers have not connected; stores and logs the first answer. Returns whether any worker
    /// has not connected.
    async fn poll_trouble(&self, trouble: &mut Trouble) -> bool {
        let Ok(workers) = self.ports.store.live_workers().await else { return true };
        let mine: Vec<&Arc<Worker>> = workers.iter().filter(|w| w.order().provider == self.id).collect();
        let is_registering = |worker: &Arc<Worker>| matches!(worker.state(), WorkerState::Registering);
        let mut reported = None;
        for worker in mine.iter().filter(|worker| is_registering(worker)) {
            let why = self.ports.clock.timeout(TROUBLE_TIMEOUT, self.provider.trouble(worker.id())).await;
            reported = why.ok().flatten().map(|why| (worker.id(), why));
            if reported.is_some() {
                break;
            }
        }
        let now = self.ports.clock.monotonic();
        match reported {
            Some((worker, why)) => {
                if trouble.why.as_ref() != Some(&why) {
                    tracing::warn!(%worker, "a worker does not connect; the provider reports: {why}");
                } else if now < trouble.until {
                    return true;
                }
                self.unproven.store(true, Ordering::Relaxed);
                self.mark_unhealthy(why.clone()).await;
                *trouble = Trouble { why: Some(why), until: now + TROUBLE_REPORT_INTERVAL };
            }
            None if mine.iter().any(|worker| !is_registering(worker))
                && self.unproven.swap(false, Ordering::Relaxed) =>
            {
                tracing::warn!("workers connect again");
                *trouble = Trouble::default();
                self.management.observe(self.id, ProviderHealth::Healthy).await;
            }
            None => {}
        }
        mine.iter().any(|worker| is_registering(worker))
    }

    /// Fails a worker that ended before it connected, and marks the provider unhealthy: the next would end too.
    async fn fail_unconnected(&self, worker: WorkerId, why: String) {
        tracing::warn!(%worker, "a worker ended before it connected: {why}");
        self.unproven.store(true, Ordering::Relaxed);
        self.mark_unhealthy(why.clone()).await;
        self.lifecycle.fail(worker, why).await;
    }

    /// Compares the workers of the provider with the orders. Lists first and reads the orders after that, so that a
    /// worker created in between is not taken for an orphan. Returns whether a worker is not idle, or the state is
    /// unknown because a call failed.
    async fn reconcile(&self, absent: &mut BTreeSet<WorkerId>, in_progress: &mut OrdersInProgress) -> bool {
        let listed = self.provider.list(self.ports.store.owner());
        let Ok(Ok(listed)) = self.ports.clock.timeout(self.ports.settings.provision_timeout, listed).await
        else {
            return true;
        };
        let Ok(workers) = self.ports.store.live_workers().await else { return true };
        let mine: Vec<&Worker> =
            workers.iter().map(|w| &**w).filter(|w| w.order().provider == self.id).collect();
        in_progress.workers.retain(|worker| mine.iter().any(|mine| mine.id() == *worker));
        let mut busy = false;
        for worker in &mine {
            busy |= !matches!(worker.state(), WorkerState::Ready { .. });
            if needs_creation(worker) {
                self.execute(worker.order().clone(), in_progress);
            }
            if matches!(worker.state(), WorkerState::Registering) {
                in_progress.trouble_poll.get_or_insert_with(|| self.ports.clock.sleep(TROUBLE_POLL_INTERVAL));
            }
        }
        let has_stream = |worker| self.membership.hears(worker);
        let (differences, now_absent) = compare(&listed, &mine, has_stream, absent);
        *absent = now_absent;
        for difference in differences {
            let is_registering = matches!(&difference, Difference::Missing { worker, .. } if mine.iter().any(|mine| {
                mine.id() == *worker && matches!(mine.state(), WorkerState::Registering)
            }));
            self.settle(difference, is_registering).await;
        }
        busy
    }

    /// Resolves one difference between the provider and the orders.
    async fn settle(&self, difference: Difference, is_registering: bool) {
        match difference {
            Difference::Orphan(_) if cfg!(hodei_break = "reconcile") => {}
            Difference::Orphan(worker) => {
                tracing::warn!(%worker, "destroying a worker without an open order");
                let destroy = self.provider.destroy(worker, Duration::ZERO);
                match self.ports.clock.timeout(self.ports.settings.destroy_timeout, destroy).await {
                    Ok(Ok(())) => self.lifecycle.destroyed(worker).await,
                    Ok(Err(error)) => {
                        tracing::warn!(%worker, %error, "could not destroy the worker: the next round tries again");
                    }
                    Err(_) => {}
                }
            }
            Difference::Missing { worker, why } if is_registering => {
                let service = self.clone();
                self.ports
                    .tasks
                    .spawn("end of a worker", async move { service.fail_unconnected(worker, why).await });
            }
            Difference::Missing { worker, why } => {
                let lifecycle = self.lifecycle.clone();
                self.ports.tasks.spawn("end of a worker", async move { lifecycle.lose(worker, why).await });
            }
        }
    }
}

/// The last reason for which workers of the provider did not connect.
#[derive(Debug, Default)]
struct Trouble {
    why: Option<String>,
    /// Monotonic time until which the same reason is not stored again.
    until: Duration,
}

fn needs_creation(worker: &Worker) -> bool {
    matches!(worker.state(), WorkerState::Registering) && worker.reference().is_none()
}

/// Returns the name of the lease whose holder carries out the orders of a provider.
pub(crate) fn lease_of(provider: ProviderId) -> String {
    format!("provider:{provider}")
}

fn reports_worker_end(delivery: &Delivery) -> bool {
    let is_end = |event: &DomainEvent| {
        matches!(event, DomainEvent::WorkerLost { .. } | DomainEvent::WorkerTerminated { .. })
    };
    match delivery {
        Delivery::Events(events) => events.iter().any(|envelope| is_end(&envelope.event)),
        Delivery::Lagged => true,
    }
}
