//! Output as agents send it over a network: what is broken is refused, what is packed comes back.
#![no_main]

use hodei_proto::packing::{LogPacker, unpack};
use hodei_proto::v1::agent_message::Body;
use hodei_proto::v1::{AgentMessage, LogBatch, LogChunk, PackedLogs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let packed = PackedLogs { zstd: bytes.to_vec().into() };
    let _ = unpack(AgentMessage { body: Some(Body::PackedLogs(packed)) });
    let chunks = vec![LogChunk { data: bytes.repeat(3).into(), ..LogChunk::default() }];
    let message = AgentMessage { body: Some(Body::LogBatch(LogBatch { chunks, ..LogBatch::default() })) };
    let packed = LogPacker::default().pack(message.clone());
    assert_eq!(unpack(packed).expect("it was packed a moment ago"), message);
});
