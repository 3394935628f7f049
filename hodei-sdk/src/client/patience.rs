//! How long a client goes on asking daemons that are away, and which it asks next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hodei_core::port::Clock;
use tonic::{Code, Status};

use super::{DaemonClient, Service, is_said, root_cause};
use crate::error::{Error, Refused};
use crate::wire::refusal::error_of;

/// The first wait before a daemon that is away is asked again; it grows to sixteen times as much.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A daemon that is away for this long is reported to the log.
const REPORT_AFTER: Duration = Duration::from_secs(2);

/// The daemons that may be asked.
#[derive(Debug)]
pub(super) struct Servers {
    /// With where each is reached; never empty.
    pub(super) services: Vec<(String, Service)>,
    /// Which is asked now, counted on without end.
    pub(super) current: AtomicUsize,
}

impl Servers {
    pub(super) fn current(&self) -> &(String, Service) {
        &self.services[self.current.load(Ordering::Relaxed) % self.services.len()]
    }

    /// From now on the next is asked, unless that one is asked already.
    fn pass_over(&self, number: usize) {
        let _ = self.current.compare_exchange(
            number,
            number.wrapping_add(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

/// The waits between two calls to a daemon that is away.
#[derive(Debug)]
pub(super) struct Patience {
    servers: Arc<Servers>,
    /// The daemon that was asked, by its number.
    asked: usize,
    clock: Arc<dyn Clock>,
    since: Duration,
    limit: Duration,
    next: Duration,
    said: bool,
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
            next: FIRST_RETRY,
            said: false,
        }
    }

    /// Waits, if the daemon may come back. Cancel safe.
    pub(super) async fn after(&mut self, status: Status) -> Result<(), Error> {
        // A status with a source was made here, of a connection that broke under the call: no daemon said it.
        let broke = !is_said(&status);
        let away = broke || status.code() == Code::Unavailable;
        let waited = self.clock.monotonic().saturating_sub(self.since);
        let over = waited >= self.limit;
        if over && broke {
            let (url, limit, cause) = (&self.servers.current().0, self.limit, root_cause(&status));
            let why = format!("the daemon at {url} has not answered for {limit:?}: {cause}");
            return Err(Error::Refused(Refused {
                code: Code::Unavailable as i32,
                field: None,
                message: why,
            }));
        }
        if !away || over {
            return Err(error_of(&status));
        }
        // Not for a restart, which is over sooner.
        if waited >= REPORT_AFTER && !std::mem::replace(&mut self.said, true) {
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
        self.next = (self.next * 2).min(FIRST_RETRY * 16);
        Ok(())
    }
}
