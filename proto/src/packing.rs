//! Compression of output that is sent over a network.

use std::io;

use prost::Message;

use crate::WORKER_MESSAGE;
use crate::v1::agent_message::Body;
use crate::v1::{AgentMessage, LogBatch, PackedLogs};

/// Compresses log batches before they are sent. After a batch that compression does not shorten, this one and the next
/// batches are sent as they are, since compressing them would likely cost time and gain nothing.
#[derive(Debug, Default)]
pub struct LogPacker {
    /// Number of batches to skip before the next try.
    skip: u32,
}

/// Batches below this size are not worth compressing.
const MIN_PACKED_BYTES: usize = 512;
/// Batches that are skipped after one that compression did not shorten.
const SKIPPED_BATCHES: u32 = 15;
/// The fastest level that compresses text well: about 500 MB/s on one core.
const ZSTD_LEVEL: i32 = 1;

impl LogPacker {
    /// Returns the message to send: compressed, where that is worth it.
    #[must_use]
    pub fn pack(&mut self, message: AgentMessage) -> AgentMessage {
        let Some(Body::LogBatch(batch)) = &message.body else { return message };
        let length = batch.encoded_len();
        if length < MIN_PACKED_BYTES {
            return message;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return message;
        }
        let packed = zstd::bulk::compress(&batch.encode_to_vec(), ZSTD_LEVEL);
        // Unless it saves a tenth, it is not worth the cost of unpacking.
        match packed.ok().filter(|packed| packed.len() < length / 10 * 9) {
            Some(packed) => AgentMessage { body: Some(Body::PackedLogs(PackedLogs { zstd: packed.into() })) },
            None => {
                self.skip = SKIPPED_BATCHES;
                message
            }
        }
    }
}

/// Returns the message as it was before it was packed.
///
/// # Errors
/// The packed bytes are broken, or unpack to more than [`WORKER_MESSAGE`] bytes.
pub fn unpack(message: AgentMessage) -> io::Result<AgentMessage> {
    let Some(Body::PackedLogs(packed)) = &message.body else { return Ok(message) };
    let bytes = zstd::bulk::decompress(&packed.zstd, WORKER_MESSAGE)?;
    let batch = LogBatch::decode(bytes::Bytes::from(bytes)).map_err(io::Error::other)?;
    Ok(AgentMessage { body: Some(Body::LogBatch(batch)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Heartbeat, LogChunk};

    fn output(data: Vec<u8>) -> AgentMessage {
        let chunks = vec![LogChunk { data: data.into(), ..LogChunk::default() }];
        AgentMessage { body: Some(Body::LogBatch(LogBatch { chunks, ..LogBatch::default() })) }
    }

    /// Returns bytes that do not compress.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(next).collect()
    }

    fn text() -> AgentMessage {
        output(b"the same line again and again\n".repeat(1000))
    }

    #[test]
    fn text_is_compressed_and_round_trips() {
        let packed = LogPacker::default().pack(text());
        assert!(packed.encoded_len() * 20 < text().encoded_len(), "{} bytes", packed.encoded_len());
        assert_eq!(unpack(packed).unwrap(), text());
    }

    #[test]
    fn messages_that_compression_does_not_shorten_are_sent_as_they_are() {
        let mut packer = LogPacker::default();
        let heartbeat = AgentMessage { body: Some(Body::Heartbeat(Heartbeat::default())) };
        for message in [heartbeat, output(b"short".to_vec()), output(noise(20_000))] {
            assert_eq!(packer.pack(message.clone()), message);
        }
        // The next batches are skipped, also compressible ones.
        let tried = (0..SKIPPED_BATCHES).filter(|_| packer.pack(text()) != text()).count();
        assert_eq!(tried, 0);
        assert_ne!(packer.pack(text()), text(), "compression is tried again");
    }

    #[test]
    fn broken_or_oversized_packed_logs_are_refused() {
        let packed =
            |zstd: Vec<u8>| AgentMessage { body: Some(Body::PackedLogs(PackedLogs { zstd: zstd.into() })) };
        let bomb = zstd::bulk::compress(&vec![0; WORKER_MESSAGE + 1], ZSTD_LEVEL).unwrap();
        assert!(bomb.len() < 10_000);
        let not_a_batch = zstd::bulk::compress(&[0xff; 100], ZSTD_LEVEL).unwrap();
        for zstd in [bomb, not_a_batch, b"no frame".to_vec()] {
            assert!(unpack(packed(zstd)).is_err());
        }
    }
}
