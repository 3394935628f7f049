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
/// Where base64 is broken into lines, and where the value lies in them, nobody knows: each piece of this many characters
/// is a form of its own.
const PIECE: usize = 8;
/// Longer base64 has a piece at every fourth character only, and beyond [`LONGEST`] none: they would be too many.
const LONG: usize = 8 << 10;
const LONGEST: usize = 96 << 10;

fn pieces(form: &[u8]) -> impl Iterator<Item = &[u8]> {
    let step = if form.len() <= LONG { 1 } else { 4 };
    let form = if form.len() <= LONGEST { form } else { &[] };
    form.windows(PIECE).step_by(step)
}

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
                let form = inside_base64(alphabet, before, plain, behind);
                pieces(&form).for_each(&mut add);
                add(&form);
            }
        }
    }
    for plain_in_url in SPARED {
        for hex in [UPPER, LOWER] {
            ["%20", "+"].into_iter().for_each(|blank| add(&in_url(plain, hex, plain_in_url, blank)));
        }
    }
    for hex in [UPPER, LOWER] {
        ["", "%"].into_iter().for_each(|before| add(&in_hex(plain, hex, before)));
    }
    if let Ok(text) = std::str::from_utf8(plain) {
        for spared in 0..8 {
            let [slash, html, ascii] = [1, 2, 4].map(|bit| spared & bit != 0);
            add(&json_text(text, slash, html, ascii));
        }
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

/// What is written as it is in URLs, beside letters and digits: by RFC 3986, by encodeURIComponent, by Python's `quote`,
/// and by forms.
const SPARED: [&[u8]; 4] = [b"-._~", b"-._~!*'()", b"-._~/", b"-._*"];

fn in_url(value: &[u8], hex: &[u8; 16], spared: &[u8], blank: &str) -> Wiped {
    let mut text = Zeroizing::new(Vec::with_capacity(value.len() * 3));
    for byte in value {
        match byte {
            b' ' => text.extend_from_slice(blank.as_bytes()),
            _ if byte.is_ascii_alphanumeric() || spared.contains(byte) => text.push(*byte),
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
    json_text(text, false, false, false)
}

/// The same as some write it: with `\/` (PHP), with `<`, `>` and `&` as numbers (Go), with all that is not ASCII as
/// numbers (Python).
fn json_text(text: &str, slash: bool, html: bool, ascii: bool) -> Wiped {
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
            '/' if slash => escaped.extend_from_slice(b"\\/"),
            '\0'..='\u{1f}' => by_number(character, &mut escaped),
            '<' | '>' | '&' if html => by_number(character, &mut escaped),
            _ if ascii && !character.is_ascii() => by_number(character, &mut escaped),
            _ => escaped.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes()),
        }
    }
    escaped
}

fn by_number(character: char, into: &mut Wiped) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        let mut code = String::new();
        let _ = write!(code, "\\u{unit:04x}");
        into.extend_from_slice(code.as_bytes());
    }
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
    }

    /// What is left of a text when every form in it is taken away.
    fn left(forms: &[Wiped], text: &str) -> String {
        let mut shown = text.as_bytes().to_vec();
        for form in forms {
            for at in 0..(text.len() + 1).saturating_sub(form.len()) {
                if text.as_bytes()[at..].starts_with(form) {
                    shown[at..at + form.len()].fill(b'*');
                }
            }
        }
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn base64_is_known_however_it_is_wrapped() {
        for length in [20, 57, 60, 100, 200] {
            let value: String = (0..length).map(|n: u32| char::from(b'!' + ((n * 7) % 90) as u8)).collect();
            let forms = forms(value.as_bytes(), 4);
            for around in ["", "x", "user:", &"far before it ".repeat(4)] {
                for width in [64, 76] {
                    let whole = STANDARD.encode(format!("{around}{value}\n"));
                    let lines = whole.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap());
                    let text = lines.collect::<Vec<_>>().join("\n");
                    // What stands before it, and the ends of lines that have too little of it.
                    let before = (around.len() * 8).div_ceil(6);
                    let shown = left(&forms, &text);
                    let known: usize = shown.lines().map(|line| line.matches('*').count()).sum();
                    assert!(
                        known + before + 2 * PIECE >= whole.len(),
                        "{length} {around:?} {width}: {shown}"
                    );
                }
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
            r#"pass word\/\"1\"\n\tsecond line"#,
            "pass%20word/%221%22%0A%09second%20line",
            "7061737320776f72642f2231220a097365636f6e64206c696e65",
            "%70%61%73%73%20%77%6F%72%64%2F%22%31%22%0A%09%73%65%63%6F%6E%64%20%6C%69%6E%65",
        ] {
            assert!(forms.iter().any(|form| &form[..] == text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn the_value_is_known_as_programs_of_many_kinds_write_it() {
        let forms = forms("p@ss!<wörd>&🔑".as_bytes(), 4);
        for text in [
            "p%40ss!%3Cw%C3%B6rd%3E%26%F0%9F%94%91",
            "p%40ss%21%3Cw%C3%B6rd%3E%26%F0%9F%94%91",
            r"p@ss!\u003cwörd\u003e\u0026🔑",
            r"p@ss!<w\u00f6rd>&\ud83d\udd11",
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
