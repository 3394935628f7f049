//! Membership of this daemon among those that share its store: beats, leases, and the view of the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hodei_core::cluster::ClusterWatch;
use hodei_core::id::{DaemonId, WorkerId};
use hodei_core::port::{COORDINATOR_LEASE, Clock, ClockExt, DaemonBeat, Epoch, Store, StoreError};
use hodei_core::scheduling::QueueStatus;
use tokio::sync::watch;

use crate::app::workers::stream_registry::StreamRegistry;

/// This daemon's membership among those that share its store: it beats, watches the beats of the others, and takes over
/// the leases of dead ones. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    own: DaemonId,
    url: Option<String>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    streams: StreamRegistry,
    lease: Duration,
    beats: AtomicU64,
    seen: Mutex<Seen>,
    looks: watch::Sender<u64>,
    /// Status of the queue, while this daemon coordinates.
    queue: Mutex<QueueStatus>,
}

#[derive(Debug)]
struct Seen {
    cluster: ClusterWatch,
    at: Option<Duration>,
}

/// Number of beats in the time of one lease.
const BEATS_PER_LEASE: u32 = 5;
/// Longest sweep interval where other daemons share the store.
const MAX_SHARED_SWEEP: Duration = Duration::from_secs(5);
/// Longest sweep interval where this daemon has the store alone.
const MAX_SWEEP: Duration = Duration::from_secs(30);
/// Timeout of giving back the leases on leaving.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

impl Membership {
    pub(crate) fn new(
        own: DaemonId,
        url: Option<String>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        streams: StreamRegistry,
        lease: Duration,
    ) -> Self {
        let queue = Mutex::default();
        let cluster = ClusterWatch::new(own, store.is_exclusive(), lease);
        let seen = Mutex::new(Seen { cluster, at: None });
        let (beats, looks) = (AtomicU64::new(0), watch::channel(0).0);
        Self {
            shared: Arc::new(Shared { own, url, store, clock, streams, lease, beats, seen, looks, queue }),
        }
    }

    /// Whether other daemons may share the store.
    pub(crate) fn is_shared(&self) -> bool {
        !self.shared.store.is_exclusive()
    }

    /// Whether this daemon has the stream of a worker, or another daemon is known to have it.
    pub(crate) fn hears(&self, worker: WorkerId) -> bool {
        self.shared.streams.is_open(worker) || self.with(|cluster, _| cluster.has_stream(worker))
    }

    /// Whether no other live daemon of the store is known.
    pub(crate) fn is_alone(&self) -> bool {
        self.with(|cluster, now| cluster.is_alone(now))
    }

    /// Returns the longest interval between two sweeps for lost hints. Shorter where the store is shared, since a
    /// killed daemon takes its unpublished hints with it.
    pub(crate) fn idle_sweep(&self) -> Duration {
        if self.is_shared() { MAX_SHARED_SWEEP } else { MAX_SWEEP }
    }

    /// Returns the URLs of the live daemons of a shared store; empty when the store is not shared.
    pub(crate) fn urls(&self) -> Vec<String> {
        if self.is_shared() { self.with(|cluster, now| cluster.urls(now)) } else { Vec::new() }
    }

