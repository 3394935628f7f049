//! Clocks: [`SystemClock`] is the machine's; a [`ManualClock`] moves only when a test advances it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

pub use hodei_agent::SystemClock;
use hodei_core::port::{BoxFuture, Clock};
use hodei_core::time::Timestamp;

/// A clock for tests: time passes only by [`advance`](Self::advance).
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// Offset of the time of day from the elapsed time, in microseconds; negative when the clock was set back.
    set_micros: i64,
    next_timer: u64,
    timers: BTreeMap<(Duration, u64), Option<Waker>>,
}

impl ManualClock {
    /// The time of day at the start: 2026-01-01T00:00:00Z.
    const START: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

    /// Advances the clock by `duration` and fires the timers that expire by then, in order.
    pub fn advance(&self, duration: Duration) {
        let to = self.lock().now + duration;
        let _ = self.advance_to(to);
    }

    /// Advances the clock to the next timer that a task awaits; false when there is none.
    pub fn advance_to_next(&self) -> bool {
        loop {
            let next = self.lock().timers.first_key_value().map(|((at, _), _)| *at);
            match next {
                // A timer that was never polled has no waker, so firing it wakes no task.
                Some(at) if !self.advance_to(at) => {}
                next => return next.is_some(),
            }
        }
    }

    /// Sets the time of day ahead by this much, as an administrator or NTP would. Timers are unaffected.
    pub fn set_ahead(&self, by: Duration) {
        self.set(i64::try_from(by.as_micros()).unwrap_or(i64::MAX));
    }

    /// Sets the time of day back by this much. Timers are unaffected.
    pub fn set_back(&self, by: Duration) {
        self.set(i64::try_from(by.as_micros()).map_or(i64::MIN, |micros| -micros));
    }

    fn set(&self, micros: i64) {
        let mut state = self.lock();
        state.set_micros = state.set_micros.saturating_add(micros);
    }

    /// Returns whether a task was woken.
    fn advance_to(&self, to: Duration) -> bool {
        let mut woken = false;
        let mut state = self.lock();
        state.now = state.now.max(to);
        while let Some(entry) = state.timers.first_entry() {
            if entry.key().0 > to {
                break;
            }
            if let Some(waker) = entry.remove() {
                drop(state);
                waker.wake();
                woken = true;
                state = self.lock();
            }
        }
        woken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let state = self.lock();
        let passed = Self::START + state.now;
        Timestamp::from_micros(passed.as_micros().saturating_add(state.set_micros))
    }

    fn monotonic(&self) -> Duration {
        self.lock().now
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.lock();
        let key = (state.now + duration, state.next_timer);
        state.next_timer += 1;
        state.timers.insert(key, None);
        drop(state);
        let timer = Timer { clock: self.clone(), key };
        Box::pin(async move { poll_fn(|context| timer.poll(context.waker())).await })
    }
}

/// One timer; dropping it removes it from the clock.
struct Timer {
    clock: ManualClock,
    key: (Duration, u64),
}

impl Timer {
    fn poll(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.clock.lock();
        if state.now >= self.key.0 {
            return Poll::Ready(());
        }
        state.timers.insert(self.key, Some(waker.clone()));
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.clock.lock().timers.remove(&self.key);
    }
}
