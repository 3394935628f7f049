//! Runs blocking work off the runtime's threads.

/// Runs work that may block on a separate thread. Returns `None` if the runtime ends and drops the work.
///
/// Not cancel safe: the work continues if the future is dropped.
pub(in crate::executor) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
