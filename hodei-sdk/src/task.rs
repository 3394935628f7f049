//! Spawning of tasks and threads, all of it in this file: every task has a name and an owner, and its end is noticed.

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
/// Cancelling asks each task to end; a task ends at its next await. A task that panics stops the platform: half a
/// platform would keep jobs waiting for ever.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    runtime: Handle,
}

impl Tasks {
    /// Creates a set of tasks on the caller's runtime.
    pub(crate) fn new() -> Self {
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new(), runtime: Handle::current() }
    }

    /// Returns the token that is cancelled when the platform stops.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Spawns a task that is dropped at its next await when the platform stops.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn_to_end(name, async move {
            tokio::select! { biased; () = stop.cancelled() => {}, () = work => {} }
        });
    }

    /// Spawns a task that ends by itself when the platform stops, because it has to clean up first.
    pub(crate) fn spawn_to_end(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (stop, runtime) = (self.stop.clone(), self.runtime.clone());
        let supervised = async move {
            // On a task of its own, so that a panic arrives here as an error.
            if let Err(error) = AbortOnDropHandle::new(runtime.spawn(work)).await {
                tracing::error!(task = name, %error, "a task panicked; the platform stops");
                stop.cancel();
            }
        };
        self.tracker.spawn_on(supervised, &self.runtime);
    }

    /// Spawns a task of user code: its panic does not stop the platform, and if it does not end within `limit` of the
    /// stop, it is dropped at its next await.
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
                        tracing::error!(task = name, %error, "a provider's task panicked; the platform continues");
                    }
                }
                () = late => tracing::warn!(task = name, "a provider's task does not end; it is dropped"),
            }
        };
        self.tracker.spawn_on(supervised, &self.runtime);
    }

    /// Asks every task to end and waits until all have ended.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Spawns a short cleanup for an owner that is gone; the task has no owner and ends by itself soon.
///
/// # Panics
/// Outside of a [runtime](is_running).
#[cfg(feature = "postgres")]
pub(crate) fn detach(work: impl Future<Output = ()> + Send + 'static) {
    drop(Handle::current().spawn(work));
}

/// Returns whether the caller runs within a runtime.
#[cfg(feature = "postgres")]
pub(crate) fn is_running() -> bool {
    Handle::try_current().is_ok()
}

/// Starts a thread for calls that may never return. The thread ends with its work; the process does not wait for it at
/// exit.
///
/// # Errors
/// The system's, when it cannot start another thread.
pub(crate) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Runs blocking work, such as disk I/O, outside of the tasks. The work runs to its end even if the caller is dropped.
/// If the runtime ends first, the returned future never completes.
///
/// # Panics
/// When the work panics, with the same payload.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panicked) => std::panic::resume_unwind(panicked),
            // The runtime is ending, and its tasks with it.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// Runs blocking work that reports its outcome by itself.
#[cfg(feature = "sqlite")]
pub(crate) fn detach_blocking(work: impl FnOnce() + Send + 'static) {
    drop(tokio::task::spawn_blocking(work));
}

/// Maximum length of a kept panic message, in bytes.
const MAX_PANIC_MESSAGE_BYTES: usize = 1024;

/// Returns the message of a panic.
pub(crate) fn message_of(payload: Box<dyn Any + Send>) -> String {
    let words = payload.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message");
    let words = words.get(..words.floor_char_boundary(MAX_PANIC_MESSAGE_BYTES)).unwrap_or(words).to_owned();
    // The payload's destructor may panic, and so may the destructor of that second payload.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
    words
}
