//! Reads the output of a job.

use hodei_sdk::port::LogBody;
use hodei_sdk::{JobHandle, LogItem};

/// Waits for the end of a job's output and returns it as text.
pub(crate) async fn output(job: &JobHandle) -> String {
    let (mut logs, mut text) = (job.logs(), Vec::new());
    while let Some(item) = logs.next().await.unwrap() {
        if let LogItem::Record { record, .. } = item
            && let LogBody::Chunk { bytes, .. } = record.body
        {
            text.extend(bytes);
        }
    }
    String::from_utf8(text).unwrap()
}
