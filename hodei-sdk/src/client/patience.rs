//! Retries of the client while no daemon answers: how long, at which intervals, and which daemon is called next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hodei_core::port::Clock;
use tonic::{Code, Status};

use super::{DaemonClient, Service, is_answer, root_cause};
use crate::error::{Error, RefusalKind, Refused};
use crate::wire::refusal::error_of;

/// The first wait between two tries. Each wait is twice the one before, up to sixteen times this.
const FIRST_RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Time without an answer after which it is logged. A restart of a daemon takes less.
const REPORT_AFTER: Duration = Duration::from_secs(2);

/// The daemons that may be called.
#[derive(Debug)]
pub(super) struct Servers {
    /// The URL and the channel of each daemon; never empty.
    pub(super) services: Vec<(String, Service)>,
    /// The number of the daemon that is called, modulo their count. It only grows.
    pub(super) current: AtomicUsize,
}

impl Servers {
    pub(super) fn current(&self) -> &(String, Service) {
        &self.services[self.current.load(Ordering::Relaxed) % self.services.len()]
    }

    /// Switches to the daemon after this number, unless another call has already switched.
    fn pass_over(&self, number: usize) {
        let _ = self.current.compare_exchange(
            number,
            number.wrapping_add(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

/// The retries of one call while no daemon answers.
#[derive(Debug)]
pub(super) struct Patience {
    servers: Arc<Servers>,
    /// The number of the daemon that was called.
    asked: usize,
    clock: Arc<dyn Clock>,
    since: Duration,
    limit: Duration,
    next: Duration,
    is_reported: bool,
}

impl Patience {
    pub(super) fn new(client: &DaemonClient) -> Self {
        let clock = client.clock.clone();
        let servers = client.servers.clone();
        let asked = servers.current.load(Ordering::Relaxed);
        Self {
            servers,
            asked,
            since: clock.monotonic(),
            clock,
            limit: client.patience,
            next: FIRST_RETRY_INTERVAL,
            is_reported: false,
        }
    }

    /// Waits before the next try, if the status says that a daemon is unavailable and there is time left. Cancel safe.
    ///
    /// # Errors
    /// The status, if the call is not to be retried.
    pub(super) async fn after(&mut self, status: Status) -> Result<(), Error> {
        let broke = !is_answer(&status);
        let away = broke || status.code() == Code::Unavailable;
        let waited = self.clock.monotonic().saturating_sub(self.since);
        let over = waited >= self.limit;
        if over && broke {
            let (url, limit, cause) = (&self.servers.current().0, self.limit, root_cause(&status));
            let why = format!("the daemon at {url} has not answered for {limit:?}: {cause}");
            return Err(Error::Refused(Refused {
                kind: RefusalKind::Unavailable,
                field: None,
                message: why,
            }));
        }
        if !away || over {
            return Err(error_of(&status));
        }
        if waited >= REPORT_AFTER && !std::mem::replace(&mut self.is_reported, true) {
            let (url, limit) = (&self.servers.current().0, self.limit);
            match error_of(&status) {
                Error::Refused(Refused { message, .. }) if !broke && !message.is_empty() => {
                    tracing::warn!("the daemon at {url} says: {message}; trying again for up to {limit:?}");
                }
                error if !broke => {
                    tracing::warn!("the daemon at {url} says: {error}; trying again for up to {limit:?}");
                }
                _ => tracing::warn!("the daemon at {url} does not answer: trying again for up to {limit:?}"),
            }
        }
        self.servers.pass_over(self.asked);
        self.asked = self.servers.current.load(Ordering::Relaxed);
        self.clock.sleep(self.next).await;
        self.next = (self.next * 2).min(FIRST_RETRY_INTERVAL * 16);
        Ok(())
    }
}
