//! Registry of the open agent streams of this daemon, and the sending of messages over them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hodei_core::id::{AttemptId, WorkerId};
use hodei_core::worker::WorkerMetrics;
use hodei_proto::SECRETS_AND_ARTIFACTS_SINCE;
use hodei_proto::v1::ServerMessage;
use hodei_proto::v1::server_message::Body;
use tokio::sync::{Notify, mpsc};

/// The streams of the workers that are connected to this daemon. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamRegistry {
    open: Arc<Mutex<RegistryState>>,
    /// Notified when a stream opens or ends.
    changes: Arc<Notify>,
}

#[derive(Debug, Default)]
struct RegistryState {
    streams: BTreeMap<WorkerId, Stream>,
    last_number: u64,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    outgoing: mpsc::Sender<ServerMessage>,
    terms: Terms,
    metrics: Option<WorkerMetrics>,
    renewals: u64,
    /// Attempts that were delivered with their secrets. A stream loses no message, so each is sent once.
    delivered: BTreeSet<AttemptId>,
}

/// Delivered attempts that are remembered per stream. Beyond it one may be sent twice; the agent detects duplicates.
const MAX_REMEMBERED_DELIVERIES: usize = 4096;

/// Properties of a stream that are fixed when it opens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// Whether no third party can read the stream: it stays in this machine, or is encrypted.
    pub(crate) is_private: bool,
    /// Protocol version of the agent.
    pub(crate) version: u32,
}

impl Terms {
    /// Whether the agent supports secrets and artifacts.
    pub(crate) fn knows_secrets_and_artifacts(self) -> bool {
        self.version >= SECRETS_AND_ARTIFACTS_SINCE
    }
}

/// Messages to one agent that may queue. An agent that falls further behind is cut off: it reconnects, reports the
/// attempts that it holds, and receives the missed messages.
pub(crate) const MAX_OUTGOING_MESSAGES: usize = 1024;

impl StreamRegistry {
    /// Registers the stream of a worker, replacing an earlier one, until the returned guard is dropped.
    pub(crate) fn open(
        &self,
        worker: WorkerId,
        outgoing: mpsc::Sender<ServerMessage>,
        terms: Terms,
    ) -> OpenStream {
        let mut open = self.lock();
        open.last_number += 1;
        let number = open.last_number;
        let (metrics, renewals, delivered) = (None, 0, BTreeSet::new());
        open.streams.insert(worker, Stream { number, outgoing, terms, metrics, renewals, delivered });
        self.changes.notify_one();
        OpenStream { streams: self.clone(), worker, number }
    }

    /// Ends the stream of a worker, if it has one.
    pub(crate) fn cut(&self, worker: WorkerId) {
        self.lock().streams.remove(&worker);
        self.changes.notify_one();
    }

    /// Waits until a stream opens or ends. Cancel safe. Supports a single waiter.
    pub(crate) async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Whether a worker has a stream.
    pub(crate) fn is_open(&self, worker: WorkerId) -> bool {
        self.lock().streams.contains_key(&worker)
    }

    /// Returns the number of a worker's stream, which distinguishes it from earlier ones, and its terms; `None` when
    /// the worker has no stream.
    pub(crate) fn terms(&self, worker: WorkerId) -> Option<(u64, Terms)> {
        self.lock().streams.get(&worker).map(|stream| (stream.number, stream.terms))
    }

    /// Whether [`deliver`](Self::deliver) sent an attempt over the present stream of a worker.
    pub(crate) fn has_delivered(&self, worker: WorkerId, attempt: AttemptId) -> bool {
        self.lock().streams.get(&worker).is_some_and(|stream| stream.delivered.contains(&attempt))
    }

    /// Sends an attempt with its secrets, once, and only over the stream with this number: secrets that were resolved
    /// for a private stream go over no other.
    pub(crate) fn deliver(&self, worker: WorkerId, number: u64, attempt: AttemptId, body: Body) {
        {
            let mut open = self.lock();
            let stream = open.streams.get_mut(&worker).filter(|stream| stream.number == number);
            let Some(stream) = stream else { return };
            if stream.delivered.len() >= MAX_REMEMBERED_DELIVERIES {
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

    /// Records a heartbeat: how often the worker renewed its lease, and its agent's metrics.
    pub(crate) fn renewed(&self, worker: WorkerId, renewals: u64, metrics: Option<WorkerMetrics>) {
        if let Some(stream) = self.lock().streams.get_mut(&worker) {
            stream.renewals = renewals;
            stream.metrics = metrics.or(stream.metrics);
        }
    }

    /// Returns the workers that have a stream, with the number of lease renewals of each.
    pub(crate) fn renewals(&self) -> Vec<(WorkerId, u64)> {
        self.lock().streams.iter().map(|(worker, stream)| (*worker, stream.renewals)).collect()
    }

    /// Returns whether a worker has a stream, and the last metrics of its agent.
    pub(crate) fn state(&self, worker: WorkerId) -> (bool, Option<WorkerMetrics>) {
        self.lock().streams.get(&worker).map_or((false, None), |stream| (true, stream.metrics))
    }

    /// Sends without waiting. Returns false when there is no stream, or when its queue is full, which cuts it off.
    pub(crate) fn send(&self, worker: WorkerId, body: Body) -> bool {
        let sent = self.lock().send(worker, body);
        if !sent {
            self.changes.notify_one();
        }
        sent
    }

    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistryState {
    /// Sends without waiting; a stream whose queue is full is cut off.
    fn send(&mut self, worker: WorkerId, body: Body) -> bool {
        let Some(stream) = self.streams.get(&worker) else { return false };
        let sent = stream.outgoing.try_send(ServerMessage { body: Some(body) }).is_ok();
        if !sent {
            self.streams.remove(&worker);
        }
        sent
    }
}

/// Guard of a registered stream. Dropping it ends the stream, unless a later one has replaced it.
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
