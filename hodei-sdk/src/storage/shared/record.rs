//! Log records as a kind and bytes, the same in every store.

use bytes::Bytes;
use hodei_core::event::LogGap;
use hodei_core::port::{LogBody, LogRecord, LogStream};
use hodei_core::time::Timestamp;

const STDOUT: u8 = 0;
const STDERR: u8 = 1;
const GAP: u8 = 2;

/// Returns the kind and the payload of a record.
pub(in crate::storage) fn parts(record: &LogRecord) -> (u8, Bytes) {
    match &record.body {
        LogBody::Chunk { stream: LogStream::Stdout, bytes } => (STDOUT, bytes.clone()),
        LogBody::Chunk { stream: LogStream::Stderr, bytes } => (STDERR, bytes.clone()),
        LogBody::Gap(gap) if gap.bytes == 0 => (GAP, Bytes::copy_from_slice(&gap.to.to_le_bytes())),
        LogBody::Gap(gap) => (GAP, [gap.to.to_le_bytes(), gap.bytes.to_le_bytes()].concat().into()),
    }
}

/// Returns the record with a kind and a payload; `None` when the kind is unknown or the payload is malformed.
pub(in crate::storage) fn of(kind: u8, sequence: u64, at: Timestamp, payload: Bytes) -> Option<LogRecord> {
    let chunk = |stream, bytes| LogRecord { sequence, at, body: LogBody::Chunk { stream, bytes } };
    match kind {
        STDOUT => Some(chunk(LogStream::Stdout, payload)),
        STDERR => Some(chunk(LogStream::Stderr, payload)),
        GAP => {
            let (to, bytes) = payload.split_at_checked(size_of::<u64>())?;
            let to = u64::from_le_bytes(to.try_into().ok()?);
            let bytes = if bytes.is_empty() { 0 } else { u64::from_le_bytes(bytes.try_into().ok()?) };
            Some(LogRecord::of_gap(LogGap { from: sequence, to, bytes }, at))
        }
        _ => None,
    }
}
