//! The forms in which a value may turn up in output.

use std::fmt::Write;

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use zeroize::Zeroizing;

/// Bytes that are overwritten when they are dropped.
pub(super) type Wiped = Zeroizing<Vec<u8>>;

/// A line of a value is a form of its own from this length on: shorter ones are words of everybody's.
const LINE: usize = 8;
/// What base64 programs break lines at: `base64` of coreutils, and `openssl base64` as PEM does.
const WRAPPED: [usize; 2] = [76, 64];

/// Every form of a value: as it is, without the blanks around it, line by line, in base64 wherever it begins in what was
/// encoded, in URLs, in hexadecimal, and in JSON. None is shorter than `shortest`.
pub(super) fn forms(value: &[u8], shortest: usize) -> Vec<Wiped> {
    let plain = value.trim_ascii();
    let mut forms: Vec<Wiped> = Vec::new();
    let mut add = |form: &[u8]| {
        if form.len() >= shortest {
            forms.push(Zeroizing::new(form.to_vec()));
        }
    };
    add(value);
    add(plain);
    if plain.contains(&b'\n') {
        let lines = plain.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        lines.filter(|line| line.len() >= LINE).for_each(&mut add);
    }
    for alphabet in [&STANDARD, &URL_SAFE] {
        for before in 0..3 {
            // Nothing is known behind it; it is the end; it is the end of a line.
            for behind in [None, Some(""), Some("\n")] {
                add(&inside_base64(alphabet, before, plain, behind));
            }
        }
        let whole = Zeroizing::new(alphabet.encode(value));
        for width in WRAPPED.into_iter().filter(|width| whole.len() > *width) {
            whole.as_bytes().chunks(width).filter(|line| line.len() >= LINE).for_each(&mut add);
        }
    }
    for (hex, blank) in [(UPPER, "%20"), (LOWER, "%20"), (UPPER, "+"), (LOWER, "+")] {
        add(&in_url(plain, hex, blank));
    }
    for hex in [UPPER, LOWER] {
        for before in ["", "%"] {
            add(&in_hex(plain, hex, before));
        }
    }
    if let Ok(text) = std::str::from_utf8(plain) {
        add(&json_escaped(text));
    }
    forms.sort_by(|a, b| a.as_slice().cmp(b));
    forms.dedup();
    forms
}

/// What is the same of the base64 of any bytes with this value behind `before` others, modulo three: the characters that
/// no unknown neighbour has a part in.
fn inside_base64(alphabet: &GeneralPurpose, before: usize, value: &[u8], behind: Option<&str>) -> Wiped {
    let mut bytes = Zeroizing::new(Vec::with_capacity(before + value.len() + 1));
    bytes.resize(before, 0);
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(behind.unwrap_or_default().as_bytes());
    let text = Zeroizing::new(alphabet.encode(&*bytes));
    // A character has six bits: the first that is wholly of the value, and the one behind the last.
    let end = if behind.is_some() { text.len() } else { bytes.len() * 8 / 6 };
    let first = (before * 8).div_ceil(6);
    Zeroizing::new(text.as_bytes().get(first..end).unwrap_or_default().to_vec())
}

const UPPER: &[u8; 16] = b"0123456789ABCDEF";
const LOWER: &[u8; 16] = b"0123456789abcdef";

/// As encodeURIComponent and its like write it: letters, digits and `-._~` as they are (RFC 3986, section 2.3).
fn in_url(value: &[u8], hex: &[u8; 16], blank: &str) -> Wiped {
    let mut text = Zeroizing::new(Vec::with_capacity(value.len() * 3));
    for byte in value {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(*byte),
            b' ' => text.extend_from_slice(blank.as_bytes()),
            _ => text.extend_from_slice(&[b'%', hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]]),
        }
    }
    text
}

/// As dumps write it, and URLs that spare nothing.
fn in_hex(value: &[u8], hex: &[u8; 16], before: &str) -> Wiped {
    let mut text = Zeroizing::new(Vec::with_capacity(value.len() * 3));
    for byte in value {
        text.extend_from_slice(before.as_bytes());
        text.extend_from_slice(&[hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]]);
    }
    text
}

/// A text as it stands between the quotes of a JSON string.
pub(super) fn json_escaped(text: &str) -> Wiped {
    let mut escaped = Zeroizing::new(Vec::with_capacity(text.len() * 6));
    let mut buffer = [0; 4];
    for character in text.chars() {
        match character {
            '"' => escaped.extend_from_slice(b"\\\""),
            '\\' => escaped.extend_from_slice(b"\\\\"),
            '\n' => escaped.extend_from_slice(b"\\n"),
            '\r' => escaped.extend_from_slice(b"\\r"),
            '\t' => escaped.extend_from_slice(b"\\t"),
            '\u{8}' => escaped.extend_from_slice(b"\\b"),
            '\u{c}' => escaped.extend_from_slice(b"\\f"),
            '\0'..='\u{1f}' => {
                let mut code = String::new();
                let _ = write!(code, "\\u{:04x}", u32::from(character));
                escaped.extend_from_slice(code.as_bytes());
            }
            _ => escaped.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes()),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(forms: &[Wiped], text: &str) -> bool {
        forms.iter().any(|form| text.as_bytes().windows(form.len()).any(|part| part == &form[..]))
    }

    #[test]
    fn base64_is_known_wherever_the_value_begins() {
        let value = "s3cr3t/with+odd?bytes";
        let forms = forms(value.as_bytes(), 4);
        for around in ["", "x", "xy", "xyz", "user:"] {
            for behind in ["", "\n", "@host"] {
                let text = format!("{around}{value}{behind}");
                assert!(has(&forms, &STANDARD.encode(&text)), "{text:?}");
                assert!(has(&forms, &URL_SAFE.encode(&text)), "{text:?}");
            }
        }
        let long =
            "a long secret that is wrapped by the programs that encode it, at 64 or 76 characters".repeat(3);
        let long_forms = super::forms(long.as_bytes(), 4);
        let encoded = STANDARD.encode(&long);
        for width in WRAPPED {
            for line in encoded.as_bytes().chunks(width) {
                assert!(has(&long_forms, std::str::from_utf8(line).unwrap()));
            }
        }
    }

    #[test]
    fn the_value_is_known_in_urls_json_and_by_its_lines() {
        let forms = forms(b"  pass word/\"1\"\n\tsecond line\n", 4);
        for text in [
            "pass word/\"1\"",
            "second line",
            "pass%20word%2F%221%22%0A%09second%20line",
            "pass%20word%2f%221%22%0a%09second%20line",
            "pass+word%2F%221%22%0A%09second+line",
            r#"pass word/\"1\"\n\tsecond line"#,
            "7061737320776f72642f2231220a097365636f6e64206c696e65",
            "%70%61%73%73%20%77%6F%72%64%2F%22%31%22%0A%09%73%65%63%6F%6E%64%20%6C%69%6E%65",
        ] {
            assert!(forms.iter().any(|form| &form[..] == text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn no_form_is_too_short() {
        assert!(forms(b"abcd", 4).iter().all(|form| form.len() >= 4));
        assert!(forms(b" a b", 4).iter().all(|form| form.len() >= 4));
    }
}
