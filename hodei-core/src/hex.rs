//! Hexadecimal text of 32 bytes: 64 digits.

use std::fmt;

/// Writes lower-case digits.
pub(crate) fn write(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads digits of either case; `None` for any other text.
pub(crate) fn read(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_64_hexadecimal_digits_are_read() {
        assert_eq!(super::read(&"fF".repeat(32)), Some([255; 32]));
        for text in ["", "00", &"+f".repeat(32), &"g".repeat(64), &"\u{e4}".repeat(32), &"0".repeat(65)] {
            assert_eq!(super::read(text), None, "{text}");
        }
    }
}