    /// Beats until the platform stops: at a fixed interval, and when a stream opens or ends. Returns at once when the
    /// store is not shared.
    pub(crate) async fn run(self) {
        if !self.is_shared() {
            return;
        }
        let period = self.shared.lease / BEATS_PER_LEASE;
        loop {
            let _ = self.shared.clock.timeout(period, self.shared.streams.changed()).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "cannot beat or see the other daemons: trying again");
                self.shared.clock.sleep(period).await;
            }
        }
    }

    /// Stores one beat of this daemon, and reads those of the others. The coordinator also removes dead daemons.
    pub(crate) async fn look(&self) -> Result<(), StoreError> {
        let shared = &*self.shared;
        let beat = DaemonBeat {
            daemon: shared.own,
            beats: shared.beats.fetch_add(1, Ordering::Relaxed) + 1,
            url: shared.url.clone(),
            streams: shared.streams.renewals(),
            queue: self.with(|cluster, _| cluster.holds(COORDINATOR_LEASE)).then(|| self.own_queue().clone()),
        };
        let began = shared.clock.monotonic();
        let answer = shared.store.beat(&beat).await;
        let dead = {
            let mut seen = self.seen();
            let cluster = match answer {
                Ok(cluster) => cluster,
                Err(error) => {
                    seen.cluster.blind();
                    return Err(error);
                }
            };
            // After a long pause this daemon has not seen the others' beats: their silence proves nothing.
            if seen.at.is_some_and(|at| began.saturating_sub(at) > shared.lease / 2) {
                seen.cluster.blind();
            }
            let now = shared.clock.monotonic();
            seen.cluster.observe(cluster, now);
            seen.at = Some(now);
            if seen.cluster.holds(COORDINATOR_LEASE) { seen.cluster.dead(now) } else { Vec::new() }
        };
        shared.looks.send_modify(|looks| *looks += 1);
        for daemon in dead {
            tracing::warn!(%daemon, "a daemon is dead: releasing its leases");
            shared.store.leave(daemon).await?;
        }
        Ok(())
    }

    /// Returns the status of the queue as the coordinating daemon sees it.
    pub(crate) fn queue(&self) -> QueueStatus {
        let others = self.with(|cluster, _| cluster.queue_of_holder(COORDINATOR_LEASE).cloned());
        others.unwrap_or_else(|| self.own_queue().clone())
    }

    /// Sets the status of the queue, while this daemon coordinates.
    pub(crate) fn set_queue(&self, queue: QueueStatus) {
        *self.own_queue() = queue;
    }

    fn own_queue(&self) -> MutexGuard<'_, QueueStatus> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the number of changes among the other daemons (leases, streams, deaths) differs from `seen`. Cancel
    /// safe.
    pub(crate) async fn changed(&self, seen: u64) {
        let mut looks = self.shared.looks.subscribe();
        while self.with(|cluster, _| cluster.changes()) == seen {
            let _ = looks.changed().await;
        }
    }

    /// Waits until a lease is free, and takes it. Cancel safe, except that a lease taken just before is kept: then the
    /// next call waits until it is free again, or takes it at once where the store is not shared.
    pub(crate) async fn acquire(&self, name: &str) -> Epoch {
        let shared = &*self.shared;
        let mut looks = shared.looks.subscribe();
        loop {
            let free = self.with(|cluster, now| cluster.free(name, now));
            if let Some(seen) = free {
                match shared.store.take_lease(name, seen, shared.own).await {
                    Ok(Some(epoch)) => return epoch,
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(name, %error, "could not take a lease: trying again after the next beat")
                    }
                }
            }
            // Never fails: the sender is in `self`.
            let _ = looks.changed().await;
        }
    }

    /// Waits until this daemon loses the lease that it took with `epoch`. Cancel safe.
    pub(crate) async fn lost(&self, name: &str, epoch: Epoch) {
        let mut looks = self.shared.looks.subscribe();
        while !self.with(|cluster, _| cluster.is_lost(name, epoch)) {
            let _ = looks.changed().await;
        }
    }

    /// Gives back all leases, so that other daemons need not wait until they expire.
    pub(crate) async fn leave(&self) {
        let shared = &*self.shared;
        match shared.clock.timeout(LEAVE_TIMEOUT, shared.store.leave(shared.own)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not give back the leases: they have to expire"),
            Err(error) => tracing::warn!(%error, "could not give back the leases: they have to expire"),
        }
    }

    /// Calls `look` with this daemon's view of the others and the present monotonic time.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut ClusterWatch, Duration) -> T) -> T {
        let now = self.shared.clock.monotonic();
        look(&mut self.seen().cluster, now)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
