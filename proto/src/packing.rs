//! Output that goes over a network in less bytes, where that pays.

use std::io;

use prost::Message;

use crate::WORKER_MESSAGE;
use crate::v1::agent_message::Body;
use crate::v1::{AgentMessage, LogBatch, PackedLogs};

/// Packs output as it is sent. What does not get shorter goes as it is, and so do the next batches: compressing them
/// would cost time and gain nothing.
#[derive(Debug, Default)]
pub struct LogPacker {
    /// Batches that are passed over before the next try.
    pause: u32,
}

/// Shorter batches are not worth it.
const SHORTEST: usize = 512;
/// Batches that go as they are after one that did not get shorter.
const PAUSE: u32 = 15;
/// The fastest level that compresses text well: about 500 MB/s on one core.
const LEVEL: i32 = 1;

impl LogPacker {
    /// The message as it should be sent.
    #[must_use]
    pub fn pack(&mut self, message: AgentMessage) -> AgentMessage {
        let Some(Body::LogBatch(batch)) = &message.body else { return message };
        let length = batch.encoded_len();
        if length < SHORTEST {
            return message;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return message;
        }
        let packed = zstd::bulk::compress(&batch.encode_to_vec(), LEVEL);
        // A tenth less, or it is not worth the unpacking.
        match packed.ok().filter(|packed| packed.len() < length / 10 * 9) {
            Some(packed) => AgentMessage { body: Some(Body::PackedLogs(PackedLogs { zstd: packed.into() })) },
            None => {
                self.pause = PAUSE;
                message
            }
        }
    }
}

/// The message as it was before it was packed.
///
/// # Errors
/// What was packed is broken, or has more bytes than a message may.
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

    /// Bytes that nothing makes shorter.
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
    fn text_gets_shorter_and_comes_back() {
        let packed = LogPacker::default().pack(text());
        assert!(packed.encoded_len() * 20 < text().encoded_len(), "{} bytes", packed.encoded_len());
        assert_eq!(unpack(packed).unwrap(), text());
    }

    #[test]
    fn what_does_not_pay_goes_as_it_is() {
        let mut packer = LogPacker::default();
        let heartbeat = AgentMessage { body: Some(Body::Heartbeat(Heartbeat::default())) };
        for message in [heartbeat, output(b"short".to_vec()), output(noise(20_000))] {
            assert_eq!(packer.pack(message.clone()), message);
        }
        // After noise comes noise, most of the time.
        let tried = (0..PAUSE).filter(|_| packer.pack(text()) != text()).count();
        assert_eq!(tried, 0);
        assert_ne!(packer.pack(text()), text(), "and then it is tried again");
    }

    #[test]
    fn what_is_broken_or_too_long_is_refused() {
        let packed =
            |zstd: Vec<u8>| AgentMessage { body: Some(Body::PackedLogs(PackedLogs { zstd: zstd.into() })) };
        let bomb = zstd::bulk::compress(&vec![0; WORKER_MESSAGE + 1], LEVEL).unwrap();
        assert!(bomb.len() < 10_000);
        let not_a_batch = zstd::bulk::compress(&[0xff; 100], LEVEL).unwrap();
        for zstd in [bomb, not_a_batch, b"no frame".to_vec()] {
            assert!(unpack(packed(zstd)).is_err());
        }
    }
}
