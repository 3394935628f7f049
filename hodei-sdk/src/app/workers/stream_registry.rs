use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::worker::WorkerMetrics;
use hodei_proto::SECRETS_AND_ARTIFACTS_SINCE;
use hodei_proto::v1::ServerMessage;
use hodei_proto::v1::server_message::Body;
use tokio::sync::{Notify, mpsc};

/// The streams of the workers that are connected here.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamRegistry {
    open: Arc<Mutex<Open>>,
    /// Streams came or went.
    changes: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Open {
    streams: BTreeMap<WorkerId, Stream>,
    last: u64,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    outgoing: mpsc::Sender<ServerMessage>,
    terms: Terms,
    metrics: Option<WorkerMetrics>,
    renewals: u64,
    /// What was delivered with what it wants: a stream loses nothing, so it is not said twice.
    delivered: BTreeSet<AttemptId>,
}

/// Attempts that are remembered of one stream; an agent knows what it was told twice.
const REMEMBERED: usize = 4096;

/// What is known of a stream from its begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Nobody else can read it: it stays in this machine, or is encrypted.
    pub(crate) is_private: bool,
    /// The protocol of the agent.
    pub(crate) version: u32,
}

impl Terms {
    /// Whether the agent does what secrets and artifacts need.
    pub(crate) fn knows_secrets_and_artifacts(self) -> bool {
        self.version >= SECRETS_AND_ARTIFACTS_SINCE
    }
}

/// Messages to one agent that may wait. An agent that is further behind is cut off: it comes back, says what it
/// has, and is told what it missed.
pub(crate) const OUTGOING: usize = 1024;

impl StreamRegistry {
    /// Notes a stream, in the place of an earlier one, for as long as what is returned lives.
    pub(crate) fn open(
        &self,
        worker: WorkerId,
        outgoing: mpsc::Sender<ServerMessage>,
        terms: Terms,
    ) -> OpenStream {
        let mut open = self.lock();
        open.last += 1;
        let number = open.last;
        let (metrics, renewals, delivered) = (None, 0, BTreeSet::new());
        open.streams.insert(worker, Stream { number, outgoing, terms, metrics, renewals, delivered });
        self.changes.notify_one();
        OpenStream { streams: self.clone(), worker, number }
    }

    /// Cuts off whatever stream a worker has.
    pub(crate) fn cut(&self, worker: WorkerId) {
        self.lock().streams.remove(&worker);
        self.changes.notify_one();
    }

    /// Waits until a stream comes or goes. Cancel safe; for one who waits.
    pub(crate) async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Whether a worker has a stream.
    pub(crate) fn is_open(&self, worker: WorkerId) -> bool {
        self.lock().streams.contains_key(&worker)
    }

    /// What is known of the stream of a worker, and the number that tells it from those before it; `None` when it has
    /// none.
    pub(crate) fn terms(&self, worker: WorkerId) -> Option<(u64, Terms)> {
        self.lock().streams.get(&worker).map(|stream| (stream.number, stream.terms))
    }

    /// Whether an attempt went out over the stream that a worker has.
    pub(crate) fn has_delivered(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        self.lock().streams.get(&worker).is_some_and(|stream| stream.delivered.contains(&attempt))
    }

    /// Sends an attempt with what it wants, once, and over no other stream than the one of this number: what was resolved
    /// for a private one goes over that alone.
    pub(crate) fn deliver(&self, worker: WorkerId, number: u64, attempt: AttemptId, body: Body) {
        {
            let mut open = self.lock();
            let stream = open.streams.get_mut(&worker).filter(|stream| stream.number == number);
            let Some(stream) = stream else { return };
            if stream.delivered.len() >= REMEMBERED {
                stream.delivered.clear();
            }
            if !stream.delivered.insert(attempt) {
                return;
            }
            if open.send(worker, body) {
                return;
            }
        }
        self.changes.notify_one();
    }

    /// Notes a heartbeat: how often the worker renewed its lease, and what its agent says of itself.
    pub(crate) fn renewed(&self, worker: WorkerId, renewals: u64, metrics: Option<WorkerMetrics>) {
        if let Some(stream) = self.lock().streams.get_mut(&worker) {
            stream.renewals = renewals;
            stream.metrics = metrics.or(stream.metrics);
        }
    }

    /// The workers that have a stream, and how often each renewed its lease.
    pub(crate) fn renewals(&self) -> Vec<(WorkerId, u64)> {
        self.lock().streams.iter().map(|(worker, stream)| (*worker, stream.renewals)).collect()
    }

    /// Whether a worker has a stream, and what its agent said last of itself over it.
    pub(crate) fn state(&self, worker: WorkerId) -> (bool, Option<WorkerMetrics>) {
        self.lock().streams.get(&worker).map_or((false, None), |stream| (true, stream.metrics))
    }

    /// Sends without waiting; false when there is no stream, or no room in it.
    pub(crate) fn send(&self, worker: WorkerId, body: Body) -> bool {
        let sent = self.lock().send(worker, body);
        if !sent {
            self.changes.notify_one();
        }
        sent
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// A stream without room is cut off.
    fn send(&mut self, worker: WorkerId, body: Body) -> bool {
        let Some(stream) = self.streams.get(&worker) else { return false };
        let sent = stream.outgoing.try_send(ServerMessage { body: Some(body) }).is_ok();
        if !sent {
            self.streams.remove(&worker);
        }
        sent
    }
}

/// A stream that is noted. Dropped, it is forgotten and so ends, unless a later one took its place.
#[derive(Debug)]
#[must_use = "dropped, the stream ends"]
pub(crate) struct OpenStream {
    streams: StreamRegistry,
    worker: WorkerId,
    number: u64,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if open.streams.get(&self.worker).is_some_and(|stream| stream.number == self.number) {
            open.streams.remove(&self.worker);
            self.streams.changes.notify_one();
        }
    }
}
