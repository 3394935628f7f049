//! Watch over the leases of workers: ends workers that fall silent or do not connect in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::event::DomainEvent;
use hodei_core::event::channel::WORKER_HEARTBEAT_CHANNEL;
use hodei_core::id::WorkerId;
use hodei_core::port::Delivery;
use hodei_core::worker::{LeaseWatch, Worker, WorkerHealth, WorkerHealthService, WorkerState};

use crate::app::cluster::membership::Membership;
use crate::app::ports::Ports;
use crate::app::workers::lifecycle::WorkerLifecycleManager;
use crate::app::workers::stream_registry::StreamRegistry;

/// Watches the leases of workers: by the heartbeats that arrive here, and by the renewals that other daemons report.
#[derive(Debug)]
pub(crate) struct HealthMonitor {
    pub(crate) ports: Arc<Ports>,
    pub(crate) lifecycle: WorkerLifecycleManager,
    pub(crate) membership: Membership,
    pub(crate) streams: StreamRegistry,
}

impl HealthMonitor {
    /// Watches until the future is dropped; never returns. Runs a check four times per lease.
    pub(crate) async fn watch(&self) {
        let mut heartbeats = self.ports.bus.subscribe(&[WORKER_HEARTBEAT_CHANNEL]);
        let mut watches: BTreeMap<WorkerId, LeaseWatch> = BTreeMap::new();
        let mut registering: BTreeMap<WorkerId, Duration> = BTreeMap::new();
        let period = self.ports.settings.lease / 4;
        let (mut last_check, mut known_blinds) = (self.ports.clock.monotonic(), 0);
        let mut tick = self.ports.clock.sleep(period);
        loop {
            tokio::select! {
                biased;
                delivery = heartbeats.next() => self.on_heartbeats(&mut watches, delivery),
                () = &mut tick => {
                    let now = self.ports.clock.monotonic();
                    // A watcher that slept or could not read the store may have missed renewals: restart every watch.
                    let failed = self.membership.with(|cluster, _| cluster.blinds());
                    let blind = now.saturating_sub(last_check) > period * 3 || failed != known_blinds;
                    known_blinds = failed;
                    self.membership.with(|cluster, now| {
                        let renewals = cluster.renewals().chain(self.streams.renewals());
                        renewals.for_each(|(worker, renewals)| observe(&mut watches, worker, renewals, now));
                    });
                    match self.ports.store.live_workers().await {
                        Ok(workers) if !blind => {
                            self.check_registering(&mut registering, &workers);
                            self.check(&mut watches, &workers);
                        }
                        _ => watches.clear(),
                    }
                    last_check = self.ports.clock.monotonic();
                    tick = self.ports.clock.sleep(period);
                }
            }
        }
    }

    fn on_heartbeats(&self, watches: &mut BTreeMap<WorkerId, LeaseWatch>, delivery: Delivery) {
        let Delivery::Events(events) = delivery else { return };
        let now = self.ports.clock.monotonic();
        for envelope in events.iter() {
            if let (AggregateId::Worker(id), DomainEvent::WorkerHeartbeat { renewals }) =
                (envelope.aggregate, &envelope.event)
            {
                observe(watches, id, *renewals, now);
            }
        }
    }

    /// Fails workers that do not connect in time. Counted on the monotonic clock from when this daemon first sees them,
    /// since the wall clock may be set.
    fn check_registering(&self, registering: &mut BTreeMap<WorkerId, Duration>, workers: &[Arc<Worker>]) {
        let (now, limit) = (self.ports.clock.monotonic(), self.ports.settings.provision_timeout);
        let is_registering = |worker: &&Arc<Worker>| matches!(worker.state(), WorkerState::Registering);
        let ids: BTreeSet<WorkerId> =
            workers.iter().filter(is_registering).map(|worker| worker.id()).collect();
        registering.retain(|id, _| ids.contains(id));
        for id in ids {
            if now.saturating_sub(*registering.entry(id).or_insert(now)) > limit {
                let why = format!("it did not connect within {limit:?}");
                self.end(id, move |lifecycle| async move {
                    lifecycle.fail(id, why).await;
                });
            }
        }
    }

    fn check(&self, watches: &mut BTreeMap<WorkerId, LeaseWatch>, workers: &[Arc<Worker>]) {
        let now = self.ports.clock.monotonic();
        let service = WorkerHealthService { lease: self.ports.settings.lease };
        watches.retain(|id, _| workers.iter().any(|worker| worker.id() == *id));
        for worker in workers {
            let id = worker.id();
            if let WorkerState::Registering = worker.state() {
                watches.remove(&id);
                continue;
            }
            let watch = watches.entry(id).or_insert_with(|| LeaseWatch::begin(0, now));
            match service.assess(watch, now) {
                WorkerHealth::Healthy => {}
                WorkerHealth::Suspect => {
                    tracing::debug!(worker = %id, "a worker is silent: its lease runs out soon")
                }
                WorkerHealth::Lost => {
                    watches.remove(&id);
                    let why = format!("no heartbeat for {:?}", self.ports.settings.lease);
                    self.end(id, move |lifecycle| async move { lifecycle.lose(id, why).await });
                }
            }
        }
    }

    /// Ends a worker on its own task, so that one that cannot be destroyed does not block the watch over the others.
    fn end<F: Future<Output = ()> + Send + 'static>(
        &self,
        id: WorkerId,
        how: impl FnOnce(WorkerLifecycleManager) -> F,
    ) {
        tracing::warn!(worker = %id, "ending a worker that is silent or did not connect");
        self.ports.tasks.spawn("end of a worker", how(self.lifecycle.clone()));
    }
}

fn observe(watches: &mut BTreeMap<WorkerId, LeaseWatch>, id: WorkerId, renewals: u64, now: Duration) {
    watches.entry(id).or_insert_with(|| LeaseWatch::begin(renewals, now)).observe(renewals, now);
}
