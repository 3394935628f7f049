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

/// Carries out orders for the workers of one provider, and compares what it has with what was ordered. Of the daemons
/// that have the provider, one at a time does.
#[derive(Debug, Clone)]
pub(crate) struct WorkerProvisioningService {
    pub(crate) id: ProviderId,
    pub(crate) provider: Arc<dyn WorkerProvider>,
    pub(crate) ports: Arc<Ports>,
    pub(crate) management: ProviderManagementService,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) membership: Membership,
    /// The provider tells of workers that are gone.
    pub(crate) exits: Arc<Notify>,
    /// Its workers were created and did not connect: until one does, creating them proves nothing.
    pub(crate) unproven: Arc<AtomicBool>,
}

/// Orders that are carried out while the provider is this daemon's.
struct UnderWay {
    workers: BTreeSet<WorkerId>,
    /// When the workers that have not connected are asked why.
    look: Option<BoxFuture<'static, ()>>,
    serving: CancellationToken,
    _ends: DropGuard,
}

impl UnderWay {
    fn new() -> Self {
        let serving = CancellationToken::new();
        Self { workers: BTreeSet::new(), look: None, _ends: serving.clone().drop_guard(), serving }
    }
}

/// Calls of one order before it is given up.
const TRIES: u32 = 3;
/// Between two calls.
const AGAIN: Duration = Duration::from_millis(250);
/// Before an order is carried out again whose outcome could not be stored.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// After a worker's end, for its stream to end too.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Between two questions to workers that do not connect.
const LOOK: Duration = Duration::from_secs(1);
/// A provider has this long to say why a worker does not connect.
const TROUBLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the same trouble of workers that do not connect is noted again.
const NOTED_AGAIN: Duration = Duration::from_secs(20);

