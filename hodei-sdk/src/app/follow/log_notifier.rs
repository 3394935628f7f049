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

/// Tells whoever follows an attempt that more of its output is stored: those here at once, those at other daemons over
/// the bus.
#[derive(Debug, Clone)]
pub(crate) struct LogNotifier {
    here: WatchList<AttemptId>,
    elsewhere: Option<Arc<Fresh>>,
}

/// What the other daemons have not been told.
#[derive(Debug, Default)]
struct Fresh {
    attempts: Mutex<BTreeSet<AttemptId>>,
    some: Notify,
}

/// Between two messages to the others: a job that writes all the time is one hint each time.
const PAUSE: Duration = Duration::from_millis(25);
/// Attempts that are told of at once. Followers of the others look by themselves.
const MOST: usize = 1_000;

impl LogNotifier {
    /// News for followers here, and at other daemons where the store is shared.
    pub(crate) fn new(is_shared: bool) -> Self {
        Self { here: WatchList::default(), elsewhere: is_shared.then(Arc::default) }
    }

    /// More of the output of an attempt is stored, or its end.
    pub(crate) fn notify(&self, attempt: AttemptId) {
        self.here.notify(attempt);
        let Some(fresh) = &self.elsewhere else { return };
        let mut attempts = fresh.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() < MOST && attempts.insert(attempt) {
            fresh.some.notify_one();
        }
    }

    /// Another daemon stored some.
    pub(crate) fn heard(&self, attempt: AttemptId) {
        self.here.notify(attempt);
    }

    /// What other daemons stored was not heard of.
    pub(crate) fn lost(&self) {
        self.here.notify_all();
    }

    /// Waits for news of an attempt: see [`WatchList::subscribe`].
    pub(crate) fn subscribe(&self, attempt: AttemptId) -> Watcher<AttemptId> {
        self.here.subscribe([attempt])
    }

    /// Tells the others until the platform stops; ends at once where there are none.
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
                tracing::debug!(%error, "hints were lost");
            }
            clock.sleep(PAUSE).await;
        }
    }
}
