//! Finds values in base64, at any offset in the encoded data and with any line breaks.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::look::{Look, Wiped};

/// Length of a piece in characters. Line breaks and the position of the value in the lines are unknown, so each piece
/// is searched for by itself.
const PIECE_CHARACTERS: usize = 8;
/// Length of base64 beyond which pieces start only at every fourth character. Pieces take up to 32 times the size of a
/// value of 6 KiB, 8 times that of one of 72 KiB.
const MAX_DENSE_CHARACTERS: usize = 8 << 10;
/// Length of base64 beyond which there are no pieces: it is searched for as a whole.
const MAX_PIECED_CHARACTERS: usize = 96 << 10;

/// The base64 forms of values. Both alphabets are read as the standard one.
pub(super) struct Encoded {
    /// The pieces of [`PIECE_CHARACTERS`] characters, sorted.
    pieces: Zeroizing<Vec<u64>>,
    /// The first two characters of each form, as a bit set, which rules out most output early.
    beginnings: Zeroizing<Vec<u64>>,
    /// The forms that are too short or too long for pieces.
    whole: Vec<Wiped>,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded").finish_non_exhaustive()
    }
}

impl Encoded {
    /// Encodes values. No form is shorter than `shortest`.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a [u8]>, shortest: usize) -> Self {
        let (mut pieces, mut whole) = (Vec::new(), Vec::new());
        for value in values {
            for before in 0..3 {
                // Unknown data follows the value, nothing, or a line end.
                for behind in [None, Some(""), Some("\n")] {
                    let form = inside(before, value, behind);
                    match form.len() {
                        0..PIECE_CHARACTERS => whole.push(form),
                        PIECE_CHARACTERS..=MAX_PIECED_CHARACTERS => {
                            // Only the last characters depend on the data behind.
                            let from = behind.map_or(0, |_| form.len().saturating_sub(2 * PIECE_CHARACTERS));
                            add_pieces(&form[from..], form.len() > MAX_DENSE_CHARACTERS, &mut pieces);
                        }
                        _ if behind.is_none() => whole.push(form),
                        _ => {}
                    }
                }
            }
        }
        pieces.sort_unstable();
        pieces.dedup();
        pieces.shrink_to_fit();
        whole.retain(|form| form.len() >= shortest);
        whole.sort_by(|a, b| a.as_slice().cmp(b));
        whole.dedup();
        let mut beginnings = vec![0_u64; 1 << 10];
        for piece in &pieces {
            set(&mut beginnings, (piece >> 48) as u16);
        }
        for form in &whole {
            set(&mut beginnings, u16::from_be_bytes([form[0], form[1]]));
        }
        Self { pieces: Zeroizing::new(pieces), beginnings: Zeroizing::new(beginnings), whole }
    }

    /// Returns the characters that a form may start with in output.
    pub(super) fn beginnings(&self) -> impl Iterator<Item = u8> {
        let firsts = self.pieces.iter().map(|piece| (piece >> 56) as u8);
        let firsts = firsts.chain(self.whole.iter().map(|form| form[0]));
        firsts.flat_map(|byte| match byte {
            b'+' => [byte, b'-'],
            b'/' => [byte, b'_'],
            _ => [byte, byte],
        })
    }

    /// Returns its memory use in bytes.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        let whole: usize = self.whole.iter().map(|form| form.len()).sum();
        8 * (self.pieces.len() + self.beginnings.len()) + whole
    }

    /// Returns the length of the longest form or piece.
    pub(super) fn longest(&self) -> usize {
        self.whole.iter().map(|form| form.len()).max().unwrap_or(0).max(PIECE_CHARACTERS)
    }

    /// Looks for a form at the start of `text`, which is not empty.
    pub(super) fn look(&self, text: &[u8], budget: &mut usize, look: &mut Look) {
        let Some(second) = text.get(1) else {
            look.may_be = true;
            return;
        };
        if !is_set(&self.beginnings, u16::from_be_bytes([standard(text[0]), standard(*second)])) {
            return;
        }
        *budget = budget.saturating_sub(PIECE_CHARACTERS);
        let mut least = [0; PIECE_CHARACTERS];
        let length = text.len().min(PIECE_CHARACTERS);
        least.iter_mut().zip(text).for_each(|(to, byte)| *to = standard(*byte));
        let piece = u64::from_be_bytes(least);
        let at = self.pieces.partition_point(|known| *known < piece);
        let unknown = 8 * (PIECE_CHARACTERS - length) as u32;
        let is_there =
            self.pieces.get(at).is_some_and(|known| known.checked_shr(unknown) == piece.checked_shr(unknown));
        match is_there {
            true if length == PIECE_CHARACTERS => look.found = look.found.max(PIECE_CHARACTERS),
            true => look.may_be = true,
            false => {}
        }
        for form in &self.whole {
            let common = form.len().min(text.len());
            let is_near = form[..2] == least[..2];
            *budget = budget.saturating_sub(if is_near { common } else { 1 });
            if is_near && *budget > 0 && form.iter().zip(text).all(|(known, byte)| *known == standard(*byte))
            {
                match common == form.len() {
                    true => look.found = look.found.max(common),
                    false => look.may_be = true,
                }
            }
        }
    }
}

fn set(bits: &mut [u64], at: u16) {
    bits[usize::from(at >> 6)] |= 1 << (at & 63);
}

fn is_set(bits: &[u64], at: u16) -> bool {
    bits[usize::from(at >> 6)] >> (at & 63) & 1 == 1
}

/// Converts a character of the URL alphabet to the standard one.
fn standard(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        _ => byte,
    }
}

fn add_pieces(form: &[u8], is_long: bool, pieces: &mut Vec<u64>) {
    let last = form.len() - PIECE_CHARACTERS;
    for (at, piece) in form.windows(PIECE_CHARACTERS).enumerate() {
        if !is_long || at % 4 == 0 || at == last {
            let mut bytes = [0; PIECE_CHARACTERS];
            bytes.copy_from_slice(piece);
            pieces.push(u64::from_be_bytes(bytes));
        }
    }
}

/// Returns the part of the base64 of a value that is independent of the data around it. `before` is the number of bytes
/// before it, modulo three.
fn inside(before: usize, value: &[u8], behind: Option<&str>) -> Wiped {
    let mut bytes = Zeroizing::new(Vec::with_capacity(before + value.len() + 1));
    bytes.resize(before, 0);
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(behind.unwrap_or_default().as_bytes());
    let text = Zeroizing::new(STANDARD.encode(&*bytes));
    // A character has six bits: finds the first one that belongs wholly to the value, and the one behind the last.
    let end = if behind.is_some() { text.len() } else { bytes.len() * 8 / 6 };
    let first = (before * 8).div_ceil(6);
    Zeroizing::new(text.as_bytes().get(first..end).unwrap_or_default().to_vec())
}
