use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hodei_core::cluster::ClusterWatch;
use hodei_core::id::{DaemonId, WorkerId};
use hodei_core::port::{COORDINATOR_LEASE, Clock, ClockExt, DaemonBeat, Epoch, Store, StoreError};
use hodei_core::scheduling::QueueStatus;
use tokio::sync::watch;

use crate::app::workers::stream_registry::StreamRegistry;

/// This daemon among those that share its store: it shows that it lives, knows who of the others does, and takes the
/// leases of those that do not. Cheap to clone.
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
    /// The queue, while this daemon coordinates.
    queue: Mutex<QueueStatus>,
}

#[derive(Debug)]
struct Seen {
    cluster: ClusterWatch,
    at: Option<Duration>,
}

/// Beats in the time of one lease.
const BEATS: u32 = 5;
const SHARED_SWEEP: Duration = Duration::from_secs(5);
const IDLE_SWEEP: Duration = Duration::from_secs(30);
/// How long a daemon that goes tries to say so.
const LEAVE: Duration = Duration::from_secs(2);

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

    /// Whether this daemon, or another one as far as is known, has the stream of a worker.
    pub(crate) fn hears(&self, worker: WorkerId) -> bool {
        self.shared.streams.is_open(worker) || self.with(|cluster, _| cluster.has_stream(worker))
    }

    /// Whether no other daemon may go on with the store, as far as is known.
    pub(crate) fn is_alone(&self) -> bool {
        self.with(|cluster, now| cluster.is_alone(now))
    }

    /// The longest wait between two looks for what a lost hint left behind: where a daemon that is killed may take hints
    /// with it, and where this one would miss its own.
    pub(crate) fn idle_sweep(&self) -> Duration {
        if self.is_shared() { SHARED_SWEEP } else { IDLE_SWEEP }
    }

    /// Where the daemons of a store that is shared are reached.
    pub(crate) fn urls(&self) -> Vec<String> {
        if self.is_shared() { self.with(|cluster, now| cluster.urls(now)) } else { Vec::new() }
    }

    /// Beats until the platform stops: now and then, and when a stream comes or goes. Alone, there is nobody to tell.
    pub(crate) async fn run(self) {
        if !self.is_shared() {
            return;
        }
        let period = self.shared.lease / BEATS;
        loop {
            let _ = self.shared.clock.timeout(period, self.shared.streams.changed()).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the other daemons cannot be seen");
                self.shared.clock.sleep(period).await;
            }
        }
    }

    /// Says that this daemon lives, and looks at the others.
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
            // Who slept has not seen the others beat.
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
            tracing::warn!(%daemon, "a daemon is dead");
            shared.store.leave(daemon).await?;
        }
        Ok(())
    }

    /// The queue, as the daemon that coordinates sees it.
    pub(crate) fn queue(&self) -> QueueStatus {
        let others = self.with(|cluster, _| cluster.queue_of_holder(COORDINATOR_LEASE).cloned());
        others.unwrap_or_else(|| self.own_queue().clone())
    }

    /// Notes the queue, while this daemon coordinates.
    pub(crate) fn set_queue(&self, queue: QueueStatus) {
        *self.own_queue() = queue;
    }

    fn own_queue(&self) -> MutexGuard<'_, QueueStatus> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the others took or lost something, or died, since `seen` changes of that. Cancel safe.
    pub(crate) async fn changed(&self, seen: u64) {
        let mut looks = self.shared.looks.subscribe();
        while self.with(|cluster, _| cluster.changes()) == seen {
            let _ = looks.changed().await;
        }
    }

    /// Waits until a lease may be taken, and takes it. Cancel safe, but for a lease that was just taken: then the next
    /// call waits until it is free again, or takes it at once where the store is not shared.
    pub(crate) async fn acquire(&self, name: &str) -> Epoch {
        let shared = &*self.shared;
        let mut looks = shared.looks.subscribe();
        loop {
            let free = self.with(|cluster, now| cluster.free(name, now));
            if let Some(seen) = free {
                match shared.store.take_lease(name, seen, shared.own).await {
                    Ok(Some(epoch)) => return epoch,
                    Ok(None) => {}
                    Err(error) => tracing::warn!(name, %error, "a lease could not be taken"),
                }
            }
            // Its sender is in `self`.
            let _ = looks.changed().await;
        }
    }

    /// Waits until another has a lease that this daemon took with `epoch`. Cancel safe.
    pub(crate) async fn lost(&self, name: &str, epoch: Epoch) {
        let mut looks = self.shared.looks.subscribe();
        while !self.with(|cluster, _| cluster.is_lost(name, epoch)) {
            let _ = looks.changed().await;
        }
    }

    /// Gives every lease back: others need not wait for them.
    pub(crate) async fn leave(&self) {
        let shared = &*self.shared;
        match shared.clock.timeout(LEAVE, shared.store.leave(shared.own)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the leases were not given back: others wait for them"),
            Err(error) => tracing::warn!(%error, "the leases were not given back: others wait for them"),
        }
    }

    /// What is known of the others.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut ClusterWatch, Duration) -> T) -> T {
        let now = self.shared.clock.monotonic();
        look(&mut self.seen().cluster, now)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
