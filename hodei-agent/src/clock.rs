//! The system clock.

use std::time::Duration;

use hodei_core::port::{BoxFuture, Clock};
use hodei_core::time::Timestamp;

/// The clock of this machine, with tokio's timers. All other code reads the time through [`Clock`].
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl Default for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn default() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the clock")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH + since
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
