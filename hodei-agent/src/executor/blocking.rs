/// Work of an attempt that may take long on its thread, which is another's; `None` when the runtime ends and drops it.
///
/// Not cancel safe: dropped, the work goes on.
pub(in crate::executor) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
