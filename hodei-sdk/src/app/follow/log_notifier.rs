//! Notifier of stored output: wakes the followers of an attempt, here and at other daemons.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hodei_core::decision::AggregateId;
use hodei_core::event::{Actor, DomainEvent};
use hodei_core::id::AttemptId;
use hodei_core::port::{Clock, EventBus, IdGenerator};
use tokio::sync::Notify;

use crate::app::follow::watchers::{WatchList, Watcher};
use crate::app::hints::hint;

/// Wakes the followers of an attempt when more of its output is stored: those here at once, those at other daemons
/// through the bus.
#[derive(Debug, Clone)]
pub(crate) struct LogNotifier {
    here: WatchList<AttemptId>,
    elsewhere: Option<Arc<Unannounced>>,
}

/// Attempts with new output that was not announced to the other daemons yet.
#[derive(Debug, Default)]
struct Unannounced {
    attempts: Mutex<BTreeSet<AttemptId>>,
    some: Notify,
}

/// Interval between two announcements to other daemons: a job that writes all the time causes one hint each.
const ANNOUNCE_INTERVAL: Duration = Duration::from_millis(25);
/// Attempts per announcement. Followers of further attempts at other daemons find the output by polling.
const MAX_ANNOUNCED_ATTEMPTS: usize = 1_000;

impl LogNotifier {
    /// Creates a notifier for followers here and, where the store is shared, at other daemons.
    pub(crate) fn new(is_shared: bool) -> Self {
        Self { here: WatchList::default(), elsewhere: is_shared.then(Arc::default) }
    }

    /// Wakes the followers of an attempt: more of its output is stored, or its end.
    pub(crate) fn notify(&self, attempt: AttemptId) {
        self.here.notify(attempt);
        let Some(fresh) = &self.elsewhere else { return };
        let mut attempts = fresh.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() < MAX_ANNOUNCED_ATTEMPTS && attempts.insert(attempt) {
            fresh.some.notify_one();
        }
    }

    /// Wakes the followers here: another daemon stored output of the attempt.
    pub(crate) fn heard(&self, attempt: AttemptId) {
        self.here.notify(attempt);
    }

    /// Wakes all followers here, since hints of other daemons were lost.
    pub(crate) fn lost(&self) {
        self.here.notify_all();
    }

    /// Subscribes to new output of an attempt: see [`WatchList::subscribe`].
    pub(crate) fn subscribe(&self, attempt: AttemptId) -> Watcher<AttemptId> {
        self.here.subscribe([attempt])
    }

    /// Announces new output to other daemons until the platform stops. Returns at once where there are none.
    pub(crate) async fn tell(self, bus: Arc<dyn EventBus>, ids: Arc<dyn IdGenerator>, clock: Arc<dyn Clock>) {
        let Some(fresh) = &self.elsewhere else { return };
        loop {
            fresh.some.notified().await;
            let attempts =
                std::mem::take(&mut *fresh.attempts.lock().unwrap_or_else(PoisonError::into_inner));
            let hint = |AttemptId { job, number }: AttemptId| {
                let event = DomainEvent::JobOutputStored { attempt: number };
                hint(&*ids, &*clock, AggregateId::Job(job), Actor::Agent, event)
            };
            let hints: Vec<_> = attempts.into_iter().map(hint).collect();
            if let Err(error) = bus.publish(&hints).await {
                tracing::debug!(%error, "could not publish hints: followers find the output by polling");
            }
            clock.sleep(ANNOUNCE_INTERVAL).await;
        }
    }
}
