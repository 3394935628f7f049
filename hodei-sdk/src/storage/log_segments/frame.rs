//! Frames, the form of log records in a segment. A frame is little endian: length of the payload, checksum of all other
//! bytes, attempt, kind, sequence, time, payload. A file that ends in a partial frame or in garbage counts as ending
//! before it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::{BufMut, Bytes};
use hodei_core::id::{AttemptId, JobId};
use hodei_core::port::{LogEnd, LogRecord};
use hodei_core::time::Timestamp;
use uuid::Uuid;

use crate::storage::shared::record;

/// One entry of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Record(LogRecord),
    End(LogEnd),
    /// The log of the attempt was removed.
    Removed,
}

/// Size of a frame before its payload.
pub(super) const HEADER_BYTES: usize = 48;
/// Maximum size of a payload; a larger one is garbage, because agents send far smaller chunks.
const MAX_PAYLOAD_BYTES: usize = 64 << 20;

// Kinds of frames. Lower numbers are kinds of records: see `record`.
const COMPLETE: u8 = 3;
const TORN: u8 = 4;
const REMOVED: u8 = 5;

/// Appends a frame to a buffer. `next` is the next sequence number of the log, for a frame that is not a record.
pub(super) fn encode(buffer: &mut Vec<u8>, attempt: AttemptId, frame: &Frame, next: u64) {
    let none = |kind| ((kind, Bytes::new()), next, Timestamp::EPOCH);
    let ((kind, payload), sequence, at) = match frame {
        Frame::Record(record) => (record::parts(record), record.sequence, record.at),
        Frame::End(LogEnd::Complete) => none(COMPLETE),
        Frame::End(LogEnd::Torn) => none(TORN),
        Frame::Removed => none(REMOVED),
    };
    let start = buffer.len();
    buffer.put_u32_le(payload.len() as u32);
    buffer.put_u32_le(0);
    buffer.put_slice(attempt.job.as_uuid().as_bytes());
    buffer.put_u32_le(attempt.number);
    buffer.put_u32_le(u32::from(kind));
    buffer.put_u64_le(sequence);
    buffer.put_i64_le(at.as_micros());
    buffer.put_slice(&payload);
    let sum = checksum([&buffer[start..start + 4], &buffer[start + 8..]]);
    buffer[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
}

/// Returns the size of a record's frame in bytes.
pub(super) fn length(record: &LogRecord) -> usize {
    HEADER_BYTES + record::parts(record).1.len()
}

fn checksum<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.into_iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// Reads one frame; `None` when the bytes are not a complete, intact frame.
///
/// # Errors
/// The reader's errors, except for an early end.
pub(super) fn decode(from: &mut impl Read) -> io::Result<Option<(AttemptId, u64, Frame)>> {
    let mut header = [0; HEADER_BYTES];
    if !fill(from, &mut header)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(field(&header, 0)) as usize;
    if length > MAX_PAYLOAD_BYTES {
        return Ok(None);
    }
    let mut payload = vec![0; length];
    if !fill(from, &mut payload)? {
        return Ok(None);
    }
    if checksum([&header[..4], &header[8..], &payload]) != u32::from_le_bytes(field(&header, 4)) {
        return Ok(None);
    }
    let job = JobId::from_uuid(Uuid::from_bytes(field(&header, 8)));
    let attempt = AttemptId { job, number: u32::from_le_bytes(field(&header, 24)) };
    let sequence = u64::from_le_bytes(field(&header, 32));
    let at = Timestamp::from_micros(i64::from_le_bytes(field(&header, 40)));
    let frame = match u32::from_le_bytes(field(&header, 28)) as u8 {
        COMPLETE => Frame::End(LogEnd::Complete),
        TORN => Frame::End(LogEnd::Torn),
        REMOVED => Frame::Removed,
        kind => match record::of(kind, sequence, at, Bytes::from(payload)) {
            Some(record) => Frame::Record(record),
            None => return Ok(None),
        },
    };
    Ok(Some((attempt, sequence, frame)))
}

/// Returns the offset of the next intact frame after a damaged one at `offset`; `None` when there is none.
pub(super) fn find_next(path: &Path, offset: u64) -> io::Result<Option<u64>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut window = vec![0; 1 << 20];
    let mut start = offset + 1;
    while start + HEADER_BYTES as u64 <= length {
        let count = file.read_at(&mut window, start)?;
        for at in 0..(count + 1).saturating_sub(HEADER_BYTES) {
            let header = &window[at..at + HEADER_BYTES];
            let payload = u64::from(u32::from_le_bytes(field(header, 0)));
            let place = start + at as u64;
            // Skip most offsets without decoding.
            if u32::from_le_bytes(field(header, 28)) > u32::from(REMOVED)
                || payload > length.saturating_sub(place + HEADER_BYTES as u64)
            {
                continue;
            }
            let mut from = &file;
            from.seek(SeekFrom::Start(place))?;
            if decode(&mut BufReader::new(from))?.is_some() {
                return Ok(Some(place));
            }
        }
        start += (count + 1).saturating_sub(HEADER_BYTES).max(1) as u64;
    }
    Ok(None)
}

/// Returns the `N` bytes at `at`; the caller has checked the length.
pub(super) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut found = [0; N];
    found.copy_from_slice(&bytes[at..at + N]);
    found
}

/// Fills the buffer; false when the reader ends first.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use hodei_core::event::LogGap;
    use hodei_core::port::LogBody;
    use proptest::prelude::*;

    use super::*;
    use hodei_core::port::LogStream;

    fn frame() -> impl Strategy<Value = Frame> {
        let chunk = (any::<u64>(), any::<i64>(), any::<bool>(), any::<Vec<u8>>());
        prop_oneof![
            chunk.prop_map(|(sequence, at, out, bytes)| {
                let stream = if out { LogStream::Stdout } else { LogStream::Stderr };
                let body = LogBody::Chunk { stream, bytes: bytes.into() };
                Frame::Record(LogRecord { sequence, at: Timestamp::from_micros(at), body })
            }),
            (any::<u64>(), any::<u64>()).prop_map(|(from, to)| {
                let body = LogBody::Gap(LogGap { from, to, bytes: to & 0xff });
                Frame::Record(LogRecord { sequence: from, at: Timestamp::EPOCH, body })
            }),
            Just(Frame::End(LogEnd::Complete)),
            Just(Frame::End(LogEnd::Torn)),
            Just(Frame::Removed),
        ]
    }

    proptest! {
        #[test]
        fn encoded_frames_decode_to_themselves(frames in prop::collection::vec((any::<u128>(), any::<u32>(), frame()), 0..8), cut in 0_usize..64) {
            let id = |job: u128, number| AttemptId { job: JobId::from_uuid(Uuid::from_u128(job)), number };
            let mut bytes = Vec::new();
            for (job, number, frame) in &frames {
                encode(&mut bytes, id(*job, *number), frame, 0);
            }
            let mut all = &bytes[..];
            for (job, number, frame) in &frames {
                let (attempt, _, found) = decode(&mut all).unwrap().unwrap();
                prop_assert_eq!((attempt, &found), (id(*job, *number), frame));
            }
            prop_assert_eq!(decode(&mut all).unwrap(), None);
            // A cut anywhere leaves only intact frames.
            let mut cut = &bytes[..bytes.len().saturating_sub(cut + 1)];
            let mut count = 0;
            while decode(&mut cut).unwrap().is_some() {
                count += 1;
            }
            prop_assert!(count < frames.len().max(1));
        }

        #[test]
        fn garbage_does_not_decode_as_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert_eq!(decode(&mut &bytes[..]).unwrap(), None);
        }
    }
}