impl WorkerProvisioningService {
    /// Works whenever it may, until the platform stops.
    pub(crate) async fn run(self) {
        let lease = lease_of(self.id);
        loop {
            let epoch = self.membership.acquire(&lease).await;
            tokio::select! {
                biased;
                () = self.membership.lost(&lease, epoch) => {
                    if self.membership.with(|cluster, now| cluster.is_held(&lease, now)) {
                        tracing::warn!(provider = %self.id, "another daemon has the provider");
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
        // Others end workers that only this provider can destroy.
        let ends: &[&'static str] = if self.membership.is_shared() { &[WORKER_READY_CHANNEL] } else { &[] };
        let mut ends = self.ports.bus.subscribe(ends);
        let mut under_way = UnderWay::new();
        let mut absent: BTreeSet<WorkerId> = BTreeSet::new();
        self.recover().await;
        // Twice: what both lists lack is gone, and its jobs need not wait for the next sweep.
        self.reconcile(&mut absent, &mut under_way).await;
        let busy = self.reconcile(&mut absent, &mut under_way).await;
        let mut sweep = self.next_sweep(busy);
        let (mut exited, mut trouble) = (None, Trouble::default());
        loop {
            tokio::select! {
                biased;
                delivery = orders.next() => match delivery {
                    Delivery::Events(events) => for envelope in events.iter() {
                        if let DomainEvent::WorkerProvisioningRequested { order, .. } = &envelope.event {
                            self.execute(order.clone(), &mut under_way);
                        }
                    },
                    Delivery::Lagged => {
                        self.reconcile(&mut absent, &mut under_way).await;
                    }
                },
                delivery = ends.next() => {
                    if exited.is_none() && tells_of_an_end(&delivery) {
                        exited = Some(self.ports.clock.sleep(LAST_WORDS));
                    }
                }
                () = self.exits.notified(), if exited.is_none() => exited = Some(self.ports.clock.sleep(LAST_WORDS)),
                () = timer(&mut exited) => {
                    self.reconcile(&mut absent, &mut under_way).await;
                }
                () = timer(&mut under_way.look) => {
                    if self.look(&mut trouble).await {
                        under_way.look = Some(self.ports.clock.sleep(LOOK));
                    }
                }
                () = &mut sweep => {
                    let busy = self.reconcile(&mut absent, &mut under_way).await;
                    sweep = self.next_sweep(busy);
                }
            }
        }
    }

    async fn recover(&self) {
        for _ in 0..TRIES {
            let limit = self.ports.settings.provision_timeout;
            match self.ports.clock.timeout(limit, self.provider.recover(self.ports.store.owner())).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => tracing::warn!(%error, "what an earlier start left is not removed yet"),
                Err(error) => tracing::warn!(%error, "what an earlier start left is not removed yet"),
            }
            self.ports.clock.sleep(AGAIN).await;
        }
    }

    fn next_sweep(&self, busy: bool) -> BoxFuture<'static, ()> {
        match self.ports.settings.sweep {
            // Listing a provider may cost a call to another machine: a tenth of the sweeps do it.
            Some(period) if busy => self.ports.clock.sleep((period * 10).min(self.membership.idle_sweep())),
            Some(period) => self.ports.clock.sleep((period * 10).max(self.membership.idle_sweep())),
            None => Box::pin(std::future::pending()),
        }
    }

    fn execute(&self, order: WorkerOrder, under_way: &mut UnderWay) {
        if order.provider == self.id && under_way.workers.insert(order.worker) {
            under_way.look.get_or_insert_with(|| self.ports.clock.sleep(LOOK));
            let (service, serving) = (self.clone(), under_way.serving.clone());
            self.ports.tasks.spawn("provisioning", async move {
                // Ended, it is carried out again by whoever has the provider then.
                serving.run_until_cancelled(service.carry_out(order)).await;
            });
        }
    }

    /// Until it is stored what came of it, or nobody wants the worker any more: at the latest when the time for it is
    /// over.
    async fn carry_out(&self, order: WorkerOrder) {
        loop {
            match self.ports.store.workers(&[order.worker]).await {
                // A hint that comes late tells of what was done long ago.
                Ok(found) if !found.iter().flatten().any(|worker| is_to_be_made(worker)) => return,
                Ok(_) if self.create(&order).await => return,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "whether a worker is to be made is not known"),
            }
            self.ports.clock.sleep(STORE_AGAIN).await;
        }
    }

    /// Returns whether what came of it is stored.
    async fn create(&self, order: &WorkerOrder) -> bool {
        let worker = order.worker;
        let mut failure = String::new();
        for _ in 0..TRIES {
            let created = self.provider.create(order);
            let created = self.ports.clock.timeout(self.ports.settings.provision_timeout, created).await;
            let error = match created {
                Ok(Ok(reference)) => {
                    let created = WorkerInput::Created(reference);
                    let stored = self.lifecycle.change(worker, Actor::Platform, created).await;
                    if let Err(error) = &stored {
                        tracing::warn!(%worker, %error, "the name of a worker was not stored");
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
            tracing::warn!(%worker, error = %failure, "a worker was not created");
            if !error.is_retryable() {
                break;
            }
            self.ports.clock.sleep(AGAIN).await;
        }
        self.unhealthy(failure.clone()).await;
        self.lifecycle.fail(worker, failure).await
    }

    async fn unhealthy(&self, why: String) {
        let retry_at = self.ports.clock.now() + Provider::REST;
        self.management.observe(self.id, ProviderHealth::Unhealthy { retry_at, why }).await;
    }

    /// Asks the workers that have not connected why, and notes and logs what they say. Returns whether there are any.
    async fn look(&self, trouble: &mut Trouble) -> bool {
        let Ok(workers) = self.ports.store.live_workers().await else { return true };
        let mine: Vec<&Arc<Worker>> = workers.iter().filter(|w| w.order().provider == self.id).collect();
        let is_coming = |worker: &Arc<Worker>| matches!(worker.state(), WorkerState::Registering);
        let mut said = None;
        for worker in mine.iter().filter(|worker| is_coming(worker)) {
            let why = self.ports.clock.timeout(TROUBLE_TIMEOUT, self.provider.trouble(worker.id())).await;
            said = why.ok().flatten().map(|why| (worker.id(), why));
            if said.is_some() {
                break;
            }
        }
        let now = self.ports.clock.monotonic();
        match said {
            Some((worker, why)) => {
                if trouble.why.as_ref() != Some(&why) {
                    tracing::warn!(%worker, "a worker does not connect: {why}");
                } else if now < trouble.until {
                    return true;
                }
                self.unproven.store(true, Ordering::Relaxed);
                self.unhealthy(why.clone()).await;
                *trouble = Trouble { why: Some(why), until: now + NOTED_AGAIN };
            }
            None if mine.iter().any(|worker| !is_coming(worker))
                && self.unproven.swap(false, Ordering::Relaxed) =>
            {
                tracing::warn!("workers connect again");
                *trouble = Trouble::default();
                self.management.observe(self.id, ProviderHealth::Healthy).await;
            }
            None => {}
        }
        mine.iter().any(|worker| is_coming(worker))
    }

    /// A worker ended before it connected, and the next would, too.
    async fn never_came(&self, worker: WorkerId, why: String) {
        tracing::warn!(%worker, "a worker ended before it connected: {why}");
        self.unproven.store(true, Ordering::Relaxed);
        self.unhealthy(why.clone()).await;
        self.lifecycle.fail(worker, why).await;
    }

    /// Lists first and reads the orders after it, so what was created in between is no orphan. Returns whether some
    /// worker is more than ready, or not known.
    async fn reconcile(&self, absent: &mut BTreeSet<WorkerId>, under_way: &mut UnderWay) -> bool {
        let listed = self.provider.list(self.ports.store.owner());
        let Ok(Ok(listed)) = self.ports.clock.timeout(self.ports.settings.provision_timeout, listed).await
        else {
            return true;
        };
        let Ok(workers) = self.ports.store.live_workers().await else { return true };
        let mine: Vec<&Worker> =
            workers.iter().map(|w| &**w).filter(|w| w.order().provider == self.id).collect();
        under_way.workers.retain(|worker| mine.iter().any(|mine| mine.id() == *worker));
        let mut busy = false;
        for worker in &mine {
            busy |= !matches!(worker.state(), WorkerState::Ready { .. });
            if is_to_be_made(worker) {
                self.execute(worker.order().clone(), under_way);
            }
            if matches!(worker.state(), WorkerState::Registering) {
                under_way.look.get_or_insert_with(|| self.ports.clock.sleep(LOOK));
            }
        }
        let has_stream = |worker| self.membership.hears(worker);
        let (differences, now_absent) = compare(&listed, &mine, has_stream, absent);
        *absent = now_absent;
        for difference in differences {
            let is_coming = matches!(&difference, Difference::Missing { worker, .. } if mine.iter().any(|mine| {
                mine.id() == *worker && matches!(mine.state(), WorkerState::Registering)
            }));
            self.settle(difference, is_coming).await;
        }
        busy
    }

    async fn settle(&self, difference: Difference, is_coming: bool) {
        match difference {
            Difference::Orphan(_) if cfg!(hodei_break = "reconcile") => {}
            Difference::Orphan(worker) => {
                tracing::warn!(%worker, "a worker without an open order is destroyed");
                let destroy = self.provider.destroy(worker, Duration::ZERO);
                match self.ports.clock.timeout(self.ports.settings.destroy_timeout, destroy).await {
                    Ok(Ok(())) => self.lifecycle.destroyed(worker).await,
                    Ok(Err(error)) => {
                        tracing::warn!(%worker, %error, "it was not destroyed: the next round tries again");
                    }
                    Err(_) => {}
                }
            }
            Difference::Missing { worker, why } if is_coming => {
                let service = self.clone();
                self.ports
                    .tasks
                    .spawn("end of a worker", async move { service.never_came(worker, why).await });
            }
            Difference::Missing { worker, why } => {
                let lifecycle = self.lifecycle.clone();
                self.ports.tasks.spawn("end of a worker", async move { lifecycle.lose(worker, why).await });
            }
        }
    }
}

/// What the workers of a provider said that did not connect.
#[derive(Debug, Default)]
struct Trouble {
    why: Option<String>,
    /// When it is noted again, if it is the same then.
    until: Duration,
}

fn is_to_be_made(worker: &Worker) -> bool {
    matches!(worker.state(), WorkerState::Registering) && worker.reference().is_none()
}

/// The lease of whoever carries out the orders of a provider.
pub(crate) fn lease_of(provider: ProviderId) -> String {
    format!("provider:{provider}")
}

fn tells_of_an_end(delivery: &Delivery) -> bool {
    let is_end = |event: &DomainEvent| {
        matches!(event, DomainEvent::WorkerLost { .. } | DomainEvent::WorkerTerminated { .. })
    };
    match delivery {
        Delivery::Events(events) => events.iter().any(|envelope| is_end(&envelope.event)),
        Delivery::Lagged => true,
    }
}
