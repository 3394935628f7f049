//! The one place that spawns: every task has a name and an owner, and its end is noticed.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use hodei_core::port::Clock;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// The tasks of one platform.
///
/// Cancelling asks each to end; a task ends at its next wait. A task that panics takes the platform down with
/// it: half a platform would keep jobs waiting for ever.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    runtime: Handle,
}

impl Tasks {
    /// Tasks on the runtime of the caller.
    pub(crate) fn new() -> Self {
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new(), runtime: Handle::current() }
    }

    /// Cancelled when the platform stops.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Spawns a task that is dropped when the platform stops, wherever it waits then.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn_to_end(name, async move {
            tokio::select! { biased; () = stop.cancelled() => {}, () = work => {} }
        });
    }

    /// Spawns a task that ends itself when the platform stops: it has something to put in order first.
    pub(crate) fn spawn_to_end(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (stop, runtime) = (self.stop.clone(), self.runtime.clone());
        let supervised = async move {
            // On another task, so that a panic becomes a value here.
            if let Err(error) = AbortOnDropHandle::new(runtime.spawn(work)).await {
                tracing::error!(task = name, %error, "a task failed: the platform stops");
                stop.cancel();
            }
        };
        self.tracker.spawn_on(supervised, &self.runtime);
    }

    /// Spawns a task of a part of a user's own: one that panics takes nothing along, and one that does not end within
    /// `limit` of the stop is dropped at its next wait.
    pub(crate) fn spawn_guest(
        &self,
        name: &'static str,
        clock: Arc<dyn Clock>,
        limit: Duration,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let (stop, runtime) = (self.stop.clone(), self.runtime.clone());
        let supervised = async move {
            let mut work = AbortOnDropHandle::new(runtime.spawn(work));
            let late = async {
                stop.cancelled().await;
                clock.sleep(limit).await;
            };
            tokio::select! {
                biased;
                ended = &mut work => {
                    if let Err(error) = ended {
                        tracing::error!(task = name, %error, "a task of a provider failed: the platform goes on");
                    }
                }
                () = late => tracing::warn!(task = name, "a task of a provider does not end and is dropped"),
            }
        };
        self.tracker.spawn_on(supervised, &self.runtime);
    }

    /// Asks every task to end and waits for all.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Spawns what puts in order what somebody left behind who has gone, and ends by itself soon: nobody waits for it.
///
/// # Panics
/// Where nothing [is running](is_running).
#[cfg(feature = "postgres")]
pub(crate) fn detach(work: impl Future<Output = ()> + Send + 'static) {
    drop(Handle::current().spawn(work));
}

/// Whether there is a runtime here.
#[cfg(feature = "postgres")]
pub(crate) fn is_running() -> bool {
    Handle::try_current().is_ok()
}

/// Starts a thread for calls that may never return. It belongs to its work, which ends by itself; a process that ends does
/// not wait for it.
///
/// # Errors
/// The system's, when it starts no more threads.
pub(crate) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Runs something that waits for the disk, away from the tasks. When the caller goes, it still runs to its end. Where the
/// runtime ends first, it never ends.
///
/// # Panics
/// With what the work panics with.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panicked) => std::panic::resume_unwind(panicked),
            // The runtime ends, and its tasks with it.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// The same, for work that tells its outcome by itself.
#[cfg(feature = "sqlite")]
pub(crate) fn detach_blocking(work: impl FnOnce() + Send + 'static) {
    drop(tokio::task::spawn_blocking(work));
}

/// The longest message of a panic that is kept, in bytes.
const LONGEST_MESSAGE: usize = 1024;

/// A panic's own words.
pub(crate) fn message_of(payload: Box<dyn Any + Send>) -> String {
    let words = payload.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message");
    let words = words.get(..words.floor_char_boundary(LONGEST_MESSAGE)).unwrap_or(words).to_owned();
    // It may panic when it goes, and so may what that panics with.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
    words
}
