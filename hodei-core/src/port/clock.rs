//! The port of time: both clocks, and timers.

use std::fmt::Debug;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::time::{Moment, Timestamp};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The source of time. Every timer goes through it, so that a test can control time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the time of day. It may jump; durations are measured by [`monotonic`](Self::monotonic).
    fn now(&self) -> Timestamp;

    /// Returns the time since a fixed point; never goes back.
    fn monotonic(&self) -> Duration;

    /// Completes after `duration`. Cancel safe: dropping it drops the timer.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// Functions of every clock.
pub trait ClockExt: Clock {
    /// Reads both clocks, one after the other.
    fn moment(&self) -> Moment {
        Moment { wall: self.now(), monotonic: self.monotonic() }
    }

    /// Waits for `future`; returns [`Elapsed`] when it takes longer than `limit`. Cancel safe if `future` is.
    fn timeout<F>(
        &self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + Send
    where
        F: Future + Send,
    {
        let mut sleep = self.sleep(limit);
        async move {
            let mut future = pin!(future);
            std::future::poll_fn(|context| match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                Poll::Pending => sleep.as_mut().poll(context).map(|()| Err(Elapsed(limit))),
            })
            .await
        }
    }
}

impl<C: Clock + ?Sized> ClockExt for C {}

/// Waits for an optional timer and clears it once it fires; without a timer waits for ever. Cancel safe.
pub async fn timer(slot: &mut Option<BoxFuture<'static, ()>>) {
    match slot {
        Some(sleep) => {
            sleep.as_mut().await;
            *slot = None;
        }
        None => std::future::pending().await,
    }
}

/// A wait reached its time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct Elapsed(pub Duration);
