//! Frames of log segments: bytes of any kind end or are read, and what is read is written as it was.
#![no_main]
#![allow(dead_code, reason = "only what reads and writes bytes is used here")]

#[path = "."]
mod storage {
    #[path = "."]
    mod shared {
        #[path = "../../hodei-sdk/src/storage/shared/record.rs"]
        pub(in crate::storage) mod record;
    }

    #[path = "."]
    pub mod log_segments {
        #[path = "../../hodei-sdk/src/storage/log_segments/frame.rs"]
        mod frame;

        pub fn run(bytes: &[u8]) {
            let mut left = bytes;
            while let Ok(Some((attempt, next, frame))) = frame::decode(&mut left) {
                let mut written = Vec::new();
                frame::encode(&mut written, attempt, &frame, next);
                let again = frame::decode(&mut &written[..]).expect("no I/O").expect("a whole frame");
                assert_eq!(again, (attempt, next, frame));
            }
            // With a right checksum, garbage gets further.
            if let Some((sum, rest)) = bytes.get(4..).and_then(|rest| rest.split_at_checked(4)) {
                let _ = sum;
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(&bytes[..4]);
                hasher.update(rest);
                let mut whole = bytes.to_vec();
                whole[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
                let _ = frame::decode(&mut &whole[..]);
            }
        }
    }
}

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| storage::log_segments::run(bytes));
