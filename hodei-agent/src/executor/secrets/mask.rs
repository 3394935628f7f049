//! Masks secrets in a stream of output.

use std::sync::Arc;

use bytes::BytesMut;
use zeroize::{Zeroize, Zeroizing};

use super::needles::Needles;

/// Replaces a secret.
pub(crate) const REPLACEMENT: &[u8] = b"***";

/// Minimum length of a secret's prefix that is masked at the end of a stream, in bytes.
const MIN_CUT_OFF_BYTES: usize = 8;
/// Number of bytes that may be compared for each byte of output, in addition to [`BUDGET_PER_PIECE`].
const BUDGET_PER_BYTE: usize = 64;
/// Number of bytes that may be compared for each piece of output: takes about a millisecond.
const BUDGET_PER_PIECE: usize = 8 << 20;

/// Masks one stream of output, across its pieces.
///
/// Holds back bytes that may be the start of a secret until more output arrives or the stream ends.
#[derive(Debug)]
pub(crate) struct Mask {
    needles: Arc<Needles>,
    held: Zeroizing<Vec<u8>>,
    /// Number of bytes that are yet to be dropped.
    unshown: usize,
}

impl Mask {
    pub(crate) fn new(needles: Arc<Needles>) -> Self {
        Self { needles, held: Zeroizing::default(), unshown: 0 }
    }

    /// Takes a piece and writes the output that is decided.
    pub(crate) fn push(&mut self, piece: &[u8], out: &mut BytesMut) {
        self.take(piece, false, out);
    }

    /// Ends the stream: writes the output that was held back.
    pub(crate) fn finish(&mut self, out: &mut BytesMut) {
        self.take(&[], true, out);
    }

    fn take(&mut self, piece: &[u8], is_end: bool, out: &mut BytesMut) {
        let passed = piece.len().min(self.unshown);
        self.unshown -= passed;
        let piece = &piece[passed..];
        let mut text = Zeroizing::new(Vec::with_capacity(self.held.len() + piece.len()));
        text.extend_from_slice(&self.held);
        text.extend_from_slice(piece);
        self.held.zeroize();
        let mut budget = BUDGET_PER_PIECE + BUDGET_PER_BYTE * text.len();
        let (mut shown, mut at) = (0, 0);
        while at < text.len() {
            let look = self.needles.look(&text[at..], &mut budget);
            if budget == 0 {
                break;
            }
            if look.may_be && !is_end {
                break;
            }
            if is_end && look.may_be && look.found == 0 && text.len() - at >= MIN_CUT_OFF_BYTES {
                // A secret that is cut off, as by a kill.
                out.extend_from_slice(&text[shown..at]);
                out.extend_from_slice(REPLACEMENT);
                return;
            }
            if look.found == 0 {
                at += 1;
                continue;
            }
            // A secret that starts within another is masked with it.
            let (mut end, mut inside, mut undecided) = (at + look.found, at + 1, false);
            while inside < end && budget > 0 {
                let look = self.needles.look(&text[inside..], &mut budget);
                undecided |= look.may_be && !is_end;
                end = end.max(inside + look.found);
                inside += 1;
            }
            if undecided || budget == 0 {
                break;
            }
            out.extend_from_slice(&text[shown..at]);
            out.extend_from_slice(REPLACEMENT);
            (shown, at) = (end, end);
        }
        out.extend_from_slice(&text[shown..at]);
        if budget == 0 {
            // Output that is too slow to search: the rest is not shown, and neither are the bytes that may belong to
            // it.
            out.extend_from_slice(REPLACEMENT);
            self.unshown = self.needles.longest();
        } else {
            self.held.extend_from_slice(&text[at..]);
        }
    }
}

impl Needles {
    /// Returns a text with the values masked.
    pub(crate) fn masked(self: &Arc<Self>, text: &str) -> String {
        let (mut mask, mut shown) = (Mask::new(self.clone()), BytesMut::new());
        mask.push(text.as_bytes(), &mut shown);
        mask.finish(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use hodei_core::secret::SecretValue;

    use super::*;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.as_bytes().to_vec()).unwrap()
    }

    fn masked(secrets: &[&str], pieces: &[&str]) -> String {
        let values: Vec<_> = secrets.iter().map(|secret| value(secret)).collect();
        let mut mask = Mask::new(Arc::new(Needles::of(&values)));
        let mut out = BytesMut::new();
        pieces.iter().for_each(|piece| mask.push(piece.as_bytes(), &mut out));
        mask.finish(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_secret_is_masked_at_any_place() {
        assert_eq!(masked(&["hunter22"], &["my hunter22 and hunter22!"]), "my *** and ***!");
        assert_eq!(masked(&["hunter22"], &["hunter2", "3 hunte"]), "hunter23 hunte");
        assert_eq!(
            masked(&["hunter22\n"], &["hunter22;"]),
            "***;",
            "a newline behind the secret is not part of it"
        );
        let encoded = STANDARD.encode("user:hunter22");
        assert_eq!(masked(&["hunter22"], &[&encoded]), format!("{}***", &encoded[..7]));
    }

    #[test]
    fn a_secret_that_is_cut_off_is_masked() {
        assert_eq!(masked(&["a long password"], &["so a long pass"]), "so ***");
        assert_eq!(masked(&["a long password"], &["so a long"]), "so a long", "the prefix is too short");
    }

    #[test]
    fn a_secret_is_masked_across_any_cuts() {
        let text = "a hunter22 b hunter2 c hunter22";
        for cut in 0..=text.len() {
            for second in cut..=text.len() {
                let pieces = [&text[..cut], &text[cut..second], &text[second..]];
                assert_eq!(masked(&["hunter22"], &pieces), "a *** b hunter2 c ***", "{pieces:?}");
            }
        }
        let bytes: Vec<String> = text.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(masked(&["hunter22"], &bytes), "a *** b hunter2 c ***");
    }

    #[test]
    fn overlapping_secrets_are_masked_completely() {
        assert_eq!(masked(&["abcdef", "defghi"], &["xabcdefghiy"]), "x***y");
        assert_eq!(masked(&["abcd", "abcdefgh"], &["abcdef"]), "***ef", "the longer one is incomplete");
        assert_eq!(masked(&["abcd", "abcdefgh"], &["abcdefgh"]), "***");
        assert_eq!(masked(&["aaaa"], &["aaaaaa"]), "***");
    }

    #[test]
    fn output_that_cannot_be_a_secret_is_not_held_back() {
        let mut mask = Mask::new(Arc::new(Needles::of(&[value("hunter22")])));
        let mut out = BytesMut::new();
        mask.push(b"name? ", &mut out);
        assert_eq!(&out[..], b"name? ");
        mask.push(b"hunt", &mut out);
        assert_eq!(&out[..], b"name? ", "it may be a secret");
        mask.push(b"ing", &mut out);
        assert_eq!(&out[..], b"name? hunting");
    }

    #[test]
    fn output_that_is_slow_to_search_is_masked() {
        let secret = "a".repeat(1 << 20);
        let values = [value(&secret)];
        let mut mask = Mask::new(Arc::new(Needles::of(&values)));
        let mut out = BytesMut::new();
        for _ in 0..40 {
            mask.push(&[b'a'; 1 << 16], &mut out);
        }
        mask.push(b"b", &mut out);
        mask.finish(&mut out);
        assert!(out.len() < 1 << 16, "{}", out.len());
    }
}
